"""What an agent is told by whoever starts it: `wherry agent`, the simulation, tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kubelet import eviction, imagegc
from wherry.pb import core_v1_pb2

if TYPE_CHECKING:
    from kubelet.network.traffic import Ground


class NetworkSetup(Protocol):
    """The node's part of the pod network; `kubelet.network.node.NodeNetwork` is one."""

    async def configure(self, pod_cidr: str, cluster_cidr: str = "") -> None: ...
    async def configure_again(self) -> None: ...
    async def release_leaked(self, sandbox_ids: set[str]) -> list[str]: ...


@dataclass(slots=True)
class AgentOptions:
    """`root` None: no files, volumes or cgroups (hollow nodes). `capacity` overrides the machine's, per resource; with it the
    node counts as having a part of the machine only."""

    node_name: str
    root: Path | None = None
    ips: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[core_v1_pb2.Taint] = ()
    capacity: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    pod_cgroups: bool = True
    simultaneous_starts: int = 8
    simultaneous_pulls: int = 4
    relist_s: float = 10.0
    eviction_hard: Sequence[eviction.Threshold] = eviction.parse(eviction.DEFAULT_HARD)
    pressure_transition_s: float = eviction.PRESSURE_TRANSITION_S
    image_gc: imagegc.Thresholds = imagegc.DEFAULT
    network: NetworkSetup | None = None
    # Route Services and answer names, in the agent's network namespace; with `network` also join its pods to other nodes'.
    traffic: bool = False
    # Where Services and names are served when that is not here.
    ground: Ground | None = None
    # Whether the pods' network keeps to bandwidth annotations.
    shapes: bool = True
    # Empties a directory in which files may be of users that we are not.
    sweep: Callable[[Path], Awaitable[None]] | None = None
    # Whether the kernel has killed a container for want of memory; the runtime may have missed it.
    out_of_memory: Callable[[str], bool] = lambda container_id: False
