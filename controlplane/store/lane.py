"""Where the writer's work runs: on a thread of its own, or inline on the loop for virtual time. Called by `sqlite`."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Lane(Protocol):
    """Runs one function at a time, in the order of `submit`."""

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """The work is done whether or not anybody awaits the future, and also when that is cancelled."""
        ...

    async def stop(self) -> None:
        """After what was submitted is done."""
        ...


class InlineLane:
    """The work runs within `submit`: same order every time, no thread."""

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        # Told in a later turn of the loop, as by a thread, so that those who wait learn of it in the order of the work.
        try:
            loop.call_soon(_set_result, future, work())
        except Exception as error:
            loop.call_soon(_set_exception, future, error)
        return future

    async def stop(self) -> None:
        return


class ThreadLane:
    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon, so that a process whose owner never closed the store still ends; what was acknowledged is on disk.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                self._report(_set_exception, future, error)
            else:
                self._report(_set_result, future, result)

        self._queue.put(run)
        return future

    async def stop(self) -> None:
        done = self.submit(lambda: None)
        self._queue.put(None)
        await done
        self._thread.join()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            del work  # or the last result would live until the next one

    def _report(self, setter: Callable[..., None], future: asyncio.Future[T], value: object) -> None:
        try:
            self._loop.call_soon_threadsafe(setter, future, value)
        except RuntimeError:
            pass  # the loop is closed: nobody is left to be told


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
