"""Waiting in real time for real things (processes, kernels, other programs), where no event says when. Used by tests/node and
tests/cluster; unit tests and simulations have a clock of their own and never need this."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
PAUSE_S = 0.02


async def eventually(check: Callable[[], Awaitable[T]], timeout_s: float = 20.0) -> T:
    """The first true answer of `check`. Raises TimeoutError, which names what was last answered."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not (answer := await check()):
        if loop.time() > deadline:
            raise TimeoutError(f"not so after {timeout_s:g} s; the last answer was {answer!r}")
        await asyncio.sleep(PAUSE_S)
    return answer
