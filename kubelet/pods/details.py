"""What a container's status repeats of its spec, and what the runtime says of its user: resources, mounts, identity. Pure; used
by `kubelet.pods.report`. As kubelets from 1.33 on write it."""

from __future__ import annotations

from kubelet.pods.states import Role
from kubelet.runtime.base import ContainerStatus, ContainerUser
from wherry.pb import core_v1_pb2

RECURSIVE_UNSUPPORTED = 'volume "{}" requested recursive read-only mode, but it is not supported by the runtime'


def add_details(
    entry: core_v1_pb2.ContainerStatus,
    container: core_v1_pb2.Container,
    role: Role,
    newest: ContainerStatus | None,
    applied: core_v1_pb2.ResourceRequirements | None = None,
) -> None:
    """`newest`: the runtime's container, if there is one already. Mounts are told before that, the rest is not. `applied`: what
    it runs with, where that is known; the container itself has what it is allocated."""
    for mount in container.volume_mounts:
        told = entry.volume_mounts.add(name=mount.name, mount_path=mount.mount_path, read_only=mount.read_only)
        if mount.read_only:
            # No runtime that we drive offers it: who insists is not started (kubelet.volumes.manager).
            told.recursive_read_only = "Disabled"
    if newest is None:
        return
    if role is not Role.EPHEMERAL:
        entry.resources.CopyFrom(container.resources if applied is None else applied)
        for name, amount in container.resources.requests.items():
            entry.allocated_resources[name].CopyFrom(amount)
    if newest.user is not None:
        _add_user(entry.user.linux, newest.user)


def _add_user(told: core_v1_pb2.LinuxContainerUser, user: ContainerUser) -> None:
    told.uid, told.gid = user.uid, user.gid
    told.supplemental_groups.extend(user.supplemental_groups)


def recursive_problem(mount: core_v1_pb2.VolumeMount) -> str:
    """Why a mount cannot be recursively read-only as it insists to be; empty when it does not insist."""
    if mount.recursive_read_only != "Enabled":
        return ""
    return f"failed to resolve recursive read-only mode: {RECURSIVE_UNSUPPORTED.format(mount.name)}"
