"""What the etcd store promises beyond the contract: it outlives its servers' restarts, and losing one of three."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controlplane.store import etcd_rpc
from controlplane.store.base import (
    MAX_VALUE_BYTES,
    BatchItem,
    Compacted,
    Compare,
    Delete,
    Event,
    Full,
    Put,
    StoreError,
    Unavailable,
    Watch,
)
from controlplane.store.cache import WatchCache
from controlplane.store.etcd import EtcdStore
from controlplane.store.open import TLSFiles
from wherry.api.context import Env
from wherry.testing.etcd import EtcdCluster, make_certificates
from wherry.testing.require import require_binary

pytestmark = pytest.mark.etcd
LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests of what cannot be reached do not take long."""
    monkeypatch.setattr(etcd_rpc, "CALL_TIMEOUT_S", 2.0)
    monkeypatch.setattr(etcd_rpc, "CONNECT_TIMEOUT_S", 1.0)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster.make(require_binary("etcd", "etcd-server"), tmp_path / "etcd", getattr(request, "param", 1))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def tls_of(cluster: EtcdCluster) -> TLSFiles:
    return TLSFiles(str(cluster.tls.ca), str(cluster.tls.certificate), str(cluster.tls.key))


async def patient_open(cluster: EtcdCluster) -> EtcdStore:
    """On a busy machine the members take a while to elect a leader."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await EtcdStore.open(cluster.endpoints, Env(), tls=tls_of(cluster))
            except Unavailable:
                await asyncio.sleep(0.1)


@pytest.fixture
async def store(cluster: EtcdCluster) -> AsyncIterator[EtcdStore]:
    store = await patient_open(cluster)
    yield store
    store.check_invariants()
    await store.close()


three = pytest.mark.parametrize("cluster", [3], indirect=True, ids=["three members"])


async def put(store: EtcdStore, key: str, value: bytes = b"v") -> int:
    return (await store.txn([], [Put(key, value)])).revision


async def put_until_done(store: EtcdStore, key: str) -> int:
    """As a client does: after Unavailable it looks whether the write has happened."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                result = await store.txn([Compare(key, 0)], [Put(key, b"v")])
                current = result.current[0] if result.current else None
                return result.revision if current is None else current.mod_revision
            except Unavailable:
                await asyncio.sleep(0.05)


async def revisions_up_to(watch: Watch, revision: int) -> list[int]:
    return [event.kv.mod_revision for event in await events_up_to(watch, revision)]


async def events_up_to(watch: Watch, revision: int) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(LIMIT_S):
        async for batch in watch:
            events += batch.events
            if batch.revision >= revision:
                return events
    raise AssertionError("the watch ended")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_the_server_restarts(cluster: EtcdCluster, store: EtcdStore, sign: signal.Signals) -> None:
    watch, old = store.watch("/"), store.watch("/", from_revision=2)
    (member,) = cluster.members
    last = 1
    for round in range(2):
        for n in range(20):
            last = await put(store, f"/{round}/{n}")
        cluster.stop_member(member, sign)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(store.txn([], [Put("/x", b"")]), LIMIT_S)
        await asyncio.to_thread(cluster.start_member, member)
        last = await put_until_done(store, f"/after/{round}")
    assert [kv.key for kv in (await store.list("/after/")).items] == ["/after/0", "/after/1"]
    for one in (watch, old):
        assert await revisions_up_to(one, last) == list(range(2, last + 1))
        await one.aclose()


@three
async def test_one_of_three_members_is_lost(cluster: EtcdCluster, store: EtcdStore) -> None:
    cache = WatchCache(store, "/")
    await cache.start()
    watch = store.watch("/", from_revision=2)
    done: list[int] = []

    async def write(lane: int) -> None:
        for n in range(40):
            done.append(await put_until_done(store, f"/{lane}/{n}"))

    async with asyncio.TaskGroup() as group:
        for lane in range(4):
            group.create_task(write(lane))
        for member in cluster.members:
            await asyncio.sleep(0.2)
            await asyncio.to_thread(cluster.stop_member, member)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(cluster.start_member, member)
    head = await store.revision()
    assert sorted(done) == list(range(2, head + 1)), "a write was lost or done twice"
    assert await revisions_up_to(watch, head) == sorted(done)
    await cache.wait_for(head, LIMIT_S)
    assert len(cache) == 160
    cache.check_invariants()
    await cache.stop()


@three
async def test_without_a_majority_it_is_unavailable_and_comes_back(cluster: EtcdCluster, store: EtcdStore) -> None:
    await put(store, "/a")
    watch = store.watch("/")
    for member in cluster.members[1:]:
        cluster.stop_member(member)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(put(store, "/b"), LIMIT_S)
    for member in cluster.members[1:]:
        await asyncio.to_thread(cluster.start_member, member)
    revision = await put_until_done(store, "/c")
    events = await events_up_to(watch, revision)
    # "/b" may have happened, as Unavailable says.
    assert [event.kv.key for event in events if event.kv.key != "/b"] == ["/c"]


async def test_strangers_are_refused(cluster: EtcdCluster, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other")
    ours = tls_of(cluster)
    for tls in (
        TLSFiles(ours.ca, str(other.certificate), str(other.key)),
        TLSFiles(ours.ca),
        TLSFiles(str(other.ca), ours.certificate, ours.key),
        None,
    ):
        with pytest.raises(Unavailable):
            await EtcdStore.open(cluster.endpoints, Env(), tls=tls)
    with pytest.raises(StoreError, match="certificates"):
        await EtcdStore.open(cluster.endpoints, Env(), tls=TLSFiles("/none"))


async def test_compacted_while_the_watch_was_cut_off(cluster: EtcdCluster, store: EtcdStore) -> None:
    cache = WatchCache(store, "/")
    await cache.start()
    first = await put(store, "/gone")
    await cache.wait_for(first, LIMIT_S)
    subscription, behind = cache.watch(), store.watch("/", from_revision=first + 1)
    # Our stream is held up while another replica writes and compacts.
    store._tail.cancel()
    await asyncio.wait([store._tail])
    async with contextlib.AsyncExitStack() as stack:
        other = await EtcdStore.open(cluster.endpoints, Env(), tls=tls_of(cluster))
        stack.push_async_callback(other.close)
        await other.txn([], [Delete("/gone")])
        revision = await put(other, "/new")
        await other.compact(revision)
        from controlplane.store.etcd_watch import Tail

        store._tail = asyncio.get_running_loop().create_task(Tail(store._members, store.ring).run())
        await cache.wait_for(revision, LIMIT_S)
        assert [entry.key for entry in cache.list()] == ["/new"]
        batch = await asyncio.wait_for(anext(subscription), LIMIT_S)
        assert [(event.type.value, event.entry.key) for event in batch.events] == [
            ("DELETED", "/gone"),
            ("ADDED", "/new"),
        ]
        with pytest.raises(Compacted):
            await asyncio.wait_for(anext(behind), LIMIT_S)
        later = await put(other, "/later")
        await cache.wait_for(later, LIMIT_S)
    await cache.stop()


async def test_revisions_larger_than_a_message_arrive_whole(store: EtcdStore) -> None:
    """128 keys with 1.4 MB and their previous values exceed etcd's 1.5 MiB fragments."""
    keys = [f"/{n:03}" for n in range(128)]
    watch = store.watch("/", from_revision=2)
    for round in range(4):
        await store.txn([], [Put(key, b"%d" % round * 11_000) for key in keys])
    past = store.watch("/", from_revision=2)
    for one in (watch, past):
        seen: list[tuple[int, int]] = []
        async with asyncio.timeout(LIMIT_S):
            while not seen or seen[-1][0] < 5:
                batch = await anext(one)
                for revision in sorted({event.kv.mod_revision for event in batch.events}):
                    seen.append((revision, sum(event.kv.mod_revision == revision for event in batch.events)))
        assert seen == [(revision, 128) for revision in range(2, 6)]
        await one.aclose()


async def test_lists_larger_than_a_message(store: EtcdStore) -> None:
    """60 MB, of which a message takes 32."""
    for n in range(40):
        await put(store, f"/{n:03}", b"x" * MAX_VALUE_BYTES)
    listed = await store.list("/")
    assert (len(listed.items), listed.count, listed.more) == (40, 40, False)
    page = await store.list("/", limit=30)
    assert (len(page.items), page.count, page.more) == (30, 40, True)


async def test_keys_written_together_share_a_lease(store: EtcdStore) -> None:
    await store.batch([BatchItem((), (Put(f"/{n}", b"", 600),)) for n in range(50)])
    assert len(store._leases) == 1
    assert store._leases[600].keys == 50


async def test_writes_of_two_stores_are_seen_by_both(cluster: EtcdCluster, store: EtcdStore) -> None:
    other = await EtcdStore.open(cluster.endpoints, Env(), tls=tls_of(cluster))
    watch = store.watch("/")
    revision = await put(other, "/a")
    kv = await store.get("/a")
    assert kv is not None
    assert kv.mod_revision == revision
    assert await revisions_up_to(watch, revision) == [revision]
    await other.close()
    await put(store, "/b")


async def test_a_full_store_says_so_and_goes_on_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_rpc, "CALL_TIMEOUT_S", 20.0)
    cluster = EtcdCluster.make(require_binary("etcd", "etcd-server"), tmp_path / "etcd")
    cluster.flags["quota-backend-bytes"] = str(4 << 20)
    try:
        cluster.start()
        store = await patient_open(cluster)
        written: dict[str, int] = {}

        async def fill() -> None:
            for number in range(50):
                written[f"/k{number}"] = await put(store, f"/k{number}", b"x" * 200_000)

        with pytest.raises(Full, match=r"NOSPACE alarm.*etcdctl alarm disarm"):
            await fill()
        assert written
        with pytest.raises(Full):
            await put(store, "/small")
        listed = await store.list("/")
        assert written.items() <= {item.key: item.mod_revision for item in listed.items}.items()
        await store.txn([], [Delete("/k0")])
        assert await store.get("/k0") is None
        await store.close()
    finally:
        cluster.stop()


async def put_somehow(store: EtcdStore, key: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            with contextlib.suppress(Unavailable):
                await put(store, key)
                return
            await asyncio.sleep(0.1)


@three
async def test_reads_go_on_when_a_member_is_stopped(
    cluster: EtcdCluster, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, not dead: its connections stand."""
    monkeypatch.setattr(etcd_rpc, "CALL_TIMEOUT_S", 20.0)
    await put(store, "/k")
    for member in cluster.members:
        assert member.process is not None
        member.process.send_signal(signal.SIGSTOP)
        try:
            assert await store.get("/k") is not None
            assert await store.revision()
        finally:
            member.process.send_signal(signal.SIGCONT)
        await put_somehow(store, "/k")
