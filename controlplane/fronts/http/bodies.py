"""Request bodies to messages: JSON, YAML, and protobuf in Kubernetes' envelope. Pure; called by `resources`.

What does not decode is a 400 that names the kind; unknown and duplicate fields are refused, warned of or dropped as the
request's fieldValidation says.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.message import DecodeError as WireError
from google.protobuf.message import Message

from controlplane.fronts.http import media
from wherry.api import codec, jsontext, schema, yamltext
from wherry.api.errors import BadRequest
from wherry.api.kinds import CustomKind
from wherry.api.problems import MAX_ELEMENTS, OBJECT_WEIGHT, TOO_MANY
from wherry.pb import meta_runtime_pb2, meta_v1_pb2

MAGIC = b"k8s\x00"
_SHOWN = 60


def decode(
    body: bytes,
    content_type: str,
    cls: type[Message],
    validation: str,
    warnings: list[str],
    custom: CustomKind | None = None,
) -> Any:
    """The message in a body. `validation` is Strict, Warn or Ignore ("" counts as Warn). `custom`: the kind, where the class
    does not tell it. Raises BadRequest."""
    encoding = media.body_type(content_type, media.TEXTS if custom is not None else media.ENCODINGS)
    if encoding == media.PROTOBUF:
        return _from_wire(body, cls)
    kind = schema.descriptor_of(cls).name if custom is None else custom.kind
    if not body.strip():
        raise _unrecognised(kind, "unexpected end of JSON input", "<empty>")
    value, duplicates = _parse(body, encoding, kind)
    if value is None:
        value = {}  # as Go's decoder has it
    if not isinstance(value, dict):
        raise _unrecognised(kind, f"expected an object, got {type(value).__name__}", body[:_SHOWN].hex())
    prefix = _check_type(value, cls, custom)
    strict = validation == "Strict"
    wanted = warnings if validation in ("", "Warn") else None
    meta = schema.type_meta(cls)
    if custom is None and (meta is None or cls is meta_v1_pb2.DeleteOptions):
        value = {key: item for key, item in value.items() if key not in ("apiVersion", "kind")}
    try:
        return codec.from_dict(value, cls, strict=strict, warnings=wanted, duplicates=duplicates)
    except codec.DecodeError as error:
        codes = {problem.code for problem in error.problems}
        if codes <= {"unknown", "duplicate"}:
            raise BadRequest(prefix + error.strict_message()) from error
        raise BadRequest(prefix + error.message) from error


def _parse(body: bytes, encoding: str, kind: str) -> tuple[Any, list[str]]:
    try:
        if encoding == media.YAML:
            parsed = yamltext.parse(jsontext.text_of(body))
            return parsed.value, parsed.duplicates
        return jsontext.parse(body)
    except codec.DecodeError as error:
        what = "yaml" if encoding == media.YAML else "json"
        text = body[:_SHOWN].decode(errors="replace")
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; "
            f"{what} parse error: {error.message} ({text})"
        ) from error


def _unrecognised(kind: str, reason: str, shown: str) -> BadRequest:
    return BadRequest(
        f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; "
        f"json parse error: {reason} ({shown})"
    )


def _check_type(value: dict[str, Any], cls: type[Message], custom: CustomKind | None = None) -> str:
    """The prefix of further complaints about this body. Raises BadRequest when it is of another kind."""
    name = schema.descriptor_of(cls).name
    expected = schema.type_meta(cls)
    if custom is not None:
        name, expected = custom.kind, (custom.api_version, custom.kind)
    if cls is meta_v1_pb2.DeleteOptions:
        expected = None  # its group version is that of any group
    api_version = value.get("apiVersion") or (expected[0] if expected else "v1")
    kind = value.get("kind") or name
    if not isinstance(api_version, str) or not isinstance(kind, str):
        raise _unrecognised(name, "apiVersion and kind are strings", str(value)[:_SHOWN])
    version = api_version.rpartition("/")[2]
    prefix = f'{kind} in version "{version}" cannot be handled as a {name}: '
    if kind != name or (expected is not None and api_version != expected[0]):
        if codec.message_class(api_version, kind) is None or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", api_version):
            raise BadRequest(f'{prefix}no kind "{kind}" is registered for version "{api_version}"')
        group = api_version.rpartition("/")[0]
        if kind == name:
            wanted = expected[0] if expected else ""
            raise BadRequest(
                f"the API version in the data ({api_version}) does not match the expected API version ({wanted})"
            )
        raise BadRequest(f"{prefix}converting ({group or 'core'}/{version}.{kind}) to ({name}): unknown conversion")
    return prefix


def _from_wire(body: bytes, cls: type[Message]) -> Any:
    name = schema.descriptor_of(cls).name
    if not body.startswith(MAGIC):
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {name}): provided data does not appear to be a "
            f"protobuf message, expected prefix [107 56 115 0]"
        )
    try:
        unknown = meta_runtime_pb2.Unknown.FromString(body[len(MAGIC) :])
        given = {"apiVersion": unknown.type_meta.api_version, "kind": unknown.type_meta.kind}
        _check_type({key: text for key, text in given.items() if text}, cls)
        message = cls.FromString(unknown.raw)
    except WireError as error:
        raise BadRequest(f"the body is no serialised {name}: {error}") from error
    if _is_too_much(message):
        raise BadRequest(f"the body is no valid {name}: {TOO_MANY}")
    return message


def _is_too_much(message: Message) -> bool:
    """Has more elements than one body may have: found out before anything is done with each of them."""
    waiting, found = [message], 0
    while waiting:
        for field, value in waiting.pop().ListFields():
            objects = field.message_type is not None and not schema.is_map(field)
            if field.is_repeated:
                found += len(value) * (OBJECT_WEIGHT if objects else 1)
                if found > MAX_ELEMENTS:
                    return True
                if objects:
                    waiting.extend(value)
            elif objects:
                waiting.append(value)
    return False
