"""A group of transactions against the rows of an SQLite store: decided in memory, then read and written in a few statements.

Each row that a statement gives, and each run of one, lets go of the GIL; to have it back the writer's thread waits for the event
loop, which is busy with the next requests: up to a switch interval each time. So what a group touches is read in one query,
and what it writes goes out in statements of many rows. Pure but for `read` and `write`. Called by `sqlite_file`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from controlplane.store.base import BatchItem, Delete, Event, KeyValue, Put, TxnResult
from controlplane.store.sqlite_read import POSITION_BITS, Row, existing

# Rows of one statement: powers of two, so that SQLite has few statements to keep, and far below its limit of parameters.
_MOST_ROWS = 64


def keys_of(items: Sequence[BatchItem]) -> list[str]:
    """Every key that the transactions look at or write, once."""
    found: dict[str, None] = {}
    for item in items:
        for compare in item.compares:
            found[compare.key] = None
        for operation in item.operations:
            found[operation.key] = None
    return list(found)


def read(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Row]:
    """The newest row of each key that has one."""
    rows: dict[str, Row] = {}
    for start in range(0, len(keys), _MOST_ROWS):
        part = keys[start : start + _MOST_ROWS]
        size = 1 << (len(part) - 1).bit_length()
        asked = [*part, *([part[-1]] * (size - len(part)))]
        for key, id, created, value in connection.execute(_select(size), asked).fetchall():
            rows[key] = (id, created, value)
    return rows


class Group:
    """`rows` is what stands under the keys of the group. Invariant: they are as the transactions decided so far leave them."""

    def __init__(self, rows: dict[str, Row], head: int, clock_ms: int) -> None:
        self.head = head
        self._rows = rows
        self._clock_ms = clock_ms
        self._history: list[tuple[int, str, int, int, bytes | None]] = []
        self._keys: dict[str, tuple[str, int, int]] = {}
        self._expiry: dict[str, tuple[str, int, int]] = {}

    @property
    def leased(self) -> bool:
        """Whether something with a time to live is written."""
        return bool(self._expiry)

    def decide(self, item: BatchItem) -> tuple[TxnResult, tuple[Event, ...]]:
        for compare in item.compares:
            row = self._rows.get(compare.key)
            if (0 if row is None or row[2] is None else row[0] >> POSITION_BITS) != compare.mod_revision:
                current = tuple(existing(c.key, self._rows.get(c.key)) for c in item.compares)
                return TxnResult(False, self.head, current), ()
        events: list[Event] = []
        for operation in item.operations:
            row = self._rows.get(operation.key)
            if not isinstance(operation, Delete):
                events.append(self._put(operation, row, len(events)))
            elif row is not None and row[2] is not None:
                events.append(self._delete(operation.key, row, len(events)))
        if events:
            self.head += 1
        return TxnResult(True, self.head), tuple(events)

    def delete(self, keys: Iterable[str]) -> tuple[Event, ...]:
        """Of keys that are there, in one revision."""
        events: list[Event] = []
        for key in keys:
            events.append(self._delete(key, self._rows[key], len(events)))
        if events:
            self.head += 1
        return tuple(events)

    def write(self, connection: sqlite3.Connection) -> None:
        _insert_all(connection, "INSERT INTO history", 5, self._history)
        _insert_all(connection, "INSERT OR REPLACE INTO keys", 3, list(self._keys.values()))
        _insert_all(connection, "INSERT OR REPLACE INTO expiry", 3, list(self._expiry.values()))

    def _put(self, put: Put, row: Row | None, position: int) -> Event:
        key, revision = put.key, self.head + 1
        id = revision << POSITION_BITS | position
        previous = existing(key, row)
        created = revision if previous is None else previous.create_revision
        previous_id = 0 if row is None else row[0]  # also that of a delete
        self._history.append((id, key, previous_id, created, put.value))
        self._keys[key] = (key, id, 0)
        self._rows[key] = (id, created, put.value)
        if put.ttl_s:
            # A lease that an older put has left behind is recognised by its id when it is due.
            self._expiry[key] = (key, id, self._clock_ms + put.ttl_s * 1000)
        return Event(False, KeyValue(key, put.value, created, revision), previous)

    def _delete(self, key: str, row: Row, position: int) -> Event:
        revision = self.head + 1
        id = revision << POSITION_BITS | position
        self._history.append((id, key, row[0], 0, None))
        self._keys[key] = (key, id, 1)
        self._rows[key] = (id, 0, None)
        return Event(True, KeyValue(key, b"", 0, revision), existing(key, row))


def _insert_all(connection: sqlite3.Connection, head: str, columns: int, rows: Sequence[tuple[object, ...]]) -> None:
    for size, part in _parts(rows):
        connection.execute(_insert(head, columns, size), [value for row in part for value in row])


def _parts(rows: Sequence[tuple[object, ...]]) -> Iterator[tuple[int, Sequence[tuple[object, ...]]]]:
    """In powers of two."""
    start = 0
    while start < len(rows):
        size = min(_MOST_ROWS, 1 << ((len(rows) - start).bit_length() - 1))
        yield size, rows[start : start + size]
        start += size


@cache
def _select(size: int) -> str:
    places = ", ".join("?" * size)
    return (
        "SELECT k.key, k.id, h.create_revision, h.value FROM keys k JOIN history h ON h.id = k.id "
        f"WHERE k.key IN ({places})"
    )


@cache
def _insert(head: str, columns: int, size: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{head} VALUES {', '.join([row] * size)}"
