"""What `up` and `status` ask of the control plane: is it there, are the nodes Ready, are the pods Running. Through the ordinary
client, with the administrator's credentials that `wherry server` wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from wherry.api.errors import APIError
from wherry.cli.cluster.layout import Cluster, ClusterError
from wherry.client.base import ClientAPI, Selection
from wherry.client.config import ClientConfig, ConfigError, load_config
from wherry.pb import core_v1_pb2


@dataclass(frozen=True, slots=True)
class NodeRow:
    name: str
    ready: bool
    why: str
    address: str
    pod_cidr: str
    runtime: str
    cpu: str
    memory: str


@dataclass(frozen=True, slots=True)
class PodRow:
    namespace: str
    name: str
    ready: str
    running: bool
    status: str
    restarts: int
    ip: str
    node: str


def credentials(cluster: Cluster) -> ClientConfig | None:
    """None until the server has written them."""
    try:
        return load_config(cluster.server_data / "admin.conf")
    except ConfigError:
        return None


@asynccontextmanager
async def client(cluster: Cluster) -> AsyncIterator[ClientAPI]:
    from wherry.client.grpc import connect

    settings = credentials(cluster)
    if settings is None:
        raise ClusterError(f"{cluster.server_data / 'admin.conf'} is not there: the control plane has not started yet")
    connected = connect(settings)
    try:
        yield connected
    finally:
        await connected.close()


async def healthy(cluster: Cluster, timeout_s: float = 2.0) -> bool:
    if credentials(cluster) is None:
        return False
    try:
        async with asyncio.timeout(timeout_s), client(cluster) as connected:
            return (await connected.server_status()).status == "Success"
    except (APIError, OSError, ConfigError):  # TimeoutError is an OSError
        return False


async def nodes(connected: ClientAPI) -> list[NodeRow]:
    page = await connected.list(core_v1_pb2.Node)
    return sorted((_node_row(node) for node in page.items), key=lambda row: row.name)


async def pods(connected: ClientAPI, selection: Selection) -> list[PodRow]:
    page = await connected.list(core_v1_pb2.Pod, selection)
    return sorted((_pod_row(pod) for pod in page.items), key=lambda row: (row.namespace, row.name))


def _node_row(node: core_v1_pb2.Node) -> NodeRow:
    condition = next((item for item in node.status.conditions if item.type == "Ready"), None)
    addresses = {item.type: item.address for item in node.status.addresses}
    capacity = {name: quantity.string for name, quantity in node.status.capacity.items()}
    return NodeRow(
        name=node.metadata.name,
        ready=condition is not None and condition.status == "True",
        why=(condition.message or condition.reason) if condition is not None else "has not reported yet",
        address=addresses.get("InternalIP", ""),
        pod_cidr=node.spec.pod_cidr,
        runtime=node.status.node_info.container_runtime_version,
        cpu=capacity.get("cpu", ""),
        memory=capacity.get("memory", ""),
    )


def _pod_row(pod: core_v1_pb2.Pod) -> PodRow:
    statuses = pod.status.container_statuses
    ready = sum(1 for status in statuses if status.ready)
    waiting = next((status.state.waiting.reason for status in statuses if status.state.HasField("waiting")), "")
    condition = next((item for item in pod.status.conditions if item.type == "Ready"), None)
    text = "Terminating" if pod.metadata.HasField("deletion_timestamp") else waiting or pod.status.phase or "Pending"
    return PodRow(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        ready=f"{ready}/{len(pod.spec.containers)}",
        running=pod.status.phase == "Running" and condition is not None and condition.status == "True",
        status=text,
        restarts=sum(status.restart_count for status in statuses),
        ip=pod.status.pod_ip,
        node=pod.spec.node_name,
    )
