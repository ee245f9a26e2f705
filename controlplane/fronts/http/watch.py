"""Watches: batches of the registry as a stream of JSON lines (or length-prefixed protobuf). Called by `resources`.

An error in the middle of a watch can only be told as an event: ERROR, with a Status such as 410 Expired.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from controlplane.fronts.http import encoding, media
from controlplane.fronts.http.media import Form
from controlplane.registry.base import RegistryAPI, Stored, WatchEvent
from wherry.api.errors import APIError
from wherry.api.kinds import Kind
from wherry.pb import meta_v1_pb2

PART_BYTES = 128 * 1024
PART_EVENTS = 100


class EventEncoder:
    """For one watch. The columns of a table are sent with the first event alone, as Kubernetes does."""

    def __init__(
        self, registry: RegistryAPI, kind: Kind, form: Form, now: Callable[[], float], include: str = ""
    ) -> None:
        self._registry = registry
        self._now = now
        self._kind = kind
        self._form = form
        self._include = include
        self._columns_sent = False

    def parts(self, events: Sequence[WatchEvent]) -> Iterator[bytes]:
        """The events of a batch, some in a part, so that whoever reads slowly has one part waiting and not all of them."""
        waiting: list[bytes] = []
        size = 0
        for event in events:
            waiting.append(self._event(event))
            size += len(waiting[-1])
            if size >= PART_BYTES or len(waiting) >= PART_EVENTS:
                yield b"".join(waiting)
                waiting, size = [], 0
        if waiting:
            yield b"".join(waiting)

    def error(self, error: APIError) -> bytes:
        status = encoding.status_of(error)
        return self._frame("ERROR", encoding.message_bytes(status, Form(self._form.encoding)))

    def _event(self, event: WatchEvent) -> bytes:
        if self._form.form == media.TABLE:
            return self._frame(event.type, self._table(event.stored))
        form = (
            self._form
            if self._form.encoding == media.PROTOBUF
            else Form(media.JSON, self._form.form, self._form.version)
        )
        return self._frame(event.type, encoding.object_bytes(event.stored, form))

    def _table(self, stored: Stored) -> bytes:
        columns = b"null"
        if not self._columns_sent:
            columns, self._columns_sent = encoding.columns_json(self._registry.table(self._kind, ())), True
        rows = encoding.Rows(partial(self._registry.cells, self._kind), self._form, self._include, self._now())
        metadata = encoding.list_metadata(stored.revision)
        return encoding.table_json(metadata, columns, rows.row(stored), self._form.version)

    def _frame(self, type_: str, obj: bytes) -> bytes:
        if self._form.encoding == media.PROTOBUF:
            event = meta_v1_pb2.WatchEvent(type=type_)
            event.object.raw = obj
            wire = event.SerializeToString()
            return struct.pack(">I", len(wire)) + wire
        return b'{"type":"' + type_.encode() + b'","object":' + obj + b"}\n"
