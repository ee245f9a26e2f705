"""`wherry down`: removes every trace of a local cluster, from whatever state it is in: running, half started, killed with -9 or
left behind by a reboot. Goes by what there is (processes, namespaces, links, directories), with the description as a help only.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from kubelet.ingress import process as haproxy
from kubelet.network import cni, conntrack
from kubelet.runtime import cleanup, containerd, mounts
from wherry.cli.cluster import cgroups, hosts, launch, layout
from wherry.cli.cluster.layout import Cluster, ClusterError, Node
from wherry.cli.cluster.progress import Progress


@dataclass(frozen=True, slots=True)
class Traces:
    """What is to be taken away. `cluster` is a stand-in when its description is lost."""

    cluster: Cluster
    described: bool
    nodes: list[Node]


def check_root(name: str) -> None:
    if os.geteuid() != 0:
        raise ClusterError(
            f'this user has no cluster "{name}" here; removing one of root\'s needs root: run `sudo wherry down --name {name}`'
        )


def find_traces(name: str) -> Traces:
    try:
        described = layout.load(name)
    except ClusterError:
        described = None  # damaged: go by names
    cluster = described or Cluster(
        name=name,
        data_dir=str(layout.STATE_DIR / name),
        node_count=0,
        port=0,
        host_subnet=str(hosts.HOST_NETWORKS),
        cluster_cidr=str(hosts.POD_NETWORKS),
    )
    numbers = set(range(1, cluster.node_count + 1))
    seen = [*hosts.namespaces_of(name), *hosts.links_of(name)]
    for directory in (cluster.data, cluster.run):
        seen += [path.name for path in directory.glob("node-*")]
    for text in seen:
        number = text.rsplit("-", 1)[-1]
        if number.isdigit():
            numbers.add(int(number))
    return Traces(cluster, described is not None, [cluster.node(number) for number in sorted(numbers)])


def names() -> list[str]:
    """Every local cluster of which something is there."""
    running = [path.name for path in layout.RUN_DIR.glob("*") if path.is_dir()] if layout.RUN_DIR.is_dir() else []
    in_kernel = hosts.names_in_kernel() if os.geteuid() == 0 else []  # those are root's
    return sorted({*layout.known(), *in_kernel, *running})


def down(name: str, progress: Progress, *, keep_data: bool = False) -> bool:
    """False when there was nothing to remove. Raises ClusterError, NetworkError or OSError when something can't be."""
    traces = find_traces(name)
    cluster, before = traces.cluster, progress.changes
    with progress.step("stop control plane and agents") as step:
        found = [
            launch.running_ingress(cluster),
            haproxy.running(cluster.ingress_data),
            launch.running_server(cluster),
            *(launch.running_agent(node) for node in traces.nodes),
        ]
        processes = [process for process in found if process is not None]
        launch.stop(processes)
        if not processes:
            step.unchanged("none ran")
        else:
            step.done(f"{len(processes)} processes")
    with progress.step("stop containers") as step:
        ended = sum(_end_containerd(node, keep_data) for node in traces.nodes)
        gone = cgroups.remove(name)
        if not ended and not gone:
            step.unchanged("none ran")
    with progress.step("remove nodes' networks") as step:
        if not hosts.remove_network(name, cluster.ip_forward):
            step.unchanged("there were none")
        elif traces.described:
            conntrack.forget(cluster.host_subnet)
            conntrack.forget(cluster.cluster_cidr)
    with progress.step("remove files" if not keep_data else "remove run-time files") as step:
        if not _remove_files(cluster, keep_data):
            step.unchanged("there were none")
    return progress.changes > before


def _end_containerd(node: Node, keep_data: bool) -> bool:
    place = node.containerd
    process = containerd.find_running(place)
    if process is not None:
        # Its containers' processes go with the shims below; nothing has to be given back one by one, since the node's
        # namespace and its files go as a whole.
        process.terminate(launch.STOP_TIMEOUT_S)
    was_there = process is not None or place.run.exists()
    cleanup.remove_leftovers(place, keep_data=keep_data)
    cni.remove_state(node.network, place.ipam_dir, place.netns_dir)
    return was_there


def _remove_files(cluster: Cluster, keep_data: bool) -> bool:
    doomed = [cluster.run]
    if not keep_data:
        doomed += [cluster.data, layout.state_file(cluster.name)]
    mounts.unmount_below(cluster.run, cluster.data)
    changed = False
    for path in doomed:
        if path.is_dir():
            shutil.rmtree(path)
            changed = True
        elif path.exists():
            path.unlink()
            changed = True
    if not keep_data:
        forget_context(cluster.name)
    for directory in (layout.RUN_DIR, layout.STATE_DIR):
        remove_empty(directory)
    return changed


def forget_context(name: str) -> None:
    """In the user's client configuration."""
    from wherry.client import config

    try:
        config.remove_context(config.config_path(), name)
        remove_empty(Path(config.DEFAULT_PATH).expanduser().parent)
    except config.ConfigError:
        pass  # a file that is no kubeconfig has no context of ours


def remove_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        pass  # somebody else's things are in it
