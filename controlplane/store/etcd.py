"""The backend for several control plane replicas: the store in etcd (3.4 or later). Called through `open_store`.

The contract is etcd's own, so there is little to add: every call is one RPC (`etcd_rpc`), watches come from one stream of all
changes (`etcd_watch`) that feeds a ring as in `sqlite`, times to live are leases that keys written at about the same time
share. A cancelled caller does not cancel its write.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from controlplane.store.base import (
    BatchItem,
    Compacted,
    Compare,
    Event,
    FutureRevision,
    KeyValue,
    ListResult,
    Operation,
    Put,
    TxnResult,
    Unavailable,
)
from controlplane.store.check import check_compaction, check_key, check_transaction, prefix_end
from controlplane.store.etcd_rpc import (
    COMPACT,
    GRANT,
    RANGE,
    TXN,
    CompactedAway,
    LeaseGone,
    Members,
    ResponseTooLarge,
)
from controlplane.store.etcd_watch import ALL_KEYS, EventStream, StreamHistory, Tail, decode, newest_revision
from controlplane.store.events import EventRing, RingWatch, closed_error, event_key, event_size
from controlplane.store.open import TLSFiles
from wherry.api.context import Env
from wherry.pb import etcd_rpc_pb2 as rpc

T = TypeVar("T")

RING_EVENTS = 8192
RING_BYTES = 16 << 20
PAGE = 500
IN_FLIGHT = 64  # of one batch; more brings no further throughput
LEASE_SHARE = 0.05  # of the time to live: for so long a lease takes in further keys
LEASE_SHARE_MAX_S = 60.0
LEASE_KEYS = 1000
LEARN_TIMEOUT_S = 2.0
MAX_REVISION = 2**63 - 1


@dataclass(slots=True)
class _Lease:
    id: int
    until: float  # of the loop's clock: takes in keys until then
    keys: int = 0


class EtcdStore:
    """Keeps the contract of `base.Store`; close it with `close()`."""

    def __init__(self, members: Members, head: int) -> None:
        self._members = members
        self.ring: EventRing[Event] = EventRing(
            head=head, key=event_key, size=event_size, limit_events=RING_EVENTS, limit_bytes=RING_BYTES
        )
        self.compacted = 0  # as far as we know
        self._seen = head  # the newest revision in any answer
        self._closed = False
        self._writes: set[asyncio.Task[Any]] = set()  # only kept alive here, never iterated
        self._leases: dict[int, _Lease] = {}
        self._lease_locks: dict[int, asyncio.Lock] = {}
        self._tail = asyncio.get_running_loop().create_task(Tail(members, self.ring).run(), name="etcd-tail")

    @classmethod
    async def open(cls, endpoints: Sequence[str], env: Env, *, tls: TLSFiles | None = None) -> EtcdStore:
        """`endpoints` as HOST:PORT. Raises Unavailable when none of them answers."""
        members = Members(endpoints, tls)
        try:
            return cls(members, await newest_revision(members))
        except BaseException:
            await members.close()
            raise

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        check_key(key)
        self._check_revision(revision)
        response = await self._range(rpc.RangeRequest(key=key.encode(), revision=revision))
        return decode(response.kvs[0]) if response.kvs else None

    async def list(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> ListResult:
        self._check_revision(revision)
        start, end = _range_of(prefix, after)
        if start is None:
            # Nothing can be there, but the revision is to be checked, and told.
            response = await self._range(rpc.RangeRequest(key=ALL_KEYS, revision=revision, count_only=True))
            return ListResult((), revision or response.header.revision, False, 0)
        items: list[KeyValue] = []
        page = PAGE
        count = 0
        while True:
            wanted = min(page, limit - len(items)) if limit else page
            try:
                response = await self._range(
                    rpc.RangeRequest(key=start, range_end=end, limit=wanted, revision=revision)
                )
            except ResponseTooLarge:
                page = max(1, wanted // 4)
                continue
            if not count:
                count = response.count
            revision = revision or response.header.revision
            items.extend(decode(kv) for kv in response.kvs)
            if not response.more or (limit and len(items) >= limit):
                return ListResult(tuple(items), revision, response.more, count)
            start = items[-1].key.encode() + b"\0"

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        check_transaction(compares, operations)
        return await self._shielded(self._txn(tuple(compares), tuple(operations)))

    async def batch(self, items: Sequence[BatchItem]) -> Sequence[TxnResult]:
        for item in items:
            check_transaction(item.compares, item.operations)
        return await self._shielded(self._batch(items))

    async def compact(self, revision: int) -> None:
        check_compaction(revision)
        self.check_open()
        try:
            await self._members.call(COMPACT, rpc.CompactionRequest(revision=revision))
        except CompactedAway as error:
            raise await self._learn_compacted() from error
        self.compacted = max(self.compacted, revision)

    def watch(self, prefix: str, *, from_revision: int = 0) -> RingWatch:
        # The ring may lag behind the answers that were given already; "now" is after those.
        return RingWatch(self, prefix, from_revision or max(self._seen, self.ring.head) + 1)

    def request_progress(self, revision: int) -> None:
        self.ring.request_progress(revision)

    async def revision(self) -> int:
        self.check_open()
        revision = await newest_revision(self._members)
        self._seen = max(self._seen, revision)
        return revision

    async def close(self) -> None:
        """Waits for writes that have begun. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.ring.fail(closed_error())
        self._tail.cancel()
        await asyncio.wait([self._tail, *self._writes])
        await self._members.close()

    def check_open(self) -> None:
        if self._closed:
            raise closed_error()

    def open_history(self, prefix: str) -> StreamHistory:
        return StreamHistory(self._members, prefix)

    def check_invariants(self) -> None:
        self.ring.check_invariants()

    # Inside

    def _check_revision(self, revision: int) -> None:
        if revision > MAX_REVISION:  # no message can say it
            raise FutureRevision(f"revision {revision} has not happened", revision, self._seen)

    async def _range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        self.check_open()
        try:
            response = await self._members.call(RANGE, request)
            self._seen = max(self._seen, response.header.revision)
            return response
        except CompactedAway as error:
            raise await self._learn_compacted() from error

    async def _learn_compacted(self) -> Compacted:
        """A watch of the first revision is told where the history begins, unless that is the first revision itself."""
        stream = EventStream(self._members, 1)
        try:
            async with asyncio.timeout(LEARN_TIMEOUT_S):
                await stream.open()
                await stream.read()
        except Compacted as error:
            self.compacted = max(self.compacted, error.compacted)
        except TimeoutError:
            pass  # no event at all
        finally:
            stream.cancel()
        return Compacted(max(self.compacted, 1))

    async def _shielded(self, write: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            write.close()
            raise closed_error()
        task = asyncio.get_running_loop().create_task(write)
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when the caller is gone

    async def _batch(self, items: Sequence[BatchItem]) -> Sequence[TxnResult]:
        """Items that share no key run side by side; an item that shares one waits for those before it."""
        results: list[TxnResult] = []
        wave: list[BatchItem] = []
        used: set[str] = set()
        for item in items:
            keys = {compare.key for compare in item.compares} | {operation.key for operation in item.operations}
            if len(wave) >= IN_FLIGHT or not used.isdisjoint(keys):
                results += await self._wave(wave)
                wave, used = [], set()
            wave.append(item)
            used |= keys
        results += await self._wave(wave)
        return results

    async def _wave(self, wave: Sequence[BatchItem]) -> Sequence[TxnResult]:
        outcomes = await asyncio.gather(
            *(self._txn(item.compares, item.operations) for item in wave), return_exceptions=True
        )
        results = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            results.append(outcome)
        return results

    async def _txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        request = rpc.TxnRequest()
        for compare in compares:
            key = compare.key.encode()
            request.compare.add(target=rpc.Compare.MOD, key=key, mod_revision=compare.mod_revision)
            request.failure.add().request_range.key = key
        for operation in operations:
            key = operation.key.encode()
            if isinstance(operation, Put):
                lease = await self._lease(operation.ttl_s) if operation.ttl_s else 0
                request.success.add(request_put=rpc.PutRequest(key=key, value=operation.value, lease=lease))
            else:
                request.success.add().request_delete_range.key = key
        try:
            response = await self._members.call(TXN, request)
        except LeaseGone as error:
            self._leases.clear()
            raise Unavailable(f"etcd has lost a lease, try again: {error}") from error
        self._seen = max(self._seen, response.header.revision)
        if response.succeeded:
            return TxnResult(True, response.header.revision)
        found = (op.response_range.kvs for op in response.responses)
        return TxnResult(False, response.header.revision, tuple(decode(kvs[0]) if kvs else None for kvs in found))

    async def _lease(self, ttl_s: int) -> int:
        """A lease that lives for at least `ttl_s` more."""
        loop = asyncio.get_running_loop()
        async with self._lease_locks.setdefault(ttl_s, asyncio.Lock()):
            lease = self._leases.get(ttl_s)
            if lease is None or loop.time() >= lease.until or lease.keys >= LEASE_KEYS:
                share_s = max(0.5, min(ttl_s * LEASE_SHARE, LEASE_SHARE_MAX_S))
                until = loop.time() + share_s
                granted = await self._members.call(GRANT, rpc.LeaseGrantRequest(ttl_seconds=ttl_s + math.ceil(share_s)))
                lease = self._leases[ttl_s] = _Lease(granted.id, until)
            lease.keys += 1
            return lease.id


def _range_of(prefix: str, after: str) -> tuple[bytes | None, bytes]:
    """etcd's key and range_end; no key when the range is empty."""
    end = prefix_end(prefix).encode() or ALL_KEYS
    start = after.encode() + b"\0" if after and after >= prefix else prefix.encode() or ALL_KEYS
    return (None if end != ALL_KEYS and start >= end else start), end
