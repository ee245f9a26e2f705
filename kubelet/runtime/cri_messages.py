"""Translation between `kubelet.runtime.base` and CRI's messages, and of CRI's errors. Pure; `kubelet.runtime.cri` calls it."""

from __future__ import annotations

import grpc

from kubelet.runtime import base
from wherry.pb import cri_runtime_pb2 as pb

# What a container may not see and may not write under /proc and /sys unless it asks for procMount: Unmasked. CRI leaves
# these lists to the caller; they are Kubernetes' own.
MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_PROTOCOLS = {"TCP": pb.TCP, "UDP": pb.UDP, "SCTP": pb.SCTP}
_PROPAGATIONS = {
    "private": pb.PROPAGATION_PRIVATE,
    "host-to-container": pb.PROPAGATION_HOST_TO_CONTAINER,
    "bidirectional": pb.PROPAGATION_BIDIRECTIONAL,
}
_STATES = {
    pb.CONTAINER_CREATED: base.ContainerState.CREATED,
    pb.CONTAINER_RUNNING: base.ContainerState.RUNNING,
    pb.CONTAINER_EXITED: base.ContainerState.EXITED,
    pb.CONTAINER_UNKNOWN: base.ContainerState.UNKNOWN,
}
# The one of containerd's namespaces in which its CRI part keeps everything.
NAMESPACE = "k8s.io"

# The same call with the same arguments can't ever succeed.
_FINAL_CODES = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.OUT_OF_RANGE,
)


# -- errors


def failure(error: grpc.aio.AioRpcError, *, reason: str = "") -> base.RuntimeFailure:
    code, text = error.code(), error.details() or error.code().name
    if code == grpc.StatusCode.NOT_FOUND:
        return base.RuntimeNotFound(text, reason=reason)
    return base.RuntimeFailure(text, reason=reason, retryable=code not in _FINAL_CODES)


def pull_failure(reference: str, error: grpc.aio.AioRpcError) -> base.RuntimeFailure:
    text = error.details() or error.code().name
    if error.code() == grpc.StatusCode.INVALID_ARGUMENT or "failed to parse image reference" in text:
        return base.RuntimeFailure(
            f'image "{reference}" is not a valid reference: {text}', reason="InvalidImageName", retryable=False
        )
    # The text names the image, and whoever tells of it says that pulling failed.
    return base.RuntimeFailure(text, reason="ErrImagePull")


# -- what we send


def sandbox_config(config: base.SandboxConfig) -> pb.PodSandboxConfig:
    message = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=config.name, uid=config.uid, namespace=config.namespace, attempt=config.attempt
        ),
        hostname=config.hostname,
        log_directory=config.log_directory,
        port_mappings=[
            pb.PortMapping(
                protocol=_PROTOCOLS[port.protocol],
                container_port=port.container_port,
                host_port=port.host_port,
                host_ip=port.host_ip,
            )
            for port in config.port_mappings
        ],
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent,
            security_context=_sandbox_security(config.security),
            sysctls=dict(config.sysctls),
            overhead=resources(config.overhead),
            resources=resources(config.resources),
        ),
    )
    if config.dns is not None:
        message.dns_config.CopyFrom(
            pb.DNSConfig(servers=config.dns.servers, searches=config.dns.searches, options=config.dns.options)
        )
    return message


def container_config(config: base.ContainerConfig) -> pb.ContainerConfig:
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=config.name, attempt=config.attempt),
        image=pb.ImageSpec(image=config.image, user_specified_image=config.user_image),
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[pb.KeyValue(key=key, value=value) for key, value in config.env],
        mounts=[
            pb.Mount(
                container_path=mount.container_path,
                host_path=mount.host_path,
                readonly=mount.readonly,
                propagation=_PROPAGATIONS[mount.propagation],
            )
            for mount in config.mounts
        ],
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=pb.LinuxContainerConfig(
            resources=resources(config.resources), security_context=_container_security(config.security)
        ),
    )


def resources(given: base.Resources) -> pb.LinuxContainerResources:
    message = pb.LinuxContainerResources(
        cpu_period=given.cpu_period,
        cpu_quota=given.cpu_quota,
        cpu_shares=given.cpu_shares,
        memory_limit_in_bytes=given.memory_limit_bytes,
        oom_score_adj=given.oom_score_adj,
    )
    if given.oom_group:
        message.unified["memory.oom.group"] = "1"
    return message


def auth(given: base.RegistryAuth) -> pb.AuthConfig:
    return pb.AuthConfig(
        username=given.username,
        password=given.password,
        identity_token=given.identity_token,
    )


def _namespaces(security: base.SecurityContext) -> pb.NamespaceOption:
    if security.processes_of:
        pid = pb.TARGET
    elif security.host_pid:
        pid = pb.NODE
    else:
        pid = pb.POD if security.share_process_namespace else pb.CONTAINER
    return pb.NamespaceOption(
        network=pb.NODE if security.host_network else pb.POD,
        pid=pid,
        ipc=pb.NODE if security.host_ipc else pb.POD,
        target_id=security.processes_of,
    )


def _sandbox_security(security: base.SecurityContext) -> pb.LinuxSandboxSecurityContext:
    return pb.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(security),
        run_as_user=_int64(security.run_as_user),
        run_as_group=_int64(security.run_as_group),
        readonly_rootfs=security.readonly_rootfs,
        supplemental_groups=security.supplemental_groups,
        privileged=security.privileged,
        seccomp=_profile(security.seccomp_profile),
        apparmor=_profile(security.apparmor_profile),
    )


def _container_security(security: base.SecurityContext) -> pb.LinuxContainerSecurityContext:
    masked = not (security.privileged or security.masked_paths_off)
    # Privileged means unconfined unless the manifest names a profile; containerd decides that itself from `privileged`.
    return pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(
            add_capabilities=security.add_capabilities, drop_capabilities=security.drop_capabilities
        ),
        privileged=security.privileged,
        namespace_options=_namespaces(security),
        run_as_user=_int64(security.run_as_user),
        run_as_group=_int64(security.run_as_group),
        run_as_username=security.run_as_username,
        readonly_rootfs=security.readonly_rootfs,
        supplemental_groups=security.supplemental_groups,
        no_new_privs=not security.allow_privilege_escalation,
        masked_paths=MASKED_PATHS if masked else (),
        readonly_paths=READONLY_PATHS if masked else (),
        seccomp=_profile(security.seccomp_profile),
        apparmor=_profile(security.apparmor_profile),
    )


def _int64(value: int | None) -> pb.Int64Value | None:
    return None if value is None else pb.Int64Value(value=value)


def _profile(name: str) -> pb.SecurityProfile | None:
    kind = pb.SecurityProfile
    if not name:
        return None
    if name == "runtime/default":
        return kind(profile_type=kind.RuntimeDefault)
    if name == "unconfined":
        return kind(profile_type=kind.Unconfined)
    if name.startswith("localhost/"):
        return kind(profile_type=kind.Localhost, localhost_ref=name.removeprefix("localhost/"))
    raise base.RuntimeFailure(
        f'security profile "{name}": want "runtime/default", "unconfined" or "localhost/..."',
        reason="CreateContainerConfigError",
        retryable=False,
    )


# -- what we are told


def _seconds(nanoseconds: int) -> float:
    return max(nanoseconds, 0) / 1e9


def _sandbox_state(state: int) -> base.SandboxState:
    return base.SandboxState.READY if state == pb.SANDBOX_READY else base.SandboxState.NOT_READY


def sandbox_status(status: pb.PodSandboxStatus) -> base.SandboxStatus:
    addresses = [status.network.ip, *(item.ip for item in status.network.additional_ips)]
    return base.SandboxStatus(
        id=status.id,
        namespace=status.metadata.namespace,
        name=status.metadata.name,
        uid=status.metadata.uid,
        attempt=status.metadata.attempt,
        state=_sandbox_state(status.state),
        created_at=_seconds(status.created_at),
        ips=tuple(address for address in addresses if address),
        labels=dict(status.labels),
        annotations=dict(status.annotations),
    )


def listed_sandbox(item: pb.PodSandbox) -> base.SandboxStatus:
    return base.SandboxStatus(
        id=item.id,
        namespace=item.metadata.namespace,
        name=item.metadata.name,
        uid=item.metadata.uid,
        attempt=item.metadata.attempt,
        state=_sandbox_state(item.state),
        created_at=_seconds(item.created_at),
        ips=(),
        labels=dict(item.labels),
        annotations=dict(item.annotations),
    )


def container_status(status: pb.ContainerStatus, sandbox_id: str) -> base.ContainerStatus:
    finished = _seconds(status.finished_at)
    # containerd notes the start when its own call returns, the end when the process ended: one that lived for less
    # than a millisecond can end before it started. Nobody who reads a pod's status should have to know that.
    started = min(_seconds(status.started_at), finished) if finished else _seconds(status.started_at)
    return base.ContainerStatus(
        id=status.id,
        sandbox_id=sandbox_id,
        name=status.metadata.name,
        attempt=status.metadata.attempt,
        state=_STATES.get(status.state, base.ContainerState.UNKNOWN),
        created_at=_seconds(status.created_at),
        started_at=started,
        finished_at=finished,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        image=status.image.image,
        image_id=status.image_ref,
        log_path=status.log_path,
        labels=dict(status.labels),
        annotations=dict(status.annotations),
        user=_user(status),
    )


def _user(status: pb.ContainerStatus) -> base.ContainerUser | None:
    if not status.user.HasField("linux"):
        return None
    linux = status.user.linux
    return base.ContainerUser(linux.uid, linux.gid, tuple(linux.supplemental_groups))


def listed_container(item: pb.Container) -> base.ContainerStatus:
    return base.ContainerStatus(
        id=item.id,
        sandbox_id=item.pod_sandbox_id,
        name=item.metadata.name,
        attempt=item.metadata.attempt,
        state=_STATES.get(item.state, base.ContainerState.UNKNOWN),
        created_at=_seconds(item.created_at),
        started_at=0.0,
        finished_at=0.0,
        exit_code=0,
        reason="",
        message="",
        image=item.image.image,
        image_id=item.image_ref,
        log_path="",
        labels=dict(item.labels),
        annotations=dict(item.annotations),
    )


def image(item: pb.Image) -> base.Image:
    user = str(item.uid.value) if item.HasField("uid") else item.username
    return base.Image(
        id=item.id,
        tags=tuple(item.repo_tags),
        digests=tuple(item.repo_digests),
        size_bytes=item.size,
        user=user,
        pinned=item.pinned,
    )


def stats(item: pb.ContainerStats, sandbox_id: str) -> base.ContainerStats:
    working_set = item.memory.working_set_bytes.value
    return base.ContainerStats(
        container_id=item.attributes.id,
        name=item.attributes.metadata.name,
        sandbox_id=sandbox_id,
        cpu_usage_core_ns=item.cpu.usage_core_nano_seconds.value,
        memory_working_set_bytes=working_set,
        memory_usage_bytes=item.memory.usage_bytes.value or working_set,
        writable_layer_bytes=item.writable_layer.used_bytes.value,
        timestamp=_seconds(item.cpu.timestamp or item.memory.timestamp),
    )
