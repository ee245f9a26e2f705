"""Messages to JSON text, faster than by way of plain values: the parts that many objects have alike are kept as text.

Pods of one template have one spec, and what one client writes within a second has one entry in managedFields. Both are found
again by their bytes. Called by the HTTP front; the text is that of `jsonforms.dump` over `encode`.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from wherry.api import encode, jsonforms, schema
from wherry.api.jsonforms import Encode
from wherry.pb import meta_v1_pb2

# A part that is kept: long enough to be worth it, short enough that all of them are at most some megabytes.
MIN_BYTES, MAX_BYTES = 200, 8 << 10
_SHARED = "spec"
_META, _OWNERS = "wherry.meta.v1.ObjectMeta", "managed_fields"


def dump(message: Any) -> bytes:
    """The message's JSON, without apiVersion and kind."""
    return split(message)[0]


def split(message: Any) -> tuple[bytes, int]:
    """The message's JSON, and where in it the metadata ends, with which an object begins; 0 for what has none."""
    descriptor = schema.descriptor_of(type(message))
    plan = _plan(descriptor)
    if plan is None:
        return jsonforms.dump(encode.encoder(descriptor)(message)), 0
    end = 0
    writers, empties, in_place = plan
    found = {}
    for field, value in message.ListFields():
        head, convert, how = writers[field]
        if how == _PLAIN:
            text = jsonforms.dump(value if convert is None else convert(value))
        elif how == _METADATA:
            text = metadata(value)
            if field.number == 1:
                end = 1 + len(head) + len(text)
        else:
            text = _part(value, convert)
        found[field] = head + text
    if not empties.keys() <= found.keys():
        if in_place:
            found = {field: found.get(field, empties.get(field, b"")) for field in writers}
        else:
            found.update((field, text) for field, text in empties.items() if field not in found)
    return b"{" + b",".join(filter(None, found.values())) + b"}", end


_PLAIN, _METADATA, _PART = range(3)
_Writers = dict[FieldDescriptor, tuple[bytes, Encode | None, int]]


@cache
def _plan(descriptor: Descriptor) -> tuple[_Writers, dict[FieldDescriptor, bytes], bool] | None:
    """How each field is written, what stands for those that are unset, and whether in their places (see `encode.members`). None:
    not field by field."""
    found = encode.members(descriptor)
    if found is None:
        return None
    members, in_place = found
    writers: _Writers = {}
    empties = {}
    for field, member in members.items():
        how = _PLAIN
        if field.message_type is not None and not field.is_repeated:
            if field.message_type.full_name == _META:
                how = _METADATA
            elif field.name == _SHARED and field.message_type.full_name not in schema.SPECIAL:
                how = _PART
        head = jsonforms.dump(member.key) + b":"
        writers[field] = (head, member.convert, how)
        if member.empty is not None:
            empties[field] = head + jsonforms.dump(member.empty())
    return writers, empties, in_place


def _part(value: Any, convert: Encode | None) -> bytes:
    raw = value.SerializeToString(deterministic=True)
    if MIN_BYTES <= len(raw) <= MAX_BYTES:
        shape: Any = type(value)
        return _text(shape, raw)
    assert convert is not None
    return jsonforms.dump(convert(value))


@lru_cache(maxsize=128)
def _text(cls: Any, raw: bytes) -> bytes:
    return jsonforms.dump(encode.encoder(cls.DESCRIPTOR)(cls.FromString(raw)))


def metadata(message: Any) -> bytes:
    """The JSON of an ObjectMeta."""
    writers = _metadata_members()
    out: dict[str, Any] = {}
    owners = b""
    for field, value in message.ListFields():
        if field.name == _OWNERS:  # the last of the fields
            owners = b",".join([_entry(type(entry), entry.SerializeToString()) for entry in value])
        else:
            key, convert = writers[field]
            out[key] = value if convert is None else convert(value)
    text = jsonforms.dump(out)
    if not owners:
        return text
    return text[:-1] + (b',"managedFields":[' if out else b'"managedFields":[') + owners + b"]}"


@cache
def _metadata_members() -> dict[FieldDescriptor, tuple[str, Encode | None]]:
    found = encode.members(meta_v1_pb2.ObjectMeta.DESCRIPTOR)
    assert found is not None
    members, _ = found
    assert all(member.empty is None for member in members.values()), "nothing of it is written when it is unset"
    return {field: (member.key, member.convert) for field, member in members.items()}


def _entry(cls: Any, raw: bytes) -> bytes:
    return _short_entry(cls, raw) if len(raw) <= MAX_BYTES else _entry_text(cls, raw)


def _entry_text(cls: Any, raw: bytes) -> bytes:
    return jsonforms.dump(encode.encoder(cls.DESCRIPTOR)(cls.FromString(raw)))


_short_entry = lru_cache(maxsize=128)(_entry_text)
