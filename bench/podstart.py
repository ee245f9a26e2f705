"""Starting pods: from `apply` of a Deployment to all of its pods Running.

    python -m bench podstart [--replicas 1,10,30] [--runs N] [--cluster NAME]

A real cluster of one node: both sides use one and the same containerd. Ours: from before the typed client's call until
its watch has shown all pods Running. The floor: RunPodSandbox, CreateContainer and StartContainer of the same specs, straight to
containerd's socket, at the best of 1, 4, 8 and 16 in flight. Runs of the two alternate; medians count. The last line is about the
largest number of replicas.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from functools import partial

from bench import _cluster as c
from bench._measure import closing
from wherry.client.client import Client


async def ours(client: Client, name: str, replicas: int) -> float:
    """Seconds. The Deployment stays."""
    async with c.Pods(client, name) as pods:
        started = time.perf_counter()
        await c.apply(client, c.deployment(name, replicas))
        return await pods.until(c.running(replicas)) - started


async def floor(containerd: c.Containerd, specs: c.Specs, replicas: int, in_flight: int) -> float:
    works = [partial(containerd.run, containerd.fresh(specs)) for _ in range(replicas)]
    passed, made = await c.lanes(list(works), in_flight)
    await c.lanes([partial(containerd.remove, sandbox_id) for sandbox_id, _ in made], 4)
    return passed


async def measure(client: Client, containerd: c.Containerd, replicas: int, runs: int) -> tuple[float, float]:
    """Medians: ours, and the floor's at its best number in flight."""
    mine: list[float] = []
    floors: dict[int, list[float]] = {number: [] for number in c.IN_FLIGHT if number <= max(replicas, 1)}
    for _ in range(runs):
        name = f"bench-{secrets.token_hex(3)}"
        mine.append(await ours(client, name, replicas))
        specs = await containerd.specs(name)
        async with c.Pods(client, name) as pods:
            await c.remove(client, name, pods)
        for number, figures in floors.items():
            figures.append(await floor(containerd, specs, replicas, number))
    figure = statistics.median(mine)
    medians = {number: statistics.median(figures) for number, figures in floors.items()}
    best = min(medians, key=medians.__getitem__)
    others = ", ".join(f"{number}: {seconds:.3f}" for number, seconds in medians.items())
    print(
        f"{replicas} replicas: {figure:.3f} s, floor {medians[best]:.3f} s at {best} in flight ({others}): "
        f"ratio {figure / medians[best]:.2f}",
        flush=True,
    )
    return figure, medians[best]


async def main(cluster_name: str, counts: list[int], runs: int) -> None:
    with c.one_node(cluster_name) as cluster:
        client = cluster.client()
        try:
            async with c.containerd(cluster) as containerd:
                await measure_warm(client)
                for replicas in counts:
                    figure, bare = await measure(client, containerd, replicas, runs)
        finally:
            await client.close()
    closing("podstart", figure, "s", bare, f"bare CRI calls, {bare:.3f} s, for {counts[-1]} replicas")


async def measure_warm(client: Client) -> None:
    """One pod outside of the count: the kernel's caches, containerd's first unpacking."""
    name = f"warm-{secrets.token_hex(3)}"
    await ours(client, name, 1)
    async with c.Pods(client, name) as pods:
        await c.remove(client, name, pods)


def run(argv: list[str]) -> None:
    parser = c.parser("podstart", __doc__)
    parser.add_argument("--replicas", default="1,10,30", metavar="N,...")
    arguments = parser.parse_args(argv)
    counts = [int(number) for number in arguments.replicas.split(",")]
    asyncio.run(main(arguments.cluster, counts, arguments.runs))
