"""Messages to plain values: one function per descriptor, written and compiled at first use. Called by `codec` and `texts` only.

A message of few fields is read field by field, in the order of their numbers. One of many fields, or of many lists and maps
(to ask for an empty one costs as much as three plain fields), is asked for what is set: `ListFields` costs more for each
field that it names, and nothing for the others (a PodSpec has over forty).
"""

from __future__ import annotations

import base64
import keyword
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from wherry.api import jsonforms, schema
from wherry.api.jsonforms import Encode

_compiled: dict[str, Encode] = {}
# What it takes to look at a field that is as likely set as not, in nanoseconds; measured, and only their ratio matters.
_SCALAR_NS, _PRESENCE_NS, _CONTAINER_NS = 50, 90, 180
_LISTED_NS, _LISTING_NS = 70, 150
_FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)


def encoder(descriptor: Descriptor) -> Encode:
    """The function that turns a message of this type into its plain value, without apiVersion and kind."""
    found = _compiled.get(descriptor.full_name)
    if found is None:
        found = _special(descriptor) if descriptor.full_name in schema.SPECIAL else _object(descriptor)
    return found


@dataclass(frozen=True, slots=True)
class Member:
    """One field of an object: its key, what makes its plain value (None: it is one), and what stands there when it is unset."""

    key: str
    convert: Encode | None
    empty: Callable[[], Any] | None


def members(descriptor: Descriptor) -> tuple[dict[FieldDescriptor, Member], bool] | None:
    """For those who write an object field by field, with the function of `encoder` the measure: what it makes of each field, in
    the order of their numbers, and whether that is the order in which they are written; else those that are unset come last.
    None for a message that is not, or not only, an object of its fields."""
    if descriptor.full_name in schema.SPECIAL or any(schema.rules(field).inline for field in descriptor.fields):
        return None
    found = {
        field: Member(field.json_name, _field(field), _empty(field) if schema.rules(field).keep_empty else None)
        for field in descriptor.fields
    }
    return found, _is_small(descriptor)


def _special(descriptor: Descriptor) -> Encode:
    name = descriptor.full_name
    if name in jsonforms.SIMPLE:
        return jsonforms.SIMPLE[name][0]
    if name == "wherry.v1.Unstructured":
        meta = schema.sub(descriptor.fields_by_name["metadata"])
        return jsonforms.unstructured_forms(encoder(meta), _no_decode)[0]
    inner = encoder(schema.sub(descriptor.fields_by_name["schema"]))
    return jsonforms.schema_forms(inner, _no_decode)[name][0]


def _no_decode(value: Any, path: Any, problems: Any) -> Any:
    raise AssertionError("an encoder does not decode")


def _object(descriptor: Descriptor) -> Encode:
    return _by_field(descriptor) if _is_small(descriptor) else _by_listing(descriptor)


def _is_small(descriptor: Descriptor) -> bool:
    cost = 0
    for field in descriptor.fields:
        if field.type in _FLOATS:
            return False  # -0.0 is false, and yet set
        cost += _CONTAINER_NS if field.is_repeated else _PRESENCE_NS if field.has_presence else _SCALAR_NS
    return cost <= _LISTING_NS + _LISTED_NS * len(descriptor.fields)


def _by_field(descriptor: Descriptor) -> Encode:
    """Source for this message alone, in which names, presence and forms of its fields are constants."""
    lines = ["def encode(message):", " out = {}"]
    names: dict[str, Any] = {}
    for number, field in enumerate(descriptor.fields):
        lines += [f" {line}" for line in _reading(field, f"convert_{number}")]
    lines.append(" return out")
    exec(compile("\n".join(lines), f"<encoder of {descriptor.full_name}>", "exec"), names)
    encode: Encode = names["encode"]
    for number, field in enumerate(descriptor.fields):
        names[f"convert_{number}"] = _later(field, partial(names.__setitem__, f"convert_{number}"))
    _compiled[descriptor.full_name] = encode
    return encode


def _later(field: FieldDescriptor, keep: Callable[[Encode], object]) -> Encode | None:
    """As `_field`, but for messages first a function that takes its own place with the compiled one when it meets a value:
    a PodSpec leads to a hundred types, of which a pod has twenty. So a message may contain itself."""
    if field.message_type is None:
        return _field(field)

    def first(value: Any) -> Any:
        convert = _field(field)
        assert convert is not None
        keep(convert)
        return convert(value)

    return first


def _reading(field: FieldDescriptor, convert: str) -> list[str]:
    """Lines that put one field into `out`. `convert` is what the function for its form is called."""
    # A keyword (`from`, `continue`) can be no attribute in source.
    value = f"getattr(message, {field.name!r})" if keyword.iskeyword(field.name) else f"message.{field.name}"
    target = f"out[{field.json_name!r}]"
    rules = schema.rules(field)
    if field.is_repeated or field.type == FieldDescriptor.TYPE_BYTES:
        lines = [f"value = {value}", "if value:", f" {target} = {convert}(value)"]
        if rules.keep_empty:
            lines += ["else:", f" {target} = {'[]' if _is_bare_items(field) else None}"]
        return lines
    converted = f"{convert}({value})" if field.message_type is not None else value
    if rules.inline:
        return [f"out.update({converted})"]  # of an unset one what stands even so
    if not field.has_presence:
        return [f"{target} = {value}"] if rules.keep_empty else [f"value = {value}", "if value:", f" {target} = value"]
    if rules.keep_empty and field.message_type is not None and field.full_name not in schema.NULL_WHEN_ABSENT:
        return [f"{target} = {converted}"]
    lines = [f"if message.HasField({field.name!r}):", f" {target} = {converted}"]
    if rules.keep_empty:
        lines += ["else:", f" {target} = None"]
    return lines


def _by_listing(descriptor: Descriptor) -> Encode:
    # By the descriptor itself: there is one object for each while somebody holds it, and to ask for its number takes longer.
    table: dict[FieldDescriptor, tuple[str, Encode | None]] = {}
    inlined: set[FieldDescriptor] = set()
    standing: list[tuple[str, Callable[[], Any]]] = []  # inlined ones of which something is written when they are unset
    keep: list[tuple[str, Callable[[], Any]]] = []

    def encode(message: Any) -> dict[str, Any]:
        out = {}
        for field, value in message.ListFields():
            key, convert = table[field]
            out[key] = value if convert is None else convert(value)
        for key, empty in keep:
            if key not in out:
                out[key] = empty()
        return out

    def encode_inlining(message: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for field, value in message.ListFields():
            key, convert = table[field]
            if field in inlined:
                assert convert is not None
                out.update(convert(value))
            else:
                out[key] = value if convert is None else convert(value)
        for name, empty in standing:
            if not message.HasField(name):
                out.update(empty())
        for key, empty in keep:
            if key not in out:
                out[key] = empty()
        return out

    has_inline = any(schema.rules(field).inline for field in descriptor.fields)
    chosen = encode_inlining if has_inline else encode
    _compiled[descriptor.full_name] = chosen

    def keep_converter(field: FieldDescriptor, convert: Encode) -> None:
        table[field] = (field.json_name, convert)

    for field in descriptor.fields:
        rules = schema.rules(field)
        table[field] = (field.json_name, _later(field, partial(keep_converter, field)))
        if rules.inline:
            inlined.add(field)
            if _empty(field)():
                standing.append((field.name, _empty(field)))
        elif rules.keep_empty:
            keep.append((field.json_name, _empty(field)))
    return chosen


def _empty(field: FieldDescriptor) -> Callable[[], Any]:
    """What stands in JSON for a field that is unset and yet written: the zero value as Go marshals it."""
    if _is_bare_items(field):
        return list
    if field.is_repeated or field.full_name in schema.NULL_WHEN_ABSENT:
        return lambda: None
    if field.message_type is not None:
        descriptor, cls = field.message_type, schema.class_of(field.message_type)
        return lambda: encoder(descriptor)(cls())
    if field.has_presence or field.type == FieldDescriptor.TYPE_BYTES:
        return lambda: None
    zero = field.default_value
    return lambda: zero


def _field(field: FieldDescriptor) -> Encode | None:
    """None where the value goes out as it is."""
    if schema.is_map(field):
        convert = _single(schema.map_value(field))
        # Sorted, as Go prints maps; a protobuf map has no order of its own.
        if convert is None:
            return lambda value: {key: value[key] for key in sorted(value)}
        each = convert
        return lambda value: {key: each(value[key]) for key in sorted(value)}
    convert = _single(field)
    if not field.is_repeated:
        return convert
    if convert is None:
        return list
    if field.message_type is not None and not _is_bare_items(field):
        convert = _nested(field)
    each_item = convert
    return lambda value: [each_item(item) for item in value]


def _is_bare_items(field: FieldDescriptor) -> bool:
    """The items of a list, which do not say their kind. Servers never leave it nil."""
    parent = cast(Descriptor, field.containing_type)
    return field.name == "items" and schema.is_list(parent) and parent.name != "PartialObjectMetadataList"


def _nested(field: FieldDescriptor) -> Encode:
    """A whole object inside another one (a claim template of a StatefulSet) says its kind; the items of a list do not."""
    convert = encoder(schema.sub(field))
    meta = schema.type_meta_of(schema.sub(field))
    if meta is None or schema.sub(field).fields_by_name.get("metadata") is None:
        return convert
    api_version, kind = meta
    return lambda value: {"apiVersion": api_version, "kind": kind, **convert(value)}


def _single(field: FieldDescriptor) -> Encode | None:
    if field.message_type is not None:
        descriptor = field.message_type
        if descriptor.full_name in _compiled:
            return _compiled[descriptor.full_name]
        return encoder(descriptor)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _base64
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return _number
    return None


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _number(value: float) -> float | int | None:
    """As Go writes a float64: 5.0 is 5."""
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 1e21 else value
