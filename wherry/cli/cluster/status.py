"""`wherry status`: what of the local clusters is there and runs, from the outside (processes, memory, paths) and, where the
control plane answers, from the inside (nodes). Read-only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import wherry
from kubelet.runtime.containerd import find_running
from kubelet.runtime.processes import ProcessRef
from wherry.api.errors import APIError
from wherry.cli.cluster import api, launch, layout
from wherry.cli.cluster.layout import DOCKER, Cluster, ClusterError
from wherry.client import config


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    running: bool
    pid: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    name: str
    netns: str
    address: str
    state: str  # Ready, NotReady, Unknown (the control plane does not answer)
    message: str
    pod_cidr: str
    agent: ProcessStatus
    containerd: ProcessStatus | None  # None on Docker
    runtime: str
    socket: str
    data: str
    log: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    name: str
    version: str
    server: str
    healthy: bool
    process: ProcessStatus
    data: str
    log: str
    config: str
    pod_network: str
    ingress: ProcessStatus | None  # None when the cluster is to have none
    ingress_address: str
    nodes: list[NodeStatus] = field(default_factory=list)

    @property
    def well(self) -> bool:
        served = self.ingress is None or self.ingress.running
        return self.healthy and served and all(node.state == "Ready" and node.agent.running for node in self.nodes)

    def document(self) -> dict[str, object]:
        """For `-o json`."""
        return asdict(self)


async def statuses(names: list[str]) -> list[ClusterStatus]:
    found = []
    for name in names:
        cluster = layout.load(name)
        if cluster is not None:
            found.append(await status(cluster))
    return found


async def status(cluster: Cluster) -> ClusterStatus:
    healthy = await api.healthy(cluster)
    rows: dict[str, api.NodeRow] = {}
    if healthy:
        try:
            async with api.client(cluster) as connected:
                rows = {row.name: row for row in await api.nodes(connected)}
        except (APIError, ClusterError, OSError):
            healthy = False
    nodes, docker = [], cluster.runtime == DOCKER
    for node in cluster.nodes:
        row = rows.get(node.name)
        if row is None:
            state, message = (
                ("NotReady", "has not joined") if healthy else ("Unknown", "the control plane does not answer")
            )
        else:
            state, message = ("Ready", "") if row.ready else ("NotReady", row.why)
        nodes.append(
            NodeStatus(
                name=node.name,
                netns="" if docker else node.netns,
                address=node.address,
                state=state,
                message=message,
                pod_cidr=row.pod_cidr if row else "",
                agent=_process(launch.running_agent(node)),
                containerd=None if docker else _process(find_running(node.containerd)),
                runtime=row.runtime if row else "",
                socket=cluster.docker_host.removeprefix("unix://") if docker else str(node.containerd.socket),
                data=str(node.data),
                log=str(node.log),
            )
        )
    return ClusterStatus(
        name=cluster.name,
        version=wherry.__version__,
        server=cluster.server_address,
        healthy=healthy,
        process=_process(launch.running_server(cluster)),
        data=cluster.data_dir,
        log=str(cluster.server_log),
        config=str(config.config_path()),
        pod_network=cluster.cluster_cidr,
        ingress=_process(launch.running_ingress(cluster)) if cluster.ingress else None,
        ingress_address=cluster.ingress_address,
        nodes=nodes,
    )


def lines(status: ClusterStatus) -> list[str]:
    """For people."""
    health = "answers" if status.healthy else "does not answer"
    out = [
        f"cluster {status.name} (wherry {status.version})",
        f"  control plane   {_words(status.process)}, {health} at {status.server}",
        f"  data            {status.data}",
        f"  log             {status.log}",
        f"  configuration   {status.config}",
        f"  pod network     {status.pod_network}",
    ]
    if status.ingress is not None:
        out.append(f"  ingress         {_words(status.ingress)}, http://{status.ingress_address}")
    for node in status.nodes:
        out += [
            f"  {node.name}: {node.state}{f' ({node.message})' if node.message else ''}, {node.address}"
            f"{f', pods {node.pod_cidr}' if node.pod_cidr else ''}",
            f"    agent         {_words(node.agent)}, log {node.log}",
            *_host_lines(status, node),
        ]
    return out


def _host_lines(status: ClusterStatus, node: NodeStatus) -> list[str]:
    runtime = f", {node.runtime}" if node.runtime else ""
    if node.containerd is None:
        return [
            f"    docker        socket {node.socket}{runtime}",
            f"    host          container wherry-{status.name}-node",
        ]
    return [
        f"    containerd    {_words(node.containerd)}, socket {node.socket}{runtime}",
        f"    host          network namespace {node.netns}",
    ]


def _words(process: ProcessStatus) -> str:
    if not process.running:
        return "not running"
    return f"pid {process.pid}, {process.memory_bytes / (1 << 20):.0f} MiB"


def _process(process: ProcessRef | None) -> ProcessStatus:
    if process is None:
        return ProcessStatus(False)
    memory = 0
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                memory = int(line.split()[1]) << 10
    except OSError:
        pass
    return ProcessStatus(True, process.pid, memory)
