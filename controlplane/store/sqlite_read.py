"""Reading a store's SQLite file: the current and the past, in snapshots. The format is described in `sqlite_file`.

Plain synchronous code that never writes; long work is cut into slices. Called by `sqlite`, and by `sqlite_file`, whose writing
connection reads as well.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from controlplane.store.base import Compacted, Event, FutureRevision, KeyValue, ListResult, WatchBatch
from controlplane.store.check import prefix_end
from controlplane.store.events import event_size

Row = tuple[int, int, bytes | None]  # id, create_revision, value

POSITION_BITS = 8  # 256 positions in a revision: more than MAX_OPERATIONS
HISTORY_ROWS = 512
HISTORY_BYTES = 1 << 20
WRITER_CACHE_KIB = 2048
READER_CACHE_KIB = 256  # there are several, and lists and histories, which they read, pass through but once
ROWS_PER_SLICE = 250  # about 1 ms
KEYS_PER_SLICE = 10_000

# A deleted key has a row, too, until it is compacted: with a NULL value.
NEWEST = "SELECT k.id, h.create_revision, h.value FROM keys k JOIN history h ON h.id = k.id WHERE k.key = ?"
# In SQLite's order every BLOB is greater than every TEXT: b"" is the end of all keys.
RANGE = "{op} ? AND k.key < ?"


def connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=5.0, cached_statements=128
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
    return connection


def existing(key: str, row: Row | None) -> KeyValue | None:
    """None for a key that is deleted or never was."""
    return None if row is None or row[2] is None else KeyValue(key, row[2], row[1], row[0] >> POSITION_BITS)


class Reader:
    """Reads over one connection. A method that reads more than one row does so in one snapshot."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def revision(self) -> int:
        (newest,) = self.connection.execute("SELECT max(id) FROM history").fetchone()
        return 1 if newest is None else int(newest) >> POSITION_BITS

    def compacted(self) -> int:
        (value,) = self.connection.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()
        return int(value)

    def begin(self) -> None:
        self.connection.execute("BEGIN")

    def end(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")

    def check_revision(self, revision: int) -> int:
        """The newest revision of the snapshot. Raises when `revision` (unless 0) cannot be read in it."""
        newest = self.revision()
        if revision > newest:
            raise FutureRevision(f"revision {revision} has not happened: the newest is {newest}", revision, newest)
        if revision and revision < (compacted := self.compacted()):
            raise Compacted(compacted)
        return newest

    def get(self, key: str, revision: int) -> KeyValue | None:
        if not revision:
            row = self.connection.execute(NEWEST, (key,)).fetchone()
            return existing(key, row)
        own = not self.connection.in_transaction
        if own:
            self.begin()
        try:
            self.check_revision(revision)
            row = self.connection.execute("SELECT id FROM keys WHERE key = ?", (key,)).fetchone()
            return None if row is None else self._at(key, row[0], revision)
        finally:
            if own:
                self.end()

    def list_slices(self, prefix: str, after: str, limit: int, revision: int) -> Iterator[ListResult | None]:
        """Gives None after each slice of work and the result last, so that the caller can let others run between."""
        newest = self.check_revision(revision)
        at = revision or newest
        items: list[KeyValue] = []
        low, op, high = self._bounds(prefix, after)
        while True:
            wanted = min(ROWS_PER_SLICE, limit + 1 - len(items)) if limit else ROWS_PER_SLICE
            done = self._slice(items, op, low, high, wanted, at if at < newest else 0)
            if done is None or (limit and len(items) > limit):
                break
            low, op = done, ">"
            yield None
        more = bool(limit) and len(items) > limit
        count = len(items)
        if more:
            del items[limit:]
            count = limit
            for found in self._count_slices(items[-1].key, high, at if at < newest else 0):
                count += found
                yield None
        yield ListResult(tuple(items), at, more, count)

    def history(self, prefix: str, from_revision: int) -> WatchBatch:
        """Whole revisions from `from_revision` on, at least one if there is any, up to HISTORY_ROWS or HISTORY_BYTES."""
        own = not self.connection.in_transaction
        if own:
            self.begin()
        try:
            if from_revision <= (compacted := self.compacted()):
                raise Compacted(compacted)
            rows = self.connection.execute(
                "SELECT h.id, h.key, h.create_revision, h.value, p.id, p.create_revision, p.value"
                " FROM history h LEFT JOIN history p ON p.id = h.previous_id WHERE h.id >= ? ORDER BY h.id",
                (from_revision << POSITION_BITS,),
            )
            events: list[Event] = []
            last, count, size = from_revision - 1, 0, 0
            for id, key, create_revision, value, *previous in rows:
                revision = id >> POSITION_BITS
                if revision != last and (count >= HISTORY_ROWS or size >= HISTORY_BYTES):
                    break
                last, count = revision, count + 1
                if key.startswith(prefix):
                    before = existing(key, (previous[0], previous[1], previous[2]))
                    event = Event(value is None, KeyValue(key, value or b"", create_revision, revision), before)
                    events.append(event)
                    size += event_size(event)
            rows.close()
            return WatchBatch(tuple(events), last)
        finally:
            if own:
                self.end()

    def _bounds(self, prefix: str, after: str) -> tuple[str, str, str | bytes]:
        low, op = (after, ">") if after and after >= prefix else (prefix, ">=")
        return low, op, prefix_end(prefix) or b""

    def _slice(
        self, items: list[KeyValue], op: str, low: str, high: str | bytes, wanted: int, revision: int
    ) -> str | None:
        """Appends up to `wanted` rows and gives the key to go on after, or None at the end."""
        if not revision:
            rows = self.connection.execute(
                "SELECT k.key, k.id, h.create_revision, h.value FROM keys k JOIN history h ON h.id = k.id"
                f" WHERE k.key {RANGE.format(op=op)} AND NOT k.deleted ORDER BY k.key LIMIT ?",
                (low, high, wanted),
            ).fetchall()
            items.extend(KeyValue(row[0], row[3], row[2], row[1] >> POSITION_BITS) for row in rows)
            return rows[-1][0] if len(rows) == wanted else None
        rows = self.connection.execute(
            f"SELECT k.key, k.id FROM keys k WHERE k.key {RANGE.format(op=op)} ORDER BY k.key LIMIT ?",
            (low, high, wanted),
        ).fetchall()
        items.extend(kv for key, id in rows if (kv := self._at(key, id, revision)) is not None)
        return rows[-1][0] if len(rows) == wanted else None

    def _count_slices(self, after: str, high: str | bytes, revision: int) -> Iterator[int]:
        """How many keys exist after `after`, in slices."""
        low: str | None = after
        while low is not None:
            if not revision:
                found, low, rows = self.connection.execute(
                    "SELECT count(*) FILTER (WHERE NOT deleted), max(key), count(*) FROM (SELECT k.key, k.deleted FROM keys k"
                    f" WHERE k.key {RANGE.format(op='>')} ORDER BY k.key LIMIT ?)",
                    (low, high, KEYS_PER_SLICE),
                ).fetchone()
                yield found
                if rows < KEYS_PER_SLICE:
                    return
            else:
                some = self.connection.execute(
                    f"SELECT k.key, k.id FROM keys k WHERE k.key {RANGE.format(op='>')} ORDER BY k.key LIMIT ?",
                    (low, high, ROWS_PER_SLICE),
                ).fetchall()
                yield sum(self._at(key, id, revision) is not None for key, id in some)
                low = some[-1][0] if some else None

    def _at(self, key: str, id: int, revision: int) -> KeyValue | None:
        """The key as it was at `revision`, walking back from its newest row."""
        end = (revision + 1) << POSITION_BITS
        while id >= end:
            row = self.connection.execute("SELECT previous_id FROM history WHERE id = ?", (id,)).fetchone()
            if row is None:
                return None
            (id,) = row
        row = self.connection.execute("SELECT id, create_revision, value FROM history WHERE id = ?", (id,)).fetchone()
        return existing(key, row)
