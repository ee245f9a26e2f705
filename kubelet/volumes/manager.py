"""The volume manager: `kubelet.pods.services.Volumes` for real pods. One per agent; its state is the file system.

Layout: ROOT/pods/UID/volumes/NAME, and ROOT/volumes/UID/NAME for what comes from objects of the API. Beside a containerd of our
own that is a tmpfs: Secrets and tokens do not get onto the disk, as in the kubelet, and a start does not wait for it. Preparing
twice is harmless, and is how contents are refreshed."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from kubelet.pods.details import recursive_problem
from kubelet.pods.env import Found, expand, fields_of
from kubelet.pods.resources import pod_resources
from kubelet.pods.services import ConfigError, NodeSettings, Objects, Tokens, VolumeError
from kubelet.runtime import mounts as kernel_mounts
from kubelet.runtime.base import Mount, RuntimeFailure
from kubelet.volumes import atomic, directories, payload
from wherry.api import quantity
from wherry.api.errors import APIError, NotFound
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

_PROPAGATION = {
    "": "private",
    "None": "private",
    "HostToContainer": "host-to-container",
    "Bidirectional": "bidirectional",
}


PAYLOADS = "volumes"


def keep_payloads_in_memory(root: Path) -> None:
    """Before anything is prepared, and only beside a runtime that sees our mounts. Where we may not mount, the disk has to do."""
    directory = root / PAYLOADS
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.path.ismount(directory):
        try:
            directories.mount_tmpfs(directory, mode=0o700)
        except VolumeError as error:
            log.warning("Secrets and tokens of pods are kept on disk: %s", error.message)


class VolumeManager:
    def __init__(
        self,
        root: Path,
        objects: Objects,
        node: NodeSettings,
        tokens: Tokens,
        pod_ips: Callable[[str], Sequence[str]] = lambda uid: (),
        sweep: Callable[[Path], Awaitable[None]] | None = None,
    ) -> None:
        """`pod_ips`: the addresses of a pod by uid, for the downward API. `sweep` empties a directory when we may not."""
        self._sweep = sweep
        self._tokens = tokens
        self._pods = root / "pods"
        self._memory = directories.memory_root(root)
        self._payloads = root / PAYLOADS
        self._objects = objects
        self._node = node
        self._pod_ips = pod_ips

    def path(self, pod: core_v1_pb2.Pod, volume: core_v1_pb2.Volume) -> Path:
        if payload.is_payload(volume.volume_source):
            return self._payloads / pod.metadata.uid / volume.name
        return self._pods / pod.metadata.uid / "volumes" / volume.name

    async def prepare(self, pod: core_v1_pb2.Pod) -> None:
        for volume in pod.spec.volumes:
            try:
                await self._prepare(pod, volume)
            except VolumeError as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error.message}') from error
            except OSError as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error}') from error

    async def _prepare(self, pod: core_v1_pb2.Pod, volume: core_v1_pb2.Volume) -> None:
        source, path = volume.volume_source, self.path(pod, volume)
        context = pod.spec.security_context
        group = context.fs_group if context.HasField("fs_group") else None
        if source.HasField("host_path"):
            directories.check_host_path(source.host_path)
        elif payload.is_payload(source):
            await self._write_payload(pod, source, path, group)
        elif source.HasField("empty_dir") or not source.ListFields():
            fresh = not path.exists()
            if source.empty_dir.medium == "Memory" and self._memory is not None:
                directories.link_memory(path, self._memory / pod.metadata.uid / volume.name)
            else:
                directories.make_empty_dir(path, source.empty_dir, pod_resources(pod).memory_limit_bytes)
            if group is not None and fresh:
                await asyncio.to_thread(directories.give_to_group, path, group)
        else:
            kind = source.ListFields()[0][0].json_name
            raise VolumeError(
                f"volumes of type {kind} are not supported; this node has emptyDir, hostPath, configMap, secret, "
                "downwardAPI and projected"
            )

    async def _write_payload(
        self, pod: core_v1_pb2.Pod, source: core_v1_pb2.VolumeSource, path: Path, group: int | None
    ) -> None:
        try:
            found = await self._look_up(pod.metadata.namespace, source)
            for audience, seconds in payload.tokens(source):
                found.tokens[audience, seconds] = await self._tokens.get(pod, audience, seconds)
        except APIError as error:
            if (path / atomic.DATA).exists():
                # The control plane is away: what was there when it left still serves.
                log.warning(
                    "%s/%s: keeping %s as it is: %s", pod.metadata.namespace, pod.metadata.name, path.name, error
                )
                return
            raise VolumeError(error.message) from error
        fields = fields_of(pod, self._pod_ips(pod.metadata.uid), self._node.facts.ips)
        files = payload.build(pod, source, found, fields, self._node.allocatable)
        if group is not None:
            files = {name: (content, mode | 0o440) for name, (content, mode) in files.items()}
        atomic.write(path, files, group=group)

    async def _look_up(self, namespace: str, source: core_v1_pb2.VolumeSource) -> Found:
        found = Found()
        for kind, name in payload.references(source):
            try:
                if kind == "ConfigMap":
                    found.config_maps[name] = await self._objects.get(core_v1_pb2.ConfigMap, namespace, name)
                else:
                    found.secrets[name] = await self._objects.get(core_v1_pb2.Secret, namespace, name)
            except NotFound:
                continue
        return found

    # -- mounts

    def mounts(
        self, pod: core_v1_pb2.Pod, container: core_v1_pb2.Container, env: Sequence[tuple[str, str]]
    ) -> list[Mount]:
        volumes = {volume.name: volume for volume in pod.spec.volumes}
        made = []
        for mount in container.volume_mounts:
            volume = volumes.get(mount.name)
            if volume is None:
                raise ConfigError(f'volumeMounts.name "{mount.name}": the pod has no volume of that name')
            if problem := recursive_problem(mount):
                raise ConfigError(problem)
            source = self._source_path(pod, volume)
            sub_path = mount.sub_path or expand(mount.sub_path_expr, dict(env))
            if sub_path:
                source = self._sub_path(source, sub_path, container.name)
            # Nothing that a container writes into these would last: Kubernetes mounts them read-only.
            readonly = mount.read_only or payload.is_payload(volume.volume_source)
            made.append(
                Mount(str(source), mount.mount_path, readonly, _PROPAGATION.get(mount.mount_propagation, "private"))
            )
        return made

    def _source_path(self, pod: core_v1_pb2.Pod, volume: core_v1_pb2.Volume) -> Path:
        if volume.volume_source.HasField("host_path"):
            path = Path(volume.volume_source.host_path.path)
            if not path.exists() and not volume.volume_source.host_path.type:
                # As container runtimes do for an untyped hostPath.
                path.mkdir(parents=True, exist_ok=True)
            return path
        return self.path(pod, volume)

    def _sub_path(self, source: Path, sub_path: str, container: str) -> Path:
        """Inside the volume also after following links: a container must not reach the host by way of a link it made."""
        refused = f'failed to prepare subPath for volumeMount of container "{container}": subPath "{sub_path}"'
        if sub_path.startswith("/") or ".." in sub_path.split("/"):
            raise ConfigError(f"{refused} must be relative and must not contain '..'")
        base = os.path.realpath(source)
        target = os.path.realpath(os.path.join(base, sub_path))
        if target != base and not target.startswith(base + "/"):
            raise ConfigError(f"{refused} leads out of the volume")
        try:
            if not os.path.lexists(target):
                os.makedirs(target, mode=0o750, exist_ok=True)
                os.chmod(target, os.stat(base).st_mode & 0o7777)
        except OSError as error:
            raise ConfigError(f"{refused}: {error.strerror}") from error
        return Path(target)

    # -- the end, and what housekeeping asks

    async def teardown(self, pod_uid: str) -> None:
        """Unmounts what is ours and removes it; hostPath volumes stay as they are."""
        self._tokens.forget(pod_uid)
        shutil.rmtree(self._payloads / pod_uid, ignore_errors=True)
        doomed = [self._pods / pod_uid / "volumes"]
        if self._memory is not None and self._memory.is_dir() and not directories.foreign(self._memory):
            doomed.append(self._memory / pod_uid)
        for path in doomed:
            if path.is_dir():
                await self._take_away(path)

    async def _take_away(self, path: Path) -> None:
        try:
            await asyncio.to_thread(_remove, path)
        except PermissionError as error:
            # Without root: files of the users that the containers ran as.
            if self._sweep is None:
                raise
            try:
                await self._sweep(path)
            except RuntimeFailure as failure:
                raise VolumeError(f"removing {path}: {failure.message}") from error
            await asyncio.to_thread(_remove, path)

    def disk_bytes(self, pod: core_v1_pb2.Pod) -> int:
        """What its emptyDirs hold of the node's disk. Blocking."""
        return sum(
            directories.used_bytes(self.path(pod, volume))
            for volume in pod.spec.volumes
            if volume.volume_source.HasField("empty_dir") and not volume.volume_source.empty_dir.medium
        )

    def over_limit(self, pod: core_v1_pb2.Pod) -> str:
        """In the kubelet's words, the first emptyDir that has outgrown its sizeLimit; "" when none has. Blocking."""
        for volume in pod.spec.volumes:
            source = volume.volume_source.empty_dir
            if not volume.volume_source.HasField("empty_dir") or not source.HasField("size_limit"):
                continue
            limit = quantity.value(source.size_limit)
            if limit and directories.used_bytes(self.path(pod, volume)) > limit:
                return f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{source.size_limit.string}". '
        return ""


def _remove(path: Path) -> None:
    if kernel_mounts.below(path):
        kernel_mounts.unmount_below(path)
    left = kernel_mounts.below(path)
    if left:
        raise VolumeError(f"still mounted: {', '.join(str(point) for point in left)}")
    shutil.rmtree(path, ignore_errors=False)
