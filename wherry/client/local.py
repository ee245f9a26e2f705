"""The transport without sockets: calls the control plane's servicers in process, under a fixed identity.

Used by the scheduler and the controllers when they run inside the server, and by simulation, where gRPC's own threads could
not see the virtual clock. What a front does for a socket (deadline, cause, cancellation when the caller goes away) is done
here too. Messages that a caller may still hold are copied, so nobody shares mutable state.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from google.protobuf.message import Message

from wherry.api.context import cause
from wherry.api.errors import APIError, ServiceUnavailable, Timeout
from wherry.client.base import BidiStream
from wherry.client.status import copy_of

QUEUE_LIMIT = 64  # frames in flight in each direction of a bidirectional call, like gRPC's flow control


class Services(Protocol):
    """What a control plane offers to in-process callers; `controlplane.fronts.services.Services` is one."""

    def handler(self, path: str) -> Callable[[Any, Any], Any]:
        """The servicer's method: (request or async iterator of requests, call) to an awaitable response or an async
        iterator of responses. Raises APIError only. What it returns is made for this call and kept by nobody else."""
        ...

    def call(self, *, identity: Any, cause: str, timeout_s: float | None, metadata: Mapping[str, str]) -> Any:
        """What goes beside the request."""
        ...


class LocalTransport:
    """`identity` is a `controlplane.registry.base.Identity`; every call is made under it."""

    def __init__(self, services: Services, identity: Any) -> None:
        self._services = services
        self._identity = identity
        self._closed = False
        self._streams: dict[_LocalStream, None] = {}

    async def unary(self, method_path: str, request: Message, *, timeout_s: float | None = None) -> Any:
        self._check_open()
        handler = self._services.handler(method_path)
        call = self._call(timeout_s, None)
        if timeout_s is None:
            return await handler(_copy(request), call)
        try:
            async with asyncio.timeout(timeout_s):
                return await handler(_copy(request), call)
        except TimeoutError as error:
            raise Timeout(f"{method_path} did not answer within {timeout_s:g} s") from error

    async def server_stream(self, method_path: str, request: Message) -> AsyncIterator[Any]:
        self._check_open()
        responses = self._services.handler(method_path)(_copy(request), self._call(None, None))
        try:
            async for response in responses:
                if self._closed:
                    raise ServiceUnavailable("the client was closed during the call")
                yield response
        finally:
            await responses.aclose()

    def bidi(self, method_path: str, *, metadata: Mapping[str, str] | None = None) -> BidiStream:
        self._check_open()
        stream = _LocalStream(self._services.handler(method_path), self._call(None, metadata), self._streams)
        return stream

    async def close(self) -> None:
        self._closed = True
        for stream in list(self._streams):
            await stream.cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise ServiceUnavailable("the client is closed")

    def _call(self, timeout_s: float | None, metadata: Mapping[str, str] | None) -> Any:
        return self._services.call(
            identity=self._identity, cause=cause.get(), timeout_s=timeout_s, metadata=dict(metadata or {})
        )


class _End:
    """Closes a queue: no more frames, because of `error` or because it is over."""

    def __init__(self, error: APIError | None = None) -> None:
        self.error = error


class _LocalStream:
    """A bidirectional call: the handler runs in a task of its own between two bounded queues.

    Invariants: after `_over` is set nothing enters `_inbox`; `_outbox` ends with exactly one `_End`, which stays in place
    so that every later read sees it.
    """

    def __init__(self, handler: Callable[[Any, Any], Any], call: Any, registry: dict[_LocalStream, None]) -> None:
        self._inbox: asyncio.Queue[Any] = asyncio.Queue(QUEUE_LIMIT)
        self._outbox: asyncio.Queue[Any] = asyncio.Queue(QUEUE_LIMIT)
        self._end: _End | None = None
        self._over = asyncio.Event()
        self._sending_done = False
        self._registry = registry
        registry[self] = None
        self._task = asyncio.get_running_loop().create_task(self._serve(handler, call), name="local-stream")

    async def send(self, message: Message) -> None:
        if self._sending_done:
            raise ServiceUnavailable("the stream was closed by its sender")
        await self._put(_copy(message))

    async def done_sending(self) -> None:
        if not self._sending_done:
            self._sending_done = True
            if not self._over.is_set():
                await self._put(_End())

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._end is None:
            item = await self._outbox.get()
            if not isinstance(item, _End):
                return item
            self._end = item
        if self._end.error is not None:
            raise copy_of(self._end.error)
        raise StopAsyncIteration

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._finish(None)

    async def _put(self, item: Any) -> None:
        """Waits for room, or until the other side is over."""
        if not self._over.is_set():
            try:
                self._inbox.put_nowait(item)
                return
            except asyncio.QueueFull:
                pass
            put = asyncio.ensure_future(self._inbox.put(item))
            over = asyncio.ensure_future(self._over.wait())
            try:
                await asyncio.wait((put, over), return_when=asyncio.FIRST_COMPLETED)
                if put.done():
                    return
            finally:
                put.cancel()
                over.cancel()
        if not isinstance(item, _End):
            raise self._reason()

    def _reason(self) -> APIError:
        if self._end is not None and self._end.error is not None:
            return copy_of(self._end.error)
        return ServiceUnavailable("the server has ended the stream")

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            item = await self._inbox.get()
            if isinstance(item, _End):
                return
            yield item

    async def _serve(self, handler: Callable[[Any, Any], Any], call: Any) -> None:
        end = _End()
        requests: Any = self._requests()
        responses = handler(requests, call)
        try:
            async for response in responses:
                await self._outbox.put(_copy(response))
        except APIError as error:
            end = _End(error)
        except asyncio.CancelledError:
            end = _End(ServiceUnavailable("the call was cancelled"))
            raise
        finally:
            self._finish(end)
            await responses.aclose()
            await requests.aclose()

    def _finish(self, end: _End | None) -> None:
        """Idempotent. When the queue is full the end replaces what nobody will read: the call was cancelled."""
        if self._over.is_set():
            return
        self._over.set()
        self._registry.pop(self, None)
        end = end or _End(ServiceUnavailable("the call was cancelled"))
        while True:
            try:
                self._outbox.put_nowait(end)
                return
            except asyncio.QueueFull:
                self._outbox.get_nowait()


def _copy(message: Message) -> Message:
    fresh = type(message)()
    fresh.CopyFrom(message)
    return fresh
