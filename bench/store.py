"""Durable single-object writes per second, at 1 and 64 in flight, per backend.

    python -m bench store [--seconds S] [--bytes N] [--rounds R] [--backend sqlite|etcd|all] [--directory D]

The floor of `sqlite` is the same bytes written by plain `sqlite3` in groups of 64 with `synchronous=FULL` into one table; that of
`etcd` is bare Put RPCs, 64 in flight, to the same server, without a compare and without anybody following. Rounds alternate
between ours and the floor, medians are printed. `--directory` picks the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from controlplane.store.base import Compare, Put, Store
from controlplane.store.open import TLSFiles, open_store
from wherry.api.context import Env

IN_FLIGHT = 64
FLOOR_GROUP = 64


def floor_sqlite(folder: Path, value: bytes, seconds: float) -> float:
    """Writes per second of plain sqlite3 in groups."""
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS floor (id INTEGER PRIMARY KEY, key TEXT, value BLOB)")
    started = time.perf_counter()
    count = 0
    while (passed := time.perf_counter() - started) < seconds:
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(FLOOR_GROUP):
            connection.execute("INSERT INTO floor (key, value) VALUES (?, ?)", (f"/bench/{count:09}", value))
            count += 1
        connection.execute("COMMIT")
    connection.close()
    return count / passed


async def lanes(work: Callable[[int], Awaitable[object]], in_flight: int, seconds: float) -> float:
    """Calls of `work` per second, `in_flight` at a time."""
    started = time.perf_counter()
    count = 0

    async def lane() -> None:
        nonlocal count
        while time.perf_counter() - started < seconds:
            count += 1
            await work(count)

    await asyncio.gather(*(lane() for _ in range(in_flight)))
    return count / (time.perf_counter() - started)


async def ours(store: Store, value: bytes, in_flight: int, seconds: float, name: str) -> float:
    """Creates: a compare that the key is absent, and a put, as the registry does."""

    async def create(n: int) -> None:
        key = f"/bench/{name}/{n:09}"
        result = await store.txn([Compare(key, 0)], [Put(key, value)])
        assert result.succeeded

    return await lanes(create, in_flight, seconds)


async def bench_sqlite(folder: Path, value: bytes, seconds: float, rounds: int) -> tuple[float, float]:
    single, many, floor = [], [], []
    for number in range(rounds):
        floor.append(floor_sqlite(folder, value, seconds))
        store = await open_store(f"sqlite://{folder}/store-{number}.db", Env())
        single.append(await ours(store, value, 1, seconds, "one"))
        many.append(await ours(store, value, IN_FLIGHT, seconds, "many"))
        await store.close()
    report("sqlite", single, many, floor, "plain sqlite3 in groups of 64")
    return statistics.median(many), statistics.median(floor)


async def bench_etcd(folder: Path, value: bytes, seconds: float, rounds: int) -> tuple[float, float]:
    from controlplane.store.etcd_rpc import Members, Method
    from wherry.pb import etcd_rpc_pb2 as rpc
    from wherry.testing.etcd import EtcdCluster

    binary = shutil.which("etcd")
    if binary is None:
        raise SystemExit("no etcd here: apt-get install etcd-server")
    bare_put: Method[rpc.PutRequest, rpc.PutResponse] = Method("/etcdserverpb.KV/Put", rpc.PutResponse, writes=True)
    cluster = EtcdCluster.make(binary, folder / "etcd")
    tls = TLSFiles(str(cluster.tls.ca), str(cluster.tls.certificate), str(cluster.tls.key))
    single, many, floor = [], [], []
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(cluster.stop)
        cluster.start()
        for number in range(rounds):
            members = Members(cluster.endpoints, tls)

            async def put(n: int, members: Members = members, number: int = number) -> None:
                await members.call(bare_put, rpc.PutRequest(key=f"/floor/{number}/{n:09}".encode(), value=value))

            await put(0)
            floor.append(await lanes(put, IN_FLIGHT, seconds))
            await members.close()
            store = await open_store("etcd://" + ",".join(cluster.endpoints), Env(), tls=tls)
            single.append(await ours(store, value, 1, seconds, f"one{number}"))
            many.append(await ours(store, value, IN_FLIGHT, seconds, f"many{number}"))
            await store.close()
    report("etcd", single, many, floor, "bare Put RPCs, 64 in flight")
    return statistics.median(many), statistics.median(floor)


def report(backend: str, single: list[float], many: list[float], floor: list[float], what: str) -> None:
    one, lot, bare = (statistics.median(figures) for figures in (single, many, floor))
    print(
        f"{backend}: 1 in flight {one:,.0f} writes/s, {IN_FLIGHT} in flight {lot:,.0f} writes/s; floor {bare:,.0f} ({what})"
    )


async def main(arguments: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="wherry-bench-", dir=arguments.directory))
    value = bytes(range(256)) * (arguments.bytes // 256 + 1)
    value = value[: arguments.bytes]
    results = {}
    try:
        for name, bench in (("etcd", bench_etcd), ("sqlite", bench_sqlite)):
            if arguments.backend in (name, "all"):
                results[name] = await bench(folder, value, arguments.seconds, arguments.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figure, floor = results.get("sqlite") or results["etcd"]
    print(f"store: {figure:.0f} writes/s (ratio {figure / floor:.2f} to {floor:.0f} writes/s)")


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench store", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--bytes", type=int, default=1000, help="per object")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--backend", choices=["sqlite", "etcd", "all"], default="all" if shutil.which("etcd") else "sqlite"
    )
    parser.add_argument("--directory", default=None)
    sys.setswitchinterval(0.0005)  # as the server does
    asyncio.run(main(parser.parse_args(argv)))
