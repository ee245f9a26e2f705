"""Objects, lists, tables and Status to bytes. Called by `resources` and `watch`.

An object's JSON is made once per revision and kept (see `kept`) in the memo of its watch cache entry, shared by every get,
list and watch; what stands around it (kind, list, event) is put on as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from google.protobuf.message import Message

from controlplane.fronts.http import media
from controlplane.fronts.http.bodies import MAGIC
from controlplane.fronts.http.kept import Kept
from controlplane.fronts.http.media import Form
from controlplane.registry.base import ListResult, Stored
from controlplane.registry.tables.render import Cells
from wherry.api import jsonforms, schema, texts, times
from wherry.api.encode import encoder
from wherry.api.errors import APIError, InternalError
from wherry.api.kinds import CustomKind, Kind
from wherry.pb import meta_runtime_pb2, meta_v1_pb2, resources_pb2

_JSON_KEY, _META_KEY, _CELLS_KEY = "http.json", "http.metadata", "http.cells"
_META_END = "http.metadata.end"  # where it ends in the JSON
_KEPT = Kept()
_INCLUDES = ("", "Metadata", "Object", "None")


def dump(value: Any) -> bytes:
    return jsonforms.dump(value)


# one object


def json_of(stored: Stored, use: int = 0) -> bytes:
    """The object's JSON as an item of a list: without apiVersion and kind, but for custom resources, as in Kubernetes. `use`: of
    the list (see `kept`)."""
    found = _KEPT.get(stored.memo, _JSON_KEY, use)
    if found is None:
        found, end = texts.split(stored.message())
        if end:
            stored.memo[_META_END] = end
        _KEPT.put(stored.memo, _JSON_KEY, found, use)
    return found


def metadata_json(stored: Stored, use: int = 0) -> bytes:
    """`{"metadata":{...}}`."""
    end = stored.memo.get(_META_END)
    if end is not None and (whole := _KEPT.get(stored.memo, _JSON_KEY, use)) is not None:
        return whole[:end] + b"}"
    found = _KEPT.get(stored.memo, _META_KEY, use)
    if found is None:
        message: Any = stored.message()
        found = b'{"metadata":' + texts.metadata(message.metadata) + b"}"
        _KEPT.put(stored.memo, _META_KEY, found, use)
    return found


@cache
def _head(kind: str, api_version: str) -> bytes:
    return f'{{"kind":{json.dumps(kind)},"apiVersion":{json.dumps(api_version)}'.encode()


def _typed(kind: str, api_version: str, body: bytes) -> bytes:
    return _head(kind, api_version) + (b"," + body[1:] if len(body) > 2 else b"}")


def typed_json(stored: Stored) -> bytes:
    if isinstance(stored.kind, CustomKind):
        return json_of(stored)
    meta = schema.type_meta(stored.kind.message)
    assert meta is not None
    return _typed(meta[1], meta[0], json_of(stored))


def message_json(message: Message) -> bytes:
    """Of a message that says its kind (Status, Scale)."""
    meta = schema.type_meta(type(message))
    body = dump(encoder(schema.descriptor_of(type(message)))(message))
    return body if meta is None else _typed(meta[1], meta[0], body)


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    """Kubernetes' protobuf: a magic number, and a `runtime.Unknown` that says what is in it."""
    unknown = meta_runtime_pb2.Unknown(raw=raw)
    unknown.type_meta.api_version, unknown.type_meta.kind = api_version, kind
    return MAGIC + unknown.SerializeToString()


def _opened(api_version: str, kind: str, size: int) -> bytes:
    """An envelope up to its contents, of that many bytes."""
    unknown = meta_runtime_pb2.Unknown()
    unknown.type_meta.api_version, unknown.type_meta.kind = api_version, kind
    return MAGIC + unknown.SerializeToString() + b"\x12" + _varint(size)


def finish(text: bytes, form: Form, *, pretty: bool = False) -> bytes:
    """JSON as the client wants to see it."""
    if form.encoding == media.YAML:
        from wherry.api import yamlout

        return yamlout.dump(json.loads(text)).encode()
    if pretty:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False).encode() + b"\n"
    return text


def object_bytes(stored: Stored, form: Form, *, pretty: bool = False) -> bytes:
    """Of one object, whole or its metadata alone (tables are `table_json`'s)."""
    if form.encoding == media.PROTOBUF:
        if form.form == media.METADATA:
            return envelope(f"meta.k8s.io/{form.version}", media.METADATA, _metadata_wire(stored))
        meta = schema.type_meta(stored.kind.message)
        assert meta is not None
        return envelope(meta[0], meta[1], stored.wire())
    if form.form == media.METADATA:
        return finish(_partial(stored, form.version), form, pretty=pretty)
    return finish(typed_json(stored), form, pretty=pretty)


def message_bytes(message: Message, form: Form, *, pretty: bool = False) -> bytes:
    if form.encoding == media.PROTOBUF:
        meta = schema.type_meta(type(message)) or ("", "")
        return envelope(*meta, message.SerializeToString(deterministic=True))
    return finish(message_json(message), form, pretty=pretty)


def _partial(stored: Stored, version: str, use: int = 0) -> bytes:
    return _typed(media.METADATA, f"meta.k8s.io/{version}", metadata_json(stored, use))


def _metadata_wire(stored: Stored) -> bytes:
    message: Any = stored.message()
    return meta_v1_pb2.PartialObjectMetadata(metadata=message.metadata).SerializeToString(deterministic=True)


# lists


def list_pieces(kind: Kind, result: ListResult, form: Form) -> Iterator[bytes]:
    """A list in pieces of one object each, so that the caller can pause and send as it goes."""
    metadata = _list_meta(result.revision, result.continue_token, result.remaining)
    partial = form.form == media.METADATA_LIST
    own = kind.list_kind if isinstance(kind, CustomKind) else f"{kind.kind}List"
    name = media.METADATA_LIST if partial else own
    api_version = f"meta.k8s.io/{form.version}" if partial else kind.api_version
    if form.encoding == media.PROTOBUF:
        yield from _wire_pieces(metadata, result.items, partial, api_version, name)
        return
    head = _typed(name, api_version, dump({"metadata": encoder(metadata.DESCRIPTOR)(metadata)}))
    yield head[:-1] + b',"items":['
    separator = b""
    use = _KEPT.begin()
    for stored in result.items:
        yield separator + (_partial(stored, form.version, use) if partial else json_of(stored, use))
        separator = b","
    yield b"]}"


def indented(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of a list or a table for people: as `finish` would have the whole, without ever having it."""
    separator = b"\n    "
    for piece in pieces:
        if piece.endswith(b":["):
            yield json.dumps(json.loads(piece + b"]}"), indent=2, ensure_ascii=False).encode().removesuffix(b"]\n}")
        elif piece == b"]}":
            yield (b"\n  " if separator[:1] == b"," else b"") + b"]\n}\n"
        else:
            text = json.dumps(json.loads(piece.removeprefix(b",")), indent=2, ensure_ascii=False).encode()
            yield separator + text.replace(b"\n", b"\n    ")
            separator = b",\n    "


def _wire_pieces(
    metadata: Message, items: Sequence[Stored], partial: bool, api_version: str, name: str
) -> Iterator[bytes]:
    """Every list has its metadata as field 1 and the items as field 2; and the envelope says first how long all of that is.
    Metadata alone is short, and made before. Empty pieces are chances to pause."""
    wire = metadata.SerializeToString(deterministic=True)
    head = b"\x0a" + _varint(len(wire)) + wire
    size = len(head)
    held: list[bytes] = []
    for number, stored in enumerate(items):
        if partial:
            wire = _metadata_wire(stored)
            held.append(wire)
        length = len(wire) if partial else stored.wire_size()
        size += 1 + len(_varint(length)) + length
        if partial or not number % 500:
            yield b""
    yield _opened(api_version, name, size) + head
    for wire in held if partial else (stored.wire() for stored in items):
        yield b"\x12" + _varint(len(wire)) + wire


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# tables


def check_include(include: str) -> None:
    from wherry.api.errors import BadRequest

    if include not in _INCLUDES:
        raise BadRequest(
            f'Unable to convert to Table as requested: includeObject: Invalid value: "{include}": '
            "must be 'Metadata', 'Object', 'None', or empty"
        )


def columns_json(table: resources_pb2.Table) -> bytes:
    return dump(
        [
            {
                "name": column.name,
                "type": column.type,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            }
            for column in table.columns
        ]
    )


class Rows:
    """Makes the rows of one table. `cells` gives those of an object; they are kept, apart from its age, as long as it does not
    change."""

    def __init__(self, cells: Callable[[Stored], Cells], form: Form, include: str, now: float) -> None:
        self._cells = cells
        self._version = form.version
        self._include = include
        self._now = now
        self._use = _KEPT.begin()
        self._ages: dict[int, bytes] = {}

    def row(self, stored: Stored) -> bytes:
        kept = _KEPT.get(stored.memo, _CELLS_KEY, self._use)
        if kept is None:
            found = self._cells(stored)
            kept = _cells_text(found)
            if found.lasting and not isinstance(stored.kind, CustomKind):  # whose definition may get other columns
                _KEPT.put(stored.memo, _CELLS_KEY, kept, self._use)
        since, *parts = kept.split(_HOLE)
        text = self._age(since).join(parts) if len(parts) > 1 else parts[0]
        if self._include == "None":
            obj = b"null"
        elif self._include == "Object":
            obj = typed_json(stored)
        else:
            obj = _partial(stored, self._version, self._use)
        return b'{"cells":' + text + b',"object":' + obj + b"}"

    def _age(self, since: bytes) -> bytes:
        seconds = int(since)
        found = self._ages.get(seconds)
        if found is None:
            age = times.human_duration(self._now - seconds) if seconds else times.UNKNOWN
            found = self._ages[seconds] = dump(age)
        return found


_HOLE = b"\0"  # no JSON has one


def _cells_text(found: Cells) -> bytes:
    """When the object was made, and the text of its cells, cut where its age belongs."""
    values = [_HOLE if place in found.ages else dump(value) for place, value in enumerate(found.values)]
    return b"%d" % found.since + _HOLE + b"[" + b",".join(values) + b"]"


def table_json(metadata: bytes, columns: bytes, rows: bytes, version: str) -> bytes:
    return b"".join(table_pieces(metadata, columns, [rows], version))


def table_pieces(metadata: bytes, columns: bytes, rows: Iterable[bytes], version: str) -> Iterator[bytes]:
    """A table in pieces of one row each."""
    head = _typed("Table", f"meta.k8s.io/{version}", b'{"metadata":' + metadata + b"}")
    yield head[:-1] + b',"columnDefinitions":' + columns + b',"rows":['
    separator = b""
    for row in rows:
        yield separator + row
        separator = b","
    yield b"]}"


def list_metadata(revision: int, continue_token: str = "", remaining: int | None = None) -> bytes:
    metadata = _list_meta(revision, continue_token, remaining)
    return dump(encoder(metadata.DESCRIPTOR)(metadata))


def _list_meta(revision: int, continue_token: str, remaining: int | None) -> meta_v1_pb2.ListMeta:
    """A revision of 0 is that of nothing stored (a dry run)."""
    metadata = meta_v1_pb2.ListMeta(resource_version=str(revision) if revision else "", remaining_item_count=remaining)
    setattr(metadata, "continue", continue_token)
    return metadata


# errors


def status_of(error: APIError) -> meta_v1_pb2.Status:
    """As Kubernetes gives it: which reasons come with (possibly empty) details is part of it."""
    from wherry.client.status import to_status

    status = to_status(error)
    if error.reason in ("NotFound", "Forbidden", "MethodNotAllowed") or error.message.startswith(("406:", "415:")):
        status.details.SetInParent()
    if type(error) is InternalError and not error.message.startswith("Internal error occurred"):
        status.reason = ""
    return status
