"""`wherry up`: from a bare machine to a cluster whose nodes are Ready and whose first pods run. Each step looks at what there
is and does only what is missing, so a second run changes nothing, and a run after a crash finishes what the first one began.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kubelet.network import NetworkError
from kubelet.runtime.containerd import choose_snapshotter, find_running
from kubelet.runtime.processes import ProcessRef, tail
from wherry.cli.cluster import api, hello, hosts, images, launch, layout, packages, steps, switch
from wherry.cli.cluster.layout import Cluster, ClusterError, Node
from wherry.cli.cluster.progress import Progress, Step
from wherry.client import config

CONTAINERD_TIMEOUT_S = 60.0
DEFAULT_NODES = 2
BUILDERS = {images.PAUSE_IMAGE: images.pause_archive, images.DEMO_IMAGE: images.demo_archive}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a cluster keeps from one `up` to the next; None is as it was."""

    ingress: bool | None = None
    registry_config_dir: str | None = None

    def of(self, cluster: Cluster | None) -> dict[str, Any]:
        """The values that hold, for a new cluster (None) or one that is there."""
        before = {"ingress": True, "registry_config_dir": ""}
        if cluster is not None:
            before = {name: getattr(cluster, name) for name in before}
        return before | {name: value for name, value in asdict(self).items() if value is not None}


async def up(
    name: str, node_count: int, data_dir: Path | None, progress: Progress, settings: Settings | None = None
) -> Cluster:
    """Raises ClusterError (and NetworkError, RuntimeFailure, ImageError) with what a person has to know. A cluster that this
    very call began and could not finish is taken down again."""
    check_machine()
    existed = layout.state_file(layout.check_name(name)).exists()
    chosen = (settings or Settings()).of(layout.load(name))
    _install_packages(progress, ingress=chosen["ingress"])
    cluster = _decide(name, node_count, data_dir, chosen)
    with steps.whole_or_nothing(progress, existed, lambda: _take_down(name)):
        await _raise(cluster, progress)
    return cluster


def _take_down(name: str) -> None:
    from wherry.cli.cluster.down import down

    down(name, Progress(quiet=True))


def check_machine() -> None:
    steps.check_system()
    if os.geteuid() != 0:
        wanted = packages.missing()
        install = f" (and have these packages installed: {' '.join(wanted)})" if wanted else ""
        raise ClusterError(
            f"making nodes needs root: run `sudo wherry up`{install}; without root, `wherry up --runtime docker` makes one node "
            "on this machine's Docker"
        )


def _install_packages(progress: Progress, *, ingress: bool) -> None:
    with progress.step("programs of the distribution") as step:
        wanted = packages.missing(ingress=ingress)
        if not wanted:
            step.unchanged("all installed")
            return
        step.update(f"installing {' '.join(wanted)}")
        packages.install(wanted)
        if left := packages.missing(ingress=ingress):
            raise ClusterError(f"still missing after the installation: {' '.join(left)}")
        step.done(f"installed {' '.join(wanted)}")


def _decide(name: str, node_count: int, data_dir: Path | None, chosen: Mapping[str, Any]) -> Cluster:
    """The description: the one there is, or a new one with networks and a port that are free now. `chosen`: its settings."""
    described = layout.load(name)
    if described is not None:
        if data_dir is not None and data_dir.absolute() != described.data:
            raise ClusterError(
                f'cluster "{name}" has its data in {described.data}, not in {data_dir}: '
                f"`wherry down` first, or choose another --name"
            )
        if node_count < described.node_count:
            raise ClusterError(
                f'cluster "{name}" has {described.node_count} nodes, {node_count} asked for: '
                "nodes can be added here, not taken away"
            )
        cluster = replace(described, node_count=node_count, **chosen)
        if cluster != described:
            cluster.save()
        return cluster
    # Another cluster that comes up at this moment must not choose the same.
    with layout.locked("choosing"):
        others, taken = hosts.described_clusters(), hosts.networks_in_use()
        cluster = Cluster(
            name=name,
            data_dir=str((data_dir or layout.STATE_DIR / name).absolute()),
            node_count=node_count,
            port=hosts.choose_port({other.port for other in others}),
            host_subnet=hosts.choose_host_subnet(taken),
            cluster_cidr=hosts.choose_cluster_cidr(taken),
            ip_forward=next((other.ip_forward for other in others), hosts.forwarding()),
            **chosen,
        )
        cluster.save()
    return cluster


async def _raise(cluster: Cluster, progress: Progress) -> None:
    with progress.step(f"{cluster.node_count} node hosts (network namespaces, {cluster.host_subnet})") as step:
        made = [hosts.make_switch(cluster), *(hosts.make_host(cluster, node) for node in cluster.nodes)]
        try:
            made.append(switch.connect(cluster))
        except NetworkError as error:
            step.done(f"no shortcut between their cables: {error}")
        if not any(made):
            step.unchanged("all there")
    archives = steps.build_images(cluster, progress, BUILDERS)
    with progress.step(f"control plane at {cluster.server_address}") as step:
        await steps.ensure_server(cluster, step)
    with progress.step(f"{cluster.node_count} agents, each with a containerd") as step:
        await _ensure_agents(cluster, step)
    steps.ensure_ingress(cluster, progress)
    with progress.step("images on every node") as step:
        loaded = await asyncio.gather(*(_load_missing(node, archives) for node in cluster.nodes))
        if not any(loaded):
            step.unchanged("all there")
    async with api.client(cluster) as connected:
        with progress.step("nodes Ready") as step:
            started = await steps.wait_nodes(cluster, connected, step)
            cidrs = {row.name: row.pod_cidr for row in await api.nodes(connected) if row.pod_cidr}
            routed = hosts.route_to_pods(cluster, cidrs)
            if not started and not routed:
                step.unchanged("all are")
        steps.write_client_config(cluster, progress)
        await hello.ensure(cluster, connected, progress)
        await hello.show(cluster, connected, progress)


# -- images


async def _load_missing(node: Node, archives: dict[str, Path]) -> bool:
    """Imports what this node's containerd does not have yet, by image id."""
    place = node.containerd
    present = await images.present(place.socket)
    missing = [path for reference, path in archives.items() if present.get(reference) != images.archive_id(path)]
    for path in missing:
        await asyncio.to_thread(images.load, place.socket, path, snapshotter=choose_snapshotter(place.root))
    return bool(missing)


# -- processes


async def _ensure_agents(cluster: Cluster, step: Step) -> None:
    missing = [node for node in cluster.nodes if launch.running_agent(node) is None]
    if not missing and all(find_running(node.containerd) for node in cluster.nodes):
        step.unchanged("all run")
        return
    started: dict[str, ProcessRef] = {}
    token = await steps.join_token(cluster) if missing else ""
    for node in missing:
        node.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.write_private(node.token_file, token.encode())
        started[node.name] = launch.start(launch.agent_argv(cluster, node), node.log, node.pid_file)
    for node in cluster.nodes:
        process = started.get(node.name) or launch.running_agent(node)
        if process is None:
            raise ClusterError(
                f"the agent of {node.name} has ended; the end of {node.log}:\n{tail(node.log, steps.TAIL_LINES)}"
            )

        await steps.until(
            partial(images.answers, node.containerd.socket),
            process,
            node.log,
            f"containerd of {node.name}",
            CONTAINERD_TIMEOUT_S,
        )
    step.done(f"{len(missing)} started")
