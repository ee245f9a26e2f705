"""Work that takes long, in slices, so that whoever else runs on the event loop gets a turn between two of them.

Such work is a generator that yields wherever it may be interrupted, every few milliseconds, and returns its result: it stays
pure, and needs no thread. Driven by the registry's writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Slices: TypeAlias = Generator[None, None, T]


async def in_turns(work: Slices[T]) -> T:
    """To its end, with a turn for everybody else after each slice."""
    try:
        while True:
            next(work)
            await asyncio.sleep(0)
    except StopIteration as done:
        found: T = done.value
        return found
    finally:
        work.close()


def at_once(work: Slices[T]) -> T:
    """For what is known to be small, and for tests."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: T = done.value
            return found
