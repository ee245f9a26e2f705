"""What the backends and the watch cache share for watching: a bounded ring of recent events, and readers on it.

The owner publishes each revision once; any number of readers follow, each with nothing but a position (the last revision it
has dealt with). A reader that is behind the ring's floor goes to the history instead, so a slow one costs no memory.
Runs on the event loop only. Called by `sqlite`, `etcd` and `cache`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from controlplane.store.base import Compacted, Event, Unavailable, WatchBatch

E = TypeVar("E")

PROGRESS_INTERVAL_S = 1.0
BATCH_EVENTS = 256  # applying that many stays well under the 5 ms that one synchronous slice may take


@dataclass(slots=True)
class Cursor:
    """A reader's place: it has dealt with everything under `prefix` up to `position`."""

    prefix: str
    position: int


class EventRing(Generic[E]):
    """Events of the newest revisions.

    Invariants: `_revisions` is strictly increasing; every event with `floor < revision <= head` is in it; between
    `_start` and the end lie at most `limit_events` events and `limit_bytes` bytes, or a single revision.
    """

    def __init__(
        self, *, head: int, key: Callable[[E], str], size: Callable[[E], int], limit_events: int, limit_bytes: int
    ) -> None:
        self.floor = head
        self.head = head
        self._key = key
        self._size = size
        self._limit_events = limit_events
        self._limit_bytes = limit_bytes
        self._revisions: list[int] = []
        self._slots: list[tuple[E, ...]] = []
        self._bytes: list[int] = []
        self._start = 0
        self._total_events = 0
        self._total_bytes = 0
        self._waiters: dict[str, list[asyncio.Future[int]]] = {}
        self._error: Exception | None = None
        self._progress_at = 0.0
        self._progress_wanted = 0
        self.progress_due = 0  # readers that have told less than this are to tell their place

    def publish(self, revisions: Iterable[tuple[int, Sequence[E]]], head: int = 0) -> None:
        """Adds whole revisions, in order, and wakes those who wait for one of their keys. `head`: nothing else happened
        up to it."""
        key, size = self._key, self._size
        first_match: dict[str, int] = {}
        waited = list(self._waiters)
        before = self.head
        for revision, events in revisions:
            if revision <= self.head:
                raise AssertionError(f"revision {revision} published after {self.head}")
            total = sum(map(size, events))
            self._revisions.append(revision)
            self._slots.append(tuple(events))
            self._bytes.append(total)
            self._total_bytes += total
            self._total_events += len(events)
            self.head = revision
            touched = [key(event) for event in events]
            for prefix in waited:
                if prefix not in first_match:
                    for one in touched:
                        if one.startswith(prefix):
                            first_match[prefix] = revision
                            break
        self.head = max(self.head, head)
        self._trim()
        for prefix in waited:
            if prefix in first_match:
                self._wake(prefix, max(before, first_match[prefix] - 1))
        if self.head > before:  # whether or not anybody waits: who does not yet is to tell its place before it does
            now = asyncio.get_running_loop().time()
            if before < self._progress_wanted or now - self._progress_at >= PROGRESS_INTERVAL_S:
                self._progress_at = now
                self._wake_all()

    def request_progress(self, revision: int) -> None:
        """See `Store.request_progress`."""
        self._progress_wanted = max(self._progress_wanted, revision)
        if revision <= self.head:
            self._wake_all()

    def skip_to(self, revision: int) -> None:
        """Forgets everything: what happened up to `revision` is to be read from the history."""
        self._start = len(self._slots)
        self._total_bytes = self._total_events = 0
        self.head = self.floor = max(self.head, revision)
        self._shrink()
        for prefix in list(self._waiters):
            self._wake(prefix, 0)

    def fail(self, error: Exception) -> None:
        """From now on `wait` raises `error`."""
        self._error = error
        self._wake_all()

    def take(self, prefix: str, position: int, limit: int = BATCH_EVENTS) -> tuple[list[E], int]:
        """Events after `position` (not below the floor), in whole revisions, and the revision up to which they go."""
        assert position >= self.floor, f"position {position} is below the ring's floor {self.floor}"
        key = self._key
        found: list[E] = []
        for index in range(max(self._start, bisect_right(self._revisions, position)), len(self._slots)):
            if len(found) >= limit:
                return found, self._revisions[index - 1]
            for event in self._slots[index]:
                if key(event).startswith(prefix):
                    found.append(event)
        return found, max(position, self.head)

    async def wait(self, cursor: Cursor) -> None:
        """Until something under the cursor's prefix happens after `head`, or progress is due. Moves the cursor over what
        did not concern it, also when cancelled. Call `take` first."""
        if self._error is not None:
            raise self._error
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(cursor.prefix, []).append(future)
        try:
            found = await future
        finally:
            waiting = self._waiters.get(cursor.prefix, [])
            if future in waiting:  # cancelled and not woken: nothing up to the head matched
                cursor.position = max(cursor.position, self.head)
                waiting.remove(future)
                if not waiting:
                    del self._waiters[cursor.prefix]
        if self._error is not None:
            raise self._error
        cursor.position = max(cursor.position, found)

    def check_invariants(self) -> None:
        live = range(self._start, len(self._slots))
        assert self._revisions == sorted(set(self._revisions)), "revisions are not increasing"
        assert all(self._revisions[index] > self.floor for index in live), "an event is below the floor"
        assert not self._revisions or self._revisions[-1] <= self.head, "an event is beyond the head"
        assert self._total_events == sum(len(self._slots[index]) for index in live), "wrong count of events"
        assert self._total_bytes == sum(self._bytes[index] for index in live), "wrong count of bytes"
        within = self._total_events <= self._limit_events and self._total_bytes <= self._limit_bytes
        assert within or len(live) <= 1, "the ring is over its limits"

    def _wake_all(self) -> None:
        self.progress_due = self.head
        for prefix in list(self._waiters):
            self._wake(prefix, self.head)

    def _wake(self, prefix: str, position: int) -> None:
        for future in self._waiters.pop(prefix, ()):
            if not future.done():
                future.set_result(position)

    def _trim(self) -> None:
        while len(self._slots) - self._start > 1 and (
            self._total_events > self._limit_events or self._total_bytes > self._limit_bytes
        ):
            self._total_events -= len(self._slots[self._start])
            self._total_bytes -= self._bytes[self._start]
            self.floor = self._revisions[self._start]
            self._slots[self._start] = ()
            self._start += 1
        if self._start > 512 and self._start * 2 > len(self._slots):
            self._shrink()

    def _shrink(self) -> None:
        del self._revisions[: self._start], self._slots[: self._start], self._bytes[: self._start]
        self._start = 0


def event_key(event: Event) -> str:
    return event.kv.key


def event_size(event: Event) -> int:
    previous = len(event.previous.value) if event.previous is not None else 0
    return 200 + len(event.kv.key) + len(event.kv.value) + previous


class WatchSource(Protocol):
    """What a backend offers to its watches."""

    @property
    def ring(self) -> EventRing[Event]: ...

    @property
    def compacted(self) -> int: ...

    def check_open(self) -> None:
        """Raises Unavailable when the store is closed."""
        ...

    def open_history(self, prefix: str) -> History: ...


class History(Protocol):
    """One reader of what is older than the ring."""

    async def read(self, from_revision: int) -> WatchBatch:
        """A bounded piece in whole revisions, at least one. Called with the revision after the last piece, and only when
        that has happened. Raises Compacted, Unavailable."""
        ...

    async def aclose(self) -> None: ...


class RingWatch:
    """`Store.watch` of a backend that keeps a ring: the past from the history, then the ring, with one position."""

    def __init__(self, source: WatchSource, prefix: str, from_revision: int) -> None:
        self._source = source
        self._cursor = Cursor(prefix, from_revision - 1 if from_revision > 0 else source.ring.head)
        self._told = self._cursor.position
        # What is compacted later does no harm as long as the ring has it.
        self._refusal = source.compacted if from_revision > 0 and self._cursor.position < source.compacted else 0
        self._closed = False
        self._history: History | None = None

    def __aiter__(self) -> RingWatch:
        return self

    async def __anext__(self) -> WatchBatch:
        source, cursor = self._source, self._cursor
        if self._refusal:
            raise Compacted(self._refusal)
        while not self._closed:
            source.check_open()
            ring = source.ring
            if cursor.position < ring.floor:
                if self._history is None:
                    self._history = source.open_history(cursor.prefix)
                batch = await self._history.read(cursor.position + 1)
                cursor.position = max(cursor.position, batch.revision)
                if batch.events:
                    self._told = cursor.position
                    return batch
                continue
            await self._end_history()
            events, cursor.position = ring.take(cursor.prefix, cursor.position)
            if events or (self._told < ring.progress_due and self._told < cursor.position):
                self._told = cursor.position
                return WatchBatch(tuple(events), cursor.position)
            await ring.wait(cursor)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._closed = True
        await self._end_history()

    async def _end_history(self) -> None:
        if self._history is not None:
            history, self._history = self._history, None
            await history.aclose()


def closed_error() -> Unavailable:
    return Unavailable("the store is closed")
