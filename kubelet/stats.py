"""What the node and its containers use, taken when somebody asks: nothing is sampled while nobody does.

A rate of CPU needs two samples. The one that an earlier question left behind is the first of them when it is recent; else two are
taken a second apart. Called by `kubelet.streams.sessions` for sessions of kind STATS. `figures` is pure; `StatsKeeper` does the
I/O around it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kubelet.pods.worker import PodWorker
from kubelet.runtime.base import ContainerState, Runtime
from wherry.api.context import Env
from wherry.pb import nodelink_pb2

SHARED_S = 1.0  # questions this close together get one answer
WINDOW_S = 1.0  # between two samples that are taken for one question
WINDOW_GOAL_S = 10.0  # from then on a sample is old enough to make place for the next
RECENT_S = 60.0  # an older one says nothing about now


@dataclass(frozen=True, slots=True)
class Usage:
    """One reading. CPU is cumulative."""

    time: float
    cpu_ns: int
    memory_working_set_bytes: int
    memory_usage_bytes: int
    memory_available_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Container:
    """A running container of a pod of ours."""

    namespace: str
    pod: str
    uid: str
    name: str
    started_at: float
    usage: Usage
    writable_layer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """All of the node at one moment (`taken`, by the loop's clock)."""

    taken: float
    node: Usage | None
    containers: Mapping[str, Container] = field(default_factory=dict)  # by container id


class NodeUsage(Protocol):
    def read(self, now: float) -> Usage | None: ...


def figures(new: Sample, old: Sample | None) -> nodelink_pb2.NodeFigures:
    """The rates between two samples. A container that the older one does not have is judged from its own start."""
    out = nodelink_pb2.NodeFigures()
    total = 0
    for container_id in sorted(new.containers):
        container = new.containers[container_id]
        before = old.containers.get(container_id) if old is not None else None
        since, cpu_ns = (before.usage.time, before.usage.cpu_ns) if before is not None else (container.started_at, 0)
        added = out.containers.add(
            namespace=container.namespace, pod=container.pod, uid=container.uid, name=container.name,
            started_at=container.started_at, writable_layer_bytes=container.writable_layer_bytes,
        )  # fmt: skip
        _fill(added.figures, container.usage, since, cpu_ns)
        total += added.figures.cpu_nano_cores
    if new.node is not None:
        before_node = old.node if old is not None else None
        since, cpu_ns = (before_node.time, before_node.cpu_ns) if before_node is not None else (new.node.time, 0)
        _fill(out.node, new.node, since, cpu_ns)
    else:  # a hollow node uses what its containers do
        node, parts = out.node, [item.figures for item in out.containers]
        node.time = max((part.time for part in parts), default=0.0)
        node.window_s = max((part.window_s for part in parts), default=0.0)
        node.cpu_nano_cores = total
        node.cpu_usage_core_ns = sum(part.cpu_usage_core_ns for part in parts)
        node.memory_working_set_bytes = sum(part.memory_working_set_bytes for part in parts)
        node.memory_usage_bytes = sum(part.memory_usage_bytes for part in parts)
    return out


def _fill(target: nodelink_pb2.Figures, usage: Usage, since: float, cpu_ns: int) -> None:
    window = max(usage.time - since, 0.0)
    target.time, target.window_s = usage.time, window
    target.cpu_usage_core_ns = usage.cpu_ns
    if window > 0 and usage.cpu_ns >= cpu_ns:  # a counter that went back was started anew
        target.cpu_nano_cores = int((usage.cpu_ns - cpu_ns) / window)
    target.memory_working_set_bytes = usage.memory_working_set_bytes
    target.memory_usage_bytes = usage.memory_usage_bytes
    target.memory_available_bytes = usage.memory_available_bytes


class StatsKeeper:
    """Invariant: `_base` is the older sample of the last answer, or none."""

    def __init__(
        self,
        env: Env,
        runtime: Runtime,
        workers: Callable[[], Sequence[PodWorker]],
        node: NodeUsage | None,
        root: Path | None,
    ) -> None:
        self._env, self._runtime, self._workers, self._node, self._root = env, runtime, workers, node, root
        self._started_at = env.now()
        self._base: Sample | None = None
        self._last: tuple[float, nodelink_pb2.NodeFigures] | None = None
        self._busy = asyncio.Lock()

    async def collect(self) -> nodelink_pb2.NodeFigures:
        """Raises RuntimeFailure."""
        async with self._busy:
            now = asyncio.get_running_loop().time()
            if self._last is not None and now - self._last[0] < SHARED_S:
                return self._last[1]
            if self._base is None or now - self._base.taken > RECENT_S:
                self._base = await self._sample()
                await asyncio.sleep(WINDOW_S)
            new = await self._sample()
            answer = figures(new, self._base)
            answer.started_at = self._started_at
            if self._root is not None:
                disk = os.statvfs(self._root)
                answer.fs_capacity_bytes = disk.f_blocks * disk.f_frsize
                answer.fs_available_bytes = disk.f_bavail * disk.f_frsize
            if new.taken - self._base.taken >= WINDOW_GOAL_S:
                self._base = new
            self._last = (new.taken, answer)
            return answer

    async def _sample(self) -> Sample:
        owners = {c.id: (worker.pod, c) for worker in self._workers() for c in worker.observed.containers}
        found = {}
        for stats in await self._runtime.stats():
            pod, status = owners.get(stats.container_id, (None, None))
            if pod is None or status is None or status.state is not ContainerState.RUNNING:
                continue
            usage = Usage(
                stats.timestamp, stats.cpu_usage_core_ns, stats.memory_working_set_bytes, stats.memory_usage_bytes
            )
            found[stats.container_id] = Container(
                pod.metadata.namespace, pod.metadata.name, pod.metadata.uid, status.name, status.started_at, usage,
                stats.writable_layer_bytes,
            )  # fmt: skip
        node = self._node.read(self._env.now()) if self._node is not None else None
        return Sample(asyncio.get_running_loop().time(), node, found)


class MachineUsage:
    """Of a node that has the machine to itself."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def read(self, now: float) -> Usage | None:
        try:
            ticks = [int(word) for word in (self._proc / "stat").read_text().splitlines()[0].split()[1:9]]
            memory = {
                name: int(rest.split()[0]) * 1024
                for name, _, rest in (line.partition(":") for line in (self._proc / "meminfo").read_text().splitlines())
            }
            total, available = memory["MemTotal"], memory["MemAvailable"]
        except (OSError, ValueError, KeyError, IndexError):
            return None
        user, nice, system, _, _, irq, softirq, steal = ticks
        busy = user + nice + system + irq + softirq + steal
        return Usage(now, busy * self._tick_ns, total - available, total - memory.get("MemFree", 0), available)
