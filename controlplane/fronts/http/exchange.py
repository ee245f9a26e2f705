"""One request and its answer, apart from what they are about: reading the body within its limit, headers, warnings, compression.

Made by `handler` for each request; `resources` and the others answer through it.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from controlplane.fronts.call import Call
from controlplane.fronts.http import encoding, media
from controlplane.fronts.http.media import Form
from controlplane.registry.base import Identity, RequestContext
from wherry.api.errors import APIError, RequestEntityTooLarge, Unauthorized

MAX_BODY_BYTES = 3 * 1024 * 1024
GZIP_MIN_BYTES = 128 * 1024  # below that the time is worth more than the bytes
GZIP_LEVEL = 1
TEXT = "text/plain; charset=utf-8"
_SLICE_BYTES = 256 * 1024  # written or compressed between two chances for the loop to do something else
_BROWSERS = ("curl", "Wget", "Mozilla")


class Exchange:
    def __init__(self, request: web.BaseRequest, call: Call, audit_id: str) -> None:
        self.request = request
        self.call = call
        self.audit_id = audit_id
        self.query: Mapping[str, str] = request.query
        self.warnings: list[str] = []
        self.prepared = False
        self._body: bytes | None = None

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
        return ctx

    async def body(self) -> bytes:
        """Raises RequestEntityTooLarge, before more than that has been read."""
        if self._body is None:
            self._body = await self._read()
        return self._body

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
        """A possibly long answer: pauses between its slices, compressed when it is long and the client can read that."""
        collected: list[bytes] = []
        size = since = 0
        for piece in pieces:
            collected.append(piece)
            size += len(piece)
            since += len(piece)
            if since > _SLICE_BYTES:
                since = 0
                await asyncio.sleep(0)
        body = b"".join(collected)
        if (self.pretty and form.encoding == media.JSON) or form.encoding == media.YAML:
            body = encoding.finish(body, form, pretty=self.pretty)
        return await self.reply_long(body, form.content_type)

    def reply_packed(self, packed: bytes, content_type: str, *, headers: Mapping[str, str]) -> web.Response:
        """Of a body that is kept compressed."""
        if "gzip" in self.request.headers.get("Accept-Encoding", ""):
            return self.reply(packed, content_type, headers={**headers, "Content-Encoding": "gzip"})
        return self.reply(gzip.decompress(packed), content_type, headers=headers)

    async def reply_long(
        self, body: bytes, content_type: str, *, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        extra = dict(headers or {})
        if len(body) >= GZIP_MIN_BYTES and "gzip" in self.request.headers.get("Accept-Encoding", ""):
            body = await _gzip(body)
            extra |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return self.reply(body, content_type, headers=extra)

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


async def _gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    parts = []
    for start in range(0, len(body), _SLICE_BYTES):
        parts.append(compressor.compress(body[start : start + _SLICE_BYTES]))
        await asyncio.sleep(0)
    parts.append(compressor.flush())
    return b"".join(parts)
