"""The store's contract, on every backend."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from controlplane.store import events as ring_module
from controlplane.store.base import (
    MAX_OPERATIONS,
    MAX_VALUE_BYTES,
    BatchItem,
    Compacted,
    Compare,
    Delete,
    Event,
    FutureRevision,
    Put,
    Store,
    TooLarge,
    Unavailable,
    Watch,
    WatchBatch,
)
from controlplane.store.open import TLSFiles, open_store
from wherry.api.context import Env
from wherry.testing.etcd import EtcdCluster
from wherry.testing.require import require_binary

LIMIT_S = 20.0


@pytest.fixture(
    params=["sqlite", "sqlite-inline", "sqlite-memory", pytest.param("etcd", marks=pytest.mark.etcd)],
)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with contextlib.AsyncExitStack() as stack:
        env = Env()
        if request.param == "etcd":
            cluster = EtcdCluster.make(require_binary("etcd", "etcd-server"), tmp_path / "etcd")
            stack.callback(cluster.stop)
            cluster.start()
            tls = TLSFiles(str(cluster.tls.ca), str(cluster.tls.certificate), str(cluster.tls.key))
            store = await open_store("etcd://" + ",".join(cluster.endpoints), env, tls=tls)
        elif request.param == "sqlite-memory":
            store = await open_store("sqlite::memory:", env)
        else:
            store = await open_store(f"sqlite://{tmp_path}/store.db", env, inline=request.param == "sqlite-inline")
        stack.push_async_callback(store.close)
        yield store


async def put(store: Store, key: str, value: bytes = b"v", ttl_s: int = 0) -> int:
    result = await store.txn([], [Put(key, value, ttl_s)])
    assert result.succeeded
    return result.revision


async def delete(store: Store, key: str) -> int:
    return (await store.txn([], [Delete(key)])).revision


async def following(watch: Watch, until: Callable[[list[WatchBatch]], bool]) -> list[WatchBatch]:
    """The batches until `until` says that it is enough."""
    batches: list[WatchBatch] = []
    async with asyncio.timeout(LIMIT_S):
        while not until(batches):
            batches.append(await anext(watch))
    return batches


async def events_up_to(watch: Watch, revision: int) -> list[Event]:
    batches = await following(watch, lambda seen: bool(seen) and seen[-1].revision >= revision)
    assert [batch.revision for batch in batches] == sorted({batch.revision for batch in batches}), (
        "a revision came twice"
    )
    return [event for batch in batches for event in batch.events]


def told(events: list[Event]) -> list[tuple[str, bytes | None, int]]:
    return [(e.kv.key, None if e.deleted else e.kv.value, e.kv.mod_revision) for e in events]


async def test_an_empty_store_is_at_revision_1(store: Store) -> None:
    assert await store.revision() == 1
    assert await store.get("/a") is None
    listed = await store.list("")
    assert (listed.items, listed.revision, listed.more, listed.count) == ((), 1, False, 0)


async def test_each_write_takes_the_next_revision(store: Store) -> None:
    assert [await put(store, "/a", b"1"), await put(store, "/b", b"2"), await put(store, "/a", b"3")] == [2, 3, 4]
    assert await store.revision() == 4
    kv = await store.get("/a")
    assert kv is not None
    assert (kv.key, kv.value, kv.create_revision, kv.mod_revision) == ("/a", b"3", 2, 4)


async def test_a_created_again_key_has_a_new_create_revision(store: Store) -> None:
    await put(store, "/a")
    await delete(store, "/a")
    assert await store.get("/a") is None
    revision = await put(store, "/a")
    kv = await store.get("/a")
    assert kv is not None
    assert kv.create_revision == kv.mod_revision == revision


async def test_an_empty_value_is_a_value(store: Store) -> None:
    await put(store, "/a", b"")
    kv = await store.get("/a")
    assert kv is not None
    assert kv.value == b""
    await put(store, "/a", b"x")
    assert [item.key for item in (await store.list("/")).items] == ["/a"]


async def test_deleting_what_is_not_there_changes_nothing(store: Store) -> None:
    result = await store.txn([], [Delete("/none")])
    assert result.succeeded
    assert result.revision == 1
    assert await store.revision() == 1


@pytest.mark.parametrize(
    ("compares", "succeeds"),
    [
        pytest.param([Compare("/a", 2)], True, id="at its revision"),
        pytest.param([Compare("/a", 1)], False, id="at an older one"),
        pytest.param([Compare("/a", 0)], False, id="absent though it exists"),
        pytest.param([Compare("/none", 0)], True, id="absent and so it is"),
        pytest.param([Compare("/none", 7)], False, id="at a revision though absent"),
        pytest.param([Compare("/a", 2), Compare("/none", 0)], True, id="both hold"),
        pytest.param([Compare("/none", 0), Compare("/a", 1)], False, id="the second does not"),
    ],
)
async def test_compare(store: Store, compares: list[Compare], succeeds: bool) -> None:
    await put(store, "/a", b"old")
    result = await store.txn(compares, [Put("/a", b"new"), Put("/b", b"new")])
    assert result.succeeded is succeeds
    assert result.revision == (3 if succeeds else 2)
    assert await store.revision() == result.revision
    kv = await store.get("/a")
    assert kv is not None
    assert kv.value == (b"new" if succeeds else b"old")
    assert (await store.get("/b") is not None) is succeeds
    if not succeeds:
        assert [None if c is None else (c.key, c.value, c.mod_revision) for c in result.current] == [
            ("/a", b"old", 2) if compare.key == "/a" else None for compare in compares
        ]


async def test_a_transaction_has_one_revision(store: Store) -> None:
    await put(store, "/c")
    result = await store.txn([], [Put("/b", b"1"), Put("/a", b"2"), Delete("/c")])
    watch = store.watch("/", from_revision=result.revision)
    (batch,) = await following(watch, lambda seen: len(seen) == 1)
    assert sorted(told(list(batch.events))) == [("/a", b"2", 3), ("/b", b"1", 3), ("/c", None, 3)]
    await watch.aclose()


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([Put("/a", b"x" * (MAX_VALUE_BYTES + 1))], id="value"),
        pytest.param([Put(f"/{n}", b"x" * (MAX_VALUE_BYTES // 2)) for n in range(3)], id="sum"),
        pytest.param([Put(f"/{n}", b"") for n in range(MAX_OPERATIONS + 1)], id="operations"),
    ],
)
async def test_too_large_is_refused(store: Store, operations: list[Put]) -> None:
    with pytest.raises(TooLarge):
        await store.txn([], operations)
    assert await store.revision() == 1


async def test_the_largest_value_and_the_largest_transaction_pass(store: Store) -> None:
    await put(store, "/large", b"x" * MAX_VALUE_BYTES)
    kv = await store.get("/large")
    assert kv is not None
    assert len(kv.value) == MAX_VALUE_BYTES
    keys = [f"/many/{n:03}" for n in range(MAX_OPERATIONS)]
    result = await store.txn([Compare(key, 0) for key in keys], [Put(key, b"x" * 1000) for key in keys])
    assert result.succeeded
    assert (await store.list("/many/")).count == MAX_OPERATIONS


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([Put("", b"")], id="empty key"),
        pytest.param([Put("/a", b""), Delete("/a")], id="key twice"),
        pytest.param([Put("/a", b"", -1)], id="negative time to live"),
    ],
)
async def test_defects_of_the_caller(store: Store, operations: list[Put | Delete]) -> None:
    with pytest.raises(ValueError, match=r"key|ttl_s"):
        await store.txn([], operations)


async def test_batch_items_succeed_or_fail_on_their_own(store: Store) -> None:
    await put(store, "/a")
    results = await store.batch(
        [
            BatchItem((Compare("/a", 2),), (Put("/a", b"1"),)),
            BatchItem((Compare("/a", 2),), (Put("/a", b"lost"),)),
            BatchItem((Compare("/b", 0),), (Put("/b", b"2"),)),
            BatchItem((Compare("/gone", 9),), (Put("/gone", b""),)),
        ]
    )
    assert [result.succeeded for result in results] == [True, False, True, False]
    first, second = results[0].revision, results[2].revision
    assert 2 < first < second
    current = results[1].current[0]
    assert current is not None
    assert (current.value, current.mod_revision) == (b"1", first)
    assert results[3].current == (None,)


async def test_a_long_batch(store: Store) -> None:
    results = await store.batch([BatchItem((Compare(f"/{n}", 0),), (Put(f"/{n}", b""),)) for n in range(1500)])
    assert all(result.succeeded for result in results)
    assert sorted(result.revision for result in results) == list(range(2, 1502))
    assert await store.revision() == 1501
    assert (await store.list("/")).count == 1500


async def test_an_item_too_large_spoils_the_whole_batch_before_it_begins(store: Store) -> None:
    with pytest.raises(TooLarge):
        await store.batch([BatchItem((), (Put("/a", b""),)), BatchItem((), (Put("/b", b"x" * (MAX_VALUE_BYTES + 1)),))])
    assert await store.revision() == 1


KEYS = ["/a", "/a/1", "/a/2", "/a0", "/ab", "/b", "/ä", "/\ud7ff", "/\ue000", "/\U0001f600", "x"]


async def test_list_is_in_byte_order(store: Store) -> None:
    for key in reversed(KEYS):
        await put(store, key)
    listed = [item.key for item in (await store.list("")).items]
    assert listed == sorted(KEYS, key=str.encode) == sorted(KEYS)


@pytest.mark.parametrize("prefix", ["", "/", "/a", "/a/", "/ab", "/\ud7ff", "/\ue000", "/c", "x", "/a/3"])
@pytest.mark.parametrize("after", ["", "/a/1", "/a/11", "/z", "0"])
async def test_prefix_and_after(store: Store, prefix: str, after: str) -> None:
    for key in KEYS:
        await put(store, key)
    await delete(store, "/b")
    expected = sorted(key for key in KEYS if key.startswith(prefix) and key > after and key != "/b")
    listed = await store.list(prefix, after=after)
    assert [item.key for item in listed.items] == expected
    assert (listed.count, listed.more) == (len(expected), False)
    for limit in (1, 2, max(1, len(expected)), len(expected) + 1):
        page = await store.list(prefix, after=after, limit=limit)
        assert [item.key for item in page.items] == expected[:limit]
        assert (page.count, page.more) == (len(expected), len(expected) > limit)


async def test_pages_at_one_revision(store: Store) -> None:
    for n in range(25):
        await put(store, f"/{n:02}", b"old")
    seen = []
    after, revision = "", 0
    while True:
        page = await store.list("/", after=after, limit=4, revision=revision)
        assert page.count == 25 - len(seen)
        seen += page.items
        revision = page.revision
        await put(store, f"/{len(seen):02}", b"new")
        await put(store, f"/{len(seen):02}b", b"new")
        await delete(store, f"/{len(seen) + 1:02}")
        if not page.more:
            break
        after = page.items[-1].key
    assert [item.key for item in seen] == [f"/{n:02}" for n in range(25)]
    assert {item.value for item in seen} == {b"old"}


async def test_the_past_can_be_read(store: Store) -> None:
    a1 = await put(store, "/a", b"1")
    b = await put(store, "/b", b"1")
    a2 = await put(store, "/a", b"2")
    gone = await delete(store, "/a")
    a3 = await put(store, "/a", b"3")
    expected = {1: {}, a1: {"/a": b"1"}, b: {"/a": b"1", "/b": b"1"}, a2: {"/a": b"2", "/b": b"1"}}
    expected |= {gone: {"/b": b"1"}, a3: {"/a": b"3", "/b": b"1"}}
    for revision, state in expected.items():
        listed = await store.list("/", revision=revision)
        assert {item.key: item.value for item in listed.items} == state
        assert listed.revision == revision
        for key in ("/a", "/b"):
            kv = await store.get(key, revision=revision)
            assert (None if kv is None else kv.value) == state.get(key)
    with pytest.raises(FutureRevision):
        await store.get("/a", revision=a3 + 1)
    with pytest.raises(FutureRevision):
        await store.list("/", revision=a3 + 1)
    with pytest.raises(FutureRevision):
        await store.list("/", after="0", revision=a3 + 1)


async def test_compaction_forgets_the_past_and_nothing_else(store: Store) -> None:
    for n in range(20):
        await put(store, f"/{n % 4}", b"%d" % n)
    await delete(store, "/1")
    head = await store.revision()
    at = head - 5
    before = await store.list("/", revision=at)
    await store.compact(at)
    assert await store.list("/", revision=at) == before
    assert [(i.key, i.value) for i in (await store.list("/")).items] == [("/0", b"16"), ("/2", b"18"), ("/3", b"19")]
    for call in (store.get("/0", revision=at - 1), store.list("/", revision=at - 1), store.compact(at)):
        with pytest.raises(Compacted) as caught:
            await call
        assert caught.value.compacted == at
    with pytest.raises(FutureRevision):
        await store.compact(head + 1)
    watch = store.watch("/", from_revision=at)
    with pytest.raises(Compacted):
        await asyncio.wait_for(anext(watch), LIMIT_S)
    await watch.aclose()
    watch = store.watch("/", from_revision=at + 1)
    assert [revision for _, _, revision in told(await events_up_to(watch, head))] == list(range(at + 1, head + 1))
    await watch.aclose()


async def test_compacting_at_the_newest_revision_keeps_the_revision(store: Store) -> None:
    await put(store, "/a")
    head = await delete(store, "/a")
    await store.compact(head)
    assert await store.revision() == head
    assert (await store.list("/")).items == ()
    assert await put(store, "/a") == head + 1
    kv = await store.get("/a")
    assert kv is not None
    assert kv.create_revision == head + 1
    assert await store.get("/a", revision=head) is None


async def test_watch_from_now(store: Store) -> None:
    await put(store, "/a")
    watch = store.watch("/")
    revision = await put(store, "/b")
    assert told(await events_up_to(watch, revision)) == [("/b", b"v", revision)]
    await watch.aclose()


async def test_events_carry_the_value_before(store: Store) -> None:
    created = await put(store, "/a", b"1")
    await put(store, "/a", b"2")
    gone = await delete(store, "/a")
    again = await put(store, "/a", b"3")
    for live in (False, True):
        watch = store.watch("/a", from_revision=created)
        if live:
            await asyncio.wait_for(anext(watch), LIMIT_S)
            again = await put(store, "/a", b"4")
            await delete(store, "/a")
            events = await events_up_to(watch, again + 1)
            assert [(e.deleted, e.previous.value if e.previous else None) for e in events[-2:]] == [
                (False, b"3"),
                (True, b"4"),
            ]
        else:
            one, two, three, four = await events_up_to(watch, again)
            assert (one.deleted, one.previous) == (False, None)
            assert two.previous == one.kv
            assert (three.deleted, three.previous, three.kv.value, three.kv.mod_revision) == (True, two.kv, b"", gone)
            assert three.kv.create_revision == 0
            assert (four.deleted, four.previous, four.kv.create_revision) == (False, None, again)
        await watch.aclose()


async def test_watch_resumes_from_every_revision(store: Store) -> None:
    """Also across a chunk of the history, and with writes going on meanwhile."""
    expected: list[tuple[str, bytes | None, int]] = []
    for n in range(30):
        key = f"/{n % 7}"
        if n % 5 == 4:
            expected.append((key, None, await delete(store, key)))
        else:
            expected.append((key, b"%d" % n, await put(store, key, b"%d" % n)))
    expected = [e for index, e in enumerate(expected) if index == 0 or e[2] != expected[index - 1][2]]
    head = await store.revision()
    for revision in range(2, head + 1):
        watch = store.watch("/", from_revision=revision)
        assert told(await events_up_to(watch, head)) == [event for event in expected if event[2] >= revision]
        await watch.aclose()


async def test_watch_sees_only_its_prefix(store: Store) -> None:
    watch = store.watch("/a/", from_revision=1)
    for key in ("/a", "/a/1", "/a0", "/b", "/a/2"):
        last = await put(store, key)
    assert [key for key, _, _ in told(await events_up_to(watch, last))] == ["/a/1", "/a/2"]
    await watch.aclose()


async def test_watch_from_a_revision_to_come(store: Store) -> None:
    watch = store.watch("/", from_revision=4)
    waiting = asyncio.ensure_future(anext(watch))
    for n in range(3):
        await put(store, f"/{n}")
    batch = await asyncio.wait_for(waiting, LIMIT_S)
    assert [event.kv.key for event in batch.events] == ["/2"]
    await watch.aclose()


async def test_no_gap_between_the_past_and_the_present(store: Store) -> None:
    total, ahead = 600, asyncio.Event()

    async def write() -> None:
        for n in range(total // 20):
            await store.batch([BatchItem((), (Put(f"/{n}/{m}", b""),)) for m in range(20)])
            if n == 5:
                ahead.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        await ahead.wait()
        watches = [store.watch("/", from_revision=revision) for revision in (2, 50, 101)]
        seen = await asyncio.gather(*(events_up_to(watch, total + 1) for watch in watches))
    for watch, found, first in zip(watches, seen, (2, 50, 101), strict=True):
        assert [event.kv.mod_revision for event in found] == list(range(first, total + 2))
        await watch.aclose()


async def test_a_watch_that_is_not_read_loses_nothing(store: Store) -> None:
    watch = store.watch("/", from_revision=1)
    for start in range(0, 6000, 500):
        await store.batch([BatchItem((), (Put(f"/{n}", b""),)) for n in range(start, start + 500)])
    assert [e.kv.mod_revision for e in await events_up_to(watch, 6001)] == list(range(2, 6002))
    await watch.aclose()


async def test_a_cancelled_read_of_a_watch_loses_nothing(store: Store) -> None:
    watch = store.watch("/a", from_revision=1)
    for n in range(20):
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        await put(store, f"/b/{n}")
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            assert waiting.result().events == ()
    revision = await put(store, "/a")
    assert [key for key, _, _ in told(await events_up_to(watch, revision))] == ["/a"]
    await watch.aclose()


@pytest.mark.parametrize("asked", ["before", "after"])
async def test_progress_on_request(store: Store, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "PROGRESS_INTERVAL_S", 1e9)  # none unasked
    watch = store.watch("/quiet/", from_revision=1)
    waiting = asyncio.ensure_future(following(watch, lambda seen: bool(seen) and seen[-1].revision >= 3))
    await asyncio.sleep(0)
    if asked == "before":
        store.request_progress(3)
    await put(store, "/a")
    await put(store, "/a")
    if asked == "after":
        store.request_progress(3)
    assert all(batch.events == () for batch in await asyncio.wait_for(waiting, LIMIT_S))
    await watch.aclose()


async def test_a_key_with_a_time_to_live_is_deleted(store: Store) -> None:
    watch = store.watch("/")
    await put(store, "/short", b"v", ttl_s=1)
    await put(store, "/long", b"v", ttl_s=3600)
    await put(store, "/kept", b"v", ttl_s=1)
    await put(store, "/kept", b"for ever")
    await put(store, "/again", b"v", ttl_s=1)
    last = await put(store, "/again", b"v", ttl_s=3600)
    batches = await following(watch, lambda seen: any(event.deleted for batch in seen for event in batch.events))
    gone = [event for batch in batches for event in batch.events if event.deleted]
    assert [(event.kv.key, event.previous and event.previous.value) for event in gone] == [("/short", b"v")]
    assert gone[0].kv.mod_revision == last + 1
    assert sorted(item.key for item in (await store.list("/")).items) == ["/again", "/kept", "/long"]
    await watch.aclose()


async def test_a_cancelled_caller_does_not_undo_its_write(store: Store) -> None:
    """A write that has begun goes on: after a later write was acknowledged, the earlier one has been done, too."""
    watch = store.watch("/")
    writing = asyncio.ensure_future(put(store, "/a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    batches = await following(watch, lambda seen: any(batch.events for batch in seen))
    assert [event.kv.key for batch in batches for event in batch.events] == ["/a"]
    await watch.aclose()


async def test_concurrent_compares_have_one_winner(store: Store) -> None:
    results = await asyncio.gather(*(store.txn([Compare("/a", 0)], [Put("/a", b"%d" % n)]) for n in range(50)))
    (winner,) = [n for n, result in enumerate(results) if result.succeeded]
    kv = await store.get("/a")
    assert kv is not None
    assert kv.value == b"%d" % winner
    assert all(result.current == (kv,) for result in results if not result.succeeded)


async def test_reads_see_every_acknowledged_write(store: Store) -> None:
    async def write(n: int) -> None:
        revision = await put(store, f"/{n}")
        kv = await store.get(f"/{n}")
        assert kv is not None
        assert kv.mod_revision == revision
        assert (await store.list(f"/{n}")).revision >= revision
        assert await store.revision() >= revision

    await asyncio.gather(*(write(n) for n in range(40)))


async def test_a_closed_store_is_unavailable(store: Store) -> None:
    watch = store.watch("/")
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    for call in (store.get("/a"), store.list("/"), store.revision(), store.txn([], [Put("/a", b"")]), store.compact(1)):
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, LIMIT_S)
