"""Compaction by window, backups, and the factory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.store.backup import MARKER, BackupInfo, BadBackup, backup, restore, unfinished, verify
from controlplane.store.base import Compacted, Delete, FormatTooNew, Put, StoreError
from controlplane.store.maintenance import Compactor, Sample, Window, plan_compaction
from controlplane.store.open import open_store
from controlplane.store.sqlite import SqliteStore
from wherry.api.context import Env
from wherry.testing.loop import run_virtual

WINDOW = Window(keep_s=300, min_revisions=100, max_revisions=10_000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(str(tmp_path / "store.db"))
    yield store
    await store.close()


@pytest.fixture
async def empty() -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(":memory:")
    yield store
    await store.close()


async def fill(store: SqliteStore, count: int = 500) -> dict[str, bytes]:
    """Also leaves history behind, which a backup does not hold."""
    for n in range(count):
        await store.txn([], [Put(f"/{n:04}", os.urandom(n % 300)), Put("/ü", b"%d" % n)])
    await store.txn([], [Delete("/0003"), Put("/empty", b"")])
    return await state(store)


async def state(store: SqliteStore) -> dict[str, bytes]:
    return {kv.key: kv.value for kv in (await store.list("")).items}


@pytest.mark.parametrize(
    ("samples", "now", "expected"),
    [
        pytest.param([(0, 5000)], 0, 0, id="nothing old yet"),
        pytest.param([(0, 1000), (150, 2000), (300, 5000)], 300, 1000, id="what was there five minutes ago"),
        pytest.param([(0, 1000), (60, 2000), (400, 5000)], 400, 2000, id="the newest of the old samples"),
        pytest.param([(0, 1000), (400, 1050)], 400, 950, id="the newest revisions stay however old"),
        pytest.param([(0, 50), (400, 60)], 400, 0, id="a small store stays whole"),
        pytest.param([(0, 1000), (60, 50_000)], 60, 40_000, id="no more than the most, however young"),
    ],
)
def test_the_window(samples: list[tuple[float, int]], now: float, expected: int) -> None:
    assert plan_compaction([Sample(at, revision) for at, revision in samples], now, WINDOW) == expected


def test_history_stays_bounded_over_days() -> None:
    async def main(env: Env) -> None:
        store = await SqliteStore.open(":memory:")
        compactor = Compactor(store, Window(keep_s=300, min_revisions=10))
        running = asyncio.ensure_future(compactor.run())
        sizes = []
        for hour in range(48):
            for n in range(120):
                await store.txn([], [Put(f"/{n % 5}", b"x" * 500)])
                await asyncio.sleep(30)
            (rows,) = store._database.connection.execute("SELECT count(*) FROM history").fetchone()
            sizes.append(rows)
            revision = await store.revision()
            watch = store.watch("/", from_revision=revision - 8)  # four minutes ago
            assert (await anext(watch)).events
            with pytest.raises(Compacted):
                await anext(store.watch("/", from_revision=max(1, revision - 30)))
            assert hour >= 0
        assert max(sizes) < 40
        running.cancel()
        await asyncio.wait([running])
        await store.close()

    run_virtual(main)


async def test_another_replicas_compaction_is_no_error(store: SqliteStore) -> None:
    await fill(store, 50)
    compactor = Compactor(store, Window(keep_s=0, min_revisions=5))
    await store.compact(await store.revision())
    await compactor.step()
    assert compactor.compacted == await store.revision()


async def test_backup_and_restore(tmp_path: Path, store: SqliteStore, empty: SqliteStore) -> None:
    before = await fill(store)
    path = tmp_path / "backup"
    info = await backup(store, path)
    assert info == BackupInfo(502, 501, info.digest) == verify(path)
    assert path.stat().st_mode & 0o077 == 0
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]
    assert await restore(path, empty) == info
    assert await state(empty) == before
    assert not await unfinished(empty)


async def test_a_backup_is_of_one_revision(tmp_path: Path, store: SqliteStore, empty: SqliteStore) -> None:
    await fill(store)
    writing = True

    async def write() -> None:
        n = 0
        while writing:
            n += 1
            await store.txn([], [Put("/0000", b"%d" % n), Put("/zzzz", b"%d" % n)])

    writer = asyncio.ensure_future(write())
    for _ in range(3):
        await asyncio.sleep(0.01)
        info = await backup(store, tmp_path / "backup")
    writing = False
    await writer
    await restore(tmp_path / "backup", empty)
    restored = await state(empty)
    assert restored["/0000"] == restored["/zzzz"]
    assert restored == {kv.key: kv.value for kv in (await store.list("", revision=info.revision)).items}


async def test_restore_gives_times_to_live(tmp_path: Path, store: SqliteStore, empty: SqliteStore) -> None:
    await store.txn([], [Put("/events/a", b"", 3600), Put("/pods/a", b"")])
    await backup(store, tmp_path / "backup")
    await restore(tmp_path / "backup", empty, ttl_s=lambda key: 1 if key.startswith("/events/") else 0)
    watch = empty.watch("/events/")
    async with asyncio.timeout(10):
        async for batch in watch:
            if batch.events:
                break
    assert list(await state(empty)) == ["/pods/a"]


async def test_restore_refuses_a_store_in_use(tmp_path: Path, store: SqliteStore, empty: SqliteStore) -> None:
    await fill(store, 10)
    await backup(store, tmp_path / "backup")
    await empty.txn([], [Put("/mine", b"")])
    with pytest.raises(StoreError, match=r"not empty .1 keys, the first is /mine"):
        await restore(tmp_path / "backup", empty)
    assert list(await state(empty)) == ["/mine"]


async def test_an_interrupted_restore_is_seen_and_repeated(
    tmp_path: Path, store: SqliteStore, empty: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await fill(store)
    await backup(store, tmp_path / "backup")
    real, calls = empty.batch, 0

    async def batch(items: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return await real(items)  # type: ignore[arg-type]

    monkeypatch.setattr(empty, "batch", batch)
    with pytest.raises(KeyboardInterrupt):
        await restore(tmp_path / "backup", empty)
    assert await unfinished(empty)
    assert MARKER in await state(empty)
    await store.txn([], [Put("/more", b"")])
    await backup(store, tmp_path / "another")
    with pytest.raises(StoreError, match="part of another backup"):
        await restore(tmp_path / "another", empty)
    await restore(tmp_path / "backup", empty)
    assert await state(empty) == before


async def test_damage_is_seen_before_anything_is_written(
    tmp_path: Path, store: SqliteStore, empty: SqliteStore
) -> None:
    await fill(store, 20)
    path = tmp_path / "backup"
    await backup(store, path)
    whole = path.read_bytes()
    damaged = {
        "empty": b"",
        "another file": b"#!/bin/sh\n" * 100,
        "header": whole.replace(b'"format": 1', b'"format": x'),
        "longer": whole + b"x",
    }
    damaged |= {f"cut at {at}": whole[:at] for at in (5, 20, 60, len(whole) // 2, len(whole) - 1)}
    for at in (30, 70, len(whole) // 2, len(whole) - 40, len(whole) - 3):
        damaged[f"bit at {at}"] = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
    for name, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises((BadBackup, FormatTooNew)):
            await restore(path, empty)
        assert await empty.revision() == 1, name
    path.write_bytes(whole.replace(b'"format": 1', b'"format": 7'))
    with pytest.raises(FormatTooNew, match="format 7"):
        verify(path)
    with pytest.raises(BadBackup, match="cannot read"):
        verify(tmp_path / "none")


async def test_a_failed_backup_leaves_the_old_one(tmp_path: Path, store: SqliteStore) -> None:
    path = tmp_path / "backup"
    await fill(store, 5)
    info = await backup(store, path)
    await store.close()
    with pytest.raises(StoreError):
        await backup(store, path)
    assert verify(path) == info
    with pytest.raises(StoreError, match="cannot write"):
        await backup(store, tmp_path / "none" / "backup")


async def test_a_copy_of_the_file_is_a_store(tmp_path: Path, store: SqliteStore) -> None:
    await fill(store)
    writing = asyncio.gather(*(store.txn([], [Put(f"/during/{n}", b"x" * 1000)]) for n in range(200)))
    revision = await store.copy_to(str(tmp_path / "copy.db"))
    await writing
    copy = await SqliteStore.open(str(tmp_path / "copy.db"))
    copy.check_invariants()
    assert await copy.revision() == revision
    assert (await copy.list("")).items == (await store.list("", revision=revision)).items
    assert (await copy.list("", revision=100)).items == (await store.list("", revision=100)).items
    await copy.close()
    with pytest.raises(StoreError, match="cannot copy"):
        await store.copy_to(str(tmp_path / "none" / "copy.db"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://x", "unknown kind of store"),
        ("store.db", "unknown kind of store"),
        ("sqlite:", "no file is named"),
        ("sqlite:///", "no file is named"),
        ("etcd://", "no endpoint is named"),
        ("etcd:///,", "no endpoint is named"),
    ],
)
async def test_bad_urls(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        await open_store(url, Env())


@pytest.mark.parametrize("form", ["sqlite://{}", "sqlite:{}"])
async def test_urls_of_files(tmp_path: Path, form: str) -> None:
    store = await open_store(form.format(tmp_path / "x.db"), Env())
    await store.close()
    assert (tmp_path / "x.db").exists()


async def test_etcd_cannot_run_inline() -> None:
    with pytest.raises(StoreError, match="inline"):
        await open_store("etcd://127.0.0.1:1", Env(), inline=True)
