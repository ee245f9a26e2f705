"""The embedded backend: the store in one SQLite file of this process. Called through `open_store`.

Writes: every transaction that waits when the writer becomes free goes into one SQLite transaction (group commit,
`synchronous=FULL`), and is answered after its commit. Reads: on connections of their own in snapshots, on the
loop, in slices; they never wait for the writer. Watches: a ring of recent events, then the file's history.

Time to live runs on the *lease clock*: milliseconds for which this store has been open, by the loop's clock, carried on in
the file. The wall clock has no part in it, so a machine whose clock jumps (no battery, a wrong NTP server, a resumed laptop)
neither deletes a day's Events at once nor keeps them for ever. The price: the time while the store is closed does not
count, so a key may live longer than asked, never shorter; etcd's leases start anew with their server in the same way.

After a failed commit (a full disk, say) nothing of the group is visible, its callers get Unavailable, and the next group is
tried afresh: there is no state to repair.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from controlplane.store.base import (
    MAX_OPERATIONS,
    BatchItem,
    Compare,
    Event,
    KeyValue,
    ListResult,
    Operation,
    TxnResult,
    Unavailable,
    WatchBatch,
)
from controlplane.store.check import check_compaction, check_key, check_transaction
from controlplane.store.events import EventRing, RingWatch, closed_error, event_key, event_size
from controlplane.store.lane import InlineLane, Lane, ThreadLane
from controlplane.store.sqlite_file import Applied, Database
from controlplane.store.sqlite_read import Reader

T = TypeVar("T")

GROUP_TRANSACTIONS = 512
GROUP_BYTES = 8 << 20
PENDING_TRANSACTIONS = 20_000  # beyond these a writer is refused: the disk does not keep up
READERS = 4
RING_EVENTS = 4096
RING_BYTES = 4 << 20  # a reader that is further behind reads the file
LEASE_CLOCK_INTERVAL_S = 30.0  # how much of the lease clock a crash may lose


@dataclass(slots=True)
class _Pending:
    item: BatchItem
    size: int
    done: asyncio.Future[TxnResult]


class SqliteStore:
    """Keeps the contract of `base.Store`; close it with `close()`. `inline` runs everything on the loop (virtual time)."""

    def __init__(self, database: Database, *, inline: bool) -> None:
        self._database = database
        self._lane: Lane = InlineLane() if inline else ThreadLane("store-writer")
        self._readers: deque[Reader] = deque()
        self._reader_slots = asyncio.Semaphore(READERS)
        self._own_readers = not inline  # inline, nothing is ever in flight when a read runs: one connection does
        self.ring: EventRing[Event] = EventRing(
            head=database.head, key=event_key, size=event_size, limit_events=RING_EVENTS, limit_bytes=RING_BYTES
        )
        self.compacted = database.compacted()
        self._pending: deque[_Pending] = deque()
        self._flush_due = False
        self._busy = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._lease_base_ms = database.lease_clock_ms()
        self._lease_since = self._loop.time()
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._expiry_at_ms: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # only kept alive here, never iterated
        self._schedule_expiry(database.next_expiry_ms())

    @classmethod
    async def open(cls, path: str, *, inline: bool = False) -> SqliteStore:
        """`path` may be ":memory:", which implies `inline`. Raises FormatTooNew, Unavailable (in use, not writable)."""
        return cls(Database(path), inline=inline or path == ":memory:")

    # Reads

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        check_key(key)
        async with self._reading() as reader:
            return reader.get(key, revision)

    async def list(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> ListResult:
        async with self._reading() as reader:
            if self._own_readers:
                reader.begin()
            result = None
            for result in reader.list_slices(prefix, after, limit, revision):
                if result is None and self._own_readers:
                    await asyncio.sleep(0)
            assert result is not None, "the last slice has the result"
            return result

    async def revision(self) -> int:
        async with self._reading() as reader:
            return reader.revision()

    # Writes

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        size = check_transaction(compares, operations)
        self._check_writable()
        return await self._enqueue(BatchItem(tuple(compares), tuple(operations)), size)

    async def batch(self, items: Sequence[BatchItem]) -> Sequence[TxnResult]:
        sizes = [check_transaction(item.compares, item.operations) for item in items]
        self._check_writable()
        futures = [self._enqueue(item, size) for item, size in zip(items, sizes, strict=True)]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        results = [outcome for outcome in outcomes if isinstance(outcome, TxnResult)]
        if len(results) < len(outcomes):
            raise next(outcome for outcome in outcomes if isinstance(outcome, BaseException))
        return results

    async def compact(self, revision: int) -> None:
        check_compaction(revision)
        await self._run(lambda: self._database.begin_compaction(revision))
        self.compacted = max(self.compacted, revision)
        # Piece by piece, so that writers get in between.
        for piece in (self._database.sweep, self._database.vacuum):
            more = True
            while more:
                more = await self._run(piece)
        await self._run(self._database.checkpoint)

    async def copy_to(self, path: str) -> int:
        """A consistent copy of the file, history included, while the store is in use; gives its revision. It is a store
        itself. Raises StoreError."""
        self.check_open()
        if self._database.path == ":memory:":  # has one connection only, which belongs to the loop
            return self._database.copy_to(path)
        return await asyncio.to_thread(self._database.copy_to, path)

    # Watching

    def watch(self, prefix: str, *, from_revision: int = 0) -> RingWatch:
        return RingWatch(self, prefix, from_revision)

    def request_progress(self, revision: int) -> None:
        self.ring.request_progress(revision)

    def check_open(self) -> None:
        if self._closed:
            raise closed_error()

    def open_history(self, prefix: str) -> _History:
        return _History(self, prefix)

    async def read_history(self, prefix: str, from_revision: int) -> WatchBatch:
        await asyncio.sleep(0)  # a long way to catch up must not hold the loop
        async with self._reading() as reader:
            return reader.history(prefix, from_revision)

    # Life

    async def close(self) -> None:
        """Finishes what has begun, refuses the rest. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        self.ring.fail(closed_error())
        await self._idle.wait()
        clock_ms = self._clock_ms()
        try:
            if self._expiry_at_ms is not None:
                await self._lane.submit(lambda: self._database.set_lease_clock(clock_ms))
        except Unavailable:
            pass  # a full disk: the keys live a little longer
        await self._lane.stop()
        for _ in range(READERS if self._own_readers else 0):
            await self._reader_slots.acquire()
        for reader in self._readers:
            reader.connection.close()
        self._database.close()

    def check_invariants(self) -> None:
        """Only while nothing is in flight."""
        self.ring.check_invariants()
        if not self._busy and not self._closed:
            assert self.ring.head == self._database.head, "the ring is not at the head"
            self._database.check_invariants()

    # Inside

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Reader]:
        self.check_open()
        if not self._own_readers:
            with _translated():
                yield self._database
            return
        async with self._reader_slots:
            self.check_open()
            with _translated():
                reader = self._readers.pop() if self._readers else self._database.reader()
                try:
                    yield reader
                finally:
                    reader.end()
                    self._readers.append(reader)

    def _enqueue(self, item: BatchItem, size: int) -> asyncio.Future[TxnResult]:
        done: asyncio.Future[TxnResult] = self._loop.create_future()
        self._pending.append(_Pending(item, size, done))
        self._idle.clear()
        if not self._busy and not self._flush_due:
            # Not at once: whoever else writes in this turn of the loop gets into the same group.
            self._flush_due = True
            self._loop.call_soon(self._flush)
        return done

    def _check_writable(self) -> None:
        self.check_open()
        if len(self._pending) >= PENDING_TRANSACTIONS:
            raise Unavailable(f"{len(self._pending)} writes wait for the disk already")

    def _flush(self) -> None:
        self._flush_due = False
        if self._busy:
            return
        if not self._pending:
            self._idle.set()
            return
        group: list[_Pending] = []
        size = 0
        while self._pending and len(group) < GROUP_TRANSACTIONS and size < GROUP_BYTES:
            pending = self._pending.popleft()
            group.append(pending)
            size += pending.size
        self._busy = True
        clock_ms = self._clock_ms()
        items = [pending.item for pending in group]
        written = self._lane.submit(lambda: self._database.apply(items, clock_ms))
        written.add_done_callback(lambda future: self._written(group, future))

    def _written(self, group: Sequence[_Pending], written: asyncio.Future[Applied]) -> None:
        self._busy = False
        error = written.exception()
        if error is None:
            applied = written.result()
            self._publish(applied)
            for pending, result in zip(group, applied.results, strict=True):
                if not pending.done.done():
                    pending.done.set_result(result)
        else:
            for pending in group:
                if not pending.done.done():
                    pending.done.set_exception(_copy(error))
        if self._pending:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        else:
            self._idle.set()

    def _publish(self, applied: Applied) -> None:
        if applied.revisions:
            self.ring.publish(applied.revisions)
        if applied.next_expiry_ms != self._expiry_at_ms:
            self._schedule_expiry(applied.next_expiry_ms)

    async def _run(self, work: Callable[[], T]) -> T:
        """Runs `work` between two groups."""
        self.check_open()
        return await self._lane.submit(lambda: _translate(work))

    def _clock_ms(self) -> int:
        return self._lease_base_ms + int((self._loop.time() - self._lease_since) * 1000)

    def _schedule_expiry(self, at_ms: int | None) -> None:
        self._expiry_at_ms = at_ms
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
            self._expiry_timer = None
        if at_ms is not None and not self._closed:
            delay_s = min(max(0.0, (at_ms - self._clock_ms()) / 1000), LEASE_CLOCK_INTERVAL_S)
            self._expiry_timer = self._loop.call_later(delay_s, self._start_expiry)

    def _start_expiry(self) -> None:
        self._expiry_timer = None
        task = self._loop.create_task(self._expire(), name="store-expiry")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self) -> None:
        """Deletes what is due; when nothing is, this only saves the lease clock."""
        clock_ms = self._clock_ms()
        try:
            applied = await self._run(lambda: self._database.expire(clock_ms, MAX_OPERATIONS))
        except Unavailable:
            if not self._closed:
                self._expiry_timer = self._loop.call_later(1.0, self._start_expiry)
            return
        self._publish(applied)
        if self._expiry_timer is None:
            self._schedule_expiry(applied.next_expiry_ms)


@dataclass(slots=True)
class _History:
    store: SqliteStore
    prefix: str

    async def read(self, from_revision: int) -> WatchBatch:
        return await self.store.read_history(self.prefix, from_revision)

    async def aclose(self) -> None: ...


def _copy(error: BaseException) -> BaseException:
    """One exception object per waiter: each raise adds to its traceback."""
    if isinstance(error, Unavailable):
        copy = Unavailable(*error.args)
        copy.__cause__ = error.__cause__
        return copy
    return error


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(f"the store cannot be read: {error}") from error


def _translate(work: Callable[[], T]) -> T:
    try:
        return work()
    except sqlite3.Error as error:
        raise Unavailable(f"the store failed: {error}") from error
