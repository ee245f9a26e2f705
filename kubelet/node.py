"""What this node is: its Node object, capacity, addresses, facts of its system, conditions. Called by `kubelet.agent`.

`NodeReport` puts together the status; reading the machine is in `machine_facts`, which a hollow node leaves out.
"""

from __future__ import annotations

import ipaddress
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import wherry
from kubelet import eviction
from kubelet.eviction import Threshold
from kubelet.runtime.base import DNSConfig, Image
from wherry.api import quantity
from wherry.api.times import to_time
from wherry.pb import core_v1_pb2

# The second is systemd-resolved's, for hosts whose /etc/resolv.conf names its stub on 127.0.0.53.
RESOLVER_FILES = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
MAX_IMAGES = 50
MAX_PODS = 110


def agent_version() -> str:
    return f"wherry/{wherry.__version__}"


@dataclass(slots=True)
class Machine:
    """Facts that do not change while the agent runs."""

    cpus: int = 1
    memory_bytes: int = 1 << 32
    disk_bytes: int = 1 << 36
    max_pids: int = 32768
    info: core_v1_pb2.NodeSystemInfo = field(default_factory=core_v1_pb2.NodeSystemInfo)


def machine_facts(root: Path) -> Machine:
    info = core_v1_pb2.NodeSystemInfo(
        machine_id=_read("/etc/machine-id"),
        system_uuid=_read("/sys/class/dmi/id/product_uuid") or _read("/etc/machine-id"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        kernel_version=platform.release(),
        os_image=_os_image(),
        operating_system="linux",
        architecture=architecture(),
    )
    disk = os.statvfs(root)
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk_bytes=disk.f_blocks * disk.f_frsize,
        max_pids=int(_read("/proc/sys/kernel/pid_max") or 32768),
        info=info,
    )


def architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_image() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "Linux"


def host_dns(paths: Sequence[str] = RESOLVER_FILES) -> DNSConfig:
    """The first file that names a server which pods can reach: a stub resolver on the host's loopback is nobody in a pod."""
    for path in paths:
        found = _resolver_configuration(path)
        if found.servers:
            return found
    return DNSConfig()


def _resolver_configuration(path: str) -> DNSConfig:
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in _read(path).splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            if not _on_loopback(words[1]):
                servers.append(words[1])
        elif words[:1] in (["search"], ["domain"]):
            # With and without the dot at the end it is one domain; alone it is the root.
            searches = [word.removesuffix(".") or word for word in words[1:]]
        elif words[:1] == ["options"]:
            options = words[1:]
    return DNSConfig(tuple(servers), tuple(searches), tuple(options))


def _on_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True  # no address: of no use to a pod either


@dataclass(slots=True)
class Pressure:
    """What housekeeping last found; the messages are the kubelet's."""

    memory: bool = False
    disk: bool = False
    pids: bool = False

    def conditions(self) -> list[str]:
        """Those that are true, as the kubelet orders them."""
        pairs = (("DiskPressure", self.disk), ("MemoryPressure", self.memory), ("PIDPressure", self.pids))
        return [name for name, pressed in pairs if pressed]


class NodeReport:
    """Builds the Node object and its status. `capacity` overrides the machine's, for nodes that share one."""

    def __init__(
        self,
        name: str,
        machine: Machine,
        *,
        ips: Sequence[str],
        labels: Mapping[str, str] | None = None,
        capacity: Mapping[str, str] | None = None,
        taints: Sequence[core_v1_pb2.Taint] = (),
        hard: Sequence[Threshold] = (),
    ) -> None:
        self.name = name
        self._machine = machine
        self._ips = tuple(ips)
        self._labels = dict(labels or {})
        self._taints = list(taints)
        self._hard = {threshold.signal: threshold for threshold in hard}
        self.runtime_version = "unknown://0"
        self.images: Sequence[Image] = ()
        self.pressure = Pressure()
        self.not_ready = "container runtime status check may not have completed yet"
        self._since: dict[str, tuple[str, float]] = {}
        self.capacity: dict[str, str] = {
            "cpu": str(machine.cpus),
            "memory": f"{machine.memory_bytes // 1024}Ki",
            "ephemeral-storage": f"{machine.disk_bytes // 1024}Ki",
            "pods": str(MAX_PODS),
        }
        for resource, amount in (capacity or {}).items():
            self.capacity[resource] = quantity.canonical(amount)

    @property
    def memory_bytes(self) -> int:
        return quantity.value(self.capacity["memory"])

    def allocatable(self) -> dict[str, str]:
        """What must stay free, else pods are evicted, is not for pods to ask for."""
        left = dict(self.capacity)
        for resource, signal in (("memory", eviction.MEMORY), ("ephemeral-storage", eviction.NODEFS)):
            threshold = self._hard.get(signal)
            if threshold is not None:
                capacity = quantity.value(self.capacity[resource])
                free = max(capacity - threshold.value(capacity), 0)
                left[resource] = f"{free // 1024}Ki" if resource == "memory" else str(free)
        return {name: quantity.canonical(amount) for name, amount in left.items()}

    def node(self) -> core_v1_pb2.Node:
        node = core_v1_pb2.Node()
        node.metadata.name = self.name
        node.metadata.labels.update(self.labels())
        node.spec.taints.extend(self._taints)
        return node

    def labels(self) -> dict[str, str]:
        arch = self._machine.info.architecture or architecture()
        return {
            "kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch, **self._labels,
        }  # fmt: skip

    def status(self, now: float) -> core_v1_pb2.NodeStatus:
        status = core_v1_pb2.NodeStatus()
        for table, amounts in ((status.capacity, self.capacity), (status.allocatable, self.allocatable())):
            for name, amount in amounts.items():
                table[name].string = amount
        for ip in self._ips:
            status.addresses.add(type="InternalIP", address=ip)
        status.addresses.add(type="Hostname", address=self.name)
        status.node_info.CopyFrom(self._machine.info)
        status.node_info.operating_system = "linux"
        status.node_info.architecture = self._machine.info.architecture or architecture()
        status.node_info.container_runtime_version = self.runtime_version
        status.node_info.kubelet_version = agent_version()
        for image in sorted(self.images, key=lambda i: (-i.size_bytes, i.id))[:MAX_IMAGES]:
            status.images.add(names=[*image.digests, *image.tags], size_bytes=image.size_bytes)
        pressure = self.pressure
        self._condition(
            status, now, "MemoryPressure", pressure.memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory",
            "kubelet has insufficient memory available", "kubelet has sufficient memory available",
        )  # fmt: skip
        self._condition(
            status, now, "DiskPressure", pressure.disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure",
            "kubelet has disk pressure", "kubelet has no disk pressure",
        )  # fmt: skip
        self._condition(
            status, now, "PIDPressure", pressure.pids, "KubeletHasInsufficientPID", "KubeletHasSufficientPID",
            "kubelet has insufficient PID available", "kubelet has sufficient PID available",
        )  # fmt: skip
        self._condition(
            status, now, "Ready", not self.not_ready, "KubeletReady", "KubeletNotReady",
            "kubelet is posting ready status", self.not_ready,
        )  # fmt: skip
        return status

    def _condition(
        self, status: core_v1_pb2.NodeStatus, now: float, type_: str, value: bool, yes: str, no: str, yes_text: str, no_text: str
    ) -> None:  # fmt: skip
        text = "True" if value else "False"
        since = self._since.get(type_)
        if since is None or since[0] != text:
            since = self._since[type_] = (text, now)
        condition = status.conditions.add(
            type=type_, status=text, reason=yes if value else no, message=yes_text if value else no_text
        )
        condition.last_heartbeat_time.CopyFrom(to_time(now))
        condition.last_transition_time.CopyFrom(to_time(since[1]))
