"""Long work on the loop in slices: nobody else waits for more than one of them. Used by `fronts.http`."""

from __future__ import annotations

import asyncio
from time import perf_counter

SLICE_S = 0.003


class Pace:
    """For one piece of work: `await breathe()` between its steps, which lets others run whenever a slice is over."""

    def __init__(self) -> None:
        self._since = perf_counter()

    async def breathe(self) -> None:
        if perf_counter() - self._since >= SLICE_S:
            await asyncio.sleep(0)
            self._since = perf_counter()
