"""What one version of a custom resource contributes to the pipeline: everything that a built-in kind has in code, by its
schema.

The message is `Unstructured`, whose body is JSON: each step reads it, works on plain values and writes it back.
Objects lie in the store in the storage version; `view` makes of stored bytes what a client of this version sees.
Built by `catalogue`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.registry import violations
from controlplane.registry.base import RequestContext
from controlplane.registry.custom import defaulting, embedded, pruning, rules, validating
from controlplane.registry.custom.definitions import find
from controlplane.registry.custom.validating import ABSENT
from controlplane.registry.strategy import Strategy
from wherry.api import jsonforms, jsontext, typed
from wherry.api.errors import BadRequest, Cause
from wherry.api.turns import Slices
from wherry.pb import autoscaling_v1_pb2, meta_v1_pb2, resources_pb2

_BLOCKING = frozenset((
    "FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid",
))  # fmt: skip
_UNCHECKED = Cause(
    "FieldValueInvalid",
    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to "
    "complete validation",
    "<nil>",
)


@dataclass(frozen=True, slots=True)
class Scale:
    """Where the figures are; `selector` is None where there is none."""

    replicas: list[str]
    status_replicas: list[str]
    selector: list[str] | None


def body_of(obj: Any) -> dict[str, Any]:
    found: dict[str, Any] = jsontext.load(obj.body) if obj.body else {}
    return found


def set_body(obj: Any, body: dict[str, Any]) -> None:
    obj.body = jsonforms.canonical(body)


@dataclass(slots=True)
class CustomStrategy(Strategy):
    """`storage_schema` and `storage_version` are those of the version in which objects are stored."""

    schema: Mapping[str, Any] = field(default_factory=dict)
    storage_schema: Mapping[str, Any] = field(default_factory=dict)
    storage_version: str = ""
    scale: Scale | None = None
    unconditional_update: bool = False
    any_finalizer: bool = True
    _rules: rules.Node | None = None
    _merge_type: Any = None

    # steps of a write

    def check_fields(self, ctx: RequestContext, obj: Any) -> None:
        """Drops what the schema does not know, and says so as the request wants it said."""
        kind = self.kind
        if (obj.api_version or kind.api_version, obj.kind or kind.kind) != (kind.api_version, kind.kind):
            raise BadRequest(
                f"the API version in the data ({obj.api_version}) does not match the expected API version ({kind.api_version})"
            )
        obj.api_version, obj.kind = kind.api_version, kind.kind
        unknown: list[str] = []
        set_body(obj, pruning.pruned(body_of(obj), dict(self.schema), unknown, root=True))
        unknown.sort()
        if unknown and ctx.field_validation == "Strict":
            shown = ", ".join(f'unknown field "{path}"' for path in unknown)
            raise BadRequest(
                f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: strict decoding error: {shown}'
            )
        if ctx.field_validation in ("", "Warn"):
            ctx.warnings.extend(f'unknown field "{path}"' for path in unknown)

    def defaults(self, obj: Any) -> None:
        body = body_of(obj)
        body = pruning.pruned(body, dict(self.schema), [], root=True)
        schema = dict(self.schema)
        defaulting.without_nulls(body, schema)
        defaulting.fill(body, schema)
        embedded.coerce(body, schema)
        set_body(obj, body)

    @property
    def tracks_status(self) -> bool:
        return self.has_status

    def prepare_create(self, obj: Any) -> None:
        if self.has_status:
            body = body_of(obj)
            body.pop("status", None)
            set_body(obj, body)
        obj.metadata.generation = 1

    def prepare_update(self, obj: Any, old: Any) -> None:
        new, before = body_of(obj), body_of(old)
        if self.has_status:
            new.pop("status", None)
            if "status" in before:
                new["status"] = before["status"]
            set_body(obj, new)
        obj.metadata.generation = old.metadata.generation
        if _without_status(new, self.has_status) != _without_status(before, self.has_status):
            obj.metadata.generation += 1

    def prepare_status(self, obj: Any, old: Any) -> None:
        status = body_of(obj).get("status", ABSENT)
        body = body_of(old)
        body.pop("status", None)
        if status is not ABSENT:
            body["status"] = status
        set_body(obj, body)
        obj.metadata.generation = old.metadata.generation

    def prepare_subresource(self, obj: Any, old: Any, subresource: str) -> None:
        self.prepare_update(obj, old)

    def examine(self, obj: Any, old: Any | None, subresource: str) -> Slices[list[Cause]]:
        schema = dict(self.schema)
        value = _whole(obj)
        before: Any = ABSENT if old is None else _whole(old)
        body, old_body = _inner(value), ABSENT if before is ABSENT else _inner(before)
        causes = yield from validating.validating(body, schema, "", old_body)
        causes += self._check_metadata(value, before)
        causes += self._check_scale(value)
        causes += embedded.validate(body, schema)
        causes += yield from validating.validating_lists(body, schema, "", old_body)
        node = self._compiled()
        if node:
            if any(cause.reason in _BLOCKING for cause in causes):
                causes.append(_UNCHECKED)
            else:
                causes += yield from rules.run(node, value, "", before)
        return causes

    def _check_metadata(self, value: dict[str, Any], before: Any) -> list[Cause]:
        """What the schema says of name and generateName."""
        inner = (self.schema.get("properties") or {}).get("metadata")
        if not inner or before is not ABSENT:
            return []
        return validating.validate(value.get("metadata") or {}, inner, "metadata")

    def _check_scale(self, value: dict[str, Any]) -> list[Cause]:
        if self.scale is None:
            return []
        path = "." + ".".join(self.scale.replicas)
        parent = value
        for step in self.scale.replicas[:-1]:
            found = parent.get(step)
            if found is None:
                return []
            if not isinstance(found, dict):
                shown = {"list": "[]interface {}", "str": "string", "int": "int64", "float": "float64"}.get(
                    type(found).__name__, type(found).__name__
                )
                text = f"{path} accessor error: {violations.show(found)} is of the type {shown}"
                text += ", expected map[string]interface{}"
                return [Cause("FieldValueInvalid", f"Invalid value: 0: {text}", path)]
            parent = found
        replicas = parent.get(self.scale.replicas[-1])
        if type(replicas) is int and not 0 <= replicas < 1 << 31:
            detail = (
                "should be a non-negative integer" if replicas < 0 else "should be less than or equal to 2147483647"
            )
            return [violations.invalid(path, replicas, detail)]
        return []

    def _compiled(self) -> rules.Node:
        if self._rules is None:
            schema = dict(self.schema)
            self._rules = rules.compiled(schema) if rules.has_rules(schema) else rules.Node(schema)
        return self._rules

    def warnings(self, obj: Any, old: Any | None) -> list[str]:
        return []

    # merging

    @property
    def merge_type(self) -> Any:
        """How apply merges: lists by what the schema says of them."""
        if self._merge_type is None:
            descriptor: Any = meta_v1_pb2.ObjectMeta.DESCRIPTOR
            self._merge_type = typed.of_custom_resource(self.schema, descriptor)
        return self._merge_type

    def undeclared(self, config: dict[str, Any]) -> str:
        """The first field of an apply configuration that the schema does not know."""
        unknown: list[str] = []
        pruning.pruned(
            {key: item for key, item in config.items() if key != "metadata"}, dict(self.schema), unknown, root=True
        )
        return min(unknown, default="")

    # scale

    def read_scale(self, obj: Any) -> autoscaling_v1_pb2.Scale | None:
        if self.scale is None:
            return None
        value = body_of(obj)
        out = autoscaling_v1_pb2.Scale()
        replicas, status = find(value, self.scale.replicas), find(value, self.scale.status_replicas)
        if type(replicas) is int:
            out.spec.replicas = max(min(replicas, (1 << 31) - 1), 0)
        if type(status) is int:
            out.status.replicas = max(min(status, (1 << 31) - 1), 0)
        selector = find(value, self.scale.selector) if self.scale.selector else None
        if isinstance(selector, str):
            out.status.selector = selector
        return out

    def lacks_replicas(self, obj: Any) -> str:
        if self.scale is None or type(find(body_of(obj), self.scale.replicas)) is int:
            return ""
        return "." + ".".join(self.scale.replicas)

    def write_scale(self, obj: Any, replicas: int) -> None:
        assert self.scale is not None
        body = body_of(obj)
        parent = body
        for step in self.scale.replicas[:-1]:
            found = parent.setdefault(step, {})
            if not isinstance(found, dict):
                raise BadRequest(f".{'.'.join(self.scale.replicas)}: the object has no such field to write")
            parent = found
        parent[self.scale.replicas[-1]] = replicas
        set_body(obj, body)

    # the store

    def to_store(self, obj: Any) -> bytes:
        if self.storage_version == self.kind.version:
            return bytes(obj.SerializeToString(deterministic=True))
        stored = resources_pb2.Unstructured()
        stored.CopyFrom(obj)
        stored.api_version = f"{self.kind.group}/{self.storage_version}"
        return stored.SerializeToString(deterministic=True)

    def view(self, value: bytes) -> bytes:
        """Of stored bytes: with the defaults of the version it is stored in, and no more than this version knows."""
        obj = resources_pb2.Unstructured.FromString(value)
        before = body_of(obj)
        storage = dict(self.storage_schema)
        body: dict[str, Any] = pruning.pruned(before, storage, [], root=True)
        defaulting.without_nulls(body, storage)
        defaulting.fill(body, storage)
        if self.storage_version != self.kind.version:
            body = pruning.pruned(body, dict(self.schema), [], root=True)
        if obj.api_version == self.kind.api_version and body == before:
            return value
        obj.api_version = self.kind.api_version
        set_body(obj, body)
        return obj.SerializeToString(deterministic=True)


def _whole(obj: Any) -> dict[str, Any]:
    """With what rules and columns may look at of the metadata."""
    meta: dict[str, Any] = {}
    if obj.metadata.name:
        meta["name"] = obj.metadata.name
    if obj.metadata.generate_name:
        meta["generateName"] = obj.metadata.generate_name
    return {"apiVersion": obj.api_version, "kind": obj.kind, "metadata": meta, **body_of(obj)}


def _inner(value: dict[str, Any]) -> dict[str, Any]:
    """What the schema's validation looks at; metadata has its own."""
    return {key: item for key, item in value.items() if key != "metadata"}


def _without_status(body: dict[str, Any], has_status: bool) -> dict[str, Any]:
    return {key: item for key, item in body.items() if key != "status"} if has_status else body
