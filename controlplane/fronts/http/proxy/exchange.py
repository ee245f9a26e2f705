"""One HTTP request, passed on to a pod over a connection of its own, and the answer passed back as it comes. Called by `pods`.

Bodies are streamed both ways at the pace of the slower side; an upgrade (a WebSocket, say) turns both connections into a pipe.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import h11
from aiohttp import web
from multidict import CIMultiDict

from controlplane.fronts.http.exchange import Exchange
from controlplane.fronts.http.proxy import rewrite
from controlplane.fronts.http.upgrade import RawLink, Taken
from controlplane.fronts.pace import Pace
from wherry.api.errors import APIError, ServiceUnavailable
from wherry.api.tasks import stop

if TYPE_CHECKING:
    from controlplane.nodelink.podports import PodConnection

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 256 << 10
_PIECE_BYTES = 64 << 10


async def pass_on(
    exchange: Exchange, connection: PodConnection, *, tls: bool, url: str, prefix: str
) -> web.StreamResponse:
    """`url` is path and query for the pod. The connection is the caller's. Until the answer begins, raises ServiceUnavailable, or
    BadRequest when the client's body is malformed; ConnectionError when it breaks off after that."""
    context = None
    if tls:
        # As in Kubernetes, the certificate is nobody's that we could know: the way to the pod is the node's.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        reader, writer = await asyncio.open_connection(
            sock=connection.socket, limit=_PIECE_BYTES, ssl=context, server_hostname="" if tls else None
        )
    except (OSError, ssl.SSLError) as error:
        connection.socket.close()
        raise _unreachable(connection, error) from error
    except BaseException:
        connection.socket.close()
        raise
    passing = _Passing(exchange, connection, reader, writer, prefix)
    try:
        return await passing.run(url)
    finally:
        writer.close()


class _Passing:
    """`_backend` is the state of HTTP between us and the pod. `_malformed`: what the client's body turned out to be."""

    def __init__(
        self,
        exchange: Exchange,
        connection: PodConnection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        prefix: str,
    ) -> None:
        self._exchange, self._connection, self._prefix = exchange, connection, prefix
        self._reader, self._writer = reader, writer
        self._backend = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._malformed: APIError | None = None

    async def run(self, url: str) -> web.StreamResponse:
        request = self._exchange.request
        headers = rewrite.request_headers(
            request.raw_headers, peer=request.remote or "", host=request.host, uri=request.raw_path
        )
        protocol = rewrite.upgrade_of(request.raw_headers)
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", protocol)] if protocol else [(b"Connection", b"close")]
        if request.content_length is None and request.body_exists:
            headers.append((b"Transfer-Encoding", b"chunked"))
        try:
            head = self._backend.send(h11.Request(method=request.method, target=url, headers=headers))
        except h11.LocalProtocolError as error:
            raise ServiceUnavailable(f"error trying to reach service: {error}") from error
        sending = asyncio.get_running_loop().create_task(self._send(head), name="proxy-request")
        try:
            return await self._answer()
        finally:
            await stop(sending)

    async def _send(self, head: bytes | None) -> None:
        """An answer may come before the pod has read everything, so what goes wrong here shows there."""
        try:
            self._writer.write(head or b"")
            async for piece in self._exchange.request.content.iter_any():
                self._writer.write(self._backend.send(h11.Data(data=piece)) or b"")
                await self._writer.drain()
            self._writer.write(self._backend.send(h11.EndOfMessage()) or b"")
            await self._writer.drain()
        except (OSError, h11.LocalProtocolError):
            pass  # the pod has hung up, or its answer is over already
        except web.RequestPayloadError as error:
            self._malformed = self._exchange.malformed(error)
            self._writer.transport.abort()  # the pod must not take what it has for all; `_answer` wakes up

    async def _event(self) -> Any:
        while True:
            event = self._backend.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._backend.receive_data(await self._reader.read(_PIECE_BYTES))

    async def _answer(self) -> web.StreamResponse:
        try:
            event = await self._event()
            while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                event = await self._event()
        except (OSError, h11.RemoteProtocolError) as error:
            raise self._malformed or _unreachable(self._connection, error) from error
        if isinstance(event, h11.ConnectionClosed):
            raise self._malformed or _unreachable(self._connection, None)
        headers = rewrite.response_headers(event.headers.raw_items(), self._prefix, self._exchange.request.host)
        if event.status_code == 101:
            return await self._pipe(event, headers)
        body = rewrite.body_of(headers, self._prefix)
        response = web.StreamResponse(
            status=event.status_code,
            reason=event.reason.decode("latin-1") or None,
            headers=CIMultiDict((name, value) for name, value in headers if name.lower() not in body.taken),
        )
        response.headers["Audit-Id"] = self._exchange.audit_id
        return await self._stream(response, body)

    async def _stream(self, response: web.StreamResponse, body: rewrite.Body) -> web.StreamResponse:
        request = self._exchange.request
        bare = request.method == "HEAD" or response.status in (204, 304)
        if "Content-Length" not in response.headers and not bare and request.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(request)
        self._exchange.prepared = True
        pace = Pace()

        async def write(parts: Iterator[bytes]) -> None:
            for part in parts:
                if part:
                    await response.write(part)
                await pace.breathe()

        try:
            while isinstance(event := await self._event(), h11.Data):
                await write(body.feed(bytes(event.data)))
            await write(body.end())
        except rewrite.BadBody as error:
            # The client can't be told any more: its answer has begun.
            log.warning("%s %s: the answer of the pod is broken off: %s", request.method, request.path, error)
            raise ConnectionError(str(error)) from error
        except (OSError, h11.RemoteProtocolError) as error:
            raise ConnectionError("the pod broke its answer off") from error
        await response.write_eof()
        return response

    async def _pipe(self, event: h11.InformationalResponse, headers: list[tuple[str, str]]) -> web.StreamResponse:
        upgraded = dict(headers)
        for name, value in event.headers:
            if name == b"upgrade":
                upgraded |= {"Connection": "Upgrade", "Upgrade": value.decode("latin-1")}
        link = RawLink(self._exchange.request, upgraded)
        self._exchange.prepared = True
        loop = asyncio.get_running_loop()
        early, _ = self._backend.trailing_data
        tasks = (
            loop.create_task(self._down(link, early), name="proxy-down"),
            loop.create_task(self._up(link), name="proxy-up"),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await stop(*tasks)
        return Taken()

    async def _down(self, link: RawLink, early: bytes) -> None:
        piece = early or await self._reader.read(_PIECE_BYTES)
        try:
            while piece:
                await link.write(piece)
                piece = await self._reader.read(_PIECE_BYTES)
        except OSError:
            pass  # one side is gone, and with it the other

    async def _up(self, link: RawLink) -> None:
        try:
            while piece := await link.read():
                self._writer.write(piece)
                await self._writer.drain()
        except OSError:
            pass


def _unreachable(connection: PodConnection, error: Exception | None) -> ServiceUnavailable:
    """In Kubernetes' words. Without a reason of the agent's: as Go speaks of what it has met."""
    if connection.problem:
        problem = connection.problem
    elif isinstance(error, h11.RemoteProtocolError):
        problem = f"malformed HTTP response: {error}"
    elif isinstance(error, ssl.SSLError):
        wrong = "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER" in str(error)
        problem = "http: server gave HTTP response to HTTPS client" if wrong else f"tls: {error.reason or error}"
    else:
        problem = "EOF"
    return ServiceUnavailable(f"error trying to reach service: {problem}")
