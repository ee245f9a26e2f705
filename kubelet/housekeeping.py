"""What the agent does now and then: eviction under pressure, image and log upkeep, refresh of volumes, emptyDir limits.

Deciding is in `eviction` and `imagegc` (pure); this module measures and acts. One task of `kubelet.agent`; a failed round is
logged and the next one tries again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubelet import eviction, imagegc
from kubelet.node import NodeReport
from kubelet.pods.worker import PodWorker
from kubelet.runtime.base import ContainerState, Image, Runtime, RuntimeFailure
from kubelet.volumes.manager import VolumeManager
from wherry.api import quantity
from wherry.api.context import Env

log = logging.getLogger(__name__)

ROUND_S = 10.0
SLOW_ROUND_S = 60.0  # volumes, emptyDir limits
IMAGE_ROUND_S = 300.0
LOG_LIMIT_BYTES = 10 << 20
LOG_FILES = 5
EVICTION_GRACE_S = 1.0


class MemoryUse(Protocol):
    def memory_working_set_bytes(self) -> int | None: ...


@dataclass(slots=True)
class Housekeeping:
    """`divided`: this node has only a part of the machine, so what its pods use counts, not what the machine has left."""

    env: Env
    runtime: Runtime
    report: NodeReport
    root: Path
    workers: Callable[[], Sequence[PodWorker]]
    volumes: VolumeManager | None
    cgroups: MemoryUse | None
    divided: bool
    changed: Callable[[], None]  # the node's status has to be sent

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        next_slow, next_images = loop.time() + SLOW_ROUND_S, loop.time() + SLOW_ROUND_S
        last_used: dict[str, float] = {}
        pressed: dict[str, float] = {}
        while True:
            await asyncio.sleep(ROUND_S)
            try:
                await self._evict(pressed)
                await self._rotate_logs()
                if loop.time() >= next_slow:
                    next_slow = loop.time() + SLOW_ROUND_S * (0.9 + 0.2 * self.env.rng.random())
                    for worker in self.workers():
                        worker.refresh_volumes()
                    await self._check_empty_dirs()
                if loop.time() >= next_images:
                    next_images = loop.time() + IMAGE_ROUND_S
                    await self._collect_images(last_used)
            except (RuntimeFailure, OSError) as error:
                log.warning("housekeeping: %s", error)

    # -- eviction

    async def _evict(self, pressed: dict[str, float]) -> None:
        signals = self._measure()
        now = asyncio.get_running_loop().time()
        for name, short in (("memory", signals.memory_short), ("disk", signals.disk_short)):
            if short:
                pressed[name] = now
        before = (self.report.pressure.memory, self.report.pressure.disk)
        recent = {name for name, at in pressed.items() if now - at < eviction.PRESSURE_TRANSITION_S}
        self.report.pressure.memory, self.report.pressure.disk = "memory" in recent, "disk" in recent
        if before != (self.report.pressure.memory, self.report.pressure.disk):
            self.changed()
        if not (signals.memory_short or signals.disk_short):
            return
        if signals.disk_short and await self._free_disk():
            return
        if any(worker.memory.ended is not None and worker.observed.alive() for worker in self.workers()):
            return  # one at a time: what was evicted has yet to let go of its memory
        chosen = eviction.choose(signals, await self._candidates())
        if chosen is None:
            return
        candidate, message = chosen
        for worker in self.workers():
            if worker.pod.metadata.uid == candidate.pod.metadata.uid:
                log.warning(
                    "evicting %s/%s: %s", candidate.pod.metadata.namespace, candidate.pod.metadata.name, message
                )
                worker.evict(message, EVICTION_GRACE_S)

    def _measure(self) -> eviction.Signals:
        disk = os.statvfs(self.root)
        return eviction.Signals(self._memory_available(), disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)

    def _memory_available(self) -> int | None:
        available = _meminfo().get("MemAvailable")
        if self.divided and self.cgroups is not None:
            used = self.cgroups.memory_working_set_bytes()
            own = None if used is None else max(self.report.memory_bytes - used, 0)
            return own if available is None else available if own is None else min(own, available)
        return available

    async def _candidates(self) -> list[eviction.Candidate]:
        memory: dict[str, int] = {}
        disk: dict[str, int] = {}
        texts: dict[str, list[str]] = {}
        owners = {c.id: worker for worker in self.workers() for c in worker.observed.containers}
        for stats in await self.runtime.stats():
            worker = owners.get(stats.container_id)
            if worker is None:
                continue
            uid = worker.pod.metadata.uid
            memory[uid] = memory.get(uid, 0) + stats.memory_working_set_bytes
            disk[uid] = disk.get(uid, 0) + stats.writable_layer_bytes
            request = next(
                (c.resources.requests.get("memory") for c in worker.pod.spec.containers if c.name == stats.name), None
            )
            used = quantity.from_bytes(stats.memory_working_set_bytes // 1024 * 1024)
            texts.setdefault(uid, []).append(
                f"Container {stats.name} was using {used}, request is {request.string if request is not None else '0'}, "
                "has larger consumption of memory"
            )
        return [
            eviction.Candidate(worker.pod, memory.get(uid, 0), disk.get(uid, 0), ". ".join(texts.get(uid, [])))
            for worker in self.workers()
            for uid in [worker.pod.metadata.uid]
            if worker.memory.ended is None
        ]

    async def _check_empty_dirs(self) -> None:
        if self.volumes is None:
            return
        for worker in self.workers():
            if worker.memory.ended is None and eviction.evictable(worker.pod):
                message = await asyncio.to_thread(self.volumes.over_limit, worker.pod)
                if message:
                    worker.evict(message, EVICTION_GRACE_S)

    # -- images

    async def _collect_images(self, last_used: dict[str, float]) -> None:
        images = await self.runtime.list_images()
        if list(images) != list(self.report.images):
            self.report.images = images
            self.changed()
        now = asyncio.get_running_loop().time()
        used = self._used_images(images)
        for image in images:
            if image.id in used or image.id not in last_used:
                last_used[image.id] = now
        for gone in [known for known in last_used if all(image.id != known for image in images)]:
            del last_used[gone]
        mount_point, _ = await self.runtime.image_fs_bytes()
        try:
            disk = os.statvfs(mount_point)
        except OSError:
            return
        wanted = imagegc.bytes_to_free(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)
        for image in imagegc.choose(imagegc.unused(images, used, last_used, now), wanted):
            log.info("removing image %s (%d bytes): the disk is filling up", image.tags or image.id, image.size_bytes)
            await self.runtime.remove_image(image.id)

    async def _free_disk(self) -> bool:
        """Under disk pressure every unused image goes before any pod does. True when that freed something."""
        images = await self.runtime.list_images()
        used = self._used_images(images)
        removed = [image for image in images if image.id not in used and not image.pinned]
        for image in removed:
            await self.runtime.remove_image(image.id)
        return bool(removed)

    def _used_images(self, images: Sequence[Image]) -> set[str]:
        references: set[str] = set()
        for worker in self.workers():
            references.update(c.image for c in [*worker.pod.spec.init_containers, *worker.pod.spec.containers])
            for container in worker.observed.containers:
                references.update((container.image, container.image_id))
        return {
            image.id
            for image in images
            if references & {image.id, *image.tags, *image.digests, *(_short(tag) for tag in image.tags)}
        }

    # -- logs

    async def _rotate_logs(self) -> None:
        for worker in self.workers():
            for container in worker.observed.containers:
                if container.state is ContainerState.RUNNING and container.log_path:
                    await rotate(self.runtime, container.id, Path(container.log_path))


def _short(tag: str) -> str:
    """docker.io/library/x:1 is also called x:1."""
    return tag.removeprefix("docker.io/").removeprefix("library/")


async def rotate(
    runtime: Runtime, container_id: str, path: Path, *, limit_bytes: int = LOG_LIMIT_BYTES, files: int = LOG_FILES
) -> bool:
    """0.log becomes 0.log.1, that one 0.log.2 and so on. Killed after the renames, the runtime writes on into 0.log.1
    until the next round asks it again to reopen."""
    if not _shift(path, limit_bytes, files):
        return False
    await runtime.reopen_log(container_id)
    return True


def _shift(path: Path, limit_bytes: int, files: int) -> bool:
    """Renames; False when there is nothing to reopen."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        if not path.with_name(path.name + ".1").exists():
            return False
        size = limit_bytes
    if size < limit_bytes:
        return False
    if path.exists():
        for number in range(files - 1, 0, -1):
            old = path.with_name(f"{path.name}.{number}")
            if number == files - 1:
                old.unlink(missing_ok=True)
            elif old.exists():
                old.rename(path.with_name(f"{path.name}.{number + 1}"))
        path.rename(path.with_name(path.name + ".1"))
    return True


def _meminfo() -> dict[str, int]:
    """In bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}
