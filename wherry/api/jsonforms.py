"""The messages whose JSON is not an object of their fields: times, quantities, int-or-string, raw JSON and so on.

Each has an encoder (message -> plain value) and a decoder (plain value -> constructor arguments, None for "leave unset"
or after a problem was noted). Called by `codec` only; what each form is, Kubernetes' published API fixes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import orjson

from wherry.api import jsontext, quantity, times
from wherry.api.problems import Path, Problems

Encode = Callable[[Any], Any]
Decode = Callable[[Any, Path, Problems], Any]


_STANDARD, _STANDARD_SORTED = (
    json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys, allow_nan=False)
    for sort_keys in (False, True)
)


def dump(value: Any) -> bytes:
    """Compact JSON of a plain value without NaN and infinities, as messages give it."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits, a lone surrogate, a depth that only Python goes down
        return _encoded(_STANDARD, value)


def canonical(value: Any) -> bytes:
    """Compact JSON with sorted keys: the same value is the same bytes, whoever wrote it. Raises ValueError on NaN and
    infinities, which have no JSON form."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return _encoded(_STANDARD_SORTED, value)
    if b"null" in text:  # what orjson makes of a NaN too
        _STANDARD.encode(value)
    return text


def _encoded(encoder: json.JSONEncoder, value: Any) -> bytes:
    text = encoder.encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: as Go, the replacement character
        return replace_surrogates(text).encode()


def replace_surrogates(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _raw_value(raw: bytes) -> Any:
    return jsontext.load(raw) if raw else None


def encode_time(message: Any) -> str | None:
    seconds = message.seconds
    return times.format_seconds(seconds) if seconds or message.nanos else None


def encode_micro_time(message: Any) -> str | None:
    seconds, nanos = message.seconds, message.nanos
    return times.format_micros(seconds, nanos) if seconds or nanos else None


def decode_time(value: Any, path: Path, problems: Problems) -> Any:
    return _decode_time(value, path, problems, micro=False)


def decode_micro_time(value: Any, path: Path, problems: Problems) -> Any:
    return _decode_time(value, path, problems, micro=True)


_ZERO_TIME_SECONDS = -62135596800  # 0001-01-01T00:00:00Z, Go's zero time: unset


def _decode_time(value: Any, path: Path, problems: Problems, *, micro: bool) -> Any:
    if type(value) is not str:
        return problems.wrong(path, "a time as a string", value)
    try:
        seconds, nanos = times.parse_rfc3339(value)
    except ValueError as error:
        return problems.bad(path, str(error))
    if seconds == _ZERO_TIME_SECONDS:
        return None
    return {"seconds": seconds, "nanos": nanos // 1000 * 1000} if micro else {"seconds": seconds}


def encode_duration(message: Any) -> str:
    return times.format_duration(message.duration)


def decode_duration(value: Any, path: Path, problems: Problems) -> Any:
    if type(value) is not str:
        return problems.wrong(path, 'a duration as a string, such as "30s"', value)
    try:
        return {"duration": times.parse_duration(value)}
    except ValueError as error:
        return problems.bad(path, str(error))


def encode_quantity(message: Any) -> str:
    return message.string or "0"


def decode_quantity(value: Any, path: Path, problems: Problems) -> Any:
    if type(value) is str:
        text = value.strip()
    elif type(value) is int:
        text = str(value)
    elif type(value) is float and math.isfinite(value):
        text = repr(value)
    else:
        return problems.wrong(path, 'a quantity such as "500m" or "1Gi"', value)
    try:
        return {"string": quantity.canonical(text)}
    except ValueError as error:
        return problems.bad(path, f'bad quantity "{text[:60]}": {error}')


def encode_int_or_string(message: Any) -> int | str:
    value: int | str = message.str_val if message.type else message.int_val
    return value


def decode_int_or_string(value: Any, path: Path, problems: Problems) -> Any:
    if type(value) is str:
        return {"type": 1, "str_val": value}
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        return problems.wrong(path, "an integer or a string", value)
    if not -(2**31) <= value < 2**31:
        return problems.bad(path, f"{value} is out of range for an int32")
    return {"int_val": value} if value else {"type": 0}


def encode_raw(message: Any) -> Any:
    return _raw_value(message.raw)


def decode_raw(value: Any, path: Path, problems: Problems) -> Any:
    try:
        return {"raw": canonical(value)}
    except ValueError:
        return problems.bad(path, "a number that JSON cannot write")


def decode_raw_object(value: Any, path: Path, problems: Problems) -> Any:
    if type(value) is not dict:
        return problems.wrong(path, "an object", value)
    return decode_raw(value, path, problems)


def encode_strings(message: Any) -> list[str]:
    return list(message.items)


def decode_strings(value: Any, path: Path, problems: Problems) -> Any:
    items = string_list(value, path, problems)
    return None if items is None else {"items": items}


def string_list(value: Any, path: Path, problems: Problems) -> list[str] | None:
    if type(value) is not list:
        problems.wrong(path, "a list of strings", value)
        return None
    if not problems.affords(path, len(value)):
        return None
    out = []
    for index, item in enumerate(value):
        if type(item) is str:
            out.append(item)
        elif item is None:
            out.append("")  # as Go does
        else:
            problems.wrong((path, index), "a string", item)
    return out


def encode_group_version(message: Any) -> str:
    return f"{message.group}/{message.version}" if message.group else message.version


def decode_group_version(value: Any, path: Path, problems: Problems) -> Any:
    if type(value) is not str or value.count("/") > 1:
        return problems.wrong(path, 'a group and version such as "apps/v1"', value)
    group, _, version = value.rpartition("/")
    return {"group": group, "version": version}


def schema_forms(encode_schema: Encode, decode_schema: Decode) -> dict[str, tuple[Encode, Decode]]:
    """The three apiextensions types that are a JSON schema or something simpler."""

    def encode_or_array(message: Any) -> Any:
        if len(message.json_schemas):
            return [encode_schema(item) for item in message.json_schemas]
        return encode_schema(message.schema) if message.HasField("schema") else None

    def decode_or_array(value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is list:
            items = [{} if v is None else decode_schema(v, (path, i), problems) for i, v in enumerate(value)]
            return {"json_schemas": items}
        if type(value) is not dict:
            return problems.wrong(path, "an object or a list of objects", value)
        return {"schema": decode_schema(value, path, problems)}

    def encode_or_bool(message: Any) -> Any:
        return encode_schema(message.schema) if message.HasField("schema") else message.allows

    def decode_or_bool(value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is bool:
            return {"allows": value}
        if type(value) is not dict:
            return problems.wrong(path, "an object, true or false", value)
        return {"allows": True, "schema": decode_schema(value, path, problems)}

    def encode_or_strings(message: Any) -> Any:
        if len(message.property):
            return list(message.property)
        return encode_schema(message.schema) if message.HasField("schema") else None

    def decode_or_strings(value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is list:
            items = string_list(value, path, problems)
            return None if items is None else {"property": items}
        if type(value) is not dict:
            return problems.wrong(path, "an object or a list of strings", value)
        return {"schema": decode_schema(value, path, problems)}

    name = "wherry.apiextensions.v1.JSONSchemaPropsOr"
    return {
        f"{name}Array": (encode_or_array, decode_or_array),
        f"{name}Bool": (encode_or_bool, decode_or_bool),
        f"{name}StringArray": (encode_or_strings, decode_or_strings),
    }


def unstructured_forms(encode_meta: Encode, decode_meta: Decode) -> tuple[Encode, Decode]:
    """A custom resource: typed metadata, and the rest as canonical JSON."""

    def encode(message: Any) -> dict[str, Any]:
        out: dict[str, Any] = {"apiVersion": message.api_version, "kind": message.kind}
        if message.HasField("metadata"):
            out["metadata"] = encode_meta(message.metadata)
        if message.body:
            out.update(jsontext.load(message.body))
        return out

    def decode(value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.wrong(path, "an object", value)
            return {}
        out: dict[str, Any] = {}
        rest = {key: item for key, item in value.items() if key not in ("apiVersion", "kind", "metadata")}
        for key, name in (("apiVersion", "api_version"), ("kind", "kind")):
            text = value.get(key, "")
            if type(text) is str:
                out[name] = text
            else:
                problems.wrong((path, key), "a string", text)
        if value.get("metadata") is not None:
            out["metadata"] = decode_meta(value["metadata"], (path, "metadata"), problems)
        try:
            out["body"] = canonical(rest)
        except ValueError:
            problems.bad(path, "a number that JSON cannot write")
        return out

    return encode, decode


SIMPLE: dict[str, tuple[Encode, Decode]] = {
    "wherry.meta.v1.Time": (encode_time, decode_time),
    "wherry.meta.v1.MicroTime": (encode_micro_time, decode_micro_time),
    "wherry.meta.v1.Duration": (encode_duration, decode_duration),
    "wherry.meta.v1.FieldsV1": (encode_raw, decode_raw_object),
    "wherry.meta.v1.Verbs": (encode_strings, decode_strings),
    "wherry.meta.v1.GroupVersion": (encode_group_version, decode_group_version),
    "wherry.meta.resource.Quantity": (encode_quantity, decode_quantity),
    "wherry.meta.resource.QuantityValue": (encode_quantity, decode_quantity),
    "wherry.meta.intstr.IntOrString": (encode_int_or_string, decode_int_or_string),
    "wherry.meta.runtime.RawExtension": (encode_raw, decode_raw),
    "wherry.apiextensions.v1.JSON": (encode_raw, decode_raw),
    "wherry.authentication.v1.AttestationValue": (encode_strings, decode_strings),
    "wherry.authentication.v1.ExtraValue": (encode_strings, decode_strings),
    "wherry.authorization.v1.ExtraValue": (encode_strings, decode_strings),
    "wherry.certificates.v1.ExtraValue": (encode_strings, decode_strings),
}
