"""Keeps long-lived tasks going: the one answer to a defect in a loop that must not end.

The agent's loops, the node link's, the controllers, the scheduler and the informers run under `keep_running` (mostly through
`TaskGroup.keep`): whatever such a task raises is logged with its traceback, and after a back-off the task starts anew. What
is expected (a runtime that is down, a conflict) each loop handles itself, without a traceback. Tests count what is logged
here as a failure (tests/conftest.py), so that nothing hides behind the restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_S, MAX_S = 1.0, 60.0
# Work that went on for this long was sound: the back-off starts anew.
SOUND_S = 120.0


async def keep_running(name: str, work: Callable[[], Awaitable[T]]) -> T:
    """`work()` until it returns, and what it returns; until cancelled otherwise. `work` is called again after each failure,
    so it must be able to begin again from what it left."""
    loop = asyncio.get_running_loop()
    delay_s = FIRST_S
    while True:
        began = loop.time()
        try:
            return await work()
        except Exception:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # it failed on the way out: whoever cancels us is not to wait for another round
            if loop.time() - began >= SOUND_S:
                delay_s = FIRST_S
            log.exception("%s failed; it starts again in %g s", name, delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, MAX_S)
