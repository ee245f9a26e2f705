"""`python -m bench scheduler`: how fast the engine places pods in memory, against a bare argmax loop.

The figure is for one class without inter-pod terms (500m, 1Gi) on 5,000 equal nodes; unequal nodes, used to different
degrees, and mixed classes are shown beside it. Parsing the pods is timed apart, since it happens once per pod as it comes
in. The floor takes the best of 5,000 numbers and lowers it, pod after pod: what a loop over numpy can do that scores
nothing.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.scheduler import cycle
from controlplane.scheduler.classes import Classes
from controlplane.scheduler.needs import Needs, NeedsCache
from controlplane.scheduler.nodes import NodeFacts, NodeTable
from wherry.testing.builders import make_node, make_pod


@dataclass(frozen=True, slots=True)
class _Pod:
    needs: Needs
    priority: int = 0
    may_preempt: bool = True


def _table(nodes: int, mixed: bool) -> NodeTable:
    table, rng = NodeTable(nodes), random.Random(1)
    for number in range(nodes):
        cpu, memory = (16 + 16 * (number % 5), 64 + 32 * (number % 7)) if mixed else (32, 128)
        node = make_node(f"n{number:05}").cpu(cpu).memory(f"{memory}Gi").pods(250)
        node.labels({"zone": f"z{number % 3}"})
        row = table.put(f"n{number:05}", NodeFacts.of(node.build()))
        if mixed:
            # Each node is used to another degree, so that few are level with each other: the engine's hardest case.
            used = Needs(requests={"cpu": rng.randrange(8000), "memory": rng.randrange(32 << 30)})
            table.reserve(np.array([row]), used, table.request_vector(used), 0)
    return table


def _needs(kinds: int) -> list[Needs]:
    cache = NeedsCache()
    made = [make_pod("p").cpu("500m").memory("1Gi")]
    made.extend(
        make_pod("p").cpu(f"{100 + 50 * (kind % 9)}m").memory(f"{128 + 64 * kind}Mi").node_selector(zone=f"z{kind % 3}")
        for kind in range(1, kinds)
    )
    return [cache.of(pod.build()) for pod in made]


def _place(nodes: int, pods: int, kinds: int, mixed_nodes: bool) -> tuple[float, float]:
    """Pods a second, and the longest slice in seconds. Rounds of 128, as the shell takes them."""
    table, classes, needs = _table(nodes, mixed_nodes), Classes(), _needs(kinds)
    waiting = [_Pod(needs[number % kinds]) for number in range(pods)]
    placed, longest = 0, 0.0
    begin = time.perf_counter()
    for first in range(0, pods, 128):
        groups = cycle.group(waiting[first : first + 128])
        while groups:
            start = time.perf_counter()
            placed += len(cycle.schedule(table, classes, groups).placements)
            longest = max(longest, time.perf_counter() - start)
    elapsed = time.perf_counter() - begin
    if placed != pods:
        raise RuntimeError(f"placed {placed} of {pods} pods")
    return pods / elapsed, longest


def _floor(nodes: int, pods: int) -> float:
    score = np.full(nodes, 400, np.int64)
    begin = time.perf_counter()
    for _ in range(pods):
        row = score.argmax()
        score[row] -= 1
    return pods / (time.perf_counter() - begin)


def _parsing(pods: int) -> float:
    cache = NeedsCache()
    objects = [make_pod(f"p{number}").cpu("500m").memory("1Gi").build() for number in range(pods)]
    begin = time.perf_counter()
    for pod in objects:
        cache.of(pod)
    return pods / (time.perf_counter() - begin)


def _median(measure: Callable[[], float]) -> float:
    return sorted(measure() for _ in range(3))[1]


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench scheduler", description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=100_000)
    options = parser.parse_args(argv)
    nodes, pods = options.nodes, options.pods
    floor = _median(lambda: _floor(nodes, pods // 2))
    for title, kinds, mixed in (
        ("one class, unequal nodes", 1, True),
        ("20 classes, equal nodes", 20, False),
        ("20 classes, unequal nodes", 20, True),
    ):
        rate, longest = _place(nodes, pods // 4, kinds, mixed)
        print(f"{title}: {rate:,.0f} pods/s, longest slice {longest * 1000:.1f} ms")
    print(f"parsing what pods need: {_parsing(20_000):,.0f} pods/s")
    print(f"floor, a bare argmax loop over {nodes} nodes: {floor:,.0f} pods/s")
    results = sorted(_place(nodes, pods, 1, False) for _ in range(3))
    figure, longest = results[1]
    print(f"one class, equal nodes: longest slice {longest * 1000:.1f} ms")
    print(f"scheduler: {figure:.0f} pods/s (ratio {figure / floor:.2f} to {floor:.0f} pods/s of a bare argmax loop)")
