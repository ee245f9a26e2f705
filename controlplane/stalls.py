"""How long the event loop keeps its callers waiting: the health of an asyncio server in one number.

Run by `wherry server`. A synchronous slice on the loop is to stay under 5 ms (design, section 4); what is late by more than
REPORT_S is logged. `worst_s` and `buckets` feed the metrics.
"""

from __future__ import annotations

import asyncio
import logging

log = logging.getLogger(__name__)

STEP_S = 0.05
REPORT_S = 0.25
LIMITS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)


class Stalls:
    """`buckets[i]` counts steps that were late by at most LIMITS_S[i]; the last bucket counts the rest."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(LIMITS_S) + 1)
        self.worst_s = 0.0
        self.total_s = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(STEP_S)
            self.note(loop.time() - before - STEP_S)

    def note(self, late_s: float) -> None:
        late_s = max(late_s, 0.0)
        self.worst_s = max(self.worst_s, late_s)
        self.total_s += late_s
        index = next((n for n, limit in enumerate(LIMITS_S) if late_s <= limit), len(LIMITS_S))
        self.buckets[index] += 1
        if late_s > REPORT_S:
            log.warning("the event loop was busy for %.0f ms", late_s * 1000)
