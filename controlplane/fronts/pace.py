"""Work on the loop in slices: a long piece of work in many (`Pace`), many pieces that come at once in groups (`Turns`), so that
nobody else waits for more than one. Used by `fronts.http`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")

SLICE_S = 0.003


class Pace:
    """For one piece of work: `await breathe()` between its steps, which lets others run whenever a slice is over."""

    def __init__(self) -> None:
        self._since = perf_counter()

    async def breathe(self) -> None:
        if perf_counter() - self._since >= SLICE_S:
            await asyncio.sleep(0)
            self._since = perf_counter()


class Turns:
    """`await mine()` before a piece of work: as many as fit into a slice have their turn in one round of the loop.

    A group commit answers all who waited for it at once, and their next requests arrive together. Done in one round they would
    hold up everything else for as long as all of them take, and the store's writer would wait for the last of them, too.
    """

    def __init__(self) -> None:
        self._begun = 0.0
        self._in_round = False

    async def mine(self) -> None:
        while True:
            if not self._in_round:
                self._in_round = True
                self._begun = perf_counter()
                asyncio.get_running_loop().call_soon(self._end)
            if perf_counter() - self._begun < SLICE_S:
                return
            await asyncio.sleep(0)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which begins when it has its turn."""
        try:
            await self.mine()
        except BaseException:
            work.close()
            raise
        return await work

    def _end(self) -> None:
        self._in_round = False
