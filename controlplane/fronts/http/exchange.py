"""One request and its answer, apart from what they are about: reading the body within its limit, headers, warnings, compression.

Made by `handler` for each request; `resources` and the others answer through it.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from controlplane.fronts.call import Call
from controlplane.fronts.flow import FREE, Seat
from controlplane.fronts.http import encoding, media
from controlplane.fronts.http.media import Form
from controlplane.fronts.pace import Pace
from controlplane.registry.base import Identity, RequestContext
from wherry.api.errors import APIError, BadRequest, RequestEntityTooLarge, Timeout, Unauthorized

if TYPE_CHECKING:
    from controlplane.audit.recorder import Record

MAX_BODY_BYTES = 3 * 1024 * 1024
BODY_TIMEOUT_S = 60.0  # a client that sends its body more slowly than this holds up nobody but itself, and not for ever
GZIP_MIN_BYTES = 128 * 1024  # below that the time is worth more than the bytes
GZIP_LEVEL = 1
TEXT = "text/plain; charset=utf-8"
HELD_BYTES = 256 * 1024  # an answer up to this says how long it is; a longer one is made while it is sent
SEND_TIMEOUT_S = 600.0  # for such a one: whoever reads as slowly as that keeps old versions of what he reads alive
_SLICE_BYTES = 128 * 1024  # encrypted or compressed between two chances for the loop to do something else
_BROWSERS = ("curl", "Wget", "Mozilla")


class Exchange:
    def __init__(self, request: web.BaseRequest, call: Call, audit_id: str) -> None:
        self.request = request
        self.call = call
        self.audit_id = audit_id
        self.query: Mapping[str, str] = request.query
        self.warnings: list[str] = []
        self.seat: Seat = FREE
        self.annotations: dict[str, str] = {}  # for the audit log, as the record is
        self.record: Record | None = None
        self.received = False  # the audit log has been asked whether it wants this request
        self._prepared = False
        self._body: bytes | None = None

    @property
    def prepared(self) -> bool:
        """Whether the answer has begun. What goes on for a while from there (a watch, a session) gives its seat back."""
        return self._prepared

    @prepared.setter
    def prepared(self, value: bool) -> None:
        self._prepared = value
        self.seat.leave()
        if self.record is not None:
            self.record.started(101 if "Upgrade" in self.request.headers else 200, self.annotations)

    @property
    def identity(self) -> Identity:
        return self.call.identity

    def values(self, name: str) -> list[str]:
        """All that the query gives for a parameter."""
        return list(self.request.query.getall(name, []))

    @property
    def accept(self) -> str:
        return ",".join(self.request.headers.getall("Accept", ()))

    @property
    def content_type(self) -> str:
        return self.request.headers.get("Content-Type", "")

    @property
    def pretty(self) -> bool:
        asked = self.query.get("pretty")
        if asked is not None:
            return asked.lower() not in ("false", "0")
        return self.request.headers.get("User-Agent", "").startswith(_BROWSERS)

    def context(self, *, dry_run: bool = False, apply: bool = False) -> RequestContext:
        """Server-side apply names its field manager itself; others are known by the program that they are."""
        manager = self.query.get("fieldManager", "")
        if not manager and not apply:
            agent = self.request.headers.get("User-Agent", "").partition("/")[0]
            manager = agent if agent.isprintable() else ""
            manager = manager.encode()[:128].decode(errors="ignore")
        ctx = self.call.context(
            field_manager=manager, dry_run=dry_run, field_validation=self.query.get("fieldValidation", "") or "Warn"
        )
        ctx.warnings = self.warnings
        ctx.annotations = self.annotations
        return ctx

    @property
    def seen(self) -> bytes:
        """The body as far as it has been read by now: all or nothing."""
        return self._body or b""

    async def body(self) -> bytes:
        """Raises RequestEntityTooLarge, before more than that has been read; BadRequest, Timeout."""
        if self._body is None and self.request.content.is_eof():
            self._body = self.request.content.read_nowait()  # all of it is here, in a small buffer
            if len(self._body) > MAX_BODY_BYTES:
                raise _too_large()
        if self._body is None:
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    self._body = await self._read()
            except web.RequestPayloadError as error:
                raise self.malformed(error) from error
            except TimeoutError as error:
                raise Timeout(f"Timeout: the request's body did not come within {BODY_TIMEOUT_S:g} s") from error
        return self._body

    def malformed(self, error: web.RequestPayloadError) -> BadRequest:
        """Of a body that breaks HTTP's rules. Where the next request would begin nobody knows, so the connection ends."""
        self.request.protocol.close()
        return BadRequest(f"the body of the request is malformed: {str(error).strip()}")

    async def _read(self) -> bytes:
        length = self.request.content_length
        if length is not None and length > MAX_BODY_BYTES:
            raise _too_large()
        parts: list[bytes] = []
        size = 0
        async for part in self.request.content.iter_chunked(64 * 1024):
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise _too_large()
            parts.append(part)
        return b"".join(parts)

    def headers(self, content_type: str) -> dict[str, str]:
        return {
            "Audit-Id": self.audit_id,
            "Cache-Control": "no-cache, private",
            "Content-Type": content_type,
        }

    def _finish_headers(self, response: web.StreamResponse) -> None:
        for text in dict.fromkeys(self.warnings):
            response.headers.add("Warning", warning(text))

    def reply(
        self,
        body: bytes,
        content_type: str = media.JSON,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        response = web.Response(body=body, status=status, headers={**self.headers(content_type), **(headers or {})})
        self._finish_headers(response)
        return response

    def json(self, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
        body = encoding.finish(encoding.dump(value), media.DEFAULT, pretty=self.pretty)
        return self.reply(body, status=status, headers=headers)

    def page_not_found(self) -> web.Response:
        """What lies below no path that is known: plain text, as Go's HTTP server has it."""
        return self.reply(b"404 page not found\n", TEXT, status=404)

    async def reply_pieces(self, pieces: Iterable[bytes], form: Form) -> web.StreamResponse:
        """A possibly long answer: made in slices, sent in slices, compressed when it is long and the client can read that."""
        pace = Pace()
        yaml = form.encoding == media.YAML
        making = iter(encoding.indented(pieces) if self.pretty and form.encoding == media.JSON else pieces)
        held: deque[bytes] = deque()
        size = 0
        for piece in making:
            held.append(piece)
            size += len(piece)
            if size > HELD_BYTES and not yaml:
                return await self._send(_chained(held, making), None, form.content_type)
            await pace.breathe()
        if yaml:  # a whole document or none; long ones take long, and not from the others
            text = await asyncio.to_thread(encoding.finish, b"".join(held), form)
            held, size = deque((text,)), len(text)
        if size <= _SLICE_BYTES and not (size >= GZIP_MIN_BYTES and self._reads_gzip):
            return self.reply(b"".join(held), form.content_type)
        return await self._send(_chained(held, ()), size, form.content_type)

    async def _send(self, pieces: Iterable[bytes], size: int | None, content_type: str) -> web.StreamResponse:
        """As fast as the client reads it and made only then, so that no copy of a long list waits for one that reads slowly. One
        that takes too long loses its connection."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                return await self._sent(pieces, size, content_type)
        except TimeoutError as error:
            if self.request.transport is not None:
                self.request.transport.abort()
            raise ConnectionResetError(f"the answer was not taken within {SEND_TIMEOUT_S:g} s") from error

    async def _sent(self, pieces: Iterable[bytes], size: int | None, content_type: str) -> web.StreamResponse:
        response = web.StreamResponse(headers=self.headers(content_type))
        self._finish_headers(response)
        compressor = None
        if self._reads_gzip:
            compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
            response.headers.update({"Content-Encoding": "gzip", "Vary": "Accept-Encoding"})
        if size is not None and compressor is None:
            response.content_length = size
        elif self.request.version >= (1, 1):
            response.enable_chunked_encoding()
        else:
            response.force_close()  # its end is the connection's
        await response.prepare(self.request)
        self.prepared = True
        for part in _slices(pieces):
            data = part if compressor is None else compressor.compress(part)
            if data:
                await response.write(data)
            await asyncio.sleep(0)
        await response.write_eof(compressor.flush() if compressor is not None else b"")
        return response

    @property
    def _reads_gzip(self) -> bool:
        return "gzip" in self.request.headers.get("Accept-Encoding", "")

    def reply_packed(self, packed: bytes, content_type: str, *, headers: Mapping[str, str]) -> web.Response:
        """Of a body that is kept compressed."""
        if self._reads_gzip:
            return self.reply(packed, content_type, headers={**headers, "Content-Encoding": "gzip"})
        return self.reply(gzip.decompress(packed), content_type, headers=headers)

    async def open_stream(self, content_type: str) -> web.StreamResponse:
        """A chunked answer that goes on for a while."""
        response = web.StreamResponse(headers=self.headers(content_type))
        self._finish_headers(response)
        if self.request.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(self.request)
        self.prepared = True
        return response

    def refuse(self, error: APIError) -> web.Response:
        """The Status of an error, in the encoding that the client reads."""
        try:
            form = Form(media.negotiate(self.accept, forms=(media.TABLE, media.METADATA, media.METADATA_LIST)).encoding)
        except APIError:
            form = media.DEFAULT
        headers = {}
        if error.retry_after_s:
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
        body = encoding.message_bytes(encoding.status_of(error), form, pretty=self.pretty)
        return self.reply(body, form.content_type, status=error.code, headers=headers)


def _too_large() -> RequestEntityTooLarge:
    return RequestEntityTooLarge(f"Request entity too large: limit is {MAX_BODY_BYTES}")


def warning(text: str) -> str:
    """RFC 7234's warn-value, as Kubernetes sends it: code 299, no agent."""
    clean = "".join(char if char.isprintable() else " " for char in text)
    quoted = clean.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{quoted[:4096]}"'


def _chained(held: deque[bytes], more: Iterable[bytes]) -> Iterator[bytes]:
    """What is held is let go of piece by piece."""
    while held:
        yield held.popleft()
    yield from more


def _slices(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of about one slice."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        for start in range(0, len(piece), _SLICE_BYTES):
            part = piece[start : start + _SLICE_BYTES]
            waiting.append(part)
            size += len(part)
            if size >= _SLICE_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
