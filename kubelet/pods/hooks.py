"""Lifecycle hooks: postStart and preStop, by exec, HTTP or sleep. Called by `worker`."""

from __future__ import annotations

import asyncio

from kubelet.pods.services import PodServices
from kubelet.runtime.base import RuntimeFailure
from wherry.pb import core_v1_pb2, meta_intstr_pb2

# A postStart hook has no time limit in Kubernetes; this bounds it, at far more than anybody waits for.
POST_START_LIMIT_S = 3600.0


def port_number(port: meta_intstr_pb2.IntOrString, container: core_v1_pb2.Container) -> int:
    """A number, or the name of one of the container's ports. 0: there is no such port."""
    if port.type == 0:
        return port.int_val
    if port.str_val.isdigit():
        return int(port.str_val)
    return next((p.container_port for p in container.ports if p.name == port.str_val), 0)


async def run_hook(
    services: PodServices,
    container: core_v1_pb2.Container,
    container_id: str,
    handler: core_v1_pb2.LifecycleHandler,
    pod_ip: str,
    timeout_s: float,
) -> str:
    """What went wrong, or "". Never longer than `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _run(services, container, container_id, handler, pod_ip, timeout_s)
    except TimeoutError:
        return f"hook did not end within {timeout_s:g}s"
    except RuntimeFailure as error:
        return error.message


async def _run(
    services: PodServices,
    container: core_v1_pb2.Container,
    container_id: str,
    handler: core_v1_pb2.LifecycleHandler,
    pod_ip: str,
    timeout_s: float,
) -> str:
    if handler.HasField("exec"):
        command = list(handler.exec.command)
        result = await services.runtime.exec_sync(container_id, command, timeout_s)
        if result.exit_code == 0:
            return ""
        output = (result.stdout + result.stderr).decode("utf-8", "replace")[:1024]
        return f"command '{' '.join(command)}' exited with {result.exit_code}: {output}"
    if handler.HasField("http_get"):
        port = port_number(handler.http_get.port, container)
        if not port:
            return f"httpGet.port: the container has no port named {handler.http_get.port.str_val}"
        if not (handler.http_get.host or pod_ip):
            return "httpGet: the pod has no address"
        ok, seen = await services.probes.http(
            container_id, handler.http_get, handler.http_get.host or pod_ip, port, timeout_s
        )
        return "" if ok else seen
    if handler.HasField("sleep"):
        await asyncio.sleep(handler.sleep.seconds)
        return ""
    if handler.HasField("tcp_socket"):
        return "tcpSocket hooks do nothing in Kubernetes and are not supported"
    return ""
