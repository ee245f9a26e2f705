"""The account of the encodings that the HTTP front keeps, and that an object's past does not keep any."""

from __future__ import annotations

import json
from typing import Any

from controlplane.fronts.http import encoding, media
from controlplane.fronts.http.kept import _OVERHEAD_BYTES, Kept
from controlplane.registry.base import Stored
from controlplane.registry.tables.render import Cells
from controlplane.store.base import Put
from controlplane.store.cache import Memo, WatchCache
from controlplane.store.sqlite import SqliteStore
from wherry.api import kinds
from wherry.pb import core_v1_pb2


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


def test_of_a_list_beyond_the_limit_the_beginning_is_kept() -> None:
    kept = Kept(3 * (100 + _OVERHEAD_BYTES))
    old, memos = Memo(), [Memo() for _ in range(5)]
    kept.put(old, "json", b"x" * 100)
    for _ in range(2):
        use = kept.begin()
        for memo in memos:
            if kept.get(memo, "json", use) is None:
                kept.put(memo, "json", b"x" * 100, use)
        assert ["json" in memo for memo in memos] == [True, True, True, False, False]
    assert not old
    kept.put(old, "json", b"x" * 100)
    assert "json" in old, "others still find room"
    kept.check_invariants()


def test_the_cells_of_a_row_are_made_once_and_its_age_each_time() -> None:
    pod = core_v1_pb2.Pod()
    pod.metadata.name = "p"
    pod.metadata.creation_timestamp.seconds = 1000
    stored = Stored(kinds.of(core_v1_pb2.Pod), pod.SerializeToString(deterministic=True), 7, Memo())
    made = 0

    def cells(of: Stored) -> Cells:
        nonlocal made
        made += 1
        return Cells(["p", None, 'a "quoted" word'], (1,), 1000, lasting=made > 1)

    def row(now: float, include: str = "None") -> Any:
        return json.loads(encoding.Rows(cells, media.DEFAULT, include, now).row(stored))

    assert row(1060.0) == {"cells": ["p", "60s", 'a "quoted" word'], "object": None}
    assert row(1060.0)["cells"][1] == "60s"
    assert made == 2, "what does not last is not kept"
    assert row(1000.0 + 7200)["cells"] == ["p", "120m", 'a "quoted" word']
    assert made == 2
    for _ in range(2):  # by itself, and out of the whole
        metadata = {"name": "p", "resourceVersion": "7", "creationTimestamp": "1970-01-01T00:16:40Z"}
        shown = row(2000.0, "Metadata")["object"]
        assert shown == {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        assert json.loads(encoding.json_of(stored))["metadata"] == metadata


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
