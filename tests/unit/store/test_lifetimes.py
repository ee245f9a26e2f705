"""Times to live on virtual time: hours pass at once, and clocks jump as they like."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controlplane.store.base import BatchItem, Delete, Event, Put, Unavailable
from controlplane.store.faulty import Faults, FaultyStore
from controlplane.store.sqlite import SqliteStore
from wherry.api.context import Env
from wherry.testing.loop import EPOCH, run_virtual


async def keys(store: SqliteStore) -> list[str]:
    return [kv.key for kv in (await store.list("/")).items]


def run(test: Callable[[SqliteStore], Awaitable[None]]) -> None:
    async def main(env: Env) -> None:
        store = await SqliteStore.open(":memory:")
        await test(store)
        store.check_invariants()
        await store.close()

    run_virtual(main)


def test_keys_go_when_their_time_is_over_and_not_before() -> None:
    async def test(store: SqliteStore) -> None:
        for seconds in (10, 3600, 86_400):
            await store.txn([], [Put(f"/{seconds}", b"", seconds)])
        await asyncio.sleep(9.9)
        assert await keys(store) == ["/10", "/3600", "/86400"]
        await asyncio.sleep(0.2)
        assert await keys(store) == ["/3600", "/86400"]
        await asyncio.sleep(3580)
        assert await keys(store) == ["/3600", "/86400"]
        await asyncio.sleep(10)
        assert await keys(store) == ["/86400"]
        await asyncio.sleep(86_400)
        assert await keys(store) == []

    run(test)


def test_a_later_put_starts_the_time_afresh_or_ends_it() -> None:
    async def test(store: SqliteStore) -> None:
        for key in ("/again", "/kept", "/deleted", "/recreated"):
            await store.txn([], [Put(key, b"", 100)])
        await asyncio.sleep(60)
        await store.txn([], [Put("/again", b"", 100), Put("/kept", b""), Delete("/deleted"), Delete("/recreated")])
        await store.txn([], [Put("/recreated", b"")])
        revision = await store.revision()
        await asyncio.sleep(60)
        assert await keys(store) == ["/again", "/kept", "/recreated"]
        assert await store.revision() == revision, "what was replaced must not make events"
        await asyncio.sleep(60)
        assert await keys(store) == ["/kept", "/recreated"]

    run(test)


def test_expiries_are_ordinary_deletes() -> None:
    async def test(store: SqliteStore) -> None:
        await store.batch([BatchItem((), (Put(f"/{n:03}", b"%d" % n, 60),)) for n in range(300)])
        watch = store.watch("/")
        await asyncio.sleep(61)
        events: list[Event] = []
        while len(events) < 300:
            batch = await anext(watch)
            assert len(batch.events) <= 256 + 128
            events += batch.events
        assert [event.kv.key for event in events] == [f"/{n:03}" for n in range(300)]
        assert all(event.deleted and event.previous is not None for event in events)
        assert await keys(store) == []

    run(test)


def test_the_time_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")

    async def first(env: Env) -> None:
        store = await SqliteStore.open(path, inline=True)
        await store.txn([], [Put("/a", b"", 100), Put("/b", b"", 1000)])
        await asyncio.sleep(60)
        await store.close()

    async def second(env: Env) -> None:
        store = await SqliteStore.open(path, inline=True)
        await asyncio.sleep(39)
        assert await keys(store) == ["/a", "/b"]
        await asyncio.sleep(2)
        assert await keys(store) == ["/b"]
        await store.close()

    run_virtual(first)
    run_virtual(second)


def test_a_crash_costs_at_most_half_a_minute_of_the_clock(tmp_path: Path) -> None:
    """The store is not closed: only what was saved in passing counts."""
    path = str(tmp_path / "store.db")

    async def first(env: Env) -> None:
        store = await SqliteStore.open(path, inline=True)
        await store.txn([], [Put("/a", b"", 100)])
        await asyncio.sleep(75)
        store._database.close()

    async def second(env: Env) -> None:
        store = await SqliteStore.open(path, inline=True)
        await asyncio.sleep(24)
        assert await keys(store) == ["/a"]
        await asyncio.sleep(31)
        assert await keys(store) == []
        await store.close()

    run_virtual(first)
    run_virtual(second)


@pytest.mark.parametrize("jump_s", [50 * 365 * 86_400, -50 * 365 * 86_400], ids=["forwards", "backwards"])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "while closed"])
def test_a_wall_clock_that_jumps_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float, restart: bool
) -> None:
    path = str(tmp_path / "store.db")

    async def main(env: Env) -> None:
        store = await SqliteStore.open(path, inline=True)
        await store.txn([], [Put("/a", b"", 3600)])
        await asyncio.sleep(1800)
        if restart:
            await store.close()
        monkeypatch.setattr("time.time", lambda: EPOCH + jump_s)
        env.now = lambda: EPOCH + jump_s
        if restart:
            store = await SqliteStore.open(path, inline=True)
        await asyncio.sleep(1790)
        assert await keys(store) == ["/a"], "gone before its time"
        await asyncio.sleep(60)
        assert await keys(store) == [], "kept beyond its time"
        await store.close()

    run_virtual(main)


def test_a_refused_expiry_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(store: SqliteStore) -> None:
        await store.txn([], [Put("/a", b"", 10)])
        real, refusals = store._database.expire, 0

        def expire(clock_ms: int, limit: int) -> object:
            nonlocal refusals
            refusals += 1
            if refusals <= 3:
                raise Unavailable("test: the disk is full")
            return real(clock_ms, limit)

        monkeypatch.setattr(store._database, "expire", expire)
        await asyncio.sleep(12)
        assert await keys(store) == ["/a"]
        await asyncio.sleep(3)
        assert await keys(store) == []
        assert refusals >= 4

    run(test)


def test_the_same_seed_brings_the_same_faults() -> None:
    async def main(env: Env) -> list[str]:
        store = FaultyStore(
            await SqliteStore.open(":memory:"), env, Faults(delay_s=0.5, before=0.2, after=0.2, watch=0.2)
        )
        story = []
        for n in range(50):
            try:
                result = await store.txn([], [Put(f"/{n % 7}", b"%d" % n)])
                story.append(f"{env.now():.6f} {n} {result.revision}")
            except Unavailable as error:
                story.append(f"{env.now():.6f} {n} {error}")
        watch = store.watch("/", from_revision=2)
        try:
            revision = 1
            while revision < store.store.ring.head:  # type: ignore[attr-defined]
                revision = (await anext(watch)).revision
                story.append(str(revision))
        except Unavailable as error:
            story.append(str(error))
        await store.close()
        return story

    first, again, other = run_virtual(main, 1), run_virtual(main, 1), run_virtual(main, 2)
    assert first == again
    assert first != other
    assert any("before" in line for line in first)
    assert any("answer is lost" in line for line in first)


def test_after_a_lost_answer_the_write_is_there() -> None:
    async def main(env: Env) -> None:
        store = FaultyStore(await SqliteStore.open(":memory:"), env, Faults(after=1.0))
        with pytest.raises(Unavailable):
            await store.txn([], [Put("/a", b"v")])
        store.faults = Faults(before=1.0)
        with pytest.raises(Unavailable):
            await store.txn([], [Put("/b", b"v")])
        store.faults = Faults()
        assert [kv.key for kv in (await store.list("/")).items] == ["/a"]
        await store.close()

    run_virtual(main)
