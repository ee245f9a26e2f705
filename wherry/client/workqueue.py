"""The work queue of a controller: keys in, each worked on by one worker at a time, failures retried with back-off.

Called by `wherry.client.controller` (the runner) and by informer handlers, which only `add` keys. The semantics are those of
client-go's workqueue. Delays use the loop's clock, so the queue runs on virtual time as it is.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

BASE_DELAY_S = 0.005
MAX_DELAY_S = 1000.0


class ShutDown(Exception):
    """The queue was shut down and has nothing left to hand out."""


class WorkQueue(Generic[K]):
    """Keys are handed out in the order in which they were added; a key that is added many times is handed out once.

    `_dirty`: keys that need work. `_processing`: keys that a worker has. `_queue`: the order.
    Invariants: `_queue` holds exactly `_dirty - _processing`, each key once; so a key in `_processing` is never handed out a
    second time, and one that was added meanwhile is queued again by `done`. `_waiting` holds the earliest pending time of
    each delayed key.
    """

    def __init__(self, *, base_delay_s: float = BASE_DELAY_S, max_delay_s: float = MAX_DELAY_S) -> None:
        self._base_delay_s = base_delay_s
        self._max_delay_s = max_delay_s
        self._queue: deque[K] = deque()
        self._dirty: dict[K, None] = {}
        self._processing: dict[K, None] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._failures: dict[K, int] = {}
        self._waiting: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        self._timer: asyncio.TimerHandle | None = None
        self._shut_down = False

    def __len__(self) -> int:
        """Keys that are ready to be handed out."""
        return len(self._queue)

    def add(self, key: K) -> None:
        if self._shut_down or key in self._dirty:
            return
        self._dirty[key] = None
        if key not in self._processing:
            self._queue.append(key)
            self._wake()

    def add_after(self, key: K, delay_s: float) -> None:
        """Adds `key` that much later; an earlier pending time of the same key stands."""
        if self._shut_down:
            return
        if delay_s <= 0:
            self.add(key)
            return
        when = asyncio.get_running_loop().time() + delay_s
        pending = self._waiting.get(key)
        if pending is not None and pending <= when:
            return
        self._waiting[key] = when
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, key))
        self._schedule()

    def add_rate_limited(self, key: K) -> float:
        """Adds `key` after its back-off (5 ms, doubled with each failure since `forget`, at most 1000 s); returns it."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._base_delay_s * 2.0 ** min(failures, 60), self._max_delay_s)
        self.add_after(key, delay)
        return delay

    def retries(self, key: K) -> int:
        """How often `key` was added with back-off since it was last forgotten."""
        return self._failures.get(key, 0)

    def forget(self, key: K) -> None:
        """Its next back-off starts from the beginning. Call it on success and when giving up."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key, which is the caller's until `done`. Raises ShutDown."""
        while not self._queue:
            if self._shut_down:
                raise ShutDown
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                if getter.done() and not getter.cancelled():
                    self._wake()  # we were woken for a key and will not take it: wake another
                raise
            finally:
                if not getter.done():
                    getter.cancel()
        key = self._queue.popleft()
        self._processing[key] = None
        del self._dirty[key]
        return key

    def done(self, key: K) -> None:
        """The worker is through with `key`, well or not. Adds that came meanwhile take effect now."""
        self._processing.pop(key, None)
        if key in self._dirty:
            self._queue.append(key)
            self._wake()

    def shut_down(self) -> None:
        """Takes no more keys; what is queued is still handed out."""
        self._shut_down = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._getters:
            self._wake()

    def check_invariants(self) -> None:
        assert len(set(self._queue)) == len(self._queue)
        assert set(self._queue) == set(self._dirty) - set(self._processing)
        assert all(key in self._waiting for _, _, key in self._heap if key in self._waiting)

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._due)

    def _due(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now + 1e-9:
            when, _, key = heapq.heappop(self._heap)
            if self._waiting.get(key) == when:  # else a shorter delay took its place and has passed
                del self._waiting[key]
                self.add(key)
        self._schedule()
