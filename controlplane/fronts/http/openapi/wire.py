"""OpenAPI v2 as protobuf (`openapi.v2.Document`), the one form in which kubectl reads it. Pure; called by `documents`.

A handful of messages with fixed numbers, written straight to the wire: their schema would cost every server memory that hardly
ever answers this. Numbers are those of the published openapi.v2 schema; only what our documents use is known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "options": 6, "head": 7, "patch": 8}


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode()) if value else b""


def _flag(field: int, value: bool) -> bytes:
    return _varint(field << 3) + b"\x01" if value else b""


def _named(name: str, value: bytes) -> bytes:
    return _text(1, name) + _bytes(2, value)


def _extensions(field: int, value: dict[str, Any]) -> Iterator[bytes]:
    for name in sorted(value):
        if name.startswith("x-"):
            yield _bytes(field, _named(name, _text(2, json.dumps(value[name]))))  # JSON is YAML


def document(head: dict[str, Any], paths: dict[str, bytes], definitions: dict[str, bytes]) -> bytes:
    """Of parts that `path_item` and `definition` have encoded."""
    info = _text(1, head["info"]["title"]) + _text(2, head["info"]["version"])
    all_paths = b"".join(_bytes(2, _named(path, item)) for path, item in paths.items())
    all_definitions = b"".join(_bytes(1, _named(name, found)) for name, found in definitions.items())
    return _text(1, head["swagger"]) + _bytes(2, info) + _bytes(8, all_paths) + _bytes(9, all_definitions)


def path_item(item: dict[str, Any]) -> bytes:
    parts = [_bytes(number, _operation(item[method])) for method, number in _METHODS.items() if method in item]
    parts += [_bytes(9, _parameters_item(parameter)) for parameter in item.get("parameters", ())]
    return b"".join(parts)


def _operation(value: dict[str, Any]) -> bytes:
    parts = [_text(5, value["operationId"])]
    parts += [_text(7, each) for each in value.get("consumes", ())]
    parts += [_bytes(8, _parameters_item(parameter)) for parameter in value["parameters"]]
    responses = b"".join(_bytes(1, _named(code, _response(found))) for code, found in value["responses"].items())
    parts.append(_bytes(9, responses))
    parts += _extensions(13, value)
    return b"".join(parts)


def _response(value: dict[str, Any]) -> bytes:
    inner = _text(1, value["description"])
    if "schema" in value:
        inner += _bytes(2, _bytes(1, definition(value["schema"])))
    return _bytes(1, inner)  # ResponseValue.response


def _parameters_item(value: dict[str, Any]) -> bytes:
    if value["in"] == "body":
        body = (
            _text(2, "body") + _text(3, "body") + _flag(4, value["required"]) + _bytes(5, definition(value["schema"]))
        )
        return _bytes(1, _bytes(1, body))
    head = _flag(1, value.get("required", False)) + _text(2, value["in"]) + _text(4, value["name"])
    if value["in"] == "path":  # its numbers have no gap for allowEmptyValue
        inner = _bytes(4, head + _text(5, value["type"]) + _flag(19, value.get("uniqueItems", False)))
    else:
        inner = _bytes(3, head + _text(6, value["type"]) + _flag(20, value.get("uniqueItems", False)))
    return _bytes(1, _bytes(2, inner))


def definition(value: dict[str, Any]) -> bytes:
    parts = [_text(1, value.get("$ref", "")), _text(2, value.get("format", "")), _text(4, value.get("description", ""))]
    parts += [_text(19, name) for name in value.get("required", ())]
    if "additionalProperties" in value:
        parts.append(_bytes(21, _bytes(1, definition(value["additionalProperties"]))))
    if "type" in value:
        parts.append(_bytes(22, _text(1, value["type"])))
    if "items" in value:
        parts.append(_bytes(23, _bytes(1, definition(value["items"]))))
    if "properties" in value:
        named = (_bytes(1, _named(name, definition(found))) for name, found in value["properties"].items())
        parts.append(_bytes(25, b"".join(named)))
    parts += _extensions(31, value)
    return b"".join(parts)
