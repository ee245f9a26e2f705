"""A real containerd with the pod network of a node, for tests that run real containers: private, under a temporary root, with
names and networks of its own. Used by tests/node and tests/contract. No agent and no control plane have part in it."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubelet.network import links
from kubelet.network.node import NodeNetwork, NodeNetworkOptions
from kubelet.runtime.base import ContainerConfig, SandboxConfig
from kubelet.runtime.containerd import Containerd, ContainerdOptions, Layout
from kubelet.runtime.cri import CriRuntime
from wherry.cli.cluster import cgroups, hosts, images
from wherry.cli.cluster.layout import locked
from wherry.testing.eventually import eventually

CGROUP = f"test{os.getpid()}"
_MADE = itertools.count()


@dataclass(frozen=True)
class RealNode:
    layout: Layout
    network: NodeNetwork
    block: ipaddress.IPv4Network  # claimed by a route
    registries: Path | None = None  # containerd's hosts.toml files; None: the machine's

    @property
    def pod_cidr(self) -> str:
        return str(next(self.block.subnets(new_prefix=24)))

    def containerd(self) -> Containerd:
        if self.registries is not None:
            return Containerd(ContainerdOptions(self.layout, registry_config_dir=str(self.registries)))
        return Containerd(ContainerdOptions(self.layout))


def make_node(tmp: Path, run: Path, tag: str, registries: Path | None = None) -> RealNode:
    layout = Layout(data=tmp / "data", run=run)
    options = NodeNetworkOptions(
        conf_dir=layout.cni_conf_dir,
        ipam_dir=layout.ipam_dir,
        netns_dir=layout.netns_dir,
        network=f"wherry-{tag}",
        bridge=f"wt{tag}"[:15],
        table=f"wherry-{tag}",
    )
    with locked("choosing"):
        block = ipaddress.IPv4Network(hosts.choose_cluster_cidr(hosts.networks_in_use()))
        # The bridge comes with the first pod only; nobody else may choose the same network before.
        links.ip("route", "add", "unreachable", str(block), "metric", hosts.CLAIM_METRIC)
    return RealNode(layout, NodeNetwork(options), block, registries)


async def raise_node(node: RealNode) -> None:
    containerd = node.containerd()
    await containerd.start()
    await node.network.configure(node.pod_cidr)
    for name, content in (("pause", images.pause_archive()), ("demo", images.demo_archive())):
        path = node.layout.data / f"{name}.tar"
        path.write_bytes(content)
        images.load(node.layout.socket, path)
    runtime = CriRuntime(containerd.endpoint)
    try:

        async def ready() -> bool:
            return not await runtime.ready()

        await eventually(ready)
    finally:
        await runtime.close()


async def lower_node(node: RealNode) -> None:
    pod_cidr = node.network.pod_cidr()
    await node.containerd().destroy()
    await node.network.remove(pod_cidr)
    links.ip("route", "del", "unreachable", str(node.block), "metric", hosts.CLAIM_METRIC)
    cgroups.remove(CGROUP)


@contextmanager
def running_node(tmp: Path, *, registries: Path | None = None) -> Iterator[RealNode]:
    """For as long as the block runs; the machine's forwarding is restored."""
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    # Two of them may live in one test process.
    tag = f"{os.getpid()}{chr(ord('a') + next(_MADE) % 26)}"
    node = make_node(tmp, Path("/run") / f"wt-{tag}", tag, registries)
    try:
        asyncio.run(raise_node(node))
        yield node
    finally:
        asyncio.run(lower_node(node))
        if not hosts.names_in_kernel():  # a cluster that has come up in the meantime forwards
            forwarding.write_text(before)


class Pods:
    """Sandboxes and containers of the demo image, with few words."""

    def __init__(self, runtime: CriRuntime, logs: Path) -> None:
        self.runtime, self.logs = runtime, logs
        self._number = 0

    async def sandbox(self, **changes: object) -> tuple[str, SandboxConfig]:
        self._number += 1
        name = f"pod-{self._number}"
        fields: dict[str, object] = {
            "namespace": "default",
            "name": name,
            "uid": f"uid-{os.getpid()}-{id(self):x}-{self._number}",
            "attempt": 0,
            "hostname": name,
            "log_directory": str(self.logs),
            "cgroup_parent": f"/{cgroups.ROOT}/{CGROUP}/{name}",
        }
        config = SandboxConfig(**(fields | changes))  # type: ignore[arg-type]
        return await self.runtime.run_sandbox(config), config

    async def container(self, sandbox: tuple[str, SandboxConfig], script: str, **changes: object) -> str:
        """Created and started; the script runs in a shell."""
        self._number += 1
        fields: dict[str, object] = {
            "name": f"c{self._number}",
            "attempt": 0,
            "image": images.DEMO_IMAGE,
            "user_image": images.DEMO_IMAGE,
            "command": ("/bin/sh", "-c", script),
            "log_path": f"c{self._number}.log",
        }
        config = ContainerConfig(**(fields | changes))  # type: ignore[arg-type]
        container = await self.runtime.create_container(sandbox[0], config, sandbox[1])
        await self.runtime.start_container(container)
        return container
