"""What a kind contributes to the pipeline. The base class is a plain object without status: a kind overrides the few steps
in which it differs. Strategies are pure: no I/O, no clock.

Order of a write (see `writes`): defaults -> mutating admission -> prepare_* -> validate* -> validating admission -> store.
Called by `writes`, `reads` (fields) and `tables` (columns).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.registry import deletion
from wherry.api import names
from wherry.api.errors import Cause
from wherry.api.kinds import Kind
from wherry.api.turns import Slices
from wherry.pb import meta_v1_pb2

NameRule = Callable[[str, bool], Sequence[str]]  # (name, is it a prefix for generateName) -> what is wrong with it


def _masked(name: str, prefix: bool) -> str:
    """A prefix may end in the dash that separates it from the suffix."""
    return name[:-1] + "a" if prefix and name.endswith("-") else name


def subdomain(name: str, prefix: bool) -> list[str]:
    return names.dns1123_subdomain(_masked(name, prefix))


def label(name: str, prefix: bool) -> list[str]:
    return names.dns1123_label(_masked(name, prefix))


Cell = str | int | float | bool | None


def _never(obj: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. `cell` gets the object and the time in Unix seconds; what it returns is text, int, float or bool, or
    None for nothing. `ages`: it is the object's age, and nothing else. `passes` says of an object whether another cell changes as
    time goes by; the cells of all others are kept."""

    name: str
    cell: Callable[[Any, float], Cell]
    type: str = "string"
    format: str = ""
    priority: int = 0
    description: str = ""
    ages: bool = False
    passes: Callable[[Any], bool] = _never


def always(obj: Any) -> bool:
    return True


@dataclass(slots=True)
class Strategy:
    """The base: metadata only, no status, no generation, deleted at once."""

    kind: Kind
    name_rule: NameRule = subdomain
    columns: Sequence[Column] = ()
    fields: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)  # selectable besides metadata.*
    ttl_s: int = 0
    has_status: bool = False
    create_on_update: bool = False
    unconditional_update: bool = True
    deprecation: str = ""  # told to whoever uses the kind
    tracks_managers: bool = True  # whether plain writes are noted in managedFields
    any_finalizer: bool = False  # finalizers need no domain and path, as Kubernetes has it outside of its own kinds
    frozen: str = ""  # why no object can be created any more
    verbs: tuple[str, ...] = (
        "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch",
    )  # fmt: skip

    @property
    def merge_type(self) -> Any:
        """How apply merges, where the message does not tell (see `wherry.api.typed`)."""
        return None

    @property
    def tracks_status(self) -> bool:
        """Whether the status is a subresource, so that a write of the object owns none of it."""
        return "status" in self.kind.message.DESCRIPTOR.fields_by_name

    def check_fields(self, ctx: Any, obj: Any) -> None:
        """Looks at what a client sent, for kinds whose fields the codec does not know. Raises BadRequest."""

    def undeclared(self, config: dict[str, Any]) -> str:
        """The path of a field in an apply configuration that the kind does not have and the codec did not see."""
        return ""

    def read_scale(self, obj: Any) -> Any:
        """The Scale of an object whose kind says where its figures are; None: they are where workloads have them."""
        return None

    def lacks_replicas(self, obj: Any) -> str:
        """The path at which an object does not say how many replicas it wants; "" when it does."""
        return ""

    def write_scale(self, obj: Any, replicas: int) -> None:
        obj.spec.replicas = replicas

    def to_store(self, obj: Any) -> bytes:
        return bytes(obj.SerializeToString(deterministic=True))

    def defaults(self, obj: Any) -> None:
        """Fills in what a client may leave out. Idempotent; also run on patched and updated objects."""

    def defaults_of_new(self, obj: Any) -> None:
        """What only a new object gets, and belongs to who made it."""

    def defaults_of_name(self, obj: Any) -> None:
        """The defaults that need the final name, once it has been generated."""

    def prepare_create(self, obj: Any) -> None:
        if self.has_status:
            obj.ClearField("status")

    def prepare(self, obj: Any, old: Any, subresource: str) -> None:
        """Undoes what this endpoint may not change, and counts generations."""
        if subresource == "status":
            self.prepare_status(obj, old)
        elif subresource:
            self.prepare_subresource(obj, old, subresource)
        else:
            self.prepare_update(obj, old)

    def prepare_update(self, obj: Any, old: Any) -> None:
        """A client that writes the object does not write its status."""
        if self.has_status:
            obj.ClearField("status")
            if old.HasField("status"):
                obj.status.CopyFrom(old.status)

    def prepare_status(self, obj: Any, old: Any) -> None:
        """A client that writes the status writes nothing else (metadata is restricted by `writes`)."""
        if _has(obj, "spec"):
            obj.ClearField("spec")
            if old.HasField("spec"):
                obj.spec.CopyFrom(old.spec)

    def prepare_subresource(self, obj: Any, old: Any, subresource: str) -> None:
        """For subresources other than status that are served by an update of the object."""

    def examine(self, obj: Any, old: Any | None, subresource: str) -> Slices[list[Cause]]:
        """What is wrong with an object that is new (`old` is None) or changed, in slices. Only for kinds of which an object may
        take long this is more than the functions below."""
        return self.validate(obj) if old is None else self.check_update(obj, old, subresource)
        yield

    def check_update(self, obj: Any, old: Any, subresource: str) -> list[Cause]:
        if subresource == "status":
            return self.validate_status(obj, old)
        if subresource:
            return self.validate_subresource(obj, old, subresource)
        return [*self.validate(obj), *self.validate_update(obj, old)]

    def validate_subresource(self, obj: Any, old: Any, subresource: str) -> list[Cause]:
        return []

    def validate(self, obj: Any) -> list[Cause]:
        return []

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        return []

    def validate_status(self, obj: Any, old: Any) -> list[Cause]:
        return []

    def warnings(self, obj: Any, old: Any | None) -> list[str]:
        return []

    def grace_s(self, obj: Any, asked: int | None) -> int | None:
        """Seconds that the object lives on when it is deleted (0: it goes now); None: it has no such notion."""
        return None

    def plan_deletion(self, obj: Any, options: meta_v1_pb2.DeleteOptions, now: float) -> deletion.Deletion:
        """What DELETE does to the object, which is the caller's own and may be changed."""
        return deletion.plan(obj, options, self.grace_s, now)

    def may_vanish(self, obj: Any) -> bool:
        """Whether an object that is being deleted and has no finalizers left is removed by this very write."""
        meta = obj.metadata
        return meta.HasField("deletion_timestamp") and not meta.finalizers and not meta.deletion_grace_period_seconds


@dataclass(slots=True)
class WithSpec(Strategy):
    """An object with a spec whose changes are counted in metadata.generation, and with a status."""

    has_status: bool = True

    def prepare_create(self, obj: Any) -> None:
        Strategy.prepare_create(self, obj)
        obj.metadata.generation = 1

    def prepare_subresource(self, obj: Any, old: Any, subresource: str) -> None:
        """`scale` is an update of one field of the spec."""
        self.prepare_update(obj, old)

    def validate_subresource(self, obj: Any, old: Any, subresource: str) -> list[Cause]:
        return [*self.validate(obj), *self.validate_update(obj, old)]

    def prepare_update(self, obj: Any, old: Any) -> None:
        Strategy.prepare_update(self, obj, old)
        obj.metadata.generation = old.metadata.generation
        if obj.spec != old.spec:
            obj.metadata.generation += 1


def _has(obj: Any, name: str) -> bool:
    return name in obj.DESCRIPTOR.fields_by_name
