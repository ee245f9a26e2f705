"""`wherry down` of a cluster on Docker: its processes, containers, network, images and files. From whatever state it is in;
called by the command, and by `dockerup` for what it could not finish.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kubelet.ingress import process as haproxy
from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.docker_bridge import NODE_IMAGE
from kubelet.volumes.directories import foreign, memory_root
from wherry.cli.cluster import dockerhost, images, launch, layout
from wherry.cli.cluster.dockerhost import Daemon
from wherry.cli.cluster.layout import DOCKER, NETWORKS, Cluster, ClusterError
from wherry.cli.cluster.progress import Progress

IMAGES = (NODE_IMAGE, images.DEMO_IMAGE, images.PAUSE_IMAGE)


def find(name: str) -> Cluster | None:
    """The cluster of this name that is on Docker; a stand-in where its description is lost or damaged, made of what there is."""
    try:
        described = layout.load(name)
    except ClusterError:
        if os.geteuid() == 0:
            return None  # it may as well have been one with containerd: that is looked for by names
        described = None
    if described is not None:
        return described if described.runtime == DOCKER else None
    stand_in = Cluster(
        name=name, data_dir=str(layout.STATE_DIR / name), node_count=1, port=0, host_subnet=str(NETWORKS),
        cluster_cidr=str(NETWORKS), ingress=False, runtime=DOCKER, docker_host=dockerhost.default_host(),
    )  # fmt: skip
    if os.geteuid() != 0 and any(path.exists() for path in (layout.state_file(name), stand_in.data, stand_in.run)):
        return stand_in
    return stand_in if _is_on_docker(stand_in) else None


def _is_on_docker(cluster: Cluster) -> bool:
    try:
        with dockerhost.reach(cluster.docker_host) as daemon:
            return daemon.has_network(cluster.docker_network, cluster.data_dir)
    except (ClusterError, RuntimeFailure):
        return False


def down(cluster: Cluster, progress: Progress, *, keep_data: bool = False) -> bool:
    """False when there was nothing to remove. Raises ClusterError, RuntimeFailure or OSError when something can't be. Images that
    were pulled, or loaded by hand, are the user's, and stay; ours go with the last cluster of the daemon."""
    before = progress.changes
    node = cluster.node(1)
    with progress.step("stop control plane and agent") as step:
        found = (
            launch.running_ingress(cluster), haproxy.running(cluster.ingress_data), launch.running_server(cluster),
            launch.running_agent(node),
        )  # fmt: skip
        processes = [process for process in found if process is not None]
        launch.stop(processes)
        if processes:
            step.done(f"{len(processes)} processes")
        else:
            step.unchanged("none ran")
    with dockerhost.reach(cluster.docker_host) as daemon:
        with progress.step("remove containers") as step:
            count = daemon.remove_containers(cluster.docker_network)
            if count:
                step.done(str(count))
            else:
                step.unchanged("there were none")
        with progress.step(f"remove Docker network {cluster.docker_network}") as step:
            if not daemon.remove_network(cluster.docker_network, cluster.data_dir):
                step.unchanged("there was none")
        with progress.step("remove files" if not keep_data else "remove run-time files") as step:
            if not _remove_files(cluster, daemon, keep_data):
                step.unchanged("there were none")
        if not keep_data and not daemon.clusters():
            with progress.step("remove images") as step:
                if not daemon.remove_images(IMAGES):
                    step.unchanged("there were none, or they are in use")
    return progress.changes > before


def _remove_files(cluster: Cluster, daemon: Daemon, keep_data: bool) -> bool:
    from wherry.cli.cluster.down import forget_context, remove_empty

    memory = memory_root(cluster.node(1).data)
    doomed = [cluster.run, *([] if keep_data else [cluster.data])]
    if memory is not None and memory.is_dir() and not foreign(memory):
        doomed.append(memory)
    changed = False
    for path in doomed:
        if path.is_dir():
            _remove_tree(path, daemon, cluster.docker_network)
            changed = True
    if not keep_data:
        if layout.state_file(cluster.name).exists():
            layout.state_file(cluster.name).unlink()
            changed = True
        forget_context(cluster.name)
    for directory in (layout.RUN_DIR, layout.STATE_DIR):
        remove_empty(directory)
    return changed


def _remove_tree(path: Path, daemon: Daemon, network: str) -> None:
    try:
        shutil.rmtree(path)
    except PermissionError:
        # Containers have left things there as somebody else.
        if NODE_IMAGE not in daemon.image_ids():
            raise
        daemon.sweep(path, network)
        shutil.rmtree(path)
