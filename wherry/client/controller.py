"""The runner of a controller: some workers, one `reconcile(key)`, and the only place where retries are decided.

A controller builds one with its reconcile function, lets informer handlers `enqueue` keys, and awaits `run()`. Level-triggered:
`reconcile` reads the present state from informers and brings it nearer to what is wanted; it may be called at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from wherry.api.context import cause
from wherry.api.errors import APIError, Conflict, NotFound, ServiceUnavailable, Timeout, TooManyRequests
from wherry.api.tasks import TaskGroup
from wherry.client.workqueue import ShutDown, WorkQueue

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)

# Expected in the normal course of things: worth a retry, not worth a line in the log above debug.
_TRANSIENT = (Conflict, ServiceUnavailable, Timeout, TooManyRequests)


class Controller(Generic[K]):
    """`reconcile` returns None, or in how many seconds to look again. An exception puts the key back with back-off."""

    def __init__(
        self,
        name: str,
        reconcile: Callable[[K], Awaitable[float | None]],
        *,
        workers: int = 1,
        queue: WorkQueue[K] | None = None,
    ) -> None:
        self.name = name
        self.queue: WorkQueue[K] = queue if queue is not None else WorkQueue()
        self._reconcile = reconcile
        self._workers = workers
        self._runs = 0

    def enqueue(self, key: K) -> None:
        self.queue.add(key)

    async def run(self) -> None:
        """Until cancelled, or until the queue is shut down and empty. Start it when the informers have synced."""
        async with TaskGroup() as group:
            for number in range(self._workers):
                group.keep(self._work, name=f"{self.name}-{number}")

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except ShutDown:
                return
            try:
                await self._once(key)
            finally:
                self.queue.done(key)

    async def _once(self, key: K) -> None:
        self._runs += 1
        cause.set(f"{self.name}:{key}#{self._runs}")
        try:
            again = await self._reconcile(key)
        except _TRANSIENT as error:
            delay = max(self.queue.add_rate_limited(key), 0.0)
            log.debug("%s: %s: %s; again in %.3f s", self.name, key, error, delay)
            return
        except NotFound as error:
            # What it wrote to went away meanwhile: the informer will show it.
            self.queue.add_rate_limited(key)
            log.debug("%s: %s: %s", self.name, key, error)
            return
        except APIError as error:
            delay = self.queue.add_rate_limited(key)
            log.warning("%s: %s: %s: %s; again in %.3f s", self.name, key, error.reason, error, delay)
            return
        except Exception:
            delay = self.queue.add_rate_limited(key)
            log.exception("%s: %s failed; again in %.3f s", self.name, key, delay)
            return
        self.queue.forget(key)
        if again is not None:
            self.queue.add_after(key, again)
