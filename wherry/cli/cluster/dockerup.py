"""`wherry up --runtime docker`: a cluster of one node on the Docker daemon of this machine. Server and agent run as whoever calls
it; the network is a bridge of Docker's, in which a container is the node. It needs no root, only a daemon that one may use.
Called by the command; the counterpart of `up`, whose promises hold here too: a second run changes nothing, one after a crash
goes on.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

from kubelet.runtime.docker_bridge import NODE_IMAGE
from kubelet.runtime.processes import tail
from wherry.cli.cluster import api, dockerhost, hello, hosts, images, launch, layout, nodeimage, packages, steps
from wherry.cli.cluster.dockerhost import Daemon
from wherry.cli.cluster.layout import DOCKER, NETWORKS, Cluster, ClusterError
from wherry.cli.cluster.progress import Progress, Step
from wherry.client import config

BUILDERS = {
    images.PAUSE_IMAGE: images.pause_archive,
    images.DEMO_IMAGE: images.demo_archive,
    NODE_IMAGE: nodeimage.node_archive,
}
PACKAGES, HAPROXY = ("nftables", "busybox-static"), "haproxy"
HOST_TIMEOUT_S = 60.0
FIREWALL_CHECK = "nc -w 5 {host} {port} </dev/null"


async def up(
    name: str, data_dir: Path | None, docker_host: str, progress: Progress, ingress: bool | None = None
) -> Cluster:
    """Raises ClusterError (and RuntimeFailure, ImageError) with what a person has to know. A cluster that this very call
    began and could not finish is taken down again."""
    check_machine(ingress=bool(ingress))
    existed = layout.state_file(layout.check_name(name)).exists()
    described = layout.load(name)
    host = docker_host or (described.docker_host if described is not None else "") or dockerhost.default_host()
    with await asyncio.to_thread(dockerhost.reach, host) as daemon:
        cluster = await asyncio.to_thread(decide, described, name, data_dir, daemon, ingress)
        with steps.whole_or_nothing(progress, existed, lambda: _take_down(cluster)):
            await _raise(cluster, daemon, progress)
    return cluster


def _take_down(cluster: Cluster) -> None:
    from wherry.cli.cluster.dockerdown import down

    down(cluster, Progress(quiet=True))


def check_machine(*, ingress: bool) -> None:
    """`ingress`: it was asked for."""
    steps.check_system()
    wanted = [package for package in packages.missing(ingress=ingress) if package in (*PACKAGES, HAPROXY)]
    if wanted:
        raise ClusterError(
            f"missing on this machine: {' '.join(wanted)}. Install with `sudo apt-get install {' '.join(wanted)}`"
        )


def decide(
    described: Cluster | None, name: str, data_dir: Path | None, daemon: Daemon, ingress: bool | None = None
) -> Cluster:
    """The description: the one there is, or a new one with a network and a port that are free now. `ingress`: None is as it was,
    and at first whether this machine has haproxy."""
    if described is not None:
        if data_dir is not None and data_dir.absolute() != described.data:
            raise ClusterError(
                f'cluster "{name}" has its data in {described.data}, not in {data_dir}: '
                f"`wherry down` first, or choose another --name"
            )
        if daemon.host != described.docker_host:
            raise ClusterError(
                f'cluster "{name}" is on the Docker at {described.docker_host}, not at {daemon.host}: '
                "`wherry down` first, or choose another --name"
            )
        cluster = replace(described, ingress=described.ingress if ingress is None else ingress)
        if cluster != described:
            cluster.save()
        return cluster
    # Another cluster that comes up at this moment must not choose the same.
    with layout.locked("choosing"):
        taken = [*hosts.networks_in_use(), *daemon.subnets()]
        subnet = hosts.first_free(NETWORKS.subnets(new_prefix=20), taken, str(NETWORKS))
        cluster = Cluster(
            name=name,
            data_dir=str((data_dir or layout.STATE_DIR / name).absolute()),
            node_count=1,
            port=hosts.choose_port({other.port for other in hosts.described_clusters()}),
            host_subnet=subnet,
            cluster_cidr=str(next(IPv4Network(subnet).subnets(new_prefix=24))),
            ingress=HAPROXY not in packages.missing() if ingress is None else ingress,
            runtime=DOCKER,
            docker_host=daemon.host,
        )
        cluster.save()
    return cluster


async def _raise(cluster: Cluster, daemon: Daemon, progress: Progress) -> None:
    with progress.step(f"Docker network {cluster.docker_network} ({cluster.host_subnet})") as step:
        if not await asyncio.to_thread(daemon.make_network, cluster):
            step.unchanged("is there")
        dockerhost.check_gateway(cluster)
    archives = steps.build_images(cluster, progress, BUILDERS)
    with progress.step("images in Docker") as step:
        if not await asyncio.to_thread(_load_missing, daemon, archives):
            step.unchanged("all there")
    with progress.step(f"control plane at {cluster.server_address}") as step:
        await steps.ensure_server(cluster, step)
    with progress.step("agent, with Docker") as step:
        await _ensure_agent(cluster, step)
    async with api.client(cluster) as connected:
        with progress.step("node Ready") as step:
            if not await steps.wait_nodes(cluster, connected, step):
                step.unchanged("is")
        await _wait_host(cluster, daemon)
        steps.ensure_ingress(cluster, progress)
        if not cluster.ingress:
            progress.say("Ingresses are not served: that takes haproxy on this machine, and --ingress")
        await asyncio.to_thread(_check_firewall, cluster, daemon, progress)
        steps.write_client_config(cluster, progress)
        await hello.ensure(cluster, connected, progress)
        await hello.show(cluster, connected, progress)


def _load_missing(daemon: Daemon, archives: dict[str, Path]) -> bool:
    missing = [path for path in archives.values() if not daemon.has(path)]
    for path in missing:
        daemon.load(path)
    return bool(missing)


async def _ensure_agent(cluster: Cluster, step: Step) -> None:
    node = cluster.node(1)
    if launch.running_agent(node) is not None:
        step.unchanged("runs")
        return
    token = await steps.join_token(cluster)
    node.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.write_private(node.token_file, token.encode())
    process = launch.start(launch.agent_argv(cluster, node), node.log, node.pid_file)
    await asyncio.sleep(0)
    if not process.alive():
        raise ClusterError(f"the agent has ended; the end of {node.log}:\n{tail(node.log, steps.TAIL_LINES)}")
    step.done(f"pid {process.pid}")


async def _wait_host(cluster: Cluster, daemon: Daemon) -> None:
    """For the node's container: what the API says of the node may be of the time before a reboot."""
    node, loop = cluster.node(1), asyncio.get_running_loop()
    deadline = loop.time() + HOST_TIMEOUT_S
    while not await asyncio.to_thread(daemon.is_running, f"{cluster.docker_network}-node"):
        if loop.time() > deadline or launch.running_agent(node) is None:
            raise ClusterError(
                f"the node's container does not run; the end of {node.log}:\n{tail(node.log, steps.TAIL_LINES)}"
            )
        await asyncio.sleep(steps.POLL_S)


def _check_firewall(cluster: Cluster, daemon: Daemon, progress: Progress) -> None:
    """Containers reach this machine by the bridge; many firewalls forbid that, and then pods have neither names nor the API."""
    script = FIREWALL_CHECK.format(host=cluster.gateway, port=cluster.port)
    node = f"{cluster.docker_network}-node"
    made = daemon.call("exec_create", node, ["/bin/sh", "-c", script])
    daemon.call("exec_start", made["Id"])
    if daemon.call("exec_inspect", made["Id"])["ExitCode"]:
        progress.say(
            f"warning: containers do not reach this machine at {cluster.server_address}, so pods have no DNS and no API: a "
            f"firewall? For ufw: sudo ufw allow in on wd-{cluster.name}"
        )
