"""What the agent does now and then: eviction under pressure, image and log upkeep, refresh of volumes, emptyDir limits.

Deciding is in `eviction` and `imagegc` (pure), eviction in `pressure`; this module keeps the rounds and acts. One task of
`kubelet.agent`; a failed step is logged and the next round takes it again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kubelet import eviction, imagegc
from kubelet.cgroups import PodCgroups
from kubelet.node import NodeReport
from kubelet.pods.worker import PodWorker
from kubelet.pressure import EVICTION_GRACE_S, Limits, Pressure
from kubelet.runtime.archives import PAUSE_IMAGE
from kubelet.runtime.base import ContainerState, Image, Runtime, RuntimeFailure
from kubelet.volumes.manager import VolumeManager
from wherry.api.context import Env

log = logging.getLogger(__name__)

ROUND_S = 10.0
PRESSED_ROUND_S = 2.0  # while something is short: the next pod may have to go
SLOW_ROUND_S = 60.0  # volumes, emptyDir limits
IMAGE_ROUND_S = 300.0
LOG_LIMIT_BYTES = 10 << 20
LOG_FILES = 5


@dataclass(slots=True)
class Housekeeping:
    env: Env
    runtime: Runtime
    report: NodeReport
    root: Path
    workers: Callable[[], Sequence[PodWorker]]
    volumes: VolumeManager | None
    cgroups: PodCgroups | None
    limits: Limits
    images: imagegc.Thresholds
    tell: Callable[[str, str, str], None]  # an event of the node: type, reason, message
    changed: Callable[[], None]  # the node's status has to be sent

    async def run(self) -> None:
        pressure = Pressure(
            self.runtime, self.report, self.root, self.workers, self.volumes, self.cgroups, self.limits, self._free_disk,
            self.changed, self.tell,
        )  # fmt: skip
        last_used: dict[str, float] = {}
        loop = asyncio.get_running_loop()
        # The first round tells the control plane which images are here.
        next_slow, next_images = loop.time() + SLOW_ROUND_S, loop.time()
        while True:
            await asyncio.sleep(PRESSED_ROUND_S if pressure.short else ROUND_S)
            await self._step(pressure.relieve)
            await self._step(self._weigh)
            await self._step(self._rotate_logs)
            if loop.time() >= next_slow:
                next_slow = loop.time() + SLOW_ROUND_S * (0.9 + 0.2 * self.env.rng.random())
                await self._step(self._refresh_volumes)
                await self._step(self._check_empty_dirs)
            if loop.time() >= next_images:
                next_images = loop.time() + IMAGE_ROUND_S
                await self._step(partial(self._collect_images, last_used))

    async def _step(self, work: Callable[[], Awaitable[None]]) -> None:
        """One that fails, whatever the reason, keeps none of the others from being taken."""
        try:
            await work()
        except (RuntimeFailure, OSError) as error:
            log.warning("housekeeping: %s", error)
        except Exception:
            log.exception("housekeeping: a step failed; the next round takes it again")

    async def _weigh(self) -> None:
        if self.cgroups is not None:
            self.cgroups.weigh([worker.pod for worker in self.workers() if worker.memory.ended is None])

    async def _refresh_volumes(self) -> None:
        for worker in self.workers():
            worker.refresh_volumes()

    # -- emptyDirs

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
        wanted = imagegc.bytes_to_free(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize, self.images)
        unused = imagegc.unused(images, used, last_used, now, self.images.min_age_s)
        chosen = imagegc.choose(unused, wanted)
        found = sum(image.size_bytes for image in chosen)
        if found < wanted:
            self.tell(
                "Warning", "FreeDiskSpaceFailed",
                f"Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found "
                f"{found} bytes eligible to free.",
            )  # fmt: skip
        for image in chosen:
            log.info("removing image %s (%d bytes): the disk is filling up", image.tags or image.id, image.size_bytes)
            await self._remove_image(image)

    async def _free_disk(self) -> bool:
        """Under disk pressure every unused image goes before any pod does. True when that freed something."""
        images = await self.runtime.list_images()
        used = self._used_images(images)
        unused = [image for image in images if image.id not in used and not image.pinned]
        return any([await self._remove_image(image) for image in unused])

    async def _remove_image(self, image: Image) -> bool:
        """One that cannot be removed keeps none of the others."""
        try:
            await self.runtime.remove_image(image.id)
        except RuntimeFailure as error:
            log.warning("image %s is not removed: %s", image.tags or image.id, error.message)
            return False
        return True

    def _used_images(self, images: Sequence[Image]) -> set[str]:
        # Without the sandboxes' own image, which is on no registry, no pod would start again.
        references = {PAUSE_IMAGE}
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
