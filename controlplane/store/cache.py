"""The watch cache: the current objects under one prefix, in memory, with indexes and with watches that cost the store nothing.

One task follows the store's watch and applies it; readers and watchers are served from here. It stands between the store and
the registry, which is its only caller and whose lists, gets and watches it answers. What is under a key is bytes; callers
keep what they make of them (messages, encodings) in `Entry.memo`, so that it is made once for all readers.

Invariants: `revision` only grows; the entries are the store's at `revision`; a watcher sees each revision whole and once.
Everything runs on the loop, and a step that changes the state does not await, so what is read between two awaits is consistent.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.store.base import Compacted, Event, KeyValue, Store, Unavailable, Watch, WatchBatch
from controlplane.store.check import prefix_end
from controlplane.store.events import Cursor, EventRing

log = logging.getLogger(__name__)

SLICE = 200  # entries made at a time; an indexer that decodes takes some 10 us for each
HISTORY_EVENTS = 4096
HISTORY_BYTES = 8 << 20
BACKOFF_FIRST_S = 0.05
BACKOFF_LAST_S = 2.0

Indexer = Callable[[bytes], Iterable[str]]


class EventType(enum.Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


class Memo(dict[Any, Any]):
    """What callers keep of an entry. A class of its own, so that they can tell it from one that nobody else sees."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Entry:
    """One revision of one key. Never changed, but for `memo`, which belongs to the callers; what is in it is shared by all
    of them and must not be changed either. It is emptied when another revision takes the place of this one: who still needs
    what was there makes it again."""

    key: str
    value: bytes
    mod_revision: int
    create_revision: int
    memo: Memo = field(default_factory=Memo)
    index_values: tuple[tuple[str, ...], ...] = ()  # per indexer, in the order of the cache's indexers


@dataclass(slots=True, frozen=True)
class CacheEvent:
    """For DELETED, `entry` is the last state at the revision of the delete, and `previous_entry` the one before that."""

    type: EventType
    entry: Entry
    previous_entry: Entry | None


@dataclass(slots=True, frozen=True)
class CacheBatch:
    """All events up to `revision`; a revision is never split. No events: progress only."""

    events: Sequence[CacheEvent]
    revision: int


class WatchCache:
    """`await start()` before use, `await stop()` after it. `indexers` name functions from a value to index values;
    `history` bounds the events kept for watches that resume or lag."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        indexers: Mapping[str, Indexer] | None = None,
        history: int = HISTORY_EVENTS,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        self.prefix = prefix
        self._store = store
        self._indexers = dict(indexers or {})
        self._history = history
        self._history_bytes = history_bytes
        self._state = _State(self._indexers)
        self._ring = self._new_ring(0)
        # A watch that begins at or before this revision has to read the store's history: after a relist the ring holds
        # differences, which only those who were watching already may be given.
        self._resumable_after = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """Returns when the cache is filled; waits for a store that is not there yet. After it, the cache follows."""
        assert self._task is None, "started twice"
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                self._state, revision = await self._read_all()
                break
            except Unavailable as error:
                log.warning("store unavailable, cannot fill the cache of %s yet: %s", self.prefix, error)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)
        self._ring = self._new_ring(revision)
        self._resumable_after = revision
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"watch-cache {self.prefix}")

    async def stop(self) -> None:
        """Ends every watch (Unavailable)."""
        self._ring.fail(Unavailable(f"the watch cache of {self.prefix} is stopped"))
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(Unavailable(f"the watch cache of {self.prefix} is stopped"))
        self._waiters.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    # Reads

    @property
    def revision(self) -> int:
        """Everything up to it is in the cache."""
        return self._ring.head

    def __len__(self) -> int:
        return len(self._state.keys)

    def get(self, key: str) -> Entry | None:
        return self._state.entries.get(key)

    def by_index(self, name: str, value: str) -> list[Entry]:
        """Entries for which the indexer `name` gives `value`, in the order of their keys."""
        found = self._state.indexes[name].get(value)
        return [found[key] for key in sorted(found)] if found else []

    def count(self, prefix: str = "", *, after: str = "") -> int:
        first, end = self._state.range(prefix or self.prefix, after)
        return end - first

    def list(self, prefix: str = "", *, after: str = "", limit: int = 0) -> list[Entry]:
        """Entries in byte order of their keys: a snapshot (0.2 ms for 50,000), to be worked through in slices. Empty
        `prefix`: all. Entries after the key `after` only, at most `limit` of them unless that is 0."""
        first, end = self._state.range(prefix or self.prefix, after)
        return self._state.items[first : min(end, first + limit) if limit else end]

    async def wait_for(self, revision: int, timeout: float | None = None) -> None:
        """Until the cache has reached `revision`. Raises TimeoutError, Unavailable (stopped)."""
        if self.revision >= revision:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (revision, waiter)
        self._waiters.append(entry)
        self._store.request_progress(revision)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        finally:
            if entry in self._waiters:
                self._waiters.remove(entry)

    async def wait_fresh(self, timeout: float | None = None) -> int:
        """Until the cache has what the store has now, and which revision that is (a consistent read)."""
        revision = await self._store.revision()
        await self.wait_for(revision, timeout)
        return revision

    def watch(self, prefix: str = "", from_revision: int = 0) -> Subscription:
        """Changes under `prefix` at `from_revision` or later (0: from now on)."""
        return Subscription(self, prefix or self.prefix, from_revision or self.revision + 1)

    def check_invariants(self) -> None:
        self._ring.check_invariants()
        self._state.check_invariants()
        newest = max((entry.mod_revision for entry in self._state.items), default=0)
        assert newest <= self.revision, f"an entry of revision {newest} in a cache at {self.revision}"
        assert all(key.startswith(self.prefix) for key in self._state.keys), "a key of another prefix"

    # Following the store

    async def _follow(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            watch = self._store.watch(self.prefix, from_revision=self.revision + 1)
            try:
                async for batch in watch:
                    backoff_s = BACKOFF_FIRST_S
                    self._apply(batch)
                raise Unavailable("the store's watch has ended")
            except Compacted as error:
                log.warning("the cache of %s fell behind (%s): listing again", self.prefix, error)
                try:
                    await self._relist()
                    continue
                except Unavailable as unavailable:
                    log.warning("cannot list %s, trying again: %s", self.prefix, unavailable)
            except Unavailable as error:
                log.info("watch of %s broke, trying again: %s", self.prefix, error)
            except Exception:
                # A defect; the cache must not stand still, and what it has may be wrong.
                log.exception("the cache of %s failed: listing again", self.prefix)
                try:
                    await self._relist()
                except Unavailable as unavailable:
                    log.warning("cannot list %s, trying again: %s", self.prefix, unavailable)
            finally:
                await watch.aclose()
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)

    def _apply(self, batch: WatchBatch) -> None:
        if batch.revision <= self.revision:
            return
        revisions: list[tuple[int, list[CacheEvent]]] = []
        for event in batch.events:
            told = self._state.apply(event)
            if revisions and revisions[-1][0] == event.kv.mod_revision:
                revisions[-1][1].append(told)
            else:
                revisions.append((event.kv.mod_revision, [told]))
        self._publish(revisions, batch.revision)

    async def _relist(self) -> None:
        """Reads everything anew and tells the watchers the differences, at the revision of the list."""
        state, revision = await self._read_all(self._state)
        if revision < self.revision:
            raise Unavailable(f"the store went back from revision {self.revision} to {revision}")
        events = await state.differences(self._state, revision)
        self._state = state
        self._resumable_after = revision
        if revision > self.revision:
            self._publish([(revision, events)] if events else [], revision)

    def _publish(self, revisions: Sequence[tuple[int, Sequence[CacheEvent]]], head: int) -> None:
        self._ring.publish(revisions, head)
        if self._waiters:
            waiting = []
            for revision, waiter in self._waiters:
                if revision <= head:
                    if not waiter.done():
                        waiter.set_result(None)
                else:
                    waiting.append((revision, waiter))
            self._waiters = waiting

    async def _read_all(self, known: _State | None = None) -> tuple[_State, int]:
        """The store's entries at one revision; unchanged ones of `known` are kept, with their memos."""
        while True:
            try:
                listed = await self._store.list(self.prefix)
            except Compacted:
                continue  # it took longer than the history is kept: from the start
            state = _State(self._indexers)
            for number, kv in enumerate(listed.items):
                if number % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
                old = known.entries.get(kv.key) if known else None
                unchanged = old is not None and old.mod_revision == kv.mod_revision
                state.append(old if old is not None and unchanged else state.make(kv))
            return state, listed.revision

    # For subscriptions

    @property
    def ring(self) -> EventRing[CacheEvent]:
        return self._ring

    @property
    def resumable_after(self) -> int:
        return max(self._resumable_after, self._ring.floor)

    def open_history(self, prefix: str, from_revision: int) -> Watch:
        # A prefix where nothing has happened must not wait for the next unasked progress.
        self._store.request_progress(self.resumable_after)
        return self._store.watch(prefix, from_revision=from_revision)

    def from_history(self, event: Event) -> CacheEvent:
        """A past event, with the cached entry where that is still the current one."""
        return self._state.told(event, self._state.entries.get(event.kv.key))

    def _new_ring(self, head: int) -> EventRing[CacheEvent]:
        return EventRing(
            head=head, key=_event_key, size=_event_size, limit_events=self._history, limit_bytes=self._history_bytes
        )


class Subscription:
    """One watch of the cache: an async iterator of `CacheBatch`. It raises Compacted when it reads too slowly for the
    cache's history or began before the store's (list again), and Unavailable when the cache stops. Close with `aclose()`."""

    def __init__(self, cache: WatchCache, prefix: str, from_revision: int) -> None:
        self._cache = cache
        self._cursor = Cursor(prefix, from_revision - 1)
        self._told = from_revision - 1
        self._history: Watch | None = None
        self._live = from_revision - 1 >= cache.resumable_after
        self._closed = False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> CacheBatch:
        if not self._live:
            batch = await self._from_history()
            if batch is not None:
                return batch
        cursor, ring = self._cursor, self._cache.ring
        while not self._closed:
            if cursor.position < ring.floor:
                raise Compacted(ring.floor)
            events, cursor.position = ring.take(cursor.prefix, cursor.position)
            if events or (self._told < ring.progress_due and self._told < cursor.position):
                self._told = cursor.position
                return CacheBatch(events, cursor.position)
            await ring.wait(cursor)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._closed = True
        await self._end_history()

    async def _from_history(self) -> CacheBatch | None:
        """The next batch of the store's history, or None once the ring can take over."""
        cursor = self._cursor
        while not self._closed:
            if cursor.position >= self._cache.resumable_after:
                self._live = True
                break
            if self._history is None:
                self._history = self._cache.open_history(cursor.prefix, cursor.position + 1)
            batch = await anext(self._history)
            cursor.position = max(cursor.position, batch.revision)
            if batch.events:
                self._told = cursor.position
                return CacheBatch([self._cache.from_history(event) for event in batch.events], cursor.position)
        await self._end_history()
        return None

    async def _end_history(self) -> None:
        if self._history is not None:
            history, self._history = self._history, None
            await history.aclose()


class _State:
    """The entries in three forms that always agree: by key, sorted, and by index value. `keys` and `items` are parallel;
    inserting into 50,000 of them moves 400 KB, which takes some 15 us."""

    def __init__(self, indexers: Mapping[str, Indexer]) -> None:
        self.entries: dict[str, Entry] = {}
        self.keys: list[str] = []
        self.items: list[Entry] = []
        self.indexes: dict[str, dict[str, dict[str, Entry]]] = {name: {} for name in indexers}
        self._indexers = indexers

    def make(self, kv: KeyValue) -> Entry:
        values = tuple(_index_values(indexer, kv.value, kv.key) for indexer in self._indexers.values())
        return Entry(kv.key, kv.value, kv.mod_revision, kv.create_revision, Memo(), values)

    def append(self, entry: Entry) -> None:
        """For filling in the order of the keys."""
        assert not self.keys or self.keys[-1] < entry.key, f"{entry.key} is out of order"
        self.keys.append(entry.key)
        self.items.append(entry)
        self.entries[entry.key] = entry
        self._index(entry)

    def apply(self, event: Event) -> CacheEvent:
        key = event.kv.key
        previous = self.entries.get(key)
        told = self.told(event, previous)
        place = bisect_left(self.keys, key)
        if previous is not None:
            self._unindex(previous)
            previous.memo.clear()  # of the history nothing is kept but what cannot be made again
        if told.type is EventType.DELETED:
            if previous is not None:
                del self.keys[place], self.items[place], self.entries[key]
            return told
        if previous is None:
            self.keys.insert(place, key)
            self.items.insert(place, told.entry)
        else:
            self.items[place] = told.entry
        self.entries[key] = told.entry
        self._index(told.entry)
        return told

    def told(self, event: Event, known: Entry | None) -> CacheEvent:
        """`known`, the cached entry, stands for the event's own values wherever it is the same revision."""
        previous = None
        if event.previous is not None:
            same = known is not None and known.mod_revision == event.previous.mod_revision
            previous = known if same else self.make(event.previous)
        if event.deleted:
            value = previous.value if previous is not None else b""
            created = previous.create_revision if previous is not None else 0
            values = previous.index_values if previous is not None else ()
            return CacheEvent(
                EventType.DELETED, Entry(event.kv.key, value, event.kv.mod_revision, created, Memo(), values), previous
            )
        entry = known if known is not None and known.mod_revision == event.kv.mod_revision else self.make(event.kv)
        return CacheEvent(EventType.ADDED if previous is None else EventType.MODIFIED, entry, previous)

    async def differences(self, old: _State, revision: int) -> list[CacheEvent]:
        """What leads from `old` to this state, in the order of the keys; deletes have `revision`."""
        events: list[CacheEvent] = []
        before_at = now_at = steps = 0
        while before_at < len(old.items) or now_at < len(self.items):
            steps += 1
            if steps % 1000 == 0:
                await asyncio.sleep(0)
            before = old.items[before_at] if before_at < len(old.items) else None
            now = self.items[now_at] if now_at < len(self.items) else None
            if now is None or (before is not None and before.key < now.key):
                assert before is not None
                before_at += 1
                gone = Entry(before.key, before.value, revision, before.create_revision, Memo(), before.index_values)
                events.append(CacheEvent(EventType.DELETED, gone, before))
            elif before is None or now.key < before.key:
                now_at += 1
                events.append(CacheEvent(EventType.ADDED, now, None))
            else:
                before_at, now_at = before_at + 1, now_at + 1
                if before is not now:
                    events.append(CacheEvent(EventType.MODIFIED, now, before))
        return events

    def range(self, prefix: str, after: str) -> tuple[int, int]:
        first = bisect_right(self.keys, after) if after and after >= prefix else bisect_left(self.keys, prefix)
        end = prefix_end(prefix)
        return first, max(first, bisect_left(self.keys, end) if end else len(self.keys))

    def check_invariants(self) -> None:
        assert self.keys == sorted(self.entries), "the sorted keys are not those of the entries"
        assert [entry.key for entry in self.items] == self.keys, "keys and items are not parallel"
        assert all(self.entries[entry.key] is entry for entry in self.items), "an item is not the current entry"
        for number, (name, indexer) in enumerate(self._indexers.items()):
            expected: dict[str, dict[str, Entry]] = {}
            for entry in self.items:
                assert entry.index_values[number] == _index_values(indexer, entry.value, entry.key), (
                    f"{entry.key}: index {name} is stale"
                )
                for value in entry.index_values[number]:
                    expected.setdefault(value, {})[entry.key] = entry
            assert self.indexes[name] == expected, f"index {name} is not what the entries say"

    def _index(self, entry: Entry) -> None:
        for index, values in zip(self.indexes.values(), entry.index_values, strict=True):
            for value in values:
                index.setdefault(value, {})[entry.key] = entry

    def _unindex(self, entry: Entry) -> None:
        for index, values in zip(self.indexes.values(), entry.index_values, strict=True):
            for value in values:
                found = index.get(value)
                if found is not None:
                    found.pop(entry.key, None)
                    if not found:
                        del index[value]


def _index_values(indexer: Indexer, value: bytes, key: str) -> tuple[str, ...]:
    try:
        return tuple(indexer(value))
    except Exception:
        # One value that an indexer cannot read must not stop the cache; it is in no index then.
        log.exception("cannot index %s", key)
        return ()


def _event_key(event: CacheEvent) -> str:
    return event.entry.key


def _event_size(event: CacheEvent) -> int:
    before = len(event.previous_entry.value) if event.previous_entry is not None else 0
    return 300 + len(event.entry.key) + len(event.entry.value) + before
