"""Sessions with containers: logs, exec, attach and port-forward, over plain HTTP, WebSockets and SPDY. Called by `resources`.

Every one is an RPC of the same Pods servicer that gRPC uses; here its frames are put into the shapes that Kubernetes' clients
speak. Newer kubectl uses WebSockets (channels numbered by the first byte of a message), older ones SPDY streams; port-forward of
the newer ones is SPDY within a WebSocket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from aiohttp import web

from controlplane.fronts.http import encoding, forward, params, spdy
from controlplane.fronts.http.exchange import TEXT, Exchange
from controlplane.fronts.http.paths import Target, flag
from controlplane.fronts.http.upgrade import MAX_MESSAGE_BYTES, RawLink, SocketLink, Taken, content
from wherry.api import jsontext
from wherry.api.errors import APIError, BadRequest
from wherry.api.times import parse_rfc3339
from wherry.pb import core_v1_pb2, meta_v1_pb2, pods_pb2

SPDY_EXEC = ("v4.channel.k8s.io",)
SPDY_FORWARD = "portforward.k8s.io"
SOCKET_EXEC = ("v5.channel.k8s.io", "v4.channel.k8s.io")
SOCKET_FORWARD = "SPDY/3.1+portforward.k8s.io"
SOCKET_PORTS = "v4.channel.k8s.io"  # port-forward of older libraries: two channels a port
STREAMS_TIMEOUT_S = 30.0  # for the client to open the streams of a session
# What is wrong with a session before it begins is answered as HTTP when it shows this soon, and within the session after that.
EARLY_S = 0.05
PING_S = 20.0

_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_STREAMS = ("error", "stdin", "stdout", "stderr", "resize")
_METHODS = {"exec": "Exec", "attach": "Attach", "portforward": "PortForward"}

Frame = pods_pb2.StreamFrame
# Finds an RPC's handler by its path, as `fronts.services.Services.handler`.
Handlers = Callable[[str], Callable[[Any, Any], Any]]


class Sessions:
    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def handle(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        if target.subresource == "log":
            return await self._log(exchange, target)
        protocol = exchange.request.headers.get("Upgrade", "").lower()
        if protocol not in ("websocket", "spdy/3.1"):
            raise BadRequest("Upgrade request required")
        session = _Session(exchange, self._handlers(f"/wherry.v1.Pods/{_METHODS[target.subresource]}"))
        if target.subresource == "portforward":
            start = pods_pb2.StreamStart(namespace=target.namespace, name=target.name, windows=True)
            if protocol == "spdy/3.1":
                return await session.forward_spdy(start)
            return await session.forward_socket(start)
        start = _start(exchange, target)
        return await (session.run_spdy(start) if protocol == "spdy/3.1" else session.run_socket(start))

    async def _log(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        request = pods_pb2.LogsRequest(namespace=target.namespace, name=target.name, options=_log_options(exchange))
        chunks = self._handlers("/wherry.v1.Pods/Logs")(request, exchange.call)
        async with aclosing(chunks):
            # A log that is followed may be silent for long: its headers do not wait for the first line.
            first = asyncio.ensure_future(anext(chunks, None))
            try:
                await asyncio.wait((first,), timeout=EARLY_S if request.options.follow else None)
                if first.done() and first.exception() is not None:
                    raise first.exception() or AssertionError
                response = await exchange.open_stream(TEXT)
                chunk = await first
                while chunk is not None:
                    await response.write(chunk.data)
                    chunk = await anext(chunks, None)
            except ConnectionError:
                return Taken()
            finally:
                first.cancel()
                await asyncio.wait((first,))
            await response.write_eof()
            return response


class _Session:
    """One exec, attach or port-forward. `rpc` is the servicer's method: frames in, frames out, the last one a result."""

    def __init__(self, exchange: Exchange, rpc: Callable[[Any, Any], Any]) -> None:
        self._exchange = exchange
        self._rpc = rpc
        # The client's side: filled by whoever reads the connection; None is its end.
        self._incoming: asyncio.Queue[Any] = asyncio.Queue(16)
        self._gone = asyncio.Event()

    async def _requests(self, start: pods_pb2.StreamStart) -> AsyncIterator[Any]:
        yield Frame(start=start)
        while True:
            frame = await self._incoming.get()
            if frame is None:
                return
            yield frame

    async def _open(self, start: pods_pb2.StreamStart) -> tuple[Any, asyncio.Future[Any]]:
        """The RPC, begun. What it finds wrong at once is raised, while the answer can still be an HTTP status."""
        opened = asyncio.Event()
        frames = self._rpc(self._requests(start), replace(self._exchange.call, opened=opened))
        first = asyncio.ensure_future(anext(frames, None))
        opening = asyncio.ensure_future(opened.wait())
        try:
            await asyncio.wait((first, opening), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((first,), timeout=EARLY_S)  # the node's own refusal comes soon
        except asyncio.CancelledError:
            first.cancel()
            raise
        finally:
            opening.cancel()
        if first.done() and isinstance(first.exception(), APIError):
            await frames.aclose()
            raise first.exception() or AssertionError
        return frames, first

    async def _upgrade(self, socket: web.WebSocketResponse) -> None:
        try:
            await socket.prepare(self._exchange.request)
        except web.HTTPBadRequest as error:
            raise BadRequest(error.text or "the WebSocket handshake is malformed") from error
        self._exchange.prepared = True

    async def _run(self, frames: Any, first: asyncio.Future[Any], reader: Any, write: Any) -> None:
        """Passes the servicer's frames to `write` until the result, while `reader` reads the client; ends when either does."""
        loop = asyncio.get_running_loop()
        reading = loop.create_task(self._read(reader), name="session-reader")
        writing = loop.create_task(self._write(frames, first, write), name="session-writer")
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not writing.done() and not self._gone.is_set():
                await asyncio.wait((writing,))
        finally:
            for task in (reading, writing, first):
                task.cancel()
            await asyncio.wait((reading, writing, first))
            await frames.aclose()
        if not writing.cancelled() and writing.exception() is not None:
            raise writing.exception() or AssertionError

    async def _read(self, reader: Any) -> None:
        try:
            await reader
        finally:
            self._gone.set()

    async def _write(self, frames: Any, first: asyncio.Future[Any], write: Any) -> None:
        try:
            frame = await first
            while frame is not None:
                await write(frame)
                if frame.WhichOneof("frame") == "result":
                    return
                frame = await anext(frames, None)
            await write(Frame(result=meta_v1_pb2.Status(status="Success")))
        except APIError as error:
            await write(Frame(result=encoding.status_of(error)))

    # exec and attach

    async def run_socket(self, start: pods_pb2.StreamStart) -> web.StreamResponse:
        frames, first = await self._open(start)
        socket = web.WebSocketResponse(protocols=SOCKET_EXEC, max_msg_size=MAX_MESSAGE_BYTES, heartbeat=PING_S)
        await self._upgrade(socket)

        async def write(frame: Any) -> None:
            which = frame.WhichOneof("frame")
            if which == "stdout":
                await socket.send_bytes(bytes((_STDOUT,)) + frame.stdout)
            elif which == "stderr":
                await socket.send_bytes(bytes((_STDERR,)) + frame.stderr)
            elif which == "result":
                await socket.send_bytes(bytes((_ERROR,)) + _status(frame.result))

        async def read() -> None:
            async for message in socket:
                if data := content(message):
                    frame = _of_channel(data[0], data[1:])
                    if frame is not None:
                        await self._incoming.put(frame)

        try:
            await self._run(frames, first, read(), write)
            await socket.close()
        except ConnectionError:
            pass
        return socket

    async def run_spdy(self, start: pods_pb2.StreamStart) -> web.StreamResponse:
        frames, first = await self._open(start)
        link = RawLink(self._exchange.request, _upgraded(SPDY_EXEC[0]))
        connection = spdy.Connection(link)
        self._exchange.prepared = True
        wanted = {"error"} | {name for name in ("stdin", "stdout", "stderr") if getattr(start, name)}
        if start.tty:
            wanted.add("resize")
        streams: dict[str, int] = {}
        names: dict[int, str] = {}
        ready = asyncio.Event()

        async def read() -> None:
            async for event in connection.events():
                if isinstance(event, spdy.Opened):
                    name = event.headers.get("streamtype", "").lower()
                    if name not in _STREAMS or name in streams:
                        raise BadRequest(f'streamtype: "{name[:60]}" is none of this session, or is there already')
                    streams[name], names[event.stream] = event.stream, name
                    await connection.reply(event.stream)
                    if wanted <= streams.keys():
                        ready.set()
                else:
                    await self._received(names.get(event.stream, ""), event)

        async def write(frame: Any) -> None:
            async with asyncio.timeout(STREAMS_TIMEOUT_S):
                await ready.wait()
            which = frame.WhichOneof("frame")
            if which in ("stdout", "stderr") and which in streams:
                await connection.send(streams[which], getattr(frame, which))
            elif which == "result":
                for name in ("stdout", "stderr", "resize"):
                    if name in streams:
                        await connection.send(streams[name], b"", fin=True)
                await connection.send(streams["error"], _status(frame.result), fin=True)

        try:
            await self._run(frames, first, read(), write)
        except (ConnectionError, TimeoutError, BadRequest):
            pass
        finally:
            link.close()
        return Taken()

    async def _received(self, name: str, event: spdy.Received) -> None:
        if name == "stdin":
            if event.data:
                await self._incoming.put(Frame(stdin=event.data))
            if event.fin:
                await self._incoming.put(Frame(stdin_closed=True))
        elif name == "resize" and event.data:
            for line in event.data.splitlines():
                frame = _resize(line)
                if frame is not None:
                    await self._incoming.put(frame)

    # port-forward

    async def forward_spdy(self, start: pods_pb2.StreamStart) -> web.StreamResponse:
        frames, first = await self._open(start)
        link = RawLink(self._exchange.request, _upgraded(SPDY_FORWARD))
        self._exchange.prepared = True
        try:
            await self._forward(frames, first, forward.over_spdy(spdy.Connection(link), self.say))
        finally:
            link.close()
        return Taken()

    async def forward_socket(self, start: pods_pb2.StreamStart) -> web.StreamResponse:
        ports = forward.ports_of(self._exchange.values("ports"))
        frames, first = await self._open(start)
        socket = web.WebSocketResponse(
            protocols=(SOCKET_FORWARD, SOCKET_PORTS), max_msg_size=MAX_MESSAGE_BYTES, heartbeat=PING_S
        )
        await self._upgrade(socket)
        if socket.ws_protocol == SOCKET_FORWARD:
            await self._forward(frames, first, forward.over_spdy(spdy.Connection(SocketLink(socket)), self.say))
        else:
            await self._forward(frames, first, forward.over_channels(socket, ports, self.say))
        if not socket.closed:
            await socket.close()
        return socket

    async def say(self, frame: Any) -> None:
        """A frame of the client's side, for the servicer."""
        await self._incoming.put(frame)

    async def _forward(self, frames: Any, first: asyncio.Future[Any], ports: forward.Ports) -> None:
        try:
            await self._run(frames, first, ports.read(), ports.write)
        except (ConnectionError, BadRequest):
            pass
        finally:
            await ports.close()


def _start(exchange: Exchange, target: Target) -> pods_pb2.StreamStart:
    query = exchange.request.query
    asked = {name: flag(query.get(name)) for name in ("stdin", "stdout", "stderr", "tty")}
    return pods_pb2.StreamStart(
        namespace=target.namespace,
        name=target.name,
        container=query.get("container", ""),
        command=query.getall("command", []),
        stdin=asked["stdin"],
        stdout=asked["stdout"],
        stderr=asked["stderr"] and not asked["tty"],
        tty=asked["tty"],
    )


def _log_options(exchange: Exchange) -> core_v1_pb2.PodLogOptions:
    query = exchange.query
    options = core_v1_pb2.PodLogOptions(
        container=query.get("container", ""),
        follow=flag(query.get("follow")),
        previous=flag(query.get("previous")),
        timestamps=flag(query.get("timestamps")),
    )
    for name, field in (("sinceSeconds", "since_seconds"), ("tailLines", "tail_lines"), ("limitBytes", "limit_bytes")):
        value = params.integer(query, name)
        if value is not None:
            setattr(options, field, value)
    if query.get("sinceTime"):
        try:
            seconds, nanos = parse_rfc3339(query["sinceTime"])
        except ValueError as error:
            raise BadRequest(f"sinceTime: {error}") from error
        options.since_time.seconds, options.since_time.nanos = seconds, nanos
    return options


def _upgraded(protocol: str) -> dict[str, str]:
    return {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": protocol}


def _status(status: meta_v1_pb2.Status) -> bytes:
    return encoding.message_json(status)


def _of_channel(channel: int, data: bytes) -> Any:
    if channel == _STDIN:
        return Frame(stdin=data) if data else None
    if channel == _RESIZE:
        return _resize(data)
    if channel == _CLOSE and data[:1] == bytes((_STDIN,)):
        return Frame(stdin_closed=True)
    return None


def _resize(data: bytes) -> Any:
    try:
        size = jsontext.read(data)
        return Frame(resize=pods_pb2.TerminalSize(width=int(size["Width"]), height=int(size["Height"])))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
