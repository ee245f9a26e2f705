"""What keeps a store healthy over the years: compaction of its history. Run by the server beside the store.

With several replicas each runs it; whoever comes second finds the work done, which is not an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.store.base import Compacted, Store, Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Window:
    """How much history to keep: that of the last `keep_s`, and at least `min_revisions`, but never more than
    `max_revisions`. Watches that resume, and lists that are read in pages, need it; Kubernetes keeps five minutes."""

    keep_s: float = 300.0
    min_revisions: int = 1_000
    max_revisions: int = 500_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The store's revision at a time of the loop's clock."""

    at: float
    revision: int


def plan_compaction(samples: Sequence[Sample], now: float, window: Window) -> int:
    """The revision to compact at, given samples in the order of time, the last one the newest; 0 for none."""
    head = samples[-1].revision
    old = [sample.revision for sample in samples if sample.at <= now - window.keep_s]
    target = min(old[-1] if old else 0, head - window.min_revisions)
    return max(0, target, head - window.max_revisions)


class Compactor:
    """`await run()` for as long as the store is open; cancel it to stop."""

    def __init__(self, store: Store, window: Window | None = None, *, interval_s: float = 60.0) -> None:
        self._store = store
        self._window = window or Window()
        self._interval_s = interval_s
        # One sample per interval, and no more than the window needs.
        self._samples: deque[Sample] = deque(maxlen=int(self._window.keep_s / interval_s) + 2)
        self.compacted = 0

    async def run(self) -> None:
        while True:
            try:
                await self.step()
            except Unavailable as error:
                log.warning("cannot compact the store now: %s", error)
            await asyncio.sleep(self._interval_s)

    async def step(self) -> None:
        """Looks once, and compacts if there is something to. Raises Unavailable."""
        now = asyncio.get_running_loop().time()
        self._samples.append(Sample(now, await self._store.revision()))
        target = plan_compaction(self._samples, now, self._window)
        if target <= self.compacted:
            return
        try:
            await self._store.compact(target)
        except Compacted as error:
            target = error.compacted
        self.compacted = target
        log.info("compacted the history before revision %d", target)
