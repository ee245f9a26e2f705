"""The environment of a process: its clock, its random source, and the cause of what it is doing.

Nothing else in Wherry reads the wall clock or draws a random number, so a simulation that hands in its own `Env` and runs
on a virtual-time loop sees the same run every time. Durations and deadlines use the event loop's clock
(`asyncio.get_running_loop().time()`, seconds); the wall clock is only for timestamps that people or other machines read.
"""

from __future__ import annotations

import contextvars
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PAGE_BYTES = 4096
# Of a version 4 UUID's bits: the version and the variant are fixed.
_UUID_SET = (4 << 76) | (2 << 62)
_UUID_KEPT = (1 << 128) - 1 & ~((15 << 76) | (3 << 62))


class Entropy(random.SystemRandom):
    """The system's randomness, fetched a page at a time. A call into the kernel for each number costs little, but gives the
    GIL away each time; a name of five letters took as long as the validation of its pod. Not to be used across a fork."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._page = b""
        self._at = 0

    def randbytes(self, n: int) -> bytes:
        if n > PAGE_BYTES:
            return os.urandom(n)
        with self._lock:  # no two callers may have the same bytes
            if self._at + n > len(self._page):
                self._page, self._at = os.urandom(PAGE_BYTES), 0
            self._at += n
            return self._page[self._at - n : self._at]

    def getrandbits(self, k: int, /) -> int:
        if k < 0:
            raise ValueError("number of bits must be non-negative")
        count = (k + 7) // 8
        return int.from_bytes(self.randbytes(count), "big") >> (count * 8 - k)

    def random(self) -> float:
        return self.getrandbits(53) * 2.0**-53


@dataclass(slots=True)
class Env:
    """`now()` is Unix time in seconds; `rng` is the only source of randomness."""

    now: Callable[[], float] = time.time  # noqa: TID251  the one place that reads the wall clock
    rng: random.Random = field(default_factory=Entropy)

    def uuid(self) -> str:
        """A version 4 UUID (RFC 9562) drawn from `rng`."""
        bits = self.rng.getrandbits(128) & _UUID_KEPT | _UUID_SET
        text = f"{bits:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# The id of what set the present action off (a request, a reconcile). It travels in RPC metadata under CAUSE_KEY, in
# logs and in events, so that the story of one pod can be told from end to end.
CAUSE_KEY = "wherry-cause"
cause: contextvars.ContextVar[str] = contextvars.ContextVar("wherry_cause", default="")
