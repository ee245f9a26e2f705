"""Port-forward as Kubernetes' clients speak it, over the frames of our Pods servicer. Called by `sessions`.

Newer kubectl has SPDY streams (directly, or within a WebSocket), a pair for each connection; older libraries two channels of a
WebSocket for each port. Neither has flow control per connection, our frames have: so what the client sends on a connection is
kept in a pipe until the agent gives credit for it. When a pipe is full, the client as a whole is held back, the only way there
is; if there are other connections, a pod that takes nothing for `HELD_S` then loses that one, so that the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Protocol

from aiohttp import web

from controlplane.fronts.http import spdy
from controlplane.fronts.http.upgrade import content
from wherry.api import integers
from wherry.api.errors import BadRequest
from wherry.client.windows import Credit, Pipe, Window
from wherry.pb import pods_pb2

log = logging.getLogger(__name__)

MAX_FORWARDS = 1024
MAX_CHANNELS = 100
# A session's pipes are mostly empty; one that is full holds what the agent's window does not.
PIPE_BYTES = 1 << 20
HELD_S = 5.0

Frame = pods_pb2.StreamFrame
Say = Callable[[Any], Awaitable[None]]


class Wire(Protocol):
    """The client's connection. `events` tells what it says, as frames."""

    def events(self) -> AsyncIterator[Any]: ...
    async def data(self, channel: int, data: bytes) -> None: ...
    async def end(self, channel: int, problem: str) -> None: ...


class _Upload:
    def __init__(self) -> None:
        self.pipe = Pipe(PIPE_BYTES)
        self.window = Window()
        self.credit = Credit()  # for what comes down
        self.task: asyncio.Task[None] | None = None


class Ports:
    """The connections of one session. `read` is run by one task, `write` by another; `close` ends what is left."""

    def __init__(self, wire: Wire, say: Say) -> None:
        self._wire, self._say = wire, say
        self._uploads: dict[int, _Upload] = {}

    async def read(self) -> None:
        """Until the client goes."""
        async for frame in self._wire.events():
            which, channel = frame.WhichOneof("frame"), frame.channel
            if which == "start_port":
                if len(self._uploads) >= MAX_FORWARDS:
                    raise BadRequest(f"more than {MAX_FORWARDS} connections at once")
                upload = self._uploads[channel] = _Upload()
                await self._say(frame)
                upload.task = asyncio.get_running_loop().create_task(self._send(channel, upload), name="port-forward")
            elif (held := self._uploads.get(channel)) is not None:
                if which == "data":
                    await self._take(channel, held, frame.data)
                else:
                    held.pipe.close()

    async def _take(self, channel: int, upload: _Upload, data: bytes) -> None:
        while not upload.pipe.offer(data):
            try:
                async with asyncio.timeout(HELD_S):
                    await upload.pipe.put(data)
                return
            except TimeoutError:
                if len(self._uploads) == 1:
                    continue  # nobody else waits
            problem = f"the pod has taken nothing for {HELD_S:g} s, and other connections wait"
            log.info("port-forward: a connection was broken off: %s", problem)
            await self._say(Frame(channel=channel, channel_error=problem))
            # Without the words: an error on one connection makes kubectl give up all of them.
            await self._end(channel, "")
            return

    async def _send(self, channel: int, upload: _Upload) -> None:
        while data := await upload.pipe.get():
            while data:
                size = await upload.window.take(len(data))
                await self._say(Frame(channel=channel, data=data[:size]))
                data = data[size:]
        await self._say(Frame(channel=channel, channel_closed=True))

    async def write(self, frame: Any) -> None:
        """A frame of the servicer, for the client."""
        which, channel = frame.WhichOneof("frame"), frame.channel
        upload = self._uploads.get(channel)
        if upload is None:
            return
        if which == "credit":
            upload.window.give(frame.credit)
        elif which == "data":
            await self._wire.data(channel, frame.data)
            if credit := upload.credit.taken(len(frame.data)):
                await self._say(Frame(channel=channel, credit=credit))
        elif which in ("channel_closed", "channel_error"):
            await self._end(channel, frame.channel_error)

    async def _end(self, channel: int, problem: str) -> None:
        upload = self._uploads.pop(channel, None)
        if upload is None:
            return
        upload.pipe.close()
        if upload.task is not None:
            upload.task.cancel()
        await self._wire.end(channel, problem)

    async def close(self) -> None:
        tasks = [upload.task for upload in self._uploads.values() if upload.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Spdy:
    """Each connection is a pair of streams, an error and a data stream, that name the same request. The number of the data
    stream is the channel."""

    def __init__(self, connection: spdy.Connection) -> None:
        self._connection = connection
        self._pairs: dict[str, dict[str, int]] = {}
        self._streams: dict[int, dict[str, int]] = {}  # channel -> its streams
        self._sending: dict[int, None] = {}  # channels on which the client has not ended its side

    async def events(self) -> AsyncIterator[Any]:
        async for event in self._connection.events():
            if isinstance(event, spdy.Opened):
                frame = await self._opened(event)
                if frame is not None:
                    yield frame
            elif event.stream in self._sending:
                if event.data:
                    yield Frame(channel=event.stream, data=event.data)
                if event.fin:
                    del self._sending[event.stream]
                    yield Frame(channel=event.stream, channel_closed=True)

    async def _opened(self, event: spdy.Opened) -> Any:
        kind = event.headers.get("streamtype", "").lower()
        if kind not in ("data", "error"):
            raise BadRequest(f'streamtype: "{kind[:60]}"; a connection has "data" and "error"')
        request = event.headers.get("requestid") or str(event.stream - (0 if kind == "error" else 2))
        if len(self._pairs) >= MAX_FORWARDS:
            raise BadRequest(f"more than {MAX_FORWARDS} connections at once")
        await self._connection.reply(event.stream)
        pair = self._pairs.setdefault(request, {})
        pair[kind] = event.stream
        if kind != "data":
            return None
        port = port_of(event.headers.get("port", ""))
        self._streams[event.stream] = self._pairs.pop(request)
        self._sending[event.stream] = None
        return Frame(channel=event.stream, start_port=port)

    async def data(self, channel: int, data: bytes) -> None:
        await self._connection.send(channel, data)

    async def end(self, channel: int, problem: str) -> None:
        pair = self._streams.pop(channel)
        self._sending.pop(channel, None)
        if "error" in pair:
            await self._connection.send(pair["error"], problem.encode(), fin=True)
        await self._connection.send(pair["data"], b"", fin=True)


class _Channels:
    """Two channels for each port of the query, data and errors; the first message on each tells the port."""

    def __init__(self, socket: web.WebSocketResponse, ports: list[int]) -> None:
        self._socket, self._ports = socket, ports[:MAX_CHANNELS]

    async def events(self) -> AsyncIterator[Any]:
        for number, port in enumerate(self._ports):
            for channel in (2 * number, 2 * number + 1):
                await self._socket.send_bytes(bytes((channel,)) + struct.pack("<H", port))
            yield Frame(channel=number + 1, start_port=port)
        async for message in self._socket:
            data = content(message)
            if len(data) > 1:
                yield Frame(channel=data[0] // 2 + 1, data=data[1:])

    async def data(self, channel: int, data: bytes) -> None:
        await self._socket.send_bytes(bytes((2 * channel - 2,)) + data)

    async def end(self, channel: int, problem: str) -> None:
        if problem:
            await self._socket.send_bytes(bytes((2 * channel - 1,)) + problem.encode())


def port_of(text: str) -> int:
    """Raises BadRequest."""
    number = integers.parse_unsigned(text)
    if number is None or not 0 < number < 65536:
        raise BadRequest(f'port: "{text[:60]}" is no port')
    return number


def ports_of(values: Iterable[str]) -> list[int]:
    """Of a query's parameter, each of which may have several, with commas. Raises BadRequest."""
    return [port_of(text) for value in values for text in value.split(",")]


def over_spdy(connection: spdy.Connection, say: Say) -> Ports:
    return Ports(_Spdy(connection), say)


def over_channels(socket: web.WebSocketResponse, ports: list[int], say: Say) -> Ports:
    return Ports(_Channels(socket, ports), say)
