"""SPDY/3.1 from the server's side: as much as kubectl needs for exec, attach and port-forward. Used by `sessions`.

The client opens all streams. There is no flow control per stream, as in the peers that we talk to: a slow reader holds back its
own connection, which carries one session. The bytes come from a `Link`: an upgraded connection, or a WebSocket that carries them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from wherry.api.errors import BadRequest

MAX_FRAME_BYTES = 1 << 20  # a header block is a few hundred bytes, a data frame of kubectl's at most 32 KiB
MAX_HEADER_BYTES = 64 << 10
MAX_DATA_BYTES = 64 << 10
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY = 1, 2, 3, 6, 7
_FIN = 0x01
_CONTROL = 0x8003 << 16

# SPDY/3's compression dictionary (draft-mbelshe-httpbis-spdy-00, 2.6.10.1): names of headers, each with its length, then text.
_WORDS = """
options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
authorization cache-control connection content-base content-encoding content-language content-length content-location
content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match
if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range
referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get
status
"""
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _sized(word: str) -> bytes:
    return struct.pack("!I", len(word)) + word.encode()


DICTIONARY = (
    b"".join(map(_sized, _WORDS.split()))
    + b"".join(map(_sized, ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")))
    + _REST.encode()
)


@dataclass(frozen=True, slots=True)
class Opened:
    """The client opened a stream."""

    stream: int
    headers: dict[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes of a stream; `fin`: its last ones. A stream that was reset ends so too."""

    stream: int
    data: bytes
    fin: bool


class Link(Protocol):
    async def read(self) -> bytes:
        """Some bytes; none at the end."""
        ...

    async def write(self, data: bytes) -> None: ...


class Connection:
    """`events` is iterated by one task; the others may be called at any time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj()  # a stream without the dictionary is as valid as one with it

    async def events(self) -> AsyncIterator[Opened | Received]:
        """Until the client closes the connection. Raises BadRequest for what is no SPDY."""
        buffer = bytearray()
        while True:
            while len(buffer) >= 8:
                first, second = struct.unpack_from("!II", buffer)
                flags, length = second >> 24, second & 0xFFFFFF
                if length > MAX_FRAME_BYTES:
                    raise BadRequest(f"a SPDY frame of {length} bytes; at most {MAX_FRAME_BYTES} are taken")
                if len(buffer) < 8 + length:
                    break
                payload = bytes(buffer[8 : 8 + length])
                del buffer[: 8 + length]
                if not first & 0x80000000:
                    yield Received(first, payload, bool(flags & _FIN))
                    continue
                event = await self._control(first, payload, bool(flags & _FIN))
                if event is not None:
                    yield event
            data = await self._link.read()
            if not data:
                return
            buffer += data

    async def reply(self, stream: int) -> None:
        block = self._deflate.compress(struct.pack("!I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        await self._send(_SYN_REPLY, struct.pack("!I", stream) + block)

    async def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        view = memoryview(data)
        for start in range(0, len(data), MAX_DATA_BYTES):
            part = bytes(view[start : start + MAX_DATA_BYTES])
            last = fin and start + MAX_DATA_BYTES >= len(data)
            await self._link.write(struct.pack("!II", stream, (_FIN if last else 0) << 24 | len(part)) + part)
        if fin and not data:
            await self._link.write(struct.pack("!II", stream, _FIN << 24))

    async def _control(self, first: int, payload: bytes, fin: bool) -> Opened | Received | None:
        if first >> 16 != _CONTROL >> 16:
            raise BadRequest("not a SPDY/3 frame")
        kind = first & 0xFFFF
        if kind == _PING:
            await self._send(_PING, payload)
        elif kind == _SYN_STREAM:
            if len(payload) < 10:
                raise BadRequest("a SYN_STREAM frame is too short")
            return Opened(struct.unpack_from("!I", payload)[0] & 0x7FFFFFFF, self._headers(payload[10:]), fin)
        elif kind == _RST_STREAM and len(payload) >= 4:
            return Received(struct.unpack_from("!I", payload)[0] & 0x7FFFFFFF, b"", True)
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            text = self._inflate.decompress(block, MAX_HEADER_BYTES)
            (count,) = struct.unpack_from("!I", text)
            position, words = 4, []
            for _ in range(count * 2):
                (size,) = struct.unpack_from("!I", text, position)
                words.append(text[position + 4 : position + 4 + size].decode("latin-1"))
                position += 4 + size
        except (zlib.error, struct.error) as error:
            raise BadRequest(f"the headers of a SPDY stream can't be read: {error}") from error
        return dict(zip(words[::2], words[1::2], strict=True))

    async def _send(self, kind: int, payload: bytes) -> None:
        await self._link.write(struct.pack("!II", _CONTROL | kind, len(payload)) + payload)
