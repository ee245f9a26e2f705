"""The processes of a local cluster: `wherry server` and `wherry ingress` on the host, one `wherry agent` in each node's
namespace. Started in sessions of their own, found again by pid file and, when that is lost, by their command lines. Called by
`up`, `down`, `status`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from time import monotonic, sleep

from kubelet.runtime.processes import KILL_TIMEOUT_S, SBIN, ProcessRef, command_lines, find_binary, reap, spawn
from wherry.cli.cluster.layout import DOCKER, Cluster, Node

STOP_TIMEOUT_S = 10.0
_MIB = 1 << 20


def wherry_argv(*arguments: str) -> list[str]:
    """Our own command in the same interpreter, whether or not its script is on the PATH."""
    return [sys.executable, "-m", "wherry.cli.main", *arguments]


def server_argv(cluster: Cluster) -> list[str]:
    return wherry_argv(
        "server",
        "--data-dir", str(cluster.server_data),
        # On the bridge, which this machine and its nodes reach and nobody else.
        "--listen", cluster.server_address,
        "--advertise", cluster.server_address,
        "--cluster-cidr", cluster.cluster_cidr,
        *(["--service-cluster-ip-range", cluster.services] if cluster.runtime == DOCKER else []),
    )  # fmt: skip


def agent_argv(cluster: Cluster, node: Node) -> list[str]:
    return _docker_agent_argv(cluster, node) if cluster.runtime == DOCKER else _containerd_agent_argv(cluster, node)


def _docker_agent_argv(cluster: Cluster, node: Node) -> list[str]:
    """On the machine itself, as whoever called us. Images are the user's own: a full disk is no reason to remove them."""
    return wherry_argv(
        "agent",
        "--runtime", "docker",
        "--docker-host", cluster.docker_host,
        "--docker-network", cluster.docker_network,
        "--server", cluster.server_address,
        "--token", f"@{node.token_file}",
        "--ca", str(cluster.server_data / "ca.crt"),
        "--node-name", node.name,
        "--node-ip", node.address,
        "--data-dir", str(node.data),
        "--run-dir", str(node.run),
        "--images", str(cluster.data / "images"),
        "--image-gc-high-threshold", "100",
        "--eviction-hard", "memory.available<100Mi",
    )  # fmt: skip


def _containerd_agent_argv(cluster: Cluster, node: Node) -> list[str]:
    """The agent's command, run inside the node's network namespace. nsenter changes nothing else, so /sys and its cgroups stay
    (`ip netns exec` would hide them)."""
    registries = cluster.registry_config_dir
    return [
        find_binary("nsenter"), f"--net={node.netns_path}", "--",
        *wherry_argv(
            "agent",
            "--server", cluster.server_address,
            # From a file, since everybody can read command lines.
            "--token", f"@{node.token_file}",
            "--ca", str(cluster.server_data / "ca.crt"),
            "--node-name", node.name,
            "--node-ip", node.address,
            "--data-dir", str(node.data),
            "--run-dir", str(node.run),
            "--network", node.network,
            "--cluster-cidr", cluster.cluster_cidr,
            "--cgroup-parent", node.cgroup_parent,
            "--capacity", ",".join(f"{name}={value}" for name, value in share(cluster.node_count).items()),
            *(["--registry-config-dir", registries] if registries else []),
        ),
    ]  # fmt: skip


def ingress_argv(cluster: Cluster) -> list[str]:
    """On the host itself, which has routes to all pods; on the bridge, so that a web server of the host keeps its ports."""
    return wherry_argv(
        "ingress",
        "--config", str(cluster.server_data / "ingress.conf"),
        "--data-dir", str(cluster.ingress_data),
        "--address", cluster.gateway,
        "--http-port", str(cluster.ingress_ports[0]),
        "--https-port", str(cluster.ingress_ports[1]),
        "--publish-address", cluster.ingress_address,
    )  # fmt: skip


def share(node_count: int) -> dict[str, str]:
    """One node's part of the machine, as quantities."""
    cpus = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": f"{1000 * cpus // node_count}m", "memory": f"{memory // node_count // _MIB}Mi"}


def environment() -> dict[str, str]:
    """What a daemon needs of ours; a whole user's environment is none of its business."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("HOME", "LANG", "PYTHONPATH", "PYTHONHASHSEED", "TZ", "VIRTUAL_ENV", "WHERRY_LOG")
        or name.lower() in ("http_proxy", "https_proxy", "no_proxy")
    }
    return {"HOME": "/root", "PYTHONUNBUFFERED": "1"} | kept | {"PATH": os.pathsep.join(SBIN)}


def running_server(cluster: Cluster) -> ProcessRef | None:
    return ProcessRef.read(cluster.server_pid_file) or _by_arguments("server", str(cluster.server_data))


def running_agent(node: Node) -> ProcessRef | None:
    return ProcessRef.read(node.pid_file) or _by_arguments("agent", str(node.data))


def running_ingress(cluster: Cluster) -> ProcessRef | None:
    return ProcessRef.read(cluster.ingress_pid_file) or _by_arguments("ingress", str(cluster.ingress_data))


def start(argv: list[str], log: Path, pid_file: Path) -> ProcessRef:
    process = spawn(argv, log=log, env=environment())
    process.write(pid_file)
    return process


def stop(processes: list[ProcessRef], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """SIGTERM to all at once, SIGKILL to those that are left when the time is over; returns when they are gone."""
    for process in processes:
        process.signal(signal.SIGTERM)
    deadline = monotonic() + timeout_s
    while left := [process for process in processes if process.alive()]:
        if monotonic() > deadline + KILL_TIMEOUT_S:
            raise TimeoutError(f"processes {[process.pid for process in left]} do not end, not even by SIGKILL")
        if monotonic() > deadline:
            for process in left:
                process.signal(signal.SIGKILL)
        sleep(0.02)
        for process in left:
            reap(process.pid)


def _by_arguments(command: str, directory: str) -> ProcessRef | None:
    """The process `... wherry.cli.main COMMAND ... --data-dir DIRECTORY ...`."""
    for pid, arguments in command_lines().items():
        if "--data-dir" not in arguments or command not in arguments[:5]:
            continue
        if arguments[arguments.index("--data-dir") + 1 :][:1] == [directory]:
            return ProcessRef.of(pid)
    return None
