"""Deletion: from the delete of a Deployment to the end of every process of its pods.

    python -m bench deletion [--replicas N] [--runs N] [--cluster NAME]

A real cluster of one node. The processes are the containers' and the sandboxes' own first ones; each is followed through a pidfd.
The containers end at once when they are told to. Kubernetes takes 3.6 to 4.0 s for 30, Docker Swarm 1.6 s. The issue fixes no
floor here; the ratio is to StopContainer and StopPodSandbox of as many pods of the same specs, straight to the same containerd,
until their processes are gone, at the best of 1, 4, 8 and 16 in flight. Medians.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import time
from functools import partial

from bench import _cluster as c
from bench._measure import closing
from wherry.client.base import DeleteOptions
from wherry.client.client import Client
from wherry.pb import apps_v1_pb2


class Processes:
    """Opened before the measurement, so that no number can be mistaken."""

    def __init__(self, pids: list[int]) -> None:
        self._fds = [os.pidfd_open(pid) for pid in pids]

    async def all_gone(self) -> float:
        """The moment at which the last one had ended."""
        loop = asyncio.get_running_loop()
        ended = [asyncio.Event() for _ in self._fds]
        try:
            for fd, event in zip(self._fds, ended, strict=True):
                loop.add_reader(fd, event.set)
            async with asyncio.timeout(c.TIMEOUT_S):
                for event in ended:
                    await event.wait()
            return time.perf_counter()
        finally:
            for fd in self._fds:
                loop.remove_reader(fd)
                os.close(fd)


async def processes(containerd: c.Containerd, pods: list[tuple[str, str]]) -> Processes:
    infos = [info for sandbox, container in pods for info in await containerd.info(sandbox, container)]
    return Processes([int(info["pid"]) for info in infos])


async def ours(client: Client, containerd: c.Containerd, replicas: int) -> tuple[float, c.Specs]:
    app = f"bench-{secrets.token_hex(3)}"
    async with c.Pods(client, app) as pods:
        await c.apply(client, c.deployment(app, replicas))
        await pods.until(c.running(replicas))
        specs = await containerd.specs(app)
        followed = await processes(containerd, await containerd.containers(app))
        started = time.perf_counter()
        await client.delete(apps_v1_pb2.Deployment, app, c.NAMESPACE, DeleteOptions(propagation_policy="Background"))
        passed = await followed.all_gone() - started
        await pods.until(c.gone)
        print(
            f"{replicas} replicas: processes gone after {passed:.3f} s, objects after {time.perf_counter() - started:.3f} s"
        )
    return passed, specs


async def floor(containerd: c.Containerd, specs: c.Specs, replicas: int, in_flight: int) -> float:
    _, made = await c.lanes([partial(containerd.run, containerd.fresh(specs)) for _ in range(replicas)], 4)
    followed = await processes(containerd, made)
    started = time.perf_counter()
    watching = asyncio.ensure_future(followed.all_gone())
    await c.lanes([partial(containerd.stop, *pod) for pod in made], in_flight)
    passed = await watching - started
    await c.lanes([partial(containerd.remove, sandbox_id) for sandbox_id, _ in made], 4)
    return passed


async def main(cluster_name: str, replicas: int, runs: int) -> None:
    mine: list[float] = []
    floors: dict[int, list[float]] = {number: [] for number in c.IN_FLIGHT if number <= replicas}
    with c.one_node(cluster_name) as cluster:
        client = cluster.client()
        try:
            async with c.containerd(cluster) as containerd:
                for _ in range(runs):
                    passed, specs = await ours(client, containerd, replicas)
                    mine.append(passed)
                    for number, figures in floors.items():
                        figures.append(await floor(containerd, specs, replicas, number))
        finally:
            await client.close()
    medians = {number: statistics.median(figures) for number, figures in floors.items()}
    best = min(medians, key=medians.__getitem__)
    print("floor: " + ", ".join(f"{number} in flight {seconds:.3f} s" for number, seconds in medians.items()))
    closing("deletion", statistics.median(mine), "s", medians[best], f"bare CRI calls, {medians[best]:.3f} s")


def run(argv: list[str]) -> None:
    parser = c.parser("deletion", __doc__)
    parser.add_argument("--replicas", type=int, default=30, metavar="N")
    arguments = parser.parse_args(argv)
    asyncio.run(main(arguments.cluster, arguments.replicas, arguments.runs))
