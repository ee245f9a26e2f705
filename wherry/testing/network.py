"""A network in memory between clients and a server that may crash: transports that can be cut, slowed and made to lose messages.

A `Server` is one life of a control plane: when it is killed, every call that it was serving ends at once with
ServiceUnavailable, like a connection that is reset. A `Link` is one client's way to whatever server is up: cut, its messages
vanish without a sign, as on a pulled cable. Used by `wherry.testing.cluster`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from wherry.api.context import Env
from wherry.api.errors import APIError, ServiceUnavailable, Timeout
from wherry.client.base import BidiStream, Transport
from wherry.client.local import LocalTransport, Services

T = TypeVar("T")

KEEPALIVE_S = 10.0  # a connection over which nothing comes for that long is taken for broken
QUEUE_LIMIT = 64


@dataclass(slots=True)
class NetworkFaults:
    """May be changed at any time. `loss` is the chance, per call and direction, that a message is lost."""

    delay_s: float = 0.0  # every message takes up to this long
    loss: float = 0.0
    cut: bool = False


@dataclass(slots=True)
class Lag:
    """How far watches may lag behind, in seconds. May be changed at any time."""

    watch_s: float = 0.0


class LaggingTransport(LocalTransport):
    """In process, but what a watch tells comes late, in order: controllers and the scheduler then work with stale caches,
    as over a network."""

    def __init__(self, services: Services, identity: Any, env: Env, lag: Lag) -> None:
        super().__init__(services, identity)
        self._env = env
        self._lag = lag

    async def server_stream(self, method_path: str, request: Message) -> AsyncIterator[Any]:
        stream: Any = super().server_stream(method_path, request)
        try:
            async for response in stream:
                if self._lag.watch_s:
                    await asyncio.sleep(self._env.rng.random() * self._lag.watch_s)
                yield response
        finally:
            await stream.aclose()


class Server:
    """One life of a server: its transports by identity, and the calls that it is serving."""

    def __init__(self, transport: Callable[[Any], Transport]) -> None:
        self._transport = transport
        self._calls: dict[asyncio.Task[Any], None] = {}
        self.alive = True

    def transport(self, identity: Any) -> Transport:
        return self._transport(identity)

    async def serve(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs one call (or the pump of one stream) as a part of this server's life."""
        if not self.alive:
            work.close()
            raise ServiceUnavailable("connection refused")
        task = asyncio.get_running_loop().create_task(work)
        self._calls[task] = None
        try:
            return await task
        except asyncio.CancelledError:
            if self.alive:
                task.cancel()
                raise
            raise ServiceUnavailable("the connection was reset") from None
        finally:
            self._calls.pop(task, None)

    async def kill(self) -> None:
        """In the order in which the calls came. Returns when none is left."""
        self.alive = False
        calls = list(self._calls)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


class Link:
    """A `Transport`. `server()` gives the life that is up now, None when there is none."""

    def __init__(
        self, server: Callable[[], Server | None], identity: Any, env: Env, faults: NetworkFaults | None = None
    ) -> None:
        self._server = server
        self._identity = identity
        self._env = env
        self._healed = asyncio.Event()
        self._streams: dict[_Stream, None] = {}
        self._closed = False
        self.faults = faults or NetworkFaults()

    def cut(self) -> None:
        self.faults.cut = True
        self._healed.clear()

    def heal(self) -> None:
        self.faults.cut = False
        self._healed.set()

    async def unary(self, method: str, request: Message, *, timeout_s: float | None = None) -> Any:
        patience_s = timeout_s if timeout_s is not None else KEEPALIVE_S
        await self._travel(method, patience_s)
        server = self._up()
        response = await server.serve(server.transport(self._identity).unary(method, request, timeout_s=timeout_s))
        await self._travel(method, patience_s)
        return response

    async def server_stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        stream = self._open()
        await self._travel(method, KEEPALIVE_S)
        stream.start(self._up(), lambda transport: _Receiving(transport.server_stream(method, request)))
        try:
            async for response in stream:
                yield response
        finally:
            await stream.cancel()

    def bidi(self, method: str, *, metadata: Mapping[str, str] | None = None) -> BidiStream:
        stream = self._open()
        server = self._server()
        if server is None or self.faults.cut:
            stream.fail(ServiceUnavailable("connection refused" if server is None else "no route to host"))
        else:
            stream.start(server, lambda transport: transport.bidi(method, metadata=metadata))
        return stream

    async def close(self) -> None:
        self._closed = True
        for stream in list(self._streams):
            await stream.cancel()

    # -- the wire

    def _open(self) -> _Stream:
        if self._closed:
            raise ServiceUnavailable("the client is closed")
        stream = _Stream(self)
        self._streams[stream] = None
        return stream

    def forget(self, stream: _Stream) -> None:
        self._streams.pop(stream, None)

    def _up(self) -> Server:
        server = self._server()
        if self._closed or server is None:
            raise ServiceUnavailable("connection refused")
        return server

    async def _travel(self, what: str, patience_s: float) -> None:
        """One message, one way. Over a cut cable it is sent again and again while there is patience; lost, whoever waits
        for it learns nothing until then."""
        if self.faults.delay_s:
            await asyncio.sleep(self._env.rng.random() * self.faults.delay_s)
        if self.faults.cut and await self._is_healed_within(patience_s):
            return
        if self.faults.cut:
            raise Timeout(f"{what} did not answer within {patience_s:g} s")
        if self.faults.loss and self._env.rng.random() < self.faults.loss:
            await asyncio.sleep(patience_s)
            raise Timeout(f"{what} did not answer within {patience_s:g} s")

    async def deliver(self) -> bool:
        """For one message of an open stream: False when the connection has broken over it."""
        if self.faults.delay_s:
            await asyncio.sleep(self._env.rng.random() * self.faults.delay_s)
        return not self.faults.cut or await self._is_healed_within(KEEPALIVE_S)

    async def _is_healed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._healed.wait()
        except TimeoutError:
            return False
        return True


class _Receiving:
    """A server's stream, as a bidirectional one on which nothing is sent."""

    def __init__(self, responses: AsyncIterator[Any]) -> None:
        self._responses = responses

    async def send(self, message: Message) -> None: ...

    async def done_sending(self) -> None: ...

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._responses

    async def cancel(self) -> None:
        await self._responses.aclose()  # type: ignore[attr-defined]


class _Stream:
    """A stream over a link. A task moves what the server sends into `_inbox`, which ends with an error or with None."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._inner: BidiStream | None = None
        self._server: Server | None = None
        self._inbox: asyncio.Queue[Any] = asyncio.Queue(QUEUE_LIMIT)
        self._pump: asyncio.Task[None] | None = None
        self._end: APIError | None = None
        self._over = False
        self._breaking: asyncio.Task[None] | None = None  # something sent was lost: the connection is beyond repair

    def start(self, server: Server, opening: Callable[[Transport], Any]) -> None:
        self._server = server
        inner = opening(server.transport(self._link._identity))
        self._inner = inner
        self._pump = asyncio.get_running_loop().create_task(self._receive(server, inner))

    def fail(self, error: APIError) -> None:
        self._inbox.put_nowait(error)

    async def send(self, message: Message) -> None:
        if self._inner is None or self._over or self._server is None or not self._server.alive:
            raise ServiceUnavailable("the connection is broken")
        if self._breaking is not None:
            return
        if self._link.faults.cut:
            self._breaking = asyncio.get_running_loop().create_task(self._break())
            return
        await self._inner.send(message)

    async def done_sending(self) -> None:
        if self._inner is not None and self._breaking is None:
            await self._inner.done_sending()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._over:
            if self._end is not None:
                raise self._end
            raise StopAsyncIteration
        item = await self._inbox.get()
        if item is None or isinstance(item, APIError):
            self._over, self._end = True, item
            return await self.__anext__()
        return item

    async def cancel(self) -> None:
        self._over = True
        self._link.forget(self)
        for task in (self._breaking, self._pump):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _break(self) -> None:
        """The loss shows when the cable is back, or when patience is at an end."""
        await self._link.deliver()
        assert self._pump is not None
        self._pump.cancel()

    async def _receive(self, server: Server, inner: BidiStream) -> None:
        end: APIError | None = ServiceUnavailable("the connection was reset")
        try:
            end = await self._serve(server, inner)
        except asyncio.CancelledError:
            if self._over:  # else it was `_break`
                raise
        finally:
            self._link.forget(self)
        await self._inbox.put(end)

    async def _serve(self, server: Server, inner: BidiStream) -> APIError | None:
        """How the stream ends, as far as its client can see: over a cut cable every end is silence."""
        end: APIError | None = None
        try:
            await server.serve(self._move(inner))
        except APIError as error:
            end = error
        return end if await self._link.deliver() else _silence()

    async def _move(self, inner: BidiStream) -> None:
        try:
            async for response in inner:
                if not await self._link.deliver():
                    self._link.forget(self)
                    await self._inbox.put(_silence())
                    return
                await self._inbox.put(response)
        finally:
            await inner.cancel()


def _silence() -> APIError:
    return ServiceUnavailable("keepalive watchdog timeout")
