"""The types of CEL, with what is known of the size of their values. Pure; used by `check`, `cost` and whoever declares variables.

`max_size` bounds a value: characters of a string, elements of a list or map (None: unknown). It plays no part in whether two
types are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Type:
    """`kind` is the name of a scalar, or list, map, optional, type, object, param, or an opaque name such as `quantity`.

    `fields` are those of an object, by the name that an expression uses. `convert`, where it is set, turns the plain JSON value
    of a variable into the value that CEL works with."""

    kind: str
    params: tuple[Type, ...] = ()
    name: str = ""
    fields: Callable[[], Mapping[str, Type]] | None = None
    max_size: int | None = None
    convert: Convert | None = None
    # The names of `fields` in the data, where they differ.
    data_names: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.kind in ("list", "map"):
            return f"{self.kind}({', '.join(str(item) for item in self.params)})"
        if self.kind == "optional":
            return f"optional_type({self.params[0]})"
        if self.kind == "type":
            return f"type({self.params[0]})" if self.params else "type"
        return self.name or self.kind

    def sized(self, size: int | None) -> Type:
        return replace(self, max_size=size)


DYN = Type("dyn")
NULL = Type("null", name="null")
BOOL = Type("bool")
INT = Type("int")
UINT = Type("uint")
DOUBLE = Type("double")
STRING = Type("string")
BYTES = Type("bytes")
TIMESTAMP = Type("timestamp", name="timestamp")
DURATION = Type("duration", name="duration")
TYPE = Type("type")
PARAM_A = Type("param", name="A")
PARAM_B = Type("param", name="B")
_NULLABLE = frozenset(("object", "timestamp", "duration", "opaque", "optional"))


def list_of(item: Type, max_size: int | None = None, convert: Convert | None = None) -> Type:
    return Type("list", (item,), max_size=max_size, convert=convert)


def map_of(key: Type, value: Type, max_size: int | None = None, convert: Convert | None = None) -> Type:
    return Type("map", (key, value), max_size=max_size, convert=convert)


def optional_of(item: Type) -> Type:
    return Type("optional", (item,))


def opaque(name: str) -> Type:
    return Type("opaque", name=name)


def object_of(name: str, fields: Mapping[str, Type] | Callable[[], Mapping[str, Type]], **facts: Any) -> Type:
    """An object with these fields and no others."""
    return Type("object", name=name, fields=fields if callable(fields) else lambda: fields, **facts)


Bindings = dict[str, Type]


def fits(wanted: Type, given: Type, bound: Bindings) -> bool:
    """Whether a value of `given` can stand where `wanted` is asked for; `bound` collects what type parameters are."""
    if wanted.kind == "param":
        known = bound.get(wanted.name)
        if known is None or known.kind == "dyn":
            bound[wanted.name] = given
            return True
        if given.kind == "null" and known.kind in _NULLABLE:
            return True
        if known.kind == "null" and given.kind in _NULLABLE:
            bound[wanted.name] = given
            return True
        return fits(known, given, bound)
    if wanted.kind == "dyn" or given.kind == "dyn":
        return True
    if given.kind == "null" and wanted.kind in _NULLABLE:
        return True
    if wanted.kind != given.kind:
        return False
    if wanted.kind in ("object", "opaque"):
        return wanted.name == given.name
    if wanted.kind == "type":
        return True
    return all(fits(one, other, bound) for one, other in zip(wanted.params, given.params, strict=True))


def bind(found: Type, bound: Bindings) -> Type:
    """The type with its parameters filled in; one that nothing is known of is dyn."""
    if found.kind == "param":
        return bound.get(found.name, DYN)
    if not found.params:
        return found
    return replace(found, params=tuple(bind(item, bound) for item in found.params))


def join(one: Type, other: Type) -> Type | None:
    """What holds both, or None where they have nothing in common."""
    if one.kind == "dyn" or other.kind == "dyn":
        return DYN
    bound: Bindings = {}
    if fits(one, other, bound):
        if one.kind == "null":
            return other
        size = None if one.max_size is None or other.max_size is None else max(one.max_size, other.max_size)
        if one.params:
            params = [join(a, b) or DYN for a, b in zip(one.params, other.params, strict=False)]
            return replace(one, params=tuple(params), max_size=size)
        return one.sized(size)
    return other if fits(other, one, bound) else None
