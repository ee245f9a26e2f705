"""Following etcd: one stream of all changes that feeds the store's ring, and streams that read the past.

Both watch all keys, so that every revision arrives (as an event, not as a promise that nothing happened: etcd before 3.4.25
may send a progress notice ahead of events), and filter here. Both begin one revision early and drop that revision: if etcd was
compacted exactly there, it may have thrown away the deletes of that revision, and only the earlier start makes it say so.
Fragments are put together before anything is passed on: a revision is never split. Called by `etcd`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import grpc
import grpc.aio

from controlplane.store.base import Compacted, Event, KeyValue, StoreError, Unavailable, WatchBatch
from controlplane.store.etcd_rpc import RANGE, Members, translated
from controlplane.store.events import BATCH_EVENTS, EventRing
from wherry.pb import etcd_rpc_pb2 as rpc

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 8.0
BACKOFF_FIRST_S = 0.05
BACKOFF_LAST_S = 2.0
ALL_KEYS = b"\0"


async def newest_revision(members: Members) -> int:
    """A linearisable read: at least that of every write acknowledged before. Raises Unavailable."""
    response = await members.call(RANGE, rpc.RangeRequest(key=ALL_KEYS, count_only=True))
    return response.header.revision


def decode(kv: rpc.KeyValue) -> KeyValue:
    return KeyValue(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision)


def decode_event(event: rpc.Event) -> Event:
    deleted = event.type == rpc.Event.DELETE
    kv = KeyValue(event.kv.key.decode(), b"", 0, event.kv.mod_revision) if deleted else decode(event.kv)
    return Event(deleted, kv, decode(event.prev_kv) if event.HasField("prev_kv") else None)


class EventStream:
    """One watch of all keys from `from_revision` on, at one member. Ends with an exception; then open another."""

    def __init__(self, members: Members, from_revision: int) -> None:
        self._members = members
        self._from_revision = from_revision
        self._index = -1
        self._call: grpc.aio.StreamStreamCall[rpc.WatchRequest, rpc.WatchResponse] | None = None

    async def open(self) -> None:
        """Returns when etcd has accepted the watch. Raises Compacted, Unavailable."""
        loop = asyncio.get_running_loop()
        self._index = await self._members.connected(loop.time() + OPEN_TIMEOUT_S)
        self._call = self._members.watch(self._index)
        create = rpc.WatchCreateRequest(
            key=ALL_KEYS,
            range_end=ALL_KEYS,
            start_revision=max(1, self._from_revision - 1),
            prev_kv=True,
            fragment=True,
        )
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):  # it ends the call, which is what is wanted then
                await self._call.write(rpc.WatchRequest(create_request=create))
                await self._read()
        except TimeoutError as error:
            self._members.failed(self._index)
            raise Unavailable("etcd did not open a watch in time") from error
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            # A call that has ended already refuses the write, in one of these ways.
            self._members.failed(self._index)
            raise Unavailable(f"etcd did not open a watch: {error}") from error

    async def read(self) -> list[rpc.Event]:
        """Events of whole revisions, those before `from_revision` left out. Raises Compacted, Unavailable."""
        events: list[rpc.Event] = []
        while True:
            response = await self._read()
            events.extend(event for event in response.events if event.kv.mod_revision >= self._from_revision)
            if not response.fragment and events:
                return events

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    async def _read(self) -> rpc.WatchResponse:
        assert self._call is not None, "open() first"
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self._members.failed(self._index)
            raise translated(error) from error
        if not isinstance(response, rpc.WatchResponse):  # the end of the stream
            self._members.failed(self._index)
            raise Unavailable("etcd has ended the watch")
        if response.compact_revision:
            raise Compacted(response.compact_revision)
        if response.canceled:
            self._members.failed(self._index)
            raise Unavailable(f"etcd has cancelled the watch: {response.cancel_reason}")
        return response


class Tail:
    """Feeds the ring for as long as the store is open. Invariant: what is published is complete from the ring's floor on;
    when that cannot be kept up (etcd was compacted while we were cut off), the floor jumps."""

    def __init__(self, members: Members, ring: EventRing[Event]) -> None:
        self._members = members
        self._ring = ring

    async def run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            stream = EventStream(self._members, self._ring.head + 1)
            try:
                # Asked of the majority: a member that has just come back may still be behind.
                revision = await newest_revision(self._members)
                if revision < self._ring.head:
                    # Restored from a backup, say. To go on would mix two histories.
                    log.error("etcd went back from revision %d to %d", self._ring.head, revision)
                    self._ring.fail(
                        Unavailable(f"etcd went back from revision {self._ring.head} to {revision}: restart")
                    )
                    return
                await stream.open()
                backoff_s = BACKOFF_FIRST_S
                while True:
                    await self._publish(await stream.read())
            except Compacted as error:
                log.warning("etcd was compacted at %d while the watch was broken", error.compacted)
                self._ring.skip_to(error.compacted)
            except StoreError as error:
                log.info("watch of etcd broke, opening another: %s", error)
            except Exception:
                # A defect; but without this task the store would look idle for ever.
                log.exception("following etcd failed, opening another watch")
            finally:
                stream.cancel()
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)

    async def _publish(self, events: Sequence[rpc.Event]) -> None:
        revisions: list[tuple[int, list[Event]]] = []
        count = 0
        for event in events:
            revision = event.kv.mod_revision
            if not revisions or revisions[-1][0] != revision:
                if count >= BATCH_EVENTS:
                    self._ring.publish(revisions)
                    revisions, count = [], 0
                    await asyncio.sleep(0)
                revisions.append((revision, []))
            revisions[-1][1].append(decode_event(event))
            count += 1
        self._ring.publish(revisions)


class StreamHistory:
    """`events.History` of etcd: a stream that is kept while its reader catches up."""

    def __init__(self, members: Members, prefix: str) -> None:
        self._members = members
        self._prefix = prefix.encode()
        self._stream: EventStream | None = None

    async def read(self, from_revision: int) -> WatchBatch:
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                if self._stream is None:
                    self._stream = EventStream(self._members, from_revision)
                    await self._stream.open()
                events = await self._stream.read()
                break
            except Compacted:
                await self.aclose()
                raise
            except Unavailable as error:
                log.info("reading the history of etcd broke, trying again: %s", error)
                await self.aclose()
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)
            except BaseException:  # a cancelled read leaves the call unusable
                await self.aclose()
                raise
        wanted = [decode_event(event) for event in events if event.kv.key.startswith(self._prefix)]
        return WatchBatch(tuple(wanted), events[-1].kv.mod_revision)

    async def aclose(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
