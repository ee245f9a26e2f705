"""The Kubernetes API over HTTPS, as kubectl and client libraries use it: a server process, and this process as its clients.

    python -m bench api [--seconds S] [--pods N] [--more-pods N] [--watchers N]

Creates, gets and patches of pods per second over keep-alive connections; the list of many pods as JSON, as a Table and as
protobuf; the delay of a watch; resident memory. Scheduler and controllers run. The floor of each rate and list is the same HTTPS
server, with a constant of the same size as its answer. Beside each stands what a real kube-apiserver takes on such a machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import _https
from bench._measure import cpu_s, percentile, rss_mib
from controlplane.fronts.http.media import PROTOBUF
from wherry.cli.server import HTTP_PORT_OFFSET
from wherry.testing.server import Server

CONNECTIONS = (1, 16, 64)
PODS = "/api/v1/namespaces/default/pods"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
# kube-apiserver 1.36 with etcd, controllers and scheduler on two cores: per second at 1, 16, 64 connections.
PEER = {"creates": (225, 615, 658), "gets": (600, 1690, 1930)}
PEER_LIST_MS, PEER_MIB = 417, (490, 980)
_NAME = re.compile(rb'"name":"(d[0-9]+-[0-9]+)"')


def pod(name: str) -> bytes:
    """One of a Deployment's, that nobody schedules; 2.2 KB as it is answered, as those that the peer's figures are of."""
    container = {
        "name": "web", "image": "registry.example/web:1.25", "ports": [{"containerPort": 80}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }  # fmt: skip
    metadata = {"name": name, "labels": {"app": "web"}}
    spec = {"schedulerName": "nobody", "containers": [container]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).encode()


@dataclass
class Side:
    """One of the two servers: the API, or the constant."""

    name: str
    port: int
    pid: int
    config: Path

    async def connect(self, count: int) -> list[_https.Connection]:
        context = _https.client_context(self.config)
        return [await _https.Connection.open(self.port, context) for _ in range(count)]


@contextmanager
def servers() -> Iterator[tuple[Side, Side]]:
    folder = Path(tempfile.mkdtemp(prefix="wherry-bench-"))
    server = Server(folder / "data")
    port = int(server.address.rpartition(":")[2]) + HTTP_PORT_OFFSET
    server.flags = ("--http-listen", f"127.0.0.1:{port}")
    constant = None
    try:
        server.start()
        assert server.process is not None
        (folder / "constant").mkdir()
        constant = subprocess.Popen(
            [sys.executable, "-m", "bench._constant", str(folder / "constant")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert constant.stdout is not None
        constant_port = int(constant.stdout.readline())
        yield (
            Side("api", port, server.process.pid, server.config),
            Side("constant", constant_port, constant.pid, folder / "constant" / "admin.conf"),
        )
    finally:
        server.stop()
        if constant is not None:
            constant.communicate()
        shutil.rmtree(folder, ignore_errors=True)


async def rates(api: Side, floor: Side, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Per verb and number of connections: ours and the floor, per second."""
    serial = itertools.count()
    (first,) = await api.connect(1)
    names = [f"g{number}" for number in range(256)]  # more than are in flight, or patches would meet
    for name in names:
        status, answer = await first.ask(_https.request("POST", PODS, pod(name)))
        assert status == 201, answer
    size = len(answer)
    first.close()
    turn = itertools.cycle(names)

    def patch() -> bytes:
        body = json.dumps({"metadata": {"annotations": {"turn": str(next(serial))}}}).encode()
        kind = "application/strategic-merge-patch+json"
        return _https.request("PATCH", f"{PODS}/{next(turn)}", body, kind=kind)

    create_body = pod("c0")
    works: dict[str, tuple[Callable[[], bytes], Callable[[], bytes], int]] = {
        "creates": (
            lambda: _https.request("POST", PODS, pod(f"c{next(serial)}")),
            lambda: _https.request("POST", f"/{size}", create_body),
            201,
        ),
        "gets": (
            lambda: _https.request("GET", f"{PODS}/{next(turn)}"),
            lambda: _https.request("GET", f"/{size}"),
            200,
        ),
        "patches": (
            patch,
            lambda: _https.request("PATCH", f"/{size}", b'{"metadata":{"annotations":{"turn":"12345"}}}'),
            200,
        ),
    }
    figures: dict[str, list[tuple[float, float]]] = {}
    for verb, (make, make_floor, expected) in works.items():
        for place, count in enumerate(CONNECTIONS):
            ours, cpu = await _rate(api, count, make, seconds, expected)
            least, least_cpu = await _rate(floor, count, make_floor, seconds / 2, 200)
            figures.setdefault(verb, []).append((ours, least))
            peer = f"; kube-apiserver {PEER[verb][place]}" if verb in PEER else ""
            print(
                f"{verb} at {count} connections: {ours:,.0f}/s, {cpu:.0f} us of CPU each; "
                f"floor {least:,.0f}/s, {least_cpu:.0f} us (ratio {ours / least:.2f}){peer}",
                flush=True,
            )
    # As many as a second took; the lists and the memory after this are of a number that is the same everywhere.
    (last,) = await api.connect(1)
    status, answer = await last.ask(_https.request("DELETE", PODS))
    assert status == 200, answer[:500]
    last.close()
    return figures


async def _rate(
    side: Side, count: int, make: Callable[[], bytes], seconds: float, expected: int
) -> tuple[float, float]:
    """Per second, and the microseconds of the server's CPU for each."""
    connections = await side.connect(count)
    await _https.rate(connections, make, seconds / 10, expected)  # warm
    before = cpu_s(side.pid)
    done, passed = await _https.rate(connections, make, seconds, expected)
    used = cpu_s(side.pid) - before
    for connection in connections:
        connection.close()
    return done / passed, used / done * 1e6


async def fill(api: Side, wanted: int) -> None:
    """Until there are so many pods."""
    connections = await api.connect(16)
    _, answer = await connections[0].ask(_https.request("GET", f"{PODS}?limit=1"))
    metadata = json.loads(answer)["metadata"]
    present = 1 + metadata.get("remainingItemCount", 0)
    serial = itertools.count()
    if wanted > present:
        await _https.rate(
            connections,
            lambda: _https.request("POST", PODS, pod(f"f{wanted}-{next(serial)}")),
            3600,
            201,
            wanted - present,
        )
    for connection in connections:
        connection.close()


async def lists(api: Side, floor: Side, runs: int) -> None:
    for what, accept in (("JSON", "application/json"), ("Table", TABLE), ("protobuf", PROTOBUF)):
        (ours,) = await api.connect(1)
        (least,) = await floor.connect(1)
        times: list[float] = []
        floors: list[float] = []
        before = cpu_s(api.pid)
        for _ in range(runs):
            passed, size = await _timed(ours, _https.request("GET", PODS, accept=accept))
            times.append(passed)
            floors.append((await _timed(least, _https.request("GET", f"/{size}")))[0])
        used = (cpu_s(api.pid) - before) / runs
        took, at_least = statistics.median(times), statistics.median(floors)
        peer = f"; kube-apiserver {PEER_LIST_MS} ms for 21.9 MB" if what == "JSON" else ""
        print(
            f"list of all pods as {what}: {took * 1e3:.0f} ms (first {times[0] * 1e3:.0f}), {size / 1e6:.1f} MB, "
            f"{used * 1e3:.0f} ms of CPU; "
            f"floor {at_least * 1e3:.0f} ms (ratio {took / at_least:.1f}){peer}",
            flush=True,
        )
        ours.close()
        least.close()


async def _timed(connection: _https.Connection, data: bytes) -> tuple[float, int]:
    started = time.perf_counter()
    status, body = await connection.ask(data)
    passed = time.perf_counter() - started
    assert status == 200, body[:500]
    return passed, len(body)


async def delays(api: Side, watchers: int, writes: int, per_second: float) -> tuple[list[float], list[float]]:
    """Seconds until a watcher has the event, one for each watcher and write: from the answer to the writer (0 when the event
    was first, as it often is: both go out in the same turn), and from the sending of its request."""
    run = f"d{watchers}"
    sent: dict[bytes, float] = {}
    answered: dict[bytes, float] = {}
    seen: list[tuple[bytes, float]] = []
    complete = asyncio.Event()

    def note(data: bytes, now: float) -> None:
        seen.extend((name, now) for name in set(_NAME.findall(data)))
        if len(seen) >= writes * watchers:
            complete.set()

    context = _https.client_context(api.config)
    (writer,) = await api.connect(1)
    _, listed = await writer.ask(_https.request("GET", f"{PODS}?limit=1"))
    revision = json.loads(listed)["metadata"]["resourceVersion"]
    watch = _https.request("GET", f"{PODS}?watch=1&resourceVersion={revision}")
    following = [await _https.Watcher.open(api.port, context, watch, note) for _ in range(watchers)]
    await asyncio.sleep(1)
    started = time.perf_counter()
    for number in range(writes):
        await asyncio.sleep(max(0.0, started + number / per_second - time.perf_counter()))
        name = f"{run}-{number:05}"
        sent[name.encode()] = time.perf_counter()
        status, answer = await writer.ask(_https.request("POST", PODS, pod(name)))
        answered[name.encode()] = time.perf_counter()
        assert status == 201, answer
    async with asyncio.timeout(60):
        await complete.wait()
    for one in following:
        one.close()
    writer.close()
    after_answer = sorted(max(0.0, at - answered[name]) for name, at in seen)
    return after_answer, sorted(at - sent[name] for name, at in seen)


async def main(arguments: argparse.Namespace) -> None:
    with servers() as (api, floor):
        await asyncio.sleep(2)
        idle = rss_mib(api.pid)
        print(f"memory without pods: {idle:.0f} MiB; kube-apiserver, etcd and the others {PEER_MIB[0]} MiB", flush=True)
        figures = await rates(api, floor, arguments.seconds)
        await fill(api, arguments.pods)
        full = rss_mib(api.pid)
        print(
            f"memory with {arguments.pods:,} pods: {full:.0f} MiB; kube-apiserver and the others {PEER_MIB[1]} MiB",
            flush=True,
        )
        await lists(api, floor, 5)
        print(f"memory after lists of them in each form: {rss_mib(api.pid):.0f} MiB", flush=True)
        for watchers, writes, per_second in ((1, 600, 200.0), (arguments.watchers, 50, 10.0)):
            figures_s = await delays(api, watchers, writes, per_second)
            (p50, p99), (sent_p50, sent_p99) = (
                [percentile(times, share) * 1e3 for share in (0.5, 0.99)] for times in figures_s
            )
            peer = "; kube-apiserver about 0.2 ms" if watchers == 1 else ""
            print(
                f"watch delay with {watchers} watchers at {per_second:.0f} creates/s: p50 {p50:.2f} ms, p99 {p99:.2f} ms "
                f"from the answer; {sent_p50:.1f} and {sent_p99:.1f} ms from the request{peer}",
                flush=True,
            )
        if arguments.more_pods:
            await fill(api, arguments.more_pods)
            print(f"memory with {arguments.more_pods:,} pods: {rss_mib(api.pid):.0f} MiB", flush=True)
    ours, least = figures["gets"][-1]
    print(
        f"api: {ours:.0f} gets/s at 64 connections (ratio {ours / least:.2f} to a constant of that size, {least:.0f}/s)"
    )


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench api", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each rate")
    parser.add_argument("--pods", type=int, default=10_000, help="in the lists")
    parser.add_argument("--more-pods", type=int, default=50_000, help="for their memory alone; 0: without")
    parser.add_argument("--watchers", type=int, default=500)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args(argv)))
