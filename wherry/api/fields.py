"""Field selectors (`spec.nodeName=n1,status.phase!=Failed`) and fields of an object by path in JSON names.

Called by the registry and the CLI. Which fields a kind may be selected by is the registry's business: here any path works.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from wherry.api import schema
from wherry.api.encode import encoder
from wherry.api.errors import BadRequest
from wherry.pb import resources_pb2

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(?:'([^']*)'|\"([^\"]*)\"|([^\]'\"]+))\]")


class BadFieldSelector(BadRequest):
    """A field selector that does not parse."""


@dataclass(frozen=True, slots=True)
class Term:
    field: str
    equal: bool
    value: str

    def __str__(self) -> str:
        escaped = re.sub(r"([\\,=])", r"\\\1", self.value)
        return f"{self.field}{'=' if self.equal else '!='}{escaped}"


@dataclass(frozen=True, slots=True)
class Selector:
    """All terms must hold. An unset field is the empty string."""

    terms: tuple[Term, ...] = ()

    def matches(self, values: Mapping[str, str]) -> bool:
        """`values`: what the fields of an object are, as text, by path."""
        return all((values.get(term.field, "") == term.value) == term.equal for term in self.terms)

    def matches_object(self, message: Message) -> bool:
        return all((text(message, term.field) == term.value) == term.equal for term in self.terms)

    def exact(self, field: str) -> str | None:
        """The one value that this selector allows a field to have, if it says so: an index can then answer it."""
        return next((term.value for term in self.terms if term.equal and term.field == field), None)

    def __str__(self) -> str:
        return ",".join(str(term) for term in self.terms)


def parse(selector: str) -> Selector:
    """Raises BadFieldSelector."""
    terms = []
    for part in re.findall(r"((?:\\.|[^,\\])+)", selector):
        term = part.strip()
        if not term:
            continue
        match = re.fullmatch(r"([^=!\\]*)(==|=|!=)((?:\\[\\,=]|[^\\,=])*)", term)
        if match is None:
            raise BadFieldSelector(f"invalid selector: '{selector}'; can't understand '{term}'")
        terms.append(Term(match.group(1), match.group(2) != "!=", re.sub(r"\\(.)", r"\1", match.group(3))))
    return Selector(tuple(terms))


@cache
def split(path: str) -> tuple[str, ...]:
    """`metadata.labels['a.b/c']` and `metadata.labels[a.b/c]` as their steps. Raises ValueError."""
    steps = []
    position = 0
    rest = path.removeprefix(".")
    while position < len(rest):
        match = _STEP.match(rest, position)
        if match is None:
            raise ValueError(f"\"{path}\" is no path of fields, such as spec.nodeName or metadata.labels['app']")
        steps.append(next(group for group in match.groups() if group is not None))
        position = match.end()
    return tuple(steps)


def get(message: Message, path: str) -> Any:
    """The plain (JSON) value at a path, None where nothing is set. Raises KeyError for a field that does not exist."""
    steps = split(path)
    if isinstance(message, resources_pb2.Unstructured):
        if steps[:1] == ("metadata",):
            return _getter(schema.descriptor_of(type(message.metadata)), steps[1:])(message.metadata)
        body = {"apiVersion": message.api_version, "kind": message.kind}
        return _walk({**json.loads(message.body or b"{}"), **body}, steps)
    return _getter(schema.descriptor_of(type(message)), steps)(message)


def text(message: Message, path: str) -> str:
    """As field selectors compare it: "" when unset, `true`, numbers in decimal. An unknown field is ""."""
    try:
        value = get(message, path)
    except KeyError:
        return ""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _walk(value: Any, steps: tuple[str, ...]) -> Any:
    for step in steps:
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value


@cache
def _getter(descriptor: Descriptor, steps: tuple[str, ...]) -> Callable[[Any], Any]:
    meta = schema.type_meta_of(descriptor)
    if meta is not None and steps in (("apiVersion",), ("kind",)):
        constant = meta[0] if steps == ("apiVersion",) else meta[1]
        return lambda message: constant
    attributes: list[str] = []
    for index, step in enumerate(steps):
        member = schema.member_table(descriptor).get(step) if descriptor.full_name not in schema.SPECIAL else None
        if member is None:
            raise KeyError(f"no field {step!r} in {descriptor.name}")
        attributes += member.inline
        field, rest = member.field, steps[index + 1 :]
        plain = field.message_type is None or field.is_repeated or field.message_type.full_name in schema.SPECIAL
        if plain or not rest:
            return _at(tuple(attributes), member.key, descriptor, member.inline, rest, member.field.name)
        attributes.append(field.name)
        descriptor = schema.sub(field)
    return encoder(descriptor)


def _at(
    attributes: tuple[str, ...], key: str, owner: Descriptor, inline: tuple[str, ...], rest: tuple[str, ...], name: str
) -> Callable[[Any], Any]:
    """Down to the message that has the field, then its plain value."""
    field = owner
    for group in inline:
        field = schema.sub(field.fields_by_name[group])
    last = field.fields_by_name[name]
    scalar = last.message_type is None and not last.is_repeated and last.type != last.TYPE_BYTES

    def find(message: Any) -> Any:
        for attribute in attributes:
            if not message.HasField(attribute):
                return None
            message = getattr(message, attribute)
        if scalar:
            return None if last.has_presence and not message.HasField(name) else getattr(message, name)
        if not last.is_repeated and not message.HasField(name):
            return None
        value = getattr(message, name)
        if schema.is_map(last) and len(rest) == 1:
            if rest[0] not in value:
                return None
            item = value[rest[0]]
            each = schema.map_value(last)
            return encoder(schema.sub(each))(item) if each.message_type is not None else item
        return _walk(encoder(field)(message).get(key), rest)

    return find
