"""What the runtime is told to make of a pod: the sandbox's configuration and each container's. Pure; called by `worker`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kubelet.pods import model as m
from kubelet.pods.env import expand
from kubelet.pods.naming import dns_of, hostname_of
from kubelet.pods.policy import spec_hash
from kubelet.pods.resources import container_resources, overhead, pod_resources
from kubelet.pods.security import container_security, sandbox_security
from kubelet.pods.services import ConfigError, NodeSettings
from kubelet.pods.states import Role
from kubelet.runtime.base import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ContainerConfig,
    Image,
    Mount,
    PortMapping,
    SandboxConfig,
)
from wherry.pb import core_v1_pb2

DEFAULT_TERMINATION_PATH = "/dev/termination-log"


def sandbox_config(
    pod: core_v1_pb2.Pod,
    attempt: int,
    node: NodeSettings,
    *,
    log_directory: str,
    cgroup_parent: str,
    runtime_handler: str = "",
) -> SandboxConfig:
    metadata = pod.metadata
    ports = []
    if not pod.spec.host_network:
        for container in [*pod.spec.init_containers, *pod.spec.containers]:
            for port in container.ports:
                if port.host_port:
                    ports.append(PortMapping(port.container_port, port.host_port, port.protocol or "TCP", port.host_ip))
    return SandboxConfig(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        attempt=attempt,
        # With the host's network goes the host's name: the runtime refuses another one there.
        hostname="" if pod.spec.host_network else hostname_of(pod, node),
        log_directory=log_directory,
        cgroup_parent=cgroup_parent,
        dns=dns_of(pod, node),
        port_mappings=tuple(ports),
        labels={**metadata.labels, **_labels(pod)},
        annotations={**metadata.annotations, m.NODE: node.facts.name, m.RUNTIME_HANDLER: runtime_handler},
        security=sandbox_security(pod),
        sysctls={sysctl.name: sysctl.value for sysctl in pod.spec.security_context.sysctls},
        resources=pod_resources(pod),
        overhead=overhead(pod),
        runtime_handler=runtime_handler,
    )


def _labels(pod: core_v1_pb2.Pod) -> dict[str, str]:
    return {POD_NAME: pod.metadata.name, POD_NAMESPACE: pod.metadata.namespace, POD_UID: pod.metadata.uid}


def container_config(
    pod: core_v1_pb2.Pod,
    container: core_v1_pb2.Container,
    action: m.StartContainer,
    node: NodeSettings,
    *,
    env: Sequence[tuple[str, str]],
    mounts: Sequence[Mount],
    termination_file: str,
    processes_of: str = "",
) -> ContainerConfig:
    """`processes_of`: the id of the container that an ephemeral one looks into. Raises ConfigError (runAsNonRoot)."""
    variables = dict(env)
    image: Image = action.image
    grace_s = pod.spec.termination_grace_period_seconds if pod.spec.HasField("termination_grace_period_seconds") else 30
    annotations = {
        m.SPEC_HASH: spec_hash(container),
        m.RESTART_BACKOFF: f"{action.backoff_s:g}",
        m.GRACE_PERIOD: str(grace_s),
    }
    if container.lifecycle.HasField("pre_stop"):
        annotations[m.PRE_STOP] = base64.b64encode(container.lifecycle.pre_stop.SerializeToString()).decode()
    if container.lifecycle.stop_signal:
        annotations[m.STOP_SIGNAL] = container.lifecycle.stop_signal
    all_mounts = list(mounts)
    if termination_file:
        annotations[m.TERMINATION_MESSAGE] = termination_file
        annotations[m.TERMINATION_POLICY] = container.termination_message_policy or "File"
        path = container.termination_message_path or DEFAULT_TERMINATION_PATH
        all_mounts.append(Mount(termination_file, path))
    return ContainerConfig(
        name=container.name,
        attempt=action.attempt,
        image=image.id,
        user_image=container.image,
        command=tuple(expand(word, variables) for word in container.command),
        args=tuple(expand(word, variables) for word in container.args),
        working_dir=container.working_dir,
        env=tuple(env),
        mounts=tuple(all_mounts),
        labels={**_labels(pod), CONTAINER_NAME: container.name},
        annotations=annotations,
        log_path=f"{container.name}/{action.attempt}.log",
        stdin=container.stdin,
        stdin_once=container.stdin_once,
        tty=container.tty,
        resources=replace(container_resources(pod, container, node.memory_bytes), oom_group=node.unified_cgroups),
        security=replace(container_security(pod, container, image), processes_of=processes_of),
    )


def find_container(pod: core_v1_pb2.Pod, name: str) -> tuple[core_v1_pb2.Container, Role] | None:
    return next(((c, role) for c, role in m.containers_of(pod.spec) if c.name == name), None)


def target_of(pod: core_v1_pb2.Pod, name: str, running: Mapping[str, str]) -> str:
    """The id of the container whose processes an ephemeral container wants to see; "" for its own only. `running`: ids by name.
    Raises ConfigError."""
    for ephemeral in pod.spec.ephemeral_containers:
        if ephemeral.ephemeral_container_common.name == name and ephemeral.target_container_name:
            found = running.get(ephemeral.target_container_name)
            if found is None:
                raise ConfigError(
                    f"unable to find target container {ephemeral.target_container_name}", "CreateContainerError"
                )
            return found
    return ""
