"""The face of an admission plugin, and what it gets to see. Implemented by the modules beside this one, called by the
registry's writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from controlplane.registry.base import Identity
from wherry.api.errors import Cause, Forbidden
from wherry.api.kinds import Kind

Operation = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]


def _as_it_is(obj: Any) -> None:
    """Of a kind without defaults."""


@dataclass(slots=True)
class Request:
    """One write, or a session with a container (CONNECT). `obj` is None for DELETE and CONNECT, `old` for CREATE and CONNECT;
    `name` may be empty when it is to be generated. `session` is what a session asks for: PodExecOptions and its like, as JSON.

    Plugins that mutate change `obj` in place; nobody changes `old`. `warnings` go to the client, `annotations` into the audit
    log. `options` are the verb's own (CreateOptions, DeleteOptions ...) as JSON, for webhooks."""

    operation: Operation
    kind: Kind
    subresource: str
    namespace: str
    name: str
    obj: Any
    old: Any
    identity: Identity
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    session: dict[str, Any] | None = None
    merge_type: Callable[[], Any] | None = None  # how apply merges what is asked for, where its message does not say it
    defaults: Callable[[Any], None] = _as_it_is  # of the kind, for an object that somebody outside has changed
    read_scale: Callable[[Any], Any] = _as_it_is  # of the kind; None where the figures are where workloads have them

    def object_type(self) -> Any:
        """How apply merges the object (`wherry.api.typed`). A body of a subresource is of a kind of its own."""
        if self.merge_type is not None:
            return self.merge_type()
        from wherry.api import apply

        return apply.type_of(type(self.obj))

    def forbid(self, reason: str, *, causes: tuple[Cause, ...] = ()) -> Forbidden:
        """The refusal in Kubernetes' words: `pods "x" is forbidden: <reason>`."""
        name = self.name or (self.obj.metadata.generate_name if self.obj is not None else "")
        full = self.kind.group_resource
        head = f'{full} "{name}" is forbidden' if name else f"{full} is forbidden"
        return Forbidden(f"{head}: {reason}", group=self.kind.group, kind=self.kind.plural, name=name, causes=causes)


class Found(NamedTuple):
    """An object as it lies in the store: where, at which revision, and its message (shared: not to be changed)."""

    key: str
    revision: int
    message: Any


class Lookup(Protocol):
    """Reads that see every acknowledged write. The messages are shared: not to be changed."""

    async def find(self, api_version: str, kind: str, namespace: str, name: str) -> Any | None:
        """The object, or None when there is none (or its kind is not served)."""
        ...

    async def all(self, api_version: str, kind: str) -> list[Any]:
        """All objects of a kind without namespaces, by name."""
        ...

    async def present(self, group: str, plural: str = "") -> bool:
        """Whether there is any object of the kind (of the group, without `plural`). Loads nothing that would be needed to
        understand one, so that a feature which nobody uses costs nothing."""
        ...

    async def within(self, api_version: str, kind: str, namespace: str, *, keep: bool = True) -> Sequence[Found]:
        """The objects of a kind in a namespace, by name. `keep` is off for kinds of which there are many: their messages are
        parsed for this call alone."""
        ...

    async def namespaced(self, api_version: str, kind: str) -> bool | None:
        """Whether a kind's objects lie in namespaces; None when there is no such kind."""
        ...

    def versions(self, group: str, plural: str) -> Sequence[str]:
        """In which a kind is served."""
        ...

    def acknowledge(self, api_version: str, kind: str, revision: int) -> None:
        """An object of the kind was written at this revision, beside another one: reads from now on see it."""
        ...


class Plugin(Protocol):
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        """Before validation. Raises an APIError to refuse."""
        ...

    async def validate(self, request: Request, lookup: Lookup) -> None:
        """After validation, on the object as it would be stored. Raises an APIError to refuse."""
        ...
