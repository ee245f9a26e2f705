"""Messages to plain values: one closure per descriptor, compiled at first use. Called by `codec` only.

`ListFields` names just what is set, so the cost follows the object and not the schema (a PodSpec has over forty fields).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from wherry.api import jsonforms, schema
from wherry.api.jsonforms import Encode

_compiled: dict[str, Encode] = {}


def encoder(descriptor: Descriptor) -> Encode:
    """The function that turns a message of this type into its plain value, without apiVersion and kind."""
    found = _compiled.get(descriptor.full_name)
    if found is None:
        found = _special(descriptor) if descriptor.full_name in schema.SPECIAL else _object(descriptor)
    return found


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
    # By the descriptor itself: there is one object for each while somebody holds it, and to ask for its number takes longer.
    table: dict[FieldDescriptor, tuple[str, Encode | None]] = {}
    inlined: list[tuple[FieldDescriptor, Callable[[], Any]]] = []
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
        waiting = dict(inlined)
        for field, value in message.ListFields():
            key, convert = table[field]
            if field in waiting:
                del waiting[field]
                assert convert is not None
                out.update(convert(value))
            else:
                out[key] = value if convert is None else convert(value)
        for empty in waiting.values():
            out.update(empty())
        for key, empty in keep:
            if key not in out:
                out[key] = empty()
        return out

    has_inline = any(schema.rules(field).inline for field in descriptor.fields)
    chosen = encode_inlining if has_inline else encode
    _compiled[descriptor.full_name] = chosen  # before the fields: a message may contain itself
    for field in descriptor.fields:
        rules = schema.rules(field)
        table[field] = (field.json_name, _field(field))
        if rules.inline:
            inlined.append((field, _empty(field)))
        elif rules.keep_empty:
            keep.append((field.json_name, _empty(field)))
    return chosen


def _empty(field: FieldDescriptor) -> Callable[[], Any]:
    """What stands in JSON for a field that is unset and yet written: the zero value as Go marshals it."""
    if field.name == "items" and _bare_items(field):
        return list  # the one list that servers never leave nil
    if field.is_repeated or field.full_name in schema.NULL_WHEN_ABSENT:
        return lambda: None
    if field.message_type is not None:
        convert = encoder(field.message_type)
        cls = schema.class_of(field.message_type)
        return lambda: convert(cls())
    if field.has_presence or field.type == FieldDescriptor.TYPE_BYTES:
        return lambda: None
    zero = field.default_value
    return lambda: zero


def _field(field: FieldDescriptor) -> Encode | None:
    """None where the value goes out as it is."""
    if schema.is_map(field):
        convert = _single(schema.map_value(field))
        if convert is None:
            return dict
        each = convert
        message_values = schema.map_value(field).message_type is not None
        # Sorted, as Go prints maps; a protobuf map has no order of its own.
        if message_values:
            return lambda value: {key: each(value[key]) for key in sorted(value)}
        return lambda value: {key: each(item) for key, item in sorted(value.items())}
    convert = _single(field)
    if not field.is_repeated:
        return convert
    if convert is None:
        return list
    if field.message_type is not None and not _bare_items(field):
        convert = _nested(field)
    each_item = convert
    return lambda value: [each_item(item) for item in value]


def _bare_items(field: FieldDescriptor) -> bool:
    parent = cast(Descriptor, field.containing_type)
    return schema.is_list(parent) and parent.name != "PartialObjectMetadataList"


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
