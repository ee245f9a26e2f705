"""Every kind, filled at random from its descriptor, survives JSON, YAML, binary and a manifest."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.api import codec, jsonforms, kinds, quantity, schema
from wherry.api import texts as texts_of
from wherry.api.encode import encoder
from wherry.pb import options_pb2

KINDS = sorted(kinds.all_kinds(), key=lambda kind: (kind.api_version, kind.kind))
MAX_FIELDS = 4  # of one message, so that an object stays readable when a test fails

texts = st.sampled_from(["a", "yes", "017", "x: y", "é🚣", "two\nlines", "null", "1e3", "~", " "]) | st.text(
    st.characters(codec="utf-8"), min_size=1, max_size=8
)
raw_json = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
).map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode())
raw_objects = st.dictionaries(texts, st.integers(0, 9), max_size=2).map(
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
)
seconds = st.integers(-62_135_596_799, 253_402_300_799).filter(bool)
numbers = st.integers(-(10**9), 10**9)
quantities = st.tuples(numbers, st.sampled_from(["", "m", "Ki", "Mi", "G", "e3"])).map(
    lambda parts: quantity.canonical(f"{parts[0]}{parts[1]}")
)

SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: texts,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_BYTES: st.binary(min_size=1, max_size=8),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
}


def special(name: str, depth: int) -> st.SearchStrategy[Any] | None:
    """Arguments of the messages with a JSON form of their own."""
    strings = st.lists(texts, min_size=1, max_size=2)
    match name.rsplit(".", 1)[1]:
        case "Time":
            return st.fixed_dictionaries({"seconds": seconds})
        case "MicroTime":
            micros = st.integers(0, 999_999).map(lambda value: value * 1000)
            return st.fixed_dictionaries({"seconds": seconds, "nanos": micros})
        case "Duration":
            return st.fixed_dictionaries({"duration": st.integers(-(2**62), 2**62)})
        case "Quantity" | "QuantityValue":
            return st.fixed_dictionaries({"string": quantities})
        case "IntOrString":
            number = st.fixed_dictionaries({"type": st.just(0), "int_val": st.integers(-(2**31), 2**31 - 1)})
            return number | st.fixed_dictionaries({"type": st.just(1), "str_val": texts})
        case "FieldsV1":
            return st.fixed_dictionaries({"raw": raw_objects})
        case "RawExtension" | "JSON":
            return st.fixed_dictionaries({"raw": raw_json})
        case "Verbs" | "ExtraValue" | "AttestationValue":
            return st.fixed_dictionaries({"items": strings})
        case "GroupVersion":
            return st.fixed_dictionaries({"group": st.sampled_from(["apps", ""]), "version": st.just("v1")})
        case "JSONSchemaPropsOrBool":
            return st.fixed_dictionaries({"allows": st.booleans()})
        case "JSONSchemaPropsOrStringArray":
            return st.fixed_dictionaries({"property": strings})
        case "JSONSchemaPropsOrArray":
            return st.just({"schema": {"type": "string"}}) | st.just({"json_schemas": [{"type": "string"}, {}]})
    return None


@st.composite
def arguments(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> dict[str, Any]:
    """Constructor arguments."""
    if descriptor.full_name in schema.SPECIAL:
        found = special(descriptor.full_name, depth)
        assert found is not None, descriptor.full_name
        drawn: dict[str, Any] = draw(found)
        return drawn
    fields = [field for field in descriptor.fields if depth < 6 or field.message_type is None]
    inlined = [field for field in fields if schema.rules(field).inline]
    chosen = (
        draw(st.lists(st.sampled_from(fields), max_size=MAX_FIELDS, unique_by=lambda field: field.number))
        if fields
        else []
    )
    out: dict[str, Any] = {}
    for field in [*chosen, *(field for field in inlined if field not in chosen and draw(st.booleans()))]:
        item = draw(content(field, depth))
        out[field.name] = item
    return out


def canonical(message: Any) -> Any:
    """Without empty structs where absent means the same, which JSON cannot tell apart."""
    for field, item in message.ListFields():
        if field.message_type is None:
            continue
        if field.is_repeated:
            if schema.is_map(field):
                parts = [item[key] for key in item] if schema.map_value(field).message_type is not None else []
            else:
                parts = list(item)
            for part in parts:
                canonical(part)
            continue
        canonical(item)
        rules = schema.rules(field)
        by_value = rules.inline or (rules.keep_empty and field.full_name not in schema.NULL_WHEN_ABSENT)
        if by_value and (not item.ByteSize() or getattr(item, "string", "") == "0"):
            message.ClearField(field.name)
    for field in message.DESCRIPTOR.fields:  # 0s, which is never left out, comes back as a message that is there
        is_duration = field.message_type is not None and field.message_type.full_name == "wherry.meta.v1.Duration"
        if is_duration and schema.rules(field).keep_empty:
            getattr(message, field.name).SetInParent()
    return message


def content(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if schema.is_map(field):
        return st.dictionaries(texts, single(schema.map_value(field), depth), max_size=2)
    if field.is_repeated:
        return st.lists(single(field, depth), max_size=2)
    return single(field, depth)


def single(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return arguments(field.message_type, depth + 1)
    return SCALARS[field.type]


def reference(message: Any) -> dict[str, Any]:
    """The plain value once more, field by field as the schema says, without any of the encoder's short cuts."""
    descriptor = message.DESCRIPTOR
    if descriptor.full_name in schema.SPECIAL:
        special: dict[str, Any] = encoder(descriptor)(message)
        return special
    out: dict[str, Any] = {}
    for field in descriptor.fields:
        value = getattr(message, field.name)
        rules = schema.rules(field)
        if schema.is_map(field):
            found: Any = {key: form(schema.map_value(field), value[key]) for key in value} or None
        elif field.is_repeated:
            found = [form(field, item, listed=schema.is_list(descriptor)) for item in value]
            if not found and not (field.name == "items" and schema.is_list(descriptor)):
                found = None
        elif rules.inline:
            out.update(reference(value))
            continue
        elif field.has_presence and not message.HasField(field.name):
            by_value = field.message_type is not None and field.full_name not in schema.NULL_WHEN_ABSENT
            found = form(field, value) if rules.keep_empty and by_value else None
        elif field.type == FieldDescriptor.TYPE_BYTES:
            found = form(field, value) if value or field.has_presence else None
        else:
            zero = not field.has_presence and repr(value) in ("0", "0.0", "False", "''")
            found = None if zero and not rules.keep_empty else form(field, value)
            if found is None and not zero:
                rules = options_pb2.FieldRules(keep_empty=True)  # set, and its form is null
        if found is not None or rules.keep_empty:
            out[field.json_name] = found
    return out


def form(field: FieldDescriptor, value: Any, *, listed: bool = True) -> Any:
    if field.message_type is not None:
        found = reference(value)
        meta = schema.type_meta_of(field.message_type)
        if field.is_repeated and not listed and meta is not None and "metadata" in field.message_type.fields_by_name:
            return {"apiVersion": meta[0], "kind": meta[1], **found}
        return found
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return int(value) if value == int(value) and abs(value) < 1e21 else value
    return value


def survives(cls: type[Message], data: st.DataObject) -> None:
    message = canonical(cls(**data.draw(arguments(schema.descriptor_of(cls)))))
    plain = codec.to_dict(message)
    assert encoder(schema.descriptor_of(cls))(message) == reference(message)
    assert codec.from_dict(plain, cls) == message
    assert codec.from_json(codec.to_json(message), cls) == message
    assert json.loads(codec.to_json(message)) == plain
    assert texts_of.dump(message) == jsonforms.dump(encoder(schema.descriptor_of(cls))(message))
    assert cls.FromString(message.SerializeToString(deterministic=True)) == message
    assert codec.decode_manifest(codec.to_yaml(message)) == [message]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.api_version}.{kind.kind}")
@settings(max_examples=10)
@given(data=st.data())
def test_every_kind_survives(kind: kinds.Kind, data: st.DataObject) -> None:
    survives(kind.message, data)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.api_version}.{kind.kind}")
@settings(max_examples=60)
@given(data=st.data())
def test_every_kind_survives_often(kind: kinds.Kind, data: st.DataObject) -> None:
    survives(kind.message, data)
