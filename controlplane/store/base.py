"""The store's contract: a revisioned key-value space with the semantics of etcd v3. Every backend keeps it, and
tests/contract/test_store.py checks it on each. The store knows bytes, never kinds.

Keys are non-empty strings that UTF-8 can encode, in the order of their bytes (which is that of their code points).
Revisions are one counter for the whole store, starting at 1 for an empty one; each successful `txn` with at least one
change, and each `batch` item that succeeds, takes the next. Reads see every write that was acknowledged before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_OPERATIONS = 128
MAX_VALUE_BYTES = 1_500_000  # etcd's default request limit is 1.5 MiB; the same here so that a store can be moved
MAX_TRANSACTION_BYTES = (
    MAX_VALUE_BYTES + 40_000
)  # keys (those of compares twice) and values of one transaction together


class StoreError(Exception):
    """Base of what a store raises."""


class Compacted(StoreError):
    """The asked-for history is gone. The store was compacted at `compacted`: reads at that revision or later, and watches
    from after it, still work. List again."""

    def __init__(self, compacted: int) -> None:
        super().__init__(f"the history before revision {compacted} has been compacted")
        self.compacted = compacted


class FutureRevision(StoreError):
    """The asked-for revision has not happened; `newest` has, where the store says."""

    def __init__(self, message: str, asked: int = 0, newest: int = 0) -> None:
        super().__init__(message)
        self.asked = asked
        self.newest = newest


class TooLarge(StoreError):
    """A value or a transaction is over the limit."""


class Unavailable(StoreError):
    """The store cannot be reached, is closed, or its disk is full. A write that ends so may or may not have happened."""


class Full(Unavailable):
    """The store has no room. The write that fills it may have happened; later ones have not. Deletions and reads go on."""


class FormatTooNew(StoreError):
    """The data was written by a newer Wherry."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Compare:
    """True when the key's mod_revision is `mod_revision`; 0 means that the key does not exist."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    ttl_s: int = 0  # 0: for ever; else the key is deleted that many seconds later, or a little after that (an ordinary,
    # watched delete). Only time during which the store is open counts, and a later put of the key starts it afresh.


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`revision` is that of the write, or, when `succeeded` is false, the store's at the time of the compare.
    `current` then holds the compared keys as they are (None: absent), in the order of the compares."""

    succeeded: bool
    revision: int
    current: tuple[KeyValue | None, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One independent compare-and-write. All of its compares must hold."""

    compares: tuple[Compare, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class ListResult:
    """`items` in byte order of their keys. `more` is true when `limit` cut the list; resume after items[-1].key at the
    same `revision`. `count` is the number of keys under the prefix after `after`, `items` included."""

    items: tuple[KeyValue, ...]
    revision: int
    more: bool
    count: int


@dataclass(frozen=True, slots=True)
class Event:
    """A put (`kv` as it is now) or a delete (`deleted`; `kv.value` is empty, `kv.create_revision` 0 and `kv.mod_revision`
    that of the delete). `previous` is the value before, None for a creation."""

    deleted: bool
    kv: KeyValue
    previous: KeyValue | None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All events up to and including `revision`. A revision is never split over two batches. `events` may be empty
    (progress: nothing else happened up to `revision`)."""

    events: tuple[Event, ...]
    revision: int


class Watch(Protocol):
    """What `Store.watch` gives. It holds nothing in the store between two `__anext__`, so one that is dropped leaks nothing;
    `aclose()` also gives back its connection, where it has one."""

    def __aiter__(self) -> AsyncIterator[WatchBatch]: ...

    async def __anext__(self) -> WatchBatch: ...

    async def aclose(self) -> None: ...


class Store(Protocol):
    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """At `revision`, or now when it is 0. Raises Compacted, FutureRevision."""
        ...

    async def list(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> ListResult:
        """Keys that start with `prefix` and are greater than `after`. Raises Compacted, FutureRevision."""
        ...

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        """All or nothing, durable when this returns. At most MAX_OPERATIONS operations, each key at most once.
        Raises TooLarge, Unavailable. Cancelling the caller does not undo a write that has begun."""
        ...

    async def batch(self, items: Sequence[BatchItem]) -> Sequence[TxnResult]:
        """Independent transactions, each with its own result, together as fast as the backend can. Those that share a key
        take effect in order. After Unavailable, any of them may or may not have happened."""
        ...

    def watch(self, prefix: str, *, from_revision: int = 0) -> Watch:
        """Every change at `from_revision` or later (0: from now on), without gap or duplicate, for as long as it is
        iterated; it reconnects by itself. Close it with `aclose()`. Raises Compacted when `from_revision` is not after the
        compacted revision, Unavailable when the store is closed."""
        ...

    def request_progress(self, revision: int) -> None:
        """Asks that every watch, as soon as the store is known to have reached `revision`, yields a batch (an empty one, if
        need be) that tells so; unasked, a watch whose keys do not change tells its place about once a second."""
        ...

    async def revision(self) -> int:
        """The newest revision, read from the source of truth."""
        ...

    async def compact(self, revision: int) -> None:
        """Forgets history before `revision`; what was the newest value of a key then stays, and the space of the rest is
        given back. Raises Compacted when that has been done already, FutureRevision."""
        ...

    async def close(self) -> None: ...
