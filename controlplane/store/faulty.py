"""A store that fails like one behind a bad network, for simulations and tests.

Wraps any other store and draws from the Env's random source, so that the same seed brings the same faults. Every fault is one
that the contract allows: a call that is slow, one that is refused before the write or loses its answer after it, a watch
that breaks. Called by `wherry.testing` and by tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.store.base import (
    BatchItem,
    Compare,
    KeyValue,
    ListResult,
    Operation,
    Store,
    TxnResult,
    Unavailable,
    Watch,
    WatchBatch,
)
from wherry.api.context import Env


@dataclass(slots=True)
class Faults:
    """Chances per call (per batch for watches), from 0 to 1. May be changed at any time."""

    delay_s: float = 0.0  # every call takes up to this much longer
    before: float = 0.0  # Unavailable, and nothing was done
    after: float = 0.0  # Unavailable although the write was done
    watch: float = 0.0  # the watch breaks instead of yielding
    watch_delay_s: float = 0.0  # what a watch yields comes up to this much later
    down: bool = False  # every call is refused, and every watch breaks


class FaultyStore:
    """Keeps the contract of `base.Store`, at its worst."""

    def __init__(self, store: Store, env: Env, faults: Faults | None = None) -> None:
        self.store = store
        self.faults = faults or Faults()
        self._env = env
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def break_watches(self) -> None:
        """Every watch that is open now raises Unavailable."""
        self._broken.set_result(None)
        self._broken = asyncio.get_running_loop().create_future()

    def go_down(self) -> None:
        self.faults.down = True
        self.break_watches()

    def come_up(self) -> None:
        self.faults.down = False

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        await self._before()
        return await self.store.get(key, revision=revision)

    async def list(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> ListResult:
        await self._before()
        return await self.store.list(prefix, after=after, limit=limit, revision=revision)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        await self._before()
        result = await self.store.txn(compares, operations)
        await self._after()
        return result

    async def batch(self, items: Sequence[BatchItem]) -> Sequence[TxnResult]:
        await self._before()
        results = await self.store.batch(items)
        await self._after()
        return results

    def watch(self, prefix: str, *, from_revision: int = 0) -> Watch:
        return _FaultyWatch(self, self.store.watch(prefix, from_revision=from_revision))

    def request_progress(self, revision: int) -> None:
        self.store.request_progress(revision)

    async def revision(self) -> int:
        await self._before()
        return await self.store.revision()

    async def compact(self, revision: int) -> None:
        await self._before()
        await self.store.compact(revision)

    async def close(self) -> None:
        await self.store.close()

    # For the watches

    @property
    def broken(self) -> asyncio.Future[None]:
        return self._broken

    def delay(self, up_to_s: float) -> float:
        return self._env.rng.random() * up_to_s

    def draw(self, chance: float) -> bool:
        return self.faults.down or (chance > 0 and self._env.rng.random() < chance)

    # Inside

    async def _before(self) -> None:
        await self._delay()
        if self.draw(self.faults.before):
            raise Unavailable("injected: refused before it was done")

    async def _after(self) -> None:
        await self._delay()
        if self.draw(self.faults.after):
            raise Unavailable("injected: done, but the answer is lost")

    async def _delay(self) -> None:
        if self.faults.delay_s > 0:
            await asyncio.sleep(self._env.rng.random() * self.faults.delay_s)


class _FaultyWatch:
    def __init__(self, owner: FaultyStore, watch: Watch) -> None:
        self._owner = owner
        self._watch = watch
        self._broken = owner.broken

    def __aiter__(self) -> _FaultyWatch:
        return self

    async def __anext__(self) -> WatchBatch:
        step = asyncio.ensure_future(self._watch.__anext__())
        either: tuple[asyncio.Future[Any], ...] = (step, self._broken)
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not step.done():
                step.cancel()
                await asyncio.wait([step])
        if self._broken.done() or self._owner.draw(self._owner.faults.watch):
            if not step.cancelled():
                step.exception()  # seen: it must not be reported as never retrieved
            raise Unavailable("injected: the watch broke")
        if self._owner.faults.watch_delay_s > 0:
            await asyncio.sleep(self._owner.delay(self._owner.faults.watch_delay_s))
        return step.result()

    async def aclose(self) -> None:
        await self._watch.aclose()
