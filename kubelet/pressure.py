"""Measures memory and disk, says so in the node's conditions and events, and evicts pods while they are short.

Deciding is in `kubelet.eviction` (pure). One step of `kubelet.housekeeping`'s rounds.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kubelet import eviction
from kubelet.eviction import Candidate, Measure, Threshold, Usage
from kubelet.node import NodeReport
from kubelet.pods.worker import PodWorker
from kubelet.runtime.base import Runtime
from kubelet.volumes.directories import used_bytes
from kubelet.volumes.manager import VolumeManager
from wherry.client.events import NORMAL, WARNING

log = logging.getLogger(__name__)

EVICTION_GRACE_S = 1.0
# Of the events that tell of a condition, in the kubelet's words: true, false.
_MEMORY_REASONS = ("NodeHasInsufficientMemory", "NodeHasSufficientMemory")
_DISK_REASONS = ("NodeHasDiskPressure", "NodeHasNoDiskPressure")


class MemoryUse(Protocol):
    def memory_working_set_bytes(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """`divided`: this node has only a part of the machine, so what its pods use counts, not what the machine has left."""

    hard: Sequence[Threshold] = ()
    transition_s: float = eviction.PRESSURE_TRANSITION_S
    divided: bool = False


@dataclass(slots=True)
class Pressure:
    runtime: Runtime
    report: NodeReport
    root: Path
    workers: Callable[[], Sequence[PodWorker]]
    volumes: VolumeManager | None
    cgroups: MemoryUse | None
    limits: Limits
    free_images: Callable[[], Awaitable[bool]]
    changed: Callable[[], None]  # the node's status has to be sent
    tell: Callable[[str, str, str], None]  # an event of the node: type, reason, message
    short: bool = False  # at the last look
    _pressed: dict[str, float] = field(default_factory=dict)  # condition -> when it was last true

    async def relieve(self) -> None:
        """Measures, and takes one step against what is short."""
        measured = self._measure(await self._image_fs())
        short = eviction.met(self.limits.hard, measured)
        if short and not self.short:
            for resource in sorted({eviction.resource_of(threshold) for threshold in short}):
                self.tell(WARNING, "EvictionThresholdMet", f"Attempting to reclaim {resource}")
        self.short = bool(short)
        self._report([eviction.condition_of(threshold) for threshold in short])
        if not short:
            return
        disk = any(eviction.condition_of(threshold) == eviction.DISK_PRESSURE for threshold in short)
        if disk and await self.free_images():
            return
        if any(worker.memory.ended is not None and worker.observed.alive() for worker in self.workers()):
            return  # one at a time: what was evicted has yet to let go of its memory
        chosen = eviction.choose(short, measured, await self._candidates(disk))
        if chosen is None:
            return
        candidate, message = chosen
        for worker in self.workers():
            if worker.pod.metadata.uid == candidate.pod.metadata.uid:
                log.warning(
                    "evicting %s/%s: %s", candidate.pod.metadata.namespace, candidate.pod.metadata.name, message
                )
                worker.evict(message, EVICTION_GRACE_S)

    def _report(self, now_true: Sequence[str]) -> None:
        now = asyncio.get_running_loop().time()
        self._pressed.update(dict.fromkeys(now_true, now))
        recent = {name for name, at in self._pressed.items() if now == at or now - at < self.limits.transition_s}
        shown = (eviction.MEMORY_PRESSURE in recent, eviction.DISK_PRESSURE in recent)
        before = (self.report.pressure.memory, self.report.pressure.disk)
        if shown == before:
            return
        self.report.pressure.memory, self.report.pressure.disk = shown
        self.changed()
        for is_now, was, (yes, no) in zip(shown, before, (_MEMORY_REASONS, _DISK_REASONS), strict=True):
            if is_now != was:
                self.tell(
                    NORMAL, yes if is_now else no, f"Node {self.report.name} status is now: {yes if is_now else no}"
                )

    async def _image_fs(self) -> str:
        if not any(threshold.signal.startswith("imagefs") for threshold in self.limits.hard):
            return ""
        mount_point, _ = await self.runtime.image_fs_bytes()
        return mount_point

    def _measure(self, image_fs: str) -> dict[str, Measure]:
        found = _file_system(str(self.root), eviction.NODEFS, eviction.NODEFS_INODES)
        # Where images lie on the node's own file system there is one signal for both, with the node's threshold.
        if image_fs and not _same_file_system(image_fs, str(self.root)):
            found |= _file_system(image_fs, eviction.IMAGEFS, eviction.IMAGEFS_INODES)
        memory = self._memory_available()
        if memory is not None:
            found[eviction.MEMORY] = Measure(memory, self.report.memory_bytes)
        return found

    def _memory_available(self) -> int | None:
        available = _meminfo().get("MemAvailable")
        if self.limits.divided and self.cgroups is not None:
            used = self.cgroups.memory_working_set_bytes()
            own = None if used is None else max(self.report.memory_bytes - used, 0)
            return own if available is None else available if own is None else min(own, available)
        return available

    async def _candidates(self, disk: bool) -> list[Candidate]:
        used: dict[str, dict[str, Usage]] = {}
        owners = {c.id: worker.pod.metadata.uid for worker in self.workers() for c in worker.observed.containers}
        for stats in await self.runtime.stats():
            uid = owners.get(stats.container_id)
            if uid is not None:
                used.setdefault(uid, {})[stats.name] = Usage(stats.memory_working_set_bytes, stats.writable_layer_bytes)
        found = []
        for worker in self.workers():
            if worker.memory.ended is None:
                local = await asyncio.to_thread(self._local_bytes, worker) if disk else 0
                found.append(Candidate(worker.pod, used.get(worker.pod.metadata.uid, {}), local))
        return found

    def _local_bytes(self, worker: PodWorker) -> int:
        """Blocking."""
        volumes = self.volumes.disk_bytes(worker.pod) if self.volumes is not None else 0
        logs = {os.path.dirname(c.log_path) for c in worker.observed.containers if c.log_path}
        return volumes + sum(used_bytes(Path(folder)) for folder in sorted(logs))


def _file_system(path: str, space: str, inodes: str) -> dict[str, Measure]:
    try:
        disk = os.statvfs(path)
    except OSError:
        return {}
    found = {space: Measure(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)}
    if disk.f_files:  # some file systems have no fixed number of them
        found[inodes] = Measure(disk.f_favail, disk.f_files)
    return found


def _same_file_system(one: str, other: str) -> bool:
    try:
        return os.stat(one).st_dev == os.stat(other).st_dev
    except OSError:
        return True


def _meminfo() -> Mapping[str, int]:
    """In bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}
