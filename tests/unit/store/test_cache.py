"""The watch cache over an in-memory store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable

import pytest

from controlplane.store import events
from controlplane.store.base import BatchItem, Compacted, Delete, Put, Unavailable
from controlplane.store.cache import CacheBatch, CacheEvent, EventType, Subscription, WatchCache
from controlplane.store.faulty import Faults, FaultyStore
from controlplane.store.sqlite import SqliteStore
from wherry.api.context import Env

LIMIT_S = 20.0


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(":memory:")
    yield store
    store.check_invariants()
    await store.close()


@pytest.fixture
async def cache(store: SqliteStore) -> AsyncIterator[WatchCache]:
    cache = WatchCache(store, "/pods/", indexers={"node": nodes}, history=64)
    await cache.start()
    yield cache
    cache.check_invariants()
    await cache.stop()


def nodes(value: bytes) -> Iterable[str]:
    node = value.decode().partition("@")[2]
    return [node] if node else []


async def put(store: SqliteStore, key: str, value: bytes = b"v") -> int:
    return (await store.txn([], [Put(key, value)])).revision


async def delete(store: SqliteStore, key: str) -> int:
    return (await store.txn([], [Delete(key)])).revision


async def told_up_to(watch: Subscription, revision: int) -> list[CacheEvent]:
    batches: list[CacheBatch] = []
    async with asyncio.timeout(LIMIT_S):
        while not batches or batches[-1].revision < revision:
            batches.append(await anext(watch))
    revisions = [batch.revision for batch in batches]
    assert revisions == sorted(set(revisions)), "a revision came twice"
    return [event for batch in batches for event in batch.events]


def brief(events: list[CacheEvent]) -> list[tuple[str, str, int]]:
    return [(event.type.value, event.entry.key, event.entry.mod_revision) for event in events]


async def test_it_starts_with_what_is_there(store: SqliteStore) -> None:
    for n in range(1200):
        await put(store, f"/pods/{n:04}", b"%d" % n)
    await put(store, "/other/x")
    cache = WatchCache(store, "/pods/")
    await cache.start()
    assert len(cache) == cache.count() == 1200
    assert [entry.key for entry in cache.list()] == [f"/pods/{n:04}" for n in range(1200)]
    assert [entry.key for entry in cache.list("/pods/01", after="/pods/0110", limit=2)] == ["/pods/0111", "/pods/0112"]
    assert cache.count("/pods/01", after="/pods/0110") == 89
    entry = cache.get("/pods/0007")
    assert entry is not None
    assert (entry.value, entry.mod_revision, entry.create_revision) == (b"7", 9, 9)
    assert cache.get("/other/x") is None
    cache.check_invariants()
    await cache.stop()


async def test_it_follows(store: SqliteStore, cache: WatchCache) -> None:
    await put(store, "/pods/a", b"1@n1")
    await put(store, "/pods/b", b"1@n1")
    await put(store, "/pods/a", b"2@n2")
    await put(store, "/pods/c", b"3")
    revision = await delete(store, "/pods/b")
    await cache.wait_for(revision, LIMIT_S)
    assert [(entry.key, entry.value) for entry in cache.list()] == [("/pods/a", b"2@n2"), ("/pods/c", b"3")]
    assert [entry.key for entry in cache.by_index("node", "n2")] == ["/pods/a"]
    assert cache.by_index("node", "n1") == []


async def test_wait_for_a_revision_of_another_prefix(
    store: SqliteStore, cache: WatchCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PROGRESS_INTERVAL_S", 1e9)  # none unasked
    async with asyncio.timeout(LIMIT_S):
        for _ in range(20):
            revision = await put(store, "/elsewhere")
            await cache.wait_for(revision)
            assert cache.revision >= revision
        waiting = asyncio.ensure_future(cache.wait_for(revision + 1))
        await asyncio.sleep(0)
        await put(store, "/elsewhere")
        await waiting
        assert await cache.wait_fresh() == revision + 1


async def test_wait_for_the_future_times_out(cache: WatchCache) -> None:
    with pytest.raises(TimeoutError):
        await cache.wait_for(99, 0.01)


async def test_every_reader_and_watcher_shares_the_entry(store: SqliteStore, cache: WatchCache) -> None:
    watches = [cache.watch() for _ in range(3)]
    revision = await put(store, "/pods/a")
    entries = [(await told_up_to(watch, revision))[0].entry for watch in watches]
    entries += [entry for entry in [cache.get("/pods/a"), *cache.list()] if entry is not None]
    assert len(entries) == 5
    assert len({id(entry) for entry in entries}) == 1


async def test_types_and_states_of_events(store: SqliteStore, cache: WatchCache) -> None:
    watch = cache.watch()
    await put(store, "/pods/a", b"1")
    await put(store, "/pods/a", b"2")
    revision = await delete(store, "/pods/a")
    added, modified, deleted = await told_up_to(watch, revision)
    assert (added.type, added.previous_entry) == (EventType.ADDED, None)
    assert (modified.type, modified.previous_entry) == (EventType.MODIFIED, added.entry)
    assert (deleted.type, deleted.previous_entry) == (EventType.DELETED, modified.entry)
    assert (deleted.entry.value, deleted.entry.mod_revision, deleted.entry.create_revision) == (b"2", revision, 2)


@pytest.mark.parametrize("history", [4, 1000], ids=["from the store", "from the ring"])
async def test_watches_resume_from_every_revision(store: SqliteStore, history: int) -> None:
    cache = WatchCache(store, "/pods/", history=history)
    await cache.start()
    expected = []
    for n in range(40):
        key = f"/pods/{n % 5}"
        there = cache.get(key) is not None
        if n % 7 == 6 and there:
            expected.append(("DELETED", key, revision := await delete(store, key)))
        else:
            expected.append(("MODIFIED" if there else "ADDED", key, revision := await put(store, key, b"%d" % n)))
        await cache.wait_for(revision)
    for start in range(2, revision + 1):
        watch = cache.watch(from_revision=start)
        assert brief(await told_up_to(watch, revision)) == [event for event in expected if event[2] >= start]
        # And goes on live.
        revision += 1
        expected.append(("ADDED", f"/pods/new/{start}", await put(store, f"/pods/new/{start}")))
        assert brief(await told_up_to(watch, revision)) == expected[-1:]
        await watch.aclose()
    await cache.stop()


async def test_resuming_before_the_compaction_is_refused(store: SqliteStore) -> None:
    for n in range(20):
        await put(store, f"/pods/{n}")
    cache = WatchCache(store, "/pods/", history=4)
    await cache.start()
    await store.compact(10)
    with pytest.raises(Compacted):
        await asyncio.wait_for(anext(cache.watch(from_revision=10)), LIMIT_S)
    assert len(await told_up_to(cache.watch(from_revision=11), 21)) == 11
    await cache.stop()


async def test_a_slow_watcher_is_ended_and_the_others_are_not(store: SqliteStore, cache: WatchCache) -> None:
    slow, quick = cache.watch(), cache.watch()
    elsewhere = cache.watch("/pods/quiet/")

    async def first_event() -> CacheEvent:
        async for batch in elsewhere:  # progress batches may come before
            if batch.events:
                return batch.events[0]
        raise AssertionError("the watch ended")

    waiting = asyncio.ensure_future(first_event())
    seen = []
    for n in range(30):
        await store.batch([BatchItem((), (Put(f"/pods/{n}/{m}", b""),)) for m in range(10)])
        seen += await told_up_to(quick, await store.revision())
    assert len(seen) == 300
    with pytest.raises(Compacted):
        await anext(slow)
    # One that waits has nothing to catch up with, however much passes by.
    assert not waiting.done()
    revision = await put(store, "/pods/quiet/a")
    assert (await asyncio.wait_for(waiting, LIMIT_S)).entry.key == "/pods/quiet/a"
    assert revision == cache.revision


async def test_a_broken_watch_is_opened_again(store: SqliteStore) -> None:
    faulty = FaultyStore(store, Env(rng=random.Random(1)))
    cache = WatchCache(faulty, "/pods/")
    await cache.start()
    watch = cache.watch()
    expected = []
    for n in range(5):
        expected.append(("ADDED", f"/pods/{n}", revision := await put(store, f"/pods/{n}")))
        if n == 2:
            faulty.go_down()
    assert not await reached(cache, revision, 0.2)
    faulty.come_up()
    await cache.wait_for(revision, LIMIT_S)
    assert brief(await told_up_to(watch, revision)) == expected
    cache.check_invariants()
    await cache.stop()


async def reached(cache: WatchCache, revision: int, timeout_s: float) -> bool:
    try:
        await cache.wait_for(revision, timeout_s)
    except TimeoutError:
        return False
    return True


async def test_starting_waits_for_the_store(store: SqliteStore) -> None:
    faulty = FaultyStore(store, Env(rng=random.Random(1)), Faults(down=True))
    await put(store, "/pods/a")
    cache = WatchCache(faulty, "/pods/")
    starting = asyncio.ensure_future(cache.start())
    await asyncio.wait([starting], timeout=0.1)
    assert not starting.done()
    faulty.come_up()
    await asyncio.wait_for(starting, LIMIT_S)
    assert len(cache) == 1
    await cache.stop()


async def test_a_compacted_cache_lists_again_and_tells_the_differences(store: SqliteStore) -> None:
    faulty = FaultyStore(store, Env(rng=random.Random(1)))
    cache = WatchCache(faulty, "/pods/", indexers={"node": nodes})
    await cache.start()
    await put(store, "/pods/kept", b"1@n1")
    await put(store, "/pods/changed", b"1@n1")
    revision = await put(store, "/pods/gone", b"1@n1")
    await cache.wait_for(revision)
    watch = cache.watch()
    kept = cache.get("/pods/kept")
    # While its watch is down, the history that it would need goes.
    faulty.go_down()
    await delete(store, "/pods/gone")
    await put(store, "/pods/changed", b"2@n2")
    revision = await put(store, "/pods/new", b"2@n2")
    await store.compact(revision)
    faulty.come_up()
    events = await told_up_to(watch, revision)
    assert [(event.type.value, event.entry.key) for event in events] == [
        ("MODIFIED", "/pods/changed"),
        ("DELETED", "/pods/gone"),
        ("ADDED", "/pods/new"),
    ]
    assert cache.get("/pods/kept") is kept
    assert [entry.key for entry in cache.by_index("node", "n2")] == ["/pods/changed", "/pods/new"]
    with pytest.raises(Compacted):
        await anext(cache.watch(from_revision=revision))
    cache.check_invariants()
    await cache.stop()


@pytest.mark.parametrize("seed", range(4))
async def test_it_converges_under_faults(store: SqliteStore, seed: int) -> None:
    env = Env(rng=random.Random(seed))
    faulty = FaultyStore(store, env, Faults(delay_s=0.001, before=0.1, watch=0.3))
    cache = WatchCache(faulty, "/pods/", indexers={"node": nodes}, history=16)
    await cache.start()
    for n in range(60):
        if env.rng.random() < 0.3:
            await delete(store, f"/pods/{env.rng.randrange(10)}")
        else:
            await put(store, f"/pods/{env.rng.randrange(10)}", b"x@%d" % (n % 3))
        if n % 20 == 19:
            await store.compact(await store.revision())
    faulty.faults.watch = 0.0
    await cache.wait_for(await store.revision(), LIMIT_S)
    listed = await store.list("/pods/")
    assert [(e.key, e.value, e.mod_revision) for e in cache.list()] == [
        (kv.key, kv.value, kv.mod_revision) for kv in listed.items
    ]
    cache.check_invariants()
    await cache.stop()


async def test_stopping_ends_watches_and_waits(store: SqliteStore, cache: WatchCache) -> None:
    watch = asyncio.ensure_future(anext(cache.watch()))
    wait = asyncio.ensure_future(cache.wait_for(99))
    await asyncio.sleep(0)
    await cache.stop()
    for task in (watch, wait):
        with pytest.raises(Unavailable):
            await task


@pytest.mark.parametrize("seed", range(5))
async def test_against_a_model(store: SqliteStore, cache: WatchCache, seed: int) -> None:
    rng = random.Random(seed)
    model: dict[str, bytes] = {}
    watch, followed = cache.watch(), dict[str, bytes]()
    for _ in range(20):
        for _ in range(rng.randrange(1, 12)):
            key = f"/pods/{rng.randrange(12)}"
            if rng.random() < 0.3:
                await delete(store, key)
                model.pop(key, None)
            else:
                model[key] = b"%d@n%d" % (rng.randrange(100), rng.randrange(3))
                await put(store, key, model[key])
        revision = await store.revision()
        await cache.wait_for(revision)
        assert {entry.key: entry.value for entry in cache.list()} == model
        cache.check_invariants()
        for event in await told_up_to(watch, revision) if watch._cursor.position < revision else []:
            assert (event.previous_entry is not None) == (event.type is not EventType.ADDED)
            if event.type is EventType.DELETED:
                del followed[event.entry.key]
            else:
                followed[event.entry.key] = event.entry.value
        assert followed == model


async def test_no_long_slice_with_50_000_entries(store: SqliteStore) -> None:
    for start in range(0, 50_000, 5000):
        await store.batch([BatchItem((), (Put(f"/pods/{n:06}", b"x" * 100),)) for n in range(start, start + 5000)])
    cache = WatchCache(store, "/pods/")
    await cache.start()
    loop = asyncio.get_running_loop()
    slices = []
    for _ in range(5):
        started = loop.time()
        assert len(cache.list()) == 50_000
        slices.append(loop.time() - started)
    assert min(slices) < 0.005
    await cache.stop()
