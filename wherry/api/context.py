"""The environment of a process: its clock, its random source, and the cause of what it is doing.

Nothing else in Wherry reads the wall clock or draws a random number, so a simulation that hands in its own `Env` and runs
on a virtual-time loop sees the same run every time. Durations and deadlines use the event loop's clock
(`asyncio.get_running_loop().time()`, seconds); the wall clock is only for timestamps that people or other machines read.
"""

from __future__ import annotations

import contextvars
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Env:
    """`now()` is Unix time in seconds; `rng` is the only source of randomness."""

    now: Callable[[], float] = time.time  # noqa: TID251  the one place that reads the wall clock
    rng: random.Random = field(default_factory=random.SystemRandom)

    def uuid(self) -> str:
        """A version 4 UUID (RFC 9562) drawn from `rng`."""
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))


# The id of what set the present action off (a request, a reconcile). It travels in RPC metadata under CAUSE_KEY, in
# logs and in events, so that the story of one pod can be told from end to end.
CAUSE_KEY = "wherry-cause"
cause: contextvars.ContextVar[str] = contextvars.ContextVar("wherry_cause", default="")
