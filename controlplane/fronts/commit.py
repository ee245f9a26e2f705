"""Writes that a caller's disappearance must not break off half-way.

gRPC cancels a handler in the middle of an await when its client disconnects. A write runs in a task of its own, which goes on
to its end; the server waits for these tasks before it closes the store. Called by the servicers around every write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Commits:
    """Invariant: `_running` holds every write that has begun and not ended."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], None] = {}

    async def run(self, write: Coroutine[Any, Any, T]) -> T:
        """The result of `write`, which goes on when the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(write, name="commit")
        self._running[task] = None
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Returns when every write that had begun has ended."""
        while self._running:
            await asyncio.wait(tuple(self._running))

    async def cancel(self) -> None:
        """Breaks off what is under way, as a crash would: it may or may not have happened."""
        for task in list(self._running):
            task.cancel()
        await self.drain()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.pop(task, None)
        if not task.cancelled():
            task.exception()  # its caller may be gone; then nobody else would fetch it
