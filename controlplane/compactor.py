"""Forgets the store's history after a while, so that it does not grow without bound. Run by `controlplane.server`.

The revision of some minutes ago is kept: watches resume, and pages of a list continue, for at least that long.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from controlplane.store.base import Compacted, FutureRevision, Store, StoreError

log = logging.getLogger(__name__)

KEEP_S = 300.0
STEP_S = 60.0


async def compact_history(store: Store, *, keep_s: float = KEEP_S, step_s: float = STEP_S) -> None:
    """Until cancelled. Several replicas may do it at once: the later of two compactions finds its work done."""
    loop = asyncio.get_running_loop()
    marks: deque[tuple[float, int]] = deque()
    while True:
        await asyncio.sleep(step_s)
        try:
            marks.append((loop.time(), await store.revision()))
            revision = 0
            while marks and marks[0][0] <= loop.time() - keep_s:
                revision = marks.popleft()[1]
            if revision:
                await store.compact(revision)
        except (Compacted, FutureRevision):
            pass
        except StoreError as error:
            log.warning("history was not compacted: %s", error)
