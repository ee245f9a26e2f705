"""The account of the encodings that the HTTP front keeps, and that an object's past does not keep any."""

from __future__ import annotations

from controlplane.fronts.http.kept import _OVERHEAD_BYTES, Kept
from controlplane.store.base import Put
from controlplane.store.cache import Memo, WatchCache
from controlplane.store.sqlite import SqliteStore


def test_the_least_recently_used_goes_first() -> None:
    kept = Kept(3 * (100 + _OVERHEAD_BYTES))
    memos = [Memo() for _ in range(4)]
    for memo in memos[:3]:
        kept.put(memo, "json", b"x" * 100)
    assert kept.get(memos[0], "json") is not None
    kept.put(memos[3], "json", b"x" * 100)
    assert ["json" in memo for memo in memos] == [True, False, True, True]
    kept.check_invariants()


def test_an_object_has_several_encodings() -> None:
    kept = Kept()
    memo = Memo()
    kept.put(memo, "json", b"1")
    kept.put(memo, "metadata", b"2")
    kept.put(memo, "json", b"3")
    assert (kept.get(memo, "json"), kept.get(memo, "metadata")) == (b"3", b"2")
    kept.check_invariants()


def test_what_is_too_large_is_kept_alone() -> None:
    kept = Kept(1000)
    small, large = Memo(), Memo()
    kept.put(small, "json", b"x")
    kept.put(large, "json", b"x" * 5000)
    assert not small
    assert kept.get(large, "json") == b"x" * 5000
    kept.check_invariants()


def test_what_nobody_else_could_find_is_not_kept() -> None:
    kept = Kept()
    memo: dict[str, bytes] = {}
    kept.put(memo, "json", b"x")
    assert not memo


async def test_an_entry_that_is_superseded_keeps_nothing() -> None:
    store = await SqliteStore.open(":memory:")
    cache = WatchCache(store, "/a/")
    await cache.start()
    try:
        await store.txn([], [Put("/a/1", b"one")])
        await cache.wait_for(1, 10)
        first = cache.get("/a/1")
        assert first is not None
        first.memo["json"] = b"{}"
        result = await store.txn([], [Put("/a/1", b"two")])
        await cache.wait_for(result.revision, 10)
        assert not first.memo
    finally:
        await cache.stop()
        await store.close()
