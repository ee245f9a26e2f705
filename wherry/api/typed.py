"""Values with a schema, as server-side apply sees them: which maps and lists are merged and which are one value.

Pure. Types come from our descriptors or, for custom resources, from their OpenAPI schema; on them stand merging, comparing
and pruning. Called by `apply` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final, Literal

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from wherry.api import schema
from wherry.api.fieldsets import EMPTY, PathSet, describe_step, field, keyed, valued
from wherry.api.patch import identical, same
from wherry.pb import options_pb2

ABSENT: Final = object()


class BadValue(ValueError):
    """A value that does not fit its type: a list element without its key, or twice the same."""


class Type:
    """`leaf` is one value (scalars, atomic maps and lists); `map` is merged key by key; `set` and `list` are lists merged
    by value and by keys. Fields are found lazily, since types contain themselves."""

    def __init__(
        self,
        kind: Literal["leaf", "map", "set", "list"],
        *,
        fields: Callable[[], Mapping[str, Type]] | None = None,
        element: Callable[[], Type] | None = None,
        keys: tuple[str, ...] = (),
        key_defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.kind = kind
        self.keys = keys
        self.key_defaults = dict(key_defaults or {})
        self._fields = fields
        self._element = element

    @cached_property
    def fields(self) -> Mapping[str, Type]:
        """Keys that the schema names."""
        return self._fields() if self._fields else {}

    @cached_property
    def element(self) -> Type:
        """Of other keys of a map, and of lists."""
        return self._element() if self._element else LEAF

    def field(self, key: str) -> Type:
        return self.fields.get(key) or self.element

    def step(self, item: Any) -> str:
        """The path step of a list element. Raises BadValue."""
        if self.kind == "set":
            return valued(item)
        if not isinstance(item, dict):
            raise BadValue("associative list with keys may not have non-map elements")
        found = {}
        for key in self.keys:
            if item.get(key) is not None:
                found[key] = item[key]
            elif key in self.key_defaults:
                found[key] = self.key_defaults[key]
            else:
                raise BadValue(
                    f'associative list with keys has an element that omits key field "{key}" '
                    "(and doesn't have default value)"
                )
        return keyed(found)


LEAF: Final = Type("leaf")
# No schema: maps are merged, lists are one value.
UNTYPED: Final[Type] = Type("map", element=lambda: _untyped())


def _untyped() -> Type:
    return UNTYPED


# Keys of lists that may be left out, with what they then are. The schema has no option for defaults.
_KEY_DEFAULTS: dict[str, dict[str, Any]] = {
    "wherry.core.v1.ContainerPort": {"protocol": "TCP"},
    "wherry.core.v1.ServicePort": {"protocol": "TCP"},
    "wherry.core.v1.LocalObjectReference": {"name": ""},
}


@cache
def of_descriptor(descriptor: Descriptor) -> Type:
    if schema.is_atomic(descriptor) or descriptor.full_name in schema.SPECIAL:
        return LEAF
    return _object_type(descriptor)


def _object_type(descriptor: Descriptor) -> Type:
    def fields() -> Mapping[str, Type]:
        found = {member.key: _of_field(member.field) for member in schema.members(descriptor)}
        if schema.type_meta_of(descriptor) is not None:
            found |= {"apiVersion": LEAF, "kind": LEAF}
        return found

    return Type("map", fields=fields)


def _of_field(found: FieldDescriptor) -> Type:
    rules = schema.rules(found)
    if schema.is_map(found):
        if rules.map_atomic:
            return LEAF
        value = schema.map_value(found)
        return Type("map", element=lambda: of_descriptor(schema.sub(value)) if value.message_type is not None else LEAF)
    if not found.is_repeated:
        if found.message_type is None:
            return LEAF
        if found.full_name == "wherry.core.v1.PersistentVolumeSpec.claim_ref":
            return _object_type(found.message_type)  # granular here, though its type is atomic elsewhere
        return of_descriptor(found.message_type)
    if rules.list_type == options_pb2.LIST_TYPE_SET:
        return Type("set")
    if rules.list_type == options_pb2.LIST_TYPE_MAP:
        item = schema.sub(found)
        return Type(
            "list",
            element=lambda: _object_type(item),
            keys=tuple(rules.list_map_keys),
            key_defaults=_KEY_DEFAULTS.get(item.full_name),
        )
    return LEAF


def of_openapi(definition: Mapping[str, Any]) -> Type:
    """From the OpenAPI v3 schema of a custom resource, as plain values."""
    kind = definition.get("type")
    if kind == "array" and isinstance(definition.get("items"), dict):
        items = definition["items"]
        list_type = definition.get("x-kubernetes-list-type", "atomic")
        if list_type == "set":
            return Type("set")
        if list_type == "map":
            properties = items.get("properties", {})
            keys = tuple(definition.get("x-kubernetes-list-map-keys", ()))
            defaults = {key: properties[key]["default"] for key in keys if "default" in properties.get(key, {})}
            return Type("list", element=lambda: of_openapi(items), keys=keys, key_defaults=defaults)
        return LEAF
    if kind != "object" or definition.get("x-kubernetes-map-type") == "atomic":
        return UNTYPED if kind is None and definition.get("x-kubernetes-preserve-unknown-fields") else LEAF
    properties = definition.get("properties") or {}
    others = definition.get("additionalProperties")

    def element() -> Type:
        if isinstance(others, dict):
            return of_openapi(others)
        return UNTYPED if definition.get("x-kubernetes-preserve-unknown-fields") or not properties else LEAF

    return Type("map", fields=lambda: {key: of_openapi(item) for key, item in properties.items()}, element=element)


def of_custom_resource(definition: Mapping[str, Any], metadata: Descriptor) -> Type:
    """A whole custom resource: its schema, with metadata as every object's."""
    inner = of_openapi(definition)
    if inner.kind != "map":
        inner = UNTYPED
    head = {"apiVersion": LEAF, "kind": LEAF, "metadata": of_descriptor(metadata)}
    return Type("map", fields=lambda: {**inner.fields, **head}, element=lambda: inner.element)


def _shape(value: Any, kind: Type) -> str:
    """How a value is treated: as its type says, unless it has another form (then it is one value)."""
    if kind.kind == "map" and isinstance(value, dict):
        return "map"
    if kind.kind in ("set", "list") and isinstance(value, list):
        return kind.kind
    return "leaf"


def check(value: Any, kind: Type, path: str = "") -> None:
    """Raises BadValue for a list element without its key or twice the same, with the path."""
    shape = _shape(value, kind)
    if shape == "map":
        for key, item in value.items():
            check(item, kind.field(key), f"{path}.{key}")
    elif shape != "leaf":
        seen = set()
        for index, item in enumerate(value):
            try:
                step = kind.step(item)
            except BadValue as error:
                raise BadValue(f"{path}: element {index}: {error}") from None
            if step in seen:
                raise BadValue(f"{path}: duplicate entries for key {describe_step(step)}")
            seen.add(step)
            check(item, kind.element, path + describe_step(step))


def to_set(value: Any, kind: Type) -> PathSet:
    """The paths that a value sets. A map that is merged is itself in the set only when it is empty."""
    members: set[str] = set()
    children: dict[str, PathSet] = {}
    shape = _shape(value, kind)
    if shape == "map":
        for key, item in value.items():
            step, sub = field(key), kind.field(key)
            under = to_set(item, sub)
            if under:
                children[step] = under
            if item is None or item == {} or _shape(item, sub) == "leaf" or key not in kind.fields:
                members.add(step)
    elif shape != "leaf":
        for item in value:
            step = kind.step(item)
            members.add(step)
            under = to_set(item, kind.element)
            if under:
                children[step] = under
    return PathSet(members, children)


def merge(left: Any, right: Any, kind: Type) -> Any:
    """`right` laid over `left`: maps and keyed lists are merged, everything else is taken from `right` if it is there."""
    if right is ABSENT:
        return left
    if left is ABSENT or left is None:
        return right
    shape = _shape(right, kind)
    if shape == "leaf" or _shape(left, kind) != shape:
        return right
    if shape == "map":
        out = dict(left)
        for key, item in right.items():
            out[key] = merge(left.get(key, ABSENT), item, kind.field(key))
        return out
    return _merge_list(left, right, kind)


def _merge_list(left: list[Any], right: list[Any], kind: Type) -> list[Any]:
    """The elements of `right` in its order; those only in `left` keep their place relative to the shared ones."""
    ours = [(kind.step(item), item) for item in left]
    theirs = [(kind.step(item), item) for item in right]
    before: dict[str, Any] = {}
    for step, item in ours:
        before.setdefault(step, item)
    wanted = {step for step, _ in theirs}
    shared = [step for step, _ in theirs if step in before]
    done: set[str] = set()
    out = []
    at_left = at_right = 0
    while at_left < len(ours) or at_right < len(theirs):
        if at_left < len(ours):
            step, item = ours[at_left]
            if step not in wanted:
                out.append(item)
                at_left += 1
                continue
            turn = at_right < len(theirs) and (theirs[at_right][0] == step or shared[:1] == [step])
            if step in done or not turn:
                at_left += 1  # a shared element whose turn was, or comes with `right`
                continue
        step, item = theirs[at_right]
        out.append(merge(before.get(step, ABSENT), item, kind.element))
        done.add(step)
        at_right += 1
        if shared[:1] == [step]:
            del shared[0]
    return out


@dataclass(frozen=True, slots=True)
class Comparison:
    added: PathSet
    modified: PathSet
    removed: PathSet

    @property
    def changed(self) -> PathSet:
        return self.added | self.modified


def compare(old: Any, new: Any, kind: Type) -> Comparison:
    """Which paths of two objects differ. A null counts as being there, as in Kubernetes."""
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    children: tuple[dict[str, PathSet], dict[str, PathSet], dict[str, PathSet]] = ({}, {}, {})
    for step, before, after, sub in _pairs(old, new, kind):
        verdict, inner = _compare_one(before, after, sub)
        if verdict is not None:
            found[verdict].append(step)
        if inner is not None:
            for index, part in enumerate((inner.added, inner.modified, inner.removed)):
                if part:
                    children[index][step] = part
    return Comparison(*(PathSet(found[index], children[index]) for index in range(3)))


def _compare_one(before: Any, after: Any, kind: Type) -> tuple[int | None, Comparison | None]:
    """0 added, 1 modified, 2 removed, None for "look inside", and what is inside."""
    if before is ABSENT:
        return 0, Comparison(inner, EMPTY, EMPTY) if (inner := _added(after, kind)) else None
    if _identical(before, after):
        return None, None
    if _is_leaf(before, after, kind):
        if after is ABSENT:
            return 2, None
        return (None, None) if same(before, after) else (1, None)
    return (2 if after is ABSENT else None), compare(before, after, kind)


def _identical(before: Any, after: Any) -> bool:
    """Most of what a write sends back is what it read: seen at once, and not leaf by leaf."""
    return after is not ABSENT and identical(before, after)


def _added(value: Any, kind: Type) -> PathSet:
    """All that lies in a value of which nothing was there before."""
    if not value or _shape(value, kind) == "leaf":
        return EMPTY
    members: list[str] = []
    children: dict[str, PathSet] = {}
    if kind.kind == "map":
        fields = kind.fields
        for key, item in value.items():
            step = "f:" + key
            members.append(step)
            sub = fields.get(key) or kind.element
            if sub.kind != "leaf" and (under := _added(item, sub)):
                children[step] = under
    else:
        for step, item in _by_step(value, kind).items():
            members.append(step)
            if under := _added(item, kind.element):
                children[step] = under
    return PathSet(members, children)


def _is_leaf(before: Any, after: Any, kind: Type) -> bool:
    if kind.kind == "leaf":
        return True
    empty = all(value is ABSENT or value is None or value in ({}, []) for value in (before, after))
    odd = any(value is not ABSENT and value is not None and _shape(value, kind) == "leaf" for value in (before, after))
    return empty or odd


def _pairs(old: Any, new: Any, kind: Type) -> list[tuple[str, Any, Any, Type]]:
    old = old if old is not ABSENT and old is not None else ({} if kind.kind == "map" else [])
    new = new if new is not ABSENT and new is not None else ({} if kind.kind == "map" else [])
    if kind.kind == "map":
        keys = [*old, *(key for key in new if key not in old)]
        return [(field(key), old.get(key, ABSENT), new.get(key, ABSENT), kind.field(key)) for key in keys]
    first, second = _by_step(old, kind), _by_step(new, kind)
    steps = [*first, *(step for step in second if step not in first)]
    return [(step, first.get(step, ABSENT), second.get(step, ABSENT), kind.element) for step in steps]


def _by_step(items: list[Any], kind: Type) -> dict[str, Any]:
    """Elements with one key come as a list of them, which is a leaf: they are owned as one, and nothing inside of them."""
    found: dict[str, Any] = {}
    several: dict[str, list[Any]] = {}
    for item in items:
        try:
            step = kind.step(item)
        except BadValue:
            continue  # a stored object from before its schema had keys: nobody can own such an element
        if step in found:
            several.setdefault(step, [found[step]]).append(item)
        else:
            found[step] = item
    return {**found, **several} if several else found


def remove(value: Any, paths: PathSet, kind: Type) -> Any:
    """The value without these paths; what becomes empty by it is gone too (ABSENT)."""
    shape = _shape(value, kind)
    if shape == "leaf" or not paths:
        return value
    if shape == "map":
        out = {}
        for key, item in value.items():
            step = field(key)
            if step in paths.members:
                continue
            sub = paths.child(step)
            left = remove(item, sub, kind.field(key)) if sub else item
            if left is not ABSENT:
                out[key] = left
        return out or ABSENT
    rest = []
    for item in value:
        step = kind.step(item)
        if step in paths.members:
            continue
        sub = paths.child(step)
        left = remove(item, sub, kind.element) if sub else item
        if left is not ABSENT:
            rest.append(left)
    return rest or ABSENT


def with_named(paths: PathSet, kind: Type) -> PathSet:
    """With every field that the schema names and that has something of the set under it, so that removing the set removes
    structures that only it filled."""
    members = set(paths.members)
    children = {}
    for step, under in paths.children.items():
        key = step[2:] if step.startswith("f:") else ""
        if kind.kind == "map" and step.startswith("f:"):
            if key in kind.fields:
                members.add(step)
            children[step] = with_named(under, kind.field(key))
        else:
            children[step] = with_named(under, kind.element)
    return PathSet(members, children)


__all__ = [
    "ABSENT", "EMPTY", "LEAF", "UNTYPED", "BadValue", "Comparison", "Type", "check", "compare", "merge", "of_custom_resource",
    "of_descriptor", "of_openapi", "remove", "to_set", "with_named",
]  # fmt: skip
