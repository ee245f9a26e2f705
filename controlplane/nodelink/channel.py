"""A bounded queue of messages with an end, between two tasks: what goes down a control stream, and each leg of a session."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from wherry.api.errors import APIError
from wherry.client.status import copy_of


class Channel:
    """One reader, any number of writers. Invariants: at most `limit` messages wait; nothing is taken after `close`; what was
    taken before is still read, and then the end comes (with its error, if there is one) at every read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[Any] = deque()
        self._changed: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._error: APIError | None = None

    @property
    def closed(self) -> bool:
        return self._closed

    def offer(self, message: Any) -> bool:
        """False when it is full or closed."""
        if self._closed or len(self._items) >= self._limit:
            return False
        self._items.append(message)
        self._notify()
        return True

    async def put(self, message: Any) -> bool:
        """Waits for room. False when it was closed meanwhile: the other side is gone."""
        while not self._closed and len(self._items) >= self._limit:
            await self._wait()
        return self.offer(message)

    def close(self, error: APIError | None = None) -> None:
        """No more messages; the first call counts."""
        if not self._closed:
            self._closed = True
            self._error = error
            self._notify()

    def abandon(self, error: APIError | None = None) -> None:
        """Closes it and throws away what nobody will read."""
        self._items.clear()
        self.close(error)
        self._notify()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            if self._items:
                message = self._items.popleft()
                self._notify()
                yield message
            elif self._closed:
                if self._error is not None:
                    raise copy_of(self._error)
                return
            else:
                await self._wait()

    async def wait_closed(self) -> None:
        while not self._closed:
            await self._wait()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._changed.append(waiter)
        try:
            await waiter
        finally:
            if not waiter.done():
                waiter.cancel()

    def _notify(self) -> None:
        """Wakes all who wait; each looks again."""
        while self._changed:
            waiter = self._changed.popleft()
            if not waiter.done():
                waiter.set_result(None)
