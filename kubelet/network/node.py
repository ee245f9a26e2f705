"""One node's part of the pod network, as the agent uses it: `configure` when the control plane has named the pod CIDR,
`release_leaked` after a start, `remove` when the node goes for good. Runs inside the node's own network namespace."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from kubelet.network import NetworkError, cni, hostports, links, masquerade
from kubelet.network.services.ruleset import TABLE as SERVICES_TABLE

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
# Without a cluster CIDR of its own the network is taken to be this wide around the node's share of it.
_DEFAULT_CLUSTER_PREFIX = 16


@dataclass(frozen=True, slots=True)
class NodeNetworkOptions:
    conf_dir: Path  # as in containerd's configuration: `Layout.cni_conf_dir`
    ipam_dir: Path  # `Layout.ipam_dir`
    netns_dir: Path  # where containerd keeps the sandboxes' namespaces: `Layout.netns_dir`
    network: str = "wherry"  # must differ between nodes of one machine: CNI's caches are keyed by it
    bridge: str = "wherry0"
    table: str = "wherry-pods"
    cluster_cidr: str = ""
    mtu: int = 0  # 0: as the link to the outside


class NodeNetwork:
    """All calls are idempotent and may be repeated after a crash at any point."""

    def __init__(self, options: NodeNetworkOptions) -> None:
        self.options = options

    async def configure(self, pod_cidr: str) -> None:
        """Forwarding, masquerading, then CNI's file, which is what makes containerd report NetworkReady. Raises NetworkError."""
        await asyncio.to_thread(self._configure, pod_cidr)

    async def release_leaked(self, sandbox_ids: set[str]) -> list[str]:
        """Frees the addresses of sandboxes that are not among the given ones. Only before new sandboxes are started."""
        return await asyncio.to_thread(
            cni.release_leaked, self.options.ipam_dir, self.options.network, set(sandbox_ids)
        )

    async def remove(self) -> None:
        """Takes everything away, for a node that leaves the cluster; its sandboxes must be gone."""
        await asyncio.to_thread(self._remove)

    def _configure(self, pod_cidr: str) -> None:
        options = self.options
        try:
            subnet = ipaddress.ip_network(pod_cidr)
        except ValueError as error:
            raise NetworkError(f'pod CIDR "{pod_cidr}": {error}') from error
        inside = options.cluster_cidr or _around(subnet)
        try:
            mtu = options.mtu or outside_mtu()
            plain, with_ports = (
                cni.config(
                    options.network, pod_cidr, options.ipam_dir, bridge=options.bridge, mtu=mtu, host_ports=host_ports
                )
                for host_ports in (False, True)
            )
        except ValueError as error:
            raise NetworkError(str(error)) from error
        if subnet.version == 4:
            _FORWARDING.write_text("1\n")
            masquerade.apply(masquerade.ruleset(options.table, pod_cidr, (inside,), options.bridge))
        cni.write_config(options.conf_dir / cni.HOST_PORTS_DIR, with_ports)
        cni.write_config(options.conf_dir, plain)

    def _remove(self) -> None:
        options = self.options
        links.sync_routes({})
        masquerade.delete(options.table)
        masquerade.delete(SERVICES_TABLE)
        hostports.remove_unused()
        links.drop_addresses()
        if options.bridge in links.names():
            links.ip("link", "del", options.bridge)
        for directory in (options.conf_dir, options.conf_dir / cni.HOST_PORTS_DIR):
            (directory / cni.CONFIG_NAME).unlink(missing_ok=True)
        cni.remove_state(options.network, options.ipam_dir, options.netns_dir)


def _around(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    if subnet.version == 6 or subnet.prefixlen <= _DEFAULT_CLUSTER_PREFIX:
        return str(subnet)
    return str(subnet.supernet(new_prefix=_DEFAULT_CLUSTER_PREFIX))


def outside_mtu() -> int:
    """The MTU of the link with the default route; a pod's packets must fit through it."""
    for route in links.query("-4", "route", "show", "default"):
        for link in links.query("link", "show", "dev", str(route["dev"])):
            return int(link["mtu"])
    return cni.DEFAULT_MTU
