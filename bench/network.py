"""The network of pods: throughput, latency, the cost of Services, DNS.

    python -m bench network [--rounds N] [--seconds N] [--runs N] [--congestion NAME]

A real cluster of two nodes (network namespaces of this machine) with pods on them: a TCP stream and a round trip between pods of
one node, of two, and through a Service's address. Two floors, made by hand (`bench._bare`): "bare bridge", two namespaces with
bare cables to one bridge; and "bare hops", the bridges and routers that lie between pods of two nodes, without a rule. One
process takes turns among all ways, floors too, some milliseconds each; a line's ratio is that of the medians, and behind it
stands the middle half of the ratios that single rounds had.

One endpoint more with 10, 1,000 and 10,000 Services (the floor: an nft process that changes one element of a small table). DNS
answers per second (the floor: a Python process that echoes datagrams). From the creation of a Service to its first answer (the
floor: the creation). From `make compose-up`, with its image built, to all three nodes Ready (the floor: `docker-compose up` of as
many containers that do nothing; --no-compose leaves it out). Medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench._bare import bare
from bench._measure import closing
from bench._traffic import BLOCK
from wherry.api import codec
from wherry.pb import core_v1_pb2
from wherry.testing.compose import ComposeCluster
from wherry.testing.dockerd import Dockerd
from wherry.testing.local import IMAGE, LocalCluster, is_ready, until

HERE = Path(__file__).parents[1]
PORT = "9100"
SERVICES = (10, 1_000, 10_000)
# The same four containers, networks and volumes, with nothing in them.
IDLE = "services:\n" + "".join(
    f"  {name}: {{entrypoint: [sh, -c, exec sleep infinity], stop_signal: SIGKILL}}\n"
    for name in ("control-plane", "node-1", "node-2", "node-3")
)
BRIDGE, HOPS = "bare bridge", "bare hops"


def inside(netns: str, *arguments: str) -> list[str]:
    return ["nsenter", f"--net={netns}", "--", sys.executable, "-m", *arguments]


def figure(netns: str, *arguments: str) -> float:
    done = subprocess.run(inside(netns, *arguments), capture_output=True, text=True, check=True, cwd=HERE)
    return float(done.stdout.split()[0])


@contextmanager
def server(netns: str, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen(inside(netns, "bench._traffic", *arguments), stdout=subprocess.PIPE, text=True, cwd=HERE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def pod_manifest(name: str, node: str) -> str:
    document = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0,
                 "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000000"]}]},
    }  # fmt: skip
    return json.dumps(document)


def pod_netns(cluster: LocalCluster, name: str) -> tuple[str, str]:
    """The path of the pod's network namespace, and its address."""
    pod = cluster.json("pod", name)
    address = str(pod["status"]["podIP"])
    node = next(node for node in cluster.description.nodes if node.name == pod["spec"]["nodeName"])
    for path in sorted(node.containerd.netns_dir.iterdir()):
        told = subprocess.run(["nsenter", f"--net={path}", "ip", "-4", "-o", "address"], capture_output=True, text=True)
        if f" {address}/" in told.stdout:
            return str(path), address
    raise AssertionError(f"no namespace has {address}")


def service(name: str, app: str) -> core_v1_pb2.Service:
    document = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": int(PORT)}]},
    }  # fmt: skip
    return codec.from_dict(document, core_v1_pb2.Service)


def ways(cluster: LocalCluster, rounds: int, congestion: str) -> None:
    """Throughput and latency."""
    client, _ = pod_netns(cluster, "client")
    (near, near_ip), (far, far_ip) = pod_netns(cluster, "near"), pod_netns(cluster, "far")
    cluster.apply("\n---\n".join(codec.to_yaml(service(f"to-{name}", name)) for name in ("near", "far")))
    virtual = {name: str(cluster.json("service", f"to-{name}")["spec"]["clusterIP"]) for name in ("near", "far")}
    with ExitStack() as stack:
        floor = stack.enter_context(bare())
        for netns in (floor.near, floor.far, near, far):
            stack.enter_context(server(netns, "serve", PORT))
        places = {
            BRIDGE: (floor.pod, floor.near_ip, PORT),
            HOPS: (floor.pod, floor.far_ip, PORT),
            "pods of one node": (client, near_ip, PORT),
            "through a Service, one node": (client, virtual["near"], "80"),
            "pods of two nodes": (client, far_ip, PORT),
            "through a Service, two nodes": (client, virtual["far"], "80"),
        }
        for netns, host, port in places.values():
            figure(netns, "bench._traffic", "connect", host, port, "30")
        for what in ("throughput", "latency"):
            command = [
                sys.executable,
                "-m",
                "bench._traffic",
                "ways",
                what,
                str(rounds),
                congestion,
                json.dumps(places),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
            compare(what, json.loads(done.stdout))


def compare(what: str, times: dict[str, list[float]]) -> None:
    """A line for each way. `times`: seconds of each round."""
    for name, found in times.items():
        took_s = statistics.median(found)
        shown = f"{BLOCK * 8 / took_s / 1e9:.3g} Gbit/s" if what == "throughput" else f"{took_s * 1e6:.3g} us"
        ratios = []
        for floor in (BRIDGE, HOPS):
            # More is better of the one, less of the other.
            each = [
                ours / bare if what == "latency" else bare / ours
                for ours, bare in zip(found, times[floor], strict=True)
            ]
            ratio = took_s / statistics.median(times[floor])
            low, _, high = statistics.quantiles(each, n=4)
            ratios.append(f"{ratio if what == 'latency' else 1 / ratio:.2f} to {floor} [{low:.2f}-{high:.2f}]")
        print(
            f"network {what}, {name}: {shown} (ratio {', '.join(ratios if name not in (BRIDGE, HOPS) else ratios[:1])})"
        )


def endpoints(runs: int) -> None:
    with bare() as floor:
        for count in SERVICES:
            command = inside(floor.pod, "bench._endpoints", str(count), str(max(runs, 5)))
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
            whole, kernel, alone, ratio = (float(word) for word in done.stdout.split())
            what = f"a bare nft, {alone:.3g} ms; nft's part {kernel:.3g} ms"
            closing(f"network endpoint, {count:,} Services", whole, "ms", whole / ratio, what)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def names(cluster: LocalCluster, duration_s: float, runs: int) -> None:
    client, _ = pod_netns(cluster, "client")
    arguments = ("10.96.0.10", "53", "to-near.default.svc.cluster.local", str(duration_s))
    node = cluster.description.node(1).netns_path
    address = cluster.description.node(1).address
    rates, ratios = [], []
    with server(node, "echo", address, "9101"):
        bare_arguments = (address, "9101", *arguments[2:])
        for _ in range(runs):
            rates.append(figure(client, "bench._traffic", "dns", *arguments))
            ratios.append(rates[-1] / figure(client, "bench._traffic", "dns", *bare_arguments))
    ours, ratio = statistics.median(rates), statistics.median(ratios)
    closing("network dns", ours, "answers/s", ours / ratio, f"a Python echo, {ours / ratio:,.0f}/s")


async def first_answers(cluster: LocalCluster, runs: int) -> None:
    netns, _ = pod_netns(cluster, "client")
    near, _ = pod_netns(cluster, "near")
    times, creations = [], []
    connected = cluster.client()
    try:
        with server(near, "serve", PORT):
            for number in range(runs):
                began = time.monotonic()
                made = await connected.create(service(f"first-{number}", "near"))
                creations.append(time.monotonic() - began)
                command = inside(netns, "bench._traffic", "connect", made.spec.cluster_ip, "80", "30")
                process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=HERE)
                told, _ = await process.communicate()
                times.append(float(told) - began)
    finally:
        await connected.close()
    floor = statistics.median(creations)
    closing("network first answer", statistics.median(times), "s", floor, f"the creation alone, {floor:.3g} s")


def compose_ready(runs: int) -> None:
    """On a Docker daemon of its own, whose containers, volumes and networks are made anew every time."""
    dockerd = Dockerd("--bridge", "none")
    times: list[float] = []
    floors: list[float] = []
    try:
        dockerd.start()
        dockerd.build_images()
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                for found, extra in ((floors, IDLE), (times, "")):
                    cluster = ComposeCluster(dockerd, Path(folder) / "cluster", extra=extra)
                    try:
                        found.append(seconds(cluster.containers_up if extra else cluster.up))
                    finally:
                        cluster.down()
    finally:
        dockerd.stop()
    floor = statistics.median(floors)
    closing(
        "network compose", statistics.median(times), "s to all nodes Ready", floor, f"containers alone, {floor:.3g} s"
    )


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench network", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=400, help="of throughput and latency; the medians count")
    parser.add_argument(
        "--congestion", default="", metavar="NAME", help="control of congestion, say reno; the machine's own by default"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement of DNS")
    parser.add_argument("--runs", type=int, default=5, help="of each other measurement; the median counts")
    parser.add_argument("--no-compose", action="store_true", help="without the compose cluster")
    parser.add_argument("--only-compose", action="store_true", help="nothing but the compose cluster")
    arguments = parser.parse_args(argv)
    load, _, _ = os.getloadavg()
    if not arguments.only_compose:
        pod_network(arguments)
    if not arguments.no_compose:
        compose_ready(min(arguments.runs, 3))
    print(f"load average before: {load:.1f}")


def pod_network(arguments: argparse.Namespace) -> None:
    rounds, duration_s, runs = arguments.rounds, arguments.seconds, arguments.runs
    cluster = LocalCluster(2, "b")
    try:
        cluster.up()
        for name, node in (("client", "node-1"), ("near", "node-1"), ("far", "node-2")):
            cluster.apply(pod_manifest(name, node))
        until(lambda: all(is_ready(cluster.json("pod", name)) for name in ("client", "near", "far")))
        used = arguments.congestion or Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
        print(f"control of congestion: {used}")
        ways(cluster, rounds, arguments.congestion)
        names(cluster, duration_s, runs)
        asyncio.run(first_answers(cluster, max(runs, 5)))
    finally:
        cluster.down()
    endpoints(runs)
