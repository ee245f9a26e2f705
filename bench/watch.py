"""Watches: objects per second through one, and the delay from an acknowledged write to its event.

    python -m bench watch [--objects N] [--bytes N] [--writes N] [--rate R]

Over the embedded store and the watch cache, in one process. The floor of the throughput is a plain `sqlite3` SELECT of the same
rows from the same file. The delay is from the moment at which the writer has its answer to that at which a watcher has the
event, with 1 and with 200 watchers of the cache, at `--rate` writes per second; an event that was there first counts as 0.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from controlplane.store.base import BatchItem, Put, Store
from controlplane.store.cache import Subscription, WatchCache
from controlplane.store.open import open_store
from wherry.api.context import Env

PREFIX = "/bench/"


async def throughput_of_history(store: Store, objects: int) -> float:
    """One watch of the store that catches up from the first revision."""
    watch = store.watch(PREFIX, from_revision=1)
    started = time.perf_counter()
    count = 0
    async for batch in watch:
        count += len(batch.events)
        if count >= objects:
            break
    passed = time.perf_counter() - started
    await watch.aclose()
    return count / passed


async def throughput_live(store: Store, cache: WatchCache, objects: int, value: bytes) -> float:
    """One watch of the cache while objects are written in batches as fast as the store takes them."""
    watch = cache.watch()

    async def write() -> None:
        for start in range(0, objects, 256):
            await store.batch(
                [BatchItem((), (Put(f"{PREFIX}live/{n:09}", value),)) for n in range(start, min(start + 256, objects))]
            )

    writing = asyncio.ensure_future(write())
    started = time.perf_counter()
    count = 0
    async for batch in watch:
        count += len(batch.events)
        if count >= objects:
            break
    passed = time.perf_counter() - started
    await writing
    await watch.aclose()
    return count / passed


def floor(path: Path, objects: int) -> float:
    connection = sqlite3.connect(path)
    started = time.perf_counter()
    count = sum(
        1
        for _ in connection.execute(
            "SELECT id, key, create_revision, value FROM history ORDER BY id LIMIT ?", (objects,)
        )
    )
    passed = time.perf_counter() - started
    connection.close()
    return count / passed


async def delays(store: Store, cache: WatchCache, watchers: int, writes: int, rate: float, value: bytes) -> list[float]:
    """In seconds, sorted, one per watcher and write."""
    first = cache.revision + 1
    answered: dict[int, float] = {}
    seen: list[dict[int, float]] = [{} for _ in range(watchers)]

    async def follow(subscription: Subscription, times: dict[int, float]) -> None:
        async for batch in subscription:
            now = time.perf_counter()
            for event in batch.events:
                times[event.entry.mod_revision] = now
            if len(times) >= writes:
                return

    following = [asyncio.ensure_future(follow(cache.watch(from_revision=first), times)) for times in seen]
    started = time.perf_counter()
    for n in range(writes):
        await asyncio.sleep(max(0.0, started + n / rate - time.perf_counter()))
        result = await store.txn([], [Put(f"{PREFIX}delay/{n % 100}", value)])
        answered[result.revision] = time.perf_counter()
    await asyncio.gather(*following)
    return sorted(max(0.0, times[revision] - at) for times in seen for revision, at in answered.items())


async def main(arguments: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="wherry-bench-", dir=arguments.directory))
    value = (bytes(range(256)) * (arguments.bytes // 256 + 1))[: arguments.bytes]
    try:
        path = folder / "store.db"
        store = await open_store(f"sqlite://{path}", Env())
        for start in range(0, arguments.objects, 500):
            await store.batch(
                [
                    BatchItem((), (Put(f"{PREFIX}{n:09}", value),))
                    for n in range(start, min(start + 500, arguments.objects))
                ]
            )
        floors = sorted(floor(path, arguments.objects) for _ in range(3))
        pasts = sorted([await throughput_of_history(store, arguments.objects) for _ in range(3)])
        cache = WatchCache(store, PREFIX)
        await cache.start()
        live = await throughput_live(store, cache, arguments.objects, value)
        print(f"history through one watch: {pasts[1]:,.0f} objects/s; written and seen live: {live:,.0f} objects/s")
        for watchers in (1, 200):
            times = await delays(store, cache, watchers, arguments.writes, arguments.rate, value)
            p50, p99 = (times[len(times) * share // 100] * 1000 for share in (50, 99))
            print(
                f"delay with {watchers} watchers at {arguments.rate:.0f} writes/s: p50 {p50:.2f} ms, p99 {p99:.2f} ms"
            )
        await cache.stop()
        await store.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"watch: {pasts[1]:.0f} objects/s (ratio {pasts[1] / floors[1]:.2f} to {floors[1]:.0f} objects/s)")


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench watch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=1000, help="per object")
    parser.add_argument("--writes", type=int, default=500, help="for the delay")
    parser.add_argument("--rate", type=float, default=200.0, help="writes per second, for the delay")
    parser.add_argument("--directory", default=None)
    sys.setswitchinterval(0.0005)  # as the server does
    asyncio.run(main(parser.parse_args(argv)))
