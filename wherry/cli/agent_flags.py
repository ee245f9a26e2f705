"""What the flags of `wherry agent` mean: options of the agent, its network, addresses, labels and taints. Pure but for the look
at which address leads to the control plane. Raises ValueError that names the flag. Called by `wherry.cli.agent` and its parts."""

from __future__ import annotations

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubelet.network.node import NodeNetwork
    from kubelet.options import AgentOptions
    from wherry.pb.core_v1_pb2 import Taint


def options(arguments: argparse.Namespace, name: str) -> AgentOptions:
    from kubelet import eviction, imagegc
    from kubelet.options import AgentOptions

    hollow = arguments.runtime == "hollow"
    network: NodeNetwork | None = None
    address = arguments.node_ip or own_address(arguments.server)
    if arguments.runtime == "docker":
        own_network = arguments.docker_network == "cni"
    else:
        own_network = not hollow and not arguments.runtime_endpoint
    if own_network and arguments.cni_conf_dir is None:
        network = node_network(arguments, address)
    capacity = pairs([arguments.capacity], "--capacity")
    try:
        hard = eviction.parse(eviction.DEFAULT_HARD if arguments.eviction_hard is None else arguments.eviction_hard)
    except ValueError as error:
        raise ValueError(f"--eviction-hard: {error}") from error
    transition_s = _seconds(arguments.eviction_pressure_transition_period, "--eviction-pressure-transition-period")
    return AgentOptions(
        node_name=name,
        root=None if hollow else arguments.data_dir,
        ips=(address,),
        labels=pairs(arguments.labels, "--labels"),
        taints=taints(arguments.taints),
        capacity=capacity,
        cgroup_parent=arguments.cgroup_parent,
        simultaneous_starts=arguments.simultaneous_starts or _starts(capacity),
        eviction_hard=hard,
        pressure_transition_s=transition_s,
        image_gc=imagegc.Thresholds(
            arguments.image_gc_high_threshold / 100,
            arguments.image_gc_low_threshold / 100,
            _seconds(arguments.minimum_image_ttl_duration, "--minimum-image-ttl-duration"),
        ),
        network=network,
        shapes=arguments.runtime != "docker" or own_network,
        traffic=own_network or docker_bridge(arguments) != "",
        pod_cgroups=arguments.runtime != "docker" or os.geteuid() == 0,
    )


def node_name(arguments: argparse.Namespace) -> str:
    return str(arguments.node_name or socket.gethostname().lower())


def docker_bridge(arguments: argparse.Namespace) -> str:
    """The Docker network that is the node's own; "" when it has none."""
    named = arguments.runtime == "docker" and arguments.docker_network not in ("cni", "bridge")
    return str(arguments.docker_network) if named else ""


def node_network(arguments: argparse.Namespace, address: str) -> NodeNetwork:
    from kubelet.network.node import NodeNetwork, NodeNetworkOptions
    from kubelet.runtime.containerd import Layout

    layout = Layout(data=arguments.data_dir, run=arguments.run_dir)
    return NodeNetwork(
        NodeNetworkOptions(
            conf_dir=layout.cni_conf_dir, ipam_dir=layout.ipam_dir, netns_dir=layout.netns_dir, network=arguments.network,
            cluster_cidr=arguments.cluster_cidr, address=address,
        )
    )  # fmt: skip


def _starts(capacity: Mapping[str, str]) -> int:
    """Starting is CPU work: with eight per CPU 30 pods ran soonest. At least four, so that a few that hang do not
    keep the node from starting others."""
    from wherry.api import quantity

    cpus = quantity.milli(capacity["cpu"]) / 1000 if "cpu" in capacity else len(os.sched_getaffinity(0))
    return min(max(int(8 * cpus), 4), 16)


def handlers(given: Sequence[str]) -> dict[str, str]:
    """Raises ValueError, naming the flag."""
    from kubelet.runtime.containerd import HOST_PORTS_HANDLER
    from kubelet.runtime.cri import DEFAULT_HANDLER

    found = {}
    for text in given:
        name, equals, runtime = text.partition("=")
        known_form = runtime.startswith(("/", "io.containerd."))
        if not equals or not known_form or not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            raise ValueError(
                f'--runtime-handler: "{text}"; wanted NAME=RUNTIME, the name as in a RuntimeClass, the runtime as the path of a '
                "binary or as io.containerd.NAME.VERSION"
            )
        if name in (DEFAULT_HANDLER, HOST_PORTS_HANDLER) or name.endswith(f"-{HOST_PORTS_HANDLER}"):
            raise ValueError(
                f'--runtime-handler: "{text}"; the name {name} is reserved: {DEFAULT_HANDLER} is the default runtime, and '
                f"{HOST_PORTS_HANDLER} and NAME-{HOST_PORTS_HANDLER} are for pods with host ports"
            )
        found[name] = runtime
    return found


def _seconds(text: str, flag: str) -> float:
    from wherry.api.times import parse_duration

    try:
        return parse_duration(text) / 1e9
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error


def split_address(text: str, flag: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f'{flag}: "{text}" is no address; wanted HOST:PORT')
    return host.strip("[]"), int(port)


def own_address(server: str) -> str:
    """The address from which the control plane is reached. Nothing is sent."""
    host, port = split_address(server.split(",")[0], "--server")
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            raise OSError(f"no way to the control plane at {server}: {error.strerror or error}") from error
        return str(probe.getsockname()[0])


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in ",".join(texts).split(","):
        if not part.strip():
            continue
        key, equals, value = part.strip().partition("=")
        if not equals or not key:
            raise ValueError(f'{flag}: "{part}"; wanted KEY=VALUE')
        found[key] = value
    return found


def taints(texts: Sequence[str]) -> list[Taint]:
    from wherry.pb.core_v1_pb2 import Taint

    found = []
    for part in ",".join(texts).split(","):
        if not part.strip():
            continue
        rest, colon, effect = part.strip().rpartition(":")
        key, _, value = rest.partition("=")
        if not colon or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            raise ValueError(f'--taints: "{part}"; wanted KEY=VALUE:NoSchedule, :PreferNoSchedule or :NoExecute')
        found.append(Taint(key=key, value=value, effect=effect))
    return found
