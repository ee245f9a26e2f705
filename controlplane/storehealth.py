"""Whether the store can be reached. Run by `controlplane.server` where several replicas share one: a replica that is cut off from
it says so (`/readyz`, gRPC health), and lets its nodes go to one that is not.

It reads the store's revision again and again, as every read of a client does. What is asked of a replica that is cut off fails by
itself: reads wait for the store's newest revision, writes for its answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from controlplane.store.base import Store, StoreError

log = logging.getLogger(__name__)

PERIOD_S = 0.5
ANSWER_S = 3.0
# An election of etcd's takes up to 2 s, and is no reason to move the nodes.
LOST_AFTER_S = 3.5


class StoreHealth:
    """`changed(well, silence_s)` is told of each turn; `silence_s` is for how long the store did not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.changed: Callable[[bool, float], None] = lambda well, silence_s: None
        self.well = True

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        answered = loop.time()
        while True:
            asked = loop.time()
            why = ""
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._store.revision()
                silence_s, answered = loop.time() - answered, loop.time()
                self._turn(True, silence_s, "")
            except TimeoutError:
                why = f"no answer within {ANSWER_S:g} s"
            except StoreError as error:
                why = str(error)
            if why and loop.time() - answered >= LOST_AFTER_S:
                self._turn(False, loop.time() - answered, why)
            await asyncio.sleep(max(0.05, PERIOD_S - (loop.time() - asked)))

    def _turn(self, well: bool, silence_s: float, why: str) -> None:
        if well == self.well:
            return
        self.well = well
        if well:
            log.warning("the store can be reached again, after %.1f s", silence_s)
        else:
            log.error("the store cannot be reached for %.1f s: %s", silence_s, why)
        self.changed(well, silence_s)
