"""Sets of field paths, in the form of FieldsV1 (`{"f:spec": {"f:replicas": {}}}`). Used by `typed` and `apply`.

A set is a tree. Each step is a string as FieldsV1 has it: `f:NAME` for a key, `k:{...}` for the element of a list of objects
by its keys, `v:...` for the element of a list of scalars, `i:N` for an index. Sets are values: operations make new ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring
from typing import Any

Steps = tuple[str, ...]
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class PathSet:
    """`members` are steps that are themselves in the set, `children` what of the set lies under a step (never empty)."""

    __slots__ = ("_text", "children", "members")

    def __init__(self, members: Iterable[str] = (), children: dict[str, PathSet] | None = None) -> None:
        self.members: frozenset[str] = frozenset(members)
        self.children: dict[str, PathSet] = children or {}
        self._text = ""

    def __bool__(self) -> bool:
        return bool(self.members) or bool(self.children)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PathSet) and self.members == other.members and self.children == other.children

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PathSet({self.to_fields()})"

    def child(self, step: str) -> PathSet:
        return self.children.get(step, EMPTY)

    def __or__(self, other: PathSet) -> PathSet:
        children = dict(self.children)
        for step, sub in other.children.items():
            children[step] = children[step] | sub if step in children else sub
        return PathSet(self.members | other.members, children)

    def __sub__(self, other: PathSet) -> PathSet:
        children = {}
        for step, sub in self.children.items():
            rest = sub - other.children[step] if step in other.children else sub
            if rest:
                children[step] = rest
        return PathSet(self.members - other.members, children)

    def __and__(self, other: PathSet) -> PathSet:
        children = {}
        for step, sub in self.children.items():
            if step in other.children:
                both = sub & other.children[step]
                if both:
                    children[step] = both
        return PathSet(self.members & other.members, children)

    def without_under(self, other: PathSet) -> PathSet:
        """Without the members of `other` and everything under them: what a component is told to ignore."""
        children = {}
        for step, sub in self.children.items():
            if step in other.members:
                continue
            rest = sub.without_under(other.children[step]) if step in other.children else sub
            if rest:
                children[step] = rest
        return PathSet(self.members - other.members, children)

    def paths(self, prefix: Steps = ()) -> Iterator[Steps]:
        """In the order in which Kubernetes lists them: members of a level, then what lies under each."""
        for step in sorted(self.members):
            yield (*prefix, step)
        for step in sorted(self.children):
            yield from self.children[step].paths((*prefix, step))

    def to_fields(self) -> dict[str, Any]:
        """The FieldsV1 object."""
        out: dict[str, Any] = {}
        for step in sorted(self.members | self.children.keys()):
            under = self.children[step].to_fields() if step in self.children else {}
            out[step] = {".": {}, **under} if step in self.members and under else under
        return out

    def to_json(self) -> str:
        """The FieldsV1 object as text, as `jsonforms.canonical` writes it."""
        if not self._text:
            self._text = self._json()
        return self._text

    def _json(self) -> str:
        parts = []
        for step in sorted(self.members | self.children.keys()):
            under = "{}"
            if step in self.children:
                under = self.children[step]._json()
                if step in self.members:
                    under = '{".":{},' + under[1:]
            parts.append(f"{encode_basestring(step)}:{under}")
        return "{" + ",".join(parts) + "}"


EMPTY = PathSet()


def from_fields(fields: Any) -> PathSet:
    """Raises ValueError for what is no FieldsV1 object."""
    if not isinstance(fields, dict):
        raise ValueError("fieldsV1: expected an object")
    members, children = [], {}
    for step, under in fields.items():
        if step == ".":
            continue  # said by the level above
        if not isinstance(under, dict) or step[:2] not in ("f:", "k:", "v:", "i:"):
            raise ValueError(f"fieldsV1: {step!r} is no step of a path")
        sub = from_fields(under)
        if not under or "." in under:
            members.append(step)
        if sub:
            children[step] = sub
    return PathSet(members, children)


def of_paths(paths: Iterable[Steps]) -> PathSet:
    found = EMPTY
    for path in paths:
        one = PathSet([path[-1]])
        for step in reversed(path[:-1]):
            one = PathSet(children={step: one})
        found = found | one
    return found


def field(name: str) -> str:
    return f"f:{name}"


def keyed(keys: dict[str, Any]) -> str:
    return "k:" + _encode(keys)


def valued(value: Any) -> str:
    return "v:" + _encode(value)


def describe(path: Steps) -> str:
    """As conflicts show it: `.spec.containers[name="a"].image`."""
    return "".join(describe_step(step) for step in path)


def describe_step(step: str) -> str:
    kind, rest = step[:2], step[2:]
    if kind == "f:":
        return f".{rest}"
    if kind == "k:":
        pairs = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(json.loads(rest).items()))
        return f"[{','.join(pairs)}]"
    return f"[={rest}]" if kind == "v:" else f"[{rest}]"
