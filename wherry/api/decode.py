"""Plain values to constructor arguments, strictly: one closure per descriptor, compiled at first use. Called by `codec`.

A decoder never raises: it notes every problem with its path and goes on, so that one answer names them all. null means
"unset" for a field, and the zero value inside a list or a map, as in Go.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from wherry.api import jsonforms, schema
from wherry.api.jsonforms import Decode
from wherry.api.problems import OBJECT_WEIGHT, Path, Problems

# protobuf refuses to parse more than 100 levels; one level of JSON schema takes two of them.
MAX_SCHEMA_DEPTH = 40
_TYPE_META = ("apiVersion", "kind")
_compiled: dict[str, Decode] = {}
# The zero values of the two special forms that stand by value.
_ZERO: dict[str, dict[str, Any]] = {"IntOrString": {"type": 0}, "Quantity": {"string": "0"}}
_INT_RANGE = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1, "int32"),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1, "int64"),
}


def decoder(descriptor: Descriptor) -> Decode:
    """The function that checks a plain value and turns it into arguments for a message of this type."""
    found = _compiled.get(descriptor.full_name)
    if found is None:
        found = _special(descriptor) if descriptor.full_name in schema.SPECIAL else _object(descriptor)
    return found


def _special(descriptor: Descriptor) -> Decode:
    name = descriptor.full_name
    if name in jsonforms.SIMPLE:
        return jsonforms.SIMPLE[name][1]
    if name == "wherry.v1.Unstructured":
        meta = schema.sub(descriptor.fields_by_name["metadata"])
        return jsonforms.unstructured_forms(_no_encode, decoder(meta))[1]
    inner = decoder(schema.sub(descriptor.fields_by_name["schema"]))
    return jsonforms.schema_forms(_no_encode, inner)[name][1]


def _no_encode(message: Any) -> Any:
    raise AssertionError("a decoder does not encode")


def _object(descriptor: Descriptor) -> Decode:
    # key -> (field name, the type that goes in as it is, converter for all else, whether zero differs from absent)
    table: dict[str, tuple[str, type | None, Decode, bool]] = {}
    moves: dict[str, tuple[str, ...]] = {}

    def decode(value: Any, path: Path, problems: Problems) -> dict[str, Any]:
        if type(value) is not dict:
            problems.wrong(path, "an object", value)
            return {}
        out: dict[str, Any] = {}
        for key, item in value.items():
            entry = table.get(key)
            if entry is None:
                problems.unknown(path, key, table)
                continue
            name, plain, convert, presence = entry
            if type(item) is plain:
                if item or presence:
                    out[name] = item
            elif item is not None:
                converted = convert(item, (path, key), problems)
                if converted or (presence and converted is not None):
                    out[name] = converted
        return out

    def decode_inlining(value: Any, path: Path, problems: Problems) -> dict[str, Any]:
        out = decode(value, path, problems)
        for name in [name for name in out if name in moves]:
            target = out
            *groups, field_name = moves[name]
            for group in groups:
                target = target.setdefault(group, {})
            target[field_name] = out.pop(name)
        return out

    def decode_recursive(value: Any, path: Path, problems: Problems) -> dict[str, Any]:
        if problems.depth >= MAX_SCHEMA_DEPTH:
            problems.add("", f"a schema nested more than {MAX_SCHEMA_DEPTH} levels deep", "limit")
            return {}
        problems.depth += 1
        out = decode(value, path, problems)
        problems.depth -= 1
        return out

    members = list(schema.members(descriptor))
    if descriptor.name == "JSONSchemaProps":
        chosen = decode_recursive
    else:
        chosen = decode_inlining if any(member.inline for member in members) else decode
    _compiled[descriptor.full_name] = chosen

    def entry_of(field: FieldDescriptor, name: str, convert: Decode) -> tuple[str, type | None, Decode, bool]:
        return name, _plain(field), convert, field.has_presence and not same_when_empty(field)

    def later(key: str, field: FieldDescriptor, name: str) -> Decode:
        """Takes its own place with the compiled one when it meets a value: a PodSpec leads to a hundred types, of which a
        pod has twenty. So a message may contain itself."""

        def first(value: Any, path: Path, problems: Problems) -> Any:
            convert = _field(field)
            table[key] = entry_of(field, name, convert)
            return convert(value, path, problems)

        return first

    for member in members:
        field, name = member.field, member.field.name
        if member.inline:
            name = f"{'/'.join(member.inline)}/{name}"  # no field is called so
            moves[name] = (*member.inline, member.field.name)
        convert = later(member.key, field, name) if field.message_type is not None else _field(field)
        table[member.key] = entry_of(field, name, convert)
    if schema.type_meta_of(descriptor) is not None:
        for key in _TYPE_META:
            table.setdefault(key, (key, None, _ignored_string, False))
    return chosen


def _ignored_string(value: Any, path: Path, problems: Problems) -> None:
    """apiVersion and kind of an object: `codec` has looked at them where they matter."""
    if type(value) is not str:
        problems.wrong(path, "a string", value)


def _plain(field: FieldDescriptor) -> type | None:
    if field.is_repeated:
        return None
    if field.type == FieldDescriptor.TYPE_STRING:
        return str
    return bool if field.type == FieldDescriptor.TYPE_BOOL else None


def _field(field: FieldDescriptor) -> Decode:
    if schema.is_map(field):
        return _map(schema.map_value(field))
    single = _single(field)
    if not field.is_repeated:
        if field.message_type is not None and field.message_type.name in _ZERO and same_when_empty(field):
            return _dropping_zero(single, _ZERO[field.message_type.name])
        return single
    return jsonforms.string_list if field.type == FieldDescriptor.TYPE_STRING else _list(field, single)


def same_when_empty(field: FieldDescriptor) -> bool:
    """A struct by value: `{}` and absent are one and the same, so that both decode to one message."""
    return (
        field.message_type is not None
        and schema.rules(field).keep_empty
        and field.full_name not in schema.NULL_WHEN_ABSENT
        and (schema.sub(field).full_name not in schema.SPECIAL or schema.sub(field).name in _ZERO)
    )


def _dropping_zero(convert: Decode, zero: dict[str, Any]) -> Decode:
    def decode(value: Any, path: Path, problems: Problems) -> Any:
        converted = convert(value, path, problems)
        return None if converted == zero else converted

    return decode


def _list(field: FieldDescriptor, convert: Decode) -> Decode:
    zero: Any = {} if field.message_type is not None else field.default_value
    what = "a list of objects" if field.message_type is not None else "a list"
    weight = OBJECT_WEIGHT if field.message_type is not None else 1

    def decode(value: Any, path: Path, problems: Problems) -> list[Any] | None:
        if type(value) is not list:
            problems.wrong(path, what, value)
            return None
        if not problems.affords(path, weight * len(value)):
            return None
        out = []
        for index, item in enumerate(value):
            converted = zero if item is None else convert(item, (path, index), problems)
            out.append(zero if converted is None else converted)
        return out

    return decode


def _map(value_field: FieldDescriptor) -> Decode:
    convert = _single(value_field)
    plain = _plain(value_field)
    zero: Any
    if value_field.message_type is None:
        zero = b"" if value_field.type == FieldDescriptor.TYPE_BYTES else value_field.default_value
    else:
        zero = {"string": "0"} if value_field.message_type.name == "Quantity" else {}

    def decode(value: Any, path: Path, problems: Problems) -> dict[str, Any] | None:
        if type(value) is not dict:
            problems.wrong(path, "an object", value)
            return None
        if not problems.affords(path, len(value)):
            return None
        out = {}
        for key, item in value.items():
            if type(item) is plain:
                out[key] = item
            else:
                converted = zero if item is None else convert(item, (path, key), problems)
                out[key] = zero if converted is None else converted
        return out

    return decode


def _single(field: FieldDescriptor) -> Decode:
    if field.message_type is not None:
        descriptor = field.message_type
        return _compiled.get(descriptor.full_name) or decoder(descriptor)
    if field.type in _INT_RANGE:
        return _integer(*_INT_RANGE[field.type])
    if field.type == FieldDescriptor.TYPE_STRING:
        return _string
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _bool
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _double
    raise NotImplementedError(f"{field.full_name}: no JSON form for a field of type {field.type}")


def _string(value: Any, path: Path, problems: Problems) -> str | None:
    if type(value) is str:
        return value
    problems.wrong(path, "a string", value)
    return None


def _bool(value: Any, path: Path, problems: Problems) -> bool | None:
    if type(value) is bool:
        return value
    problems.wrong(path, "true or false", value)
    return None


def _integer(lowest: int, highest: int, name: str) -> Decode:
    def decode(value: Any, path: Path, problems: Problems) -> int | None:
        if type(value) is float and value.is_integer() and abs(value) < 2**63:
            value = int(value)  # YAML's 3.0 and 1e3
        if type(value) is not int:
            problems.wrong(path, "an integer", value)
            return None
        if lowest <= value <= highest:
            return value
        problems.bad(path, f"{str(value)[:60]} is out of range for an {name}")
        return None

    return decode


def _double(value: Any, path: Path, problems: Problems) -> float | None:
    if type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    problems.wrong(path, "a number", value)
    return None


def _bytes(value: Any, path: Path, problems: Problems) -> bytes | None:
    if type(value) is not str:
        problems.wrong(path, "base64 as a string", value)
        return None
    try:
        return base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError) as error:
        problems.bad(path, f"expected base64, got {_excerpt(value)} ({error})")
        return None


def _excerpt(value: str) -> str:
    """Never more of what may be a secret than is needed to find the place."""
    return f'"{value}"' if len(value) <= 8 else f'"{value[:4]}..." ({len(value)} characters)'
