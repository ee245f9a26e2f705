"""Recovery: from the kill of a container's process to a container of the same pod that runs again.

    python -m bench recovery [--pods N] [--runs N] [--cluster NAME]

A real cluster of one node. In each run N fresh pods lose their first process to SIGKILL, one after the other; the time ends when
the typed client's watch shows the container running with a restart count of one. (A container that dies again soon waits for its
back-off, so every pod is used once.) The floor: CreateContainer and StartContainer of the same spec in a living sandbox, straight
to the same containerd, alternating with ours. Medians.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import statistics
import time
from collections.abc import Callable, Mapping

from bench import _cluster as c
from bench._measure import closing
from wherry.client.client import Client
from wherry.pb import core_v1_pb2


def restarted(name: str) -> Callable[[Mapping[str, core_v1_pb2.Pod]], bool]:
    def check(pods: Mapping[str, core_v1_pb2.Pod]) -> bool:
        statuses = pods[name].status.container_statuses
        return any(status.restart_count == 1 and status.state.HasField("running") for status in statuses)

    return check


async def one_run(client: Client, containerd: c.Containerd, count: int) -> tuple[list[float], list[float]]:
    """Seconds of every recovery, and of every floor beside it."""
    app = f"bench-{secrets.token_hex(3)}"
    mine: list[float] = []
    floors: list[float] = []
    async with c.Pods(client, app) as pods:
        await c.apply(client, c.deployment(app, count))
        await pods.until(c.running(count))
        specs = containerd.fresh(await containerd.specs(app))
        sandbox_id = await containerd.run_sandbox(specs)
        await containerd.start(sandbox_id, specs)
        for number, (own_sandbox, container_id) in enumerate(await containerd.containers(app)):
            sandbox_info, container_info = await containerd.info(own_sandbox, container_id)
            name = sandbox_info["config"]["metadata"]["name"]
            started = time.perf_counter()
            os.kill(int(container_info["pid"]), signal.SIGKILL)
            mine.append(await pods.until(restarted(name)) - started)
            specs.container.metadata.attempt = number + 1
            started = time.perf_counter()
            await containerd.start(sandbox_id, specs)
            floors.append(time.perf_counter() - started)
        await containerd.remove(sandbox_id)
        await c.remove(client, app, pods)
    return mine, floors


async def main(cluster_name: str, count: int, runs: int) -> None:
    mine: list[float] = []
    floors: list[float] = []
    with c.one_node(cluster_name) as cluster:
        client = cluster.client()
        try:
            async with c.containerd(cluster) as containerd:
                for _ in range(runs):
                    ours, bare = await one_run(client, containerd, count)
                    mine += ours
                    floors += bare
        finally:
            await client.close()
    figure, floor = statistics.median(mine), statistics.median(floors)
    print(
        f"{len(mine)} kills: median {figure:.3f} s, worst {max(mine):.3f} s; floor: median {floor:.3f} s, worst "
        f"{max(floors):.3f} s; above it {figure - floor:.3f} s"
    )
    closing("recovery", figure, "s", floor, f"bare CreateContainer and StartContainer, {floor:.3f} s")


def run(argv: list[str]) -> None:
    parser = c.parser("recovery", __doc__)
    parser.add_argument("--pods", type=int, default=5, metavar="N")
    arguments = parser.parse_args(argv)
    asyncio.run(main(arguments.cluster, arguments.pods, arguments.runs))
