"""The Services and endpoints that this node knows, on its own disk: an agent that starts without a control plane answers names
and routes by them until it has one. Owned by `kubelet.network.traffic`.

One file, replaced by renaming, written some seconds after a change; a killed agent leaves the old one or the new one. Nothing is
synced to the platter: a damaged file is dropped, and the control plane tells everything anew. What is loaded is only a stand-in
(`Informer.prime`); the first list takes its place.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from wherry.client.informer import Informer
from wherry.pb import core_v1_pb2, discovery_v1_pb2

log = logging.getLogger(__name__)

MAGIC = b"wherry-known-1\n"
DELAY_S = 5.0  # at least, between two writes
DELAY_PER_MIB_S = 5.0  # and so much more for each MiB, so that a large cluster costs a disk no more than a small one
DELAY_MAX_S = 60.0
PIECE = 200  # objects between two looks at the loop
# A record: its kind, the length of what follows. The last one has the checksum of all before it.
_HEAD = struct.Struct(">cI")
_SERVICE, _SLICE, _END = b"S", b"E", b"Z"


class Damaged(Exception):
    """The file is not one of ours, or not whole."""


def pack(services: Sequence[core_v1_pb2.Service], slices: Sequence[discovery_v1_pb2.EndpointSlice]) -> Iterator[bytes]:
    """Piece by piece."""
    checksum = zlib.crc32(MAGIC)
    yield MAGIC
    for kind, objects in ((_SERVICE, services), (_SLICE, slices)):
        for obj in objects:
            body = obj.SerializeToString()
            piece = _HEAD.pack(kind, len(body)) + body
            checksum = zlib.crc32(piece, checksum)
            yield piece
    yield _HEAD.pack(_END, checksum)


def unpack(data: bytes) -> tuple[list[core_v1_pb2.Service], list[discovery_v1_pb2.EndpointSlice]]:
    """Raises Damaged."""
    if not data.startswith(MAGIC):
        raise Damaged("it begins with something else")
    services: list[core_v1_pb2.Service] = []
    slices: list[discovery_v1_pb2.EndpointSlice] = []
    at = len(MAGIC)
    view = memoryview(data)
    while at + _HEAD.size <= len(data):
        kind, number = _HEAD.unpack_from(data, at)
        if kind == _END:
            if zlib.crc32(view[:at]) != number or at + _HEAD.size != len(data):
                raise Damaged("the checksum does not fit")
            return services, slices
        at += _HEAD.size
        body, at = data[at : at + number], at + number
        try:
            if kind == _SERVICE:
                services.append(core_v1_pb2.Service.FromString(body))
            elif kind == _SLICE:
                slices.append(discovery_v1_pb2.EndpointSlice.FromString(body))
            else:
                raise Damaged(f"a record of the kind {kind!r}")
        except DecodeError as error:
            raise Damaged(str(error)) from error
    raise Damaged("it is cut off")


def delay_s(size: int) -> float:
    """How long to wait before the next write, after one of this size."""
    return min(DELAY_S + size / (1 << 20) * DELAY_PER_MIB_S, DELAY_MAX_S)


class Known:
    """`load` once, then `run`. Invariant: `_saved` is the copies' generation that the file shows, -1 for none."""

    def __init__(
        self,
        file: Path,
        services: Informer[core_v1_pb2.Service],
        slices: Informer[discovery_v1_pb2.EndpointSlice],
    ) -> None:
        self._file = file
        self._services = services
        self._slices = slices
        self._saved = -1
        self._size = 0

    def load(self) -> None:
        """Primes the informers, where there is a file."""
        try:
            services, slices = unpack(self._file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, Damaged) as error:
            log.warning("dropping the damaged %s: %s", self._file, error)
            self._file.unlink(missing_ok=True)
            return
        self._services.prime(services)
        self._slices.prime(slices)
        self._saved = self._generation()

    async def run(self) -> None:
        """Saves what has changed, until cancelled."""
        while True:
            await asyncio.sleep(delay_s(self._size))
            if self._services.synced and self._slices.synced and self._generation() != self._saved:
                await self._save()

    def _generation(self) -> int:
        return self._services.generation + self._slices.generation  # neither ever falls

    async def _save(self) -> None:
        generation = self._generation()
        # The lists are of one moment, and nobody changes what is in them.
        pieces: list[bytes] = []
        for piece in pack(self._services.list(), self._slices.list()):
            pieces.append(piece)
            if len(pieces) % PIECE == 0:
                await asyncio.sleep(0)
        if await asyncio.to_thread(self._write, b"".join(pieces)):
            self._saved = generation

    def _write(self, data: bytes) -> bool:
        self._size = len(data)
        temporary = self._file.with_suffix(".tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(self._file)
        except OSError as error:
            # A full disk costs the next agent's memory of it, nothing else.
            log.warning("%s: %s", self._file, error)
            return False
        return True
