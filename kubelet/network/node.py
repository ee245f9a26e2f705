"""One node's part of the pod network, as the agent uses it: `configure` when the control plane has named the pod CIDR (and
whenever the MTU may be another), `release_leaked` after a start, `remove` when the node goes for good. Runs inside the node's
own network namespace."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from kubelet.network import NetworkError, cni, conntrack, firewall, hostports, links, masquerade, shaping
from kubelet.network.mesh import kernel as mesh
from kubelet.network.mesh.plan import LINK as OVERLAY
from kubelet.network.mesh.plan import OVERHEAD
from kubelet.network.policy.plan import TABLE as POLICIES_TABLE
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
    bridge: str = cni.BRIDGE
    table: str = "wherry-pods"
    cluster_cidr: str = ""
    mtu: int = 0  # 0: as the link with `address`, less the overlay's header while there is an overlay
    address: str = ""  # the node's own; without it the link to the outside counts


class NodeNetwork:
    """All calls are idempotent and may be repeated after a crash at any point."""

    def __init__(self, options: NodeNetworkOptions) -> None:
        self.options = options
        self._configured = ("", "")

    async def configure(self, pod_cidr: str, cluster_cidr: str = "") -> None:
        """Forwarding, masquerading, then CNI's file, which is what makes containerd report NetworkReady. Raises NetworkError."""
        self._configured = (pod_cidr, cluster_cidr)
        await asyncio.to_thread(self._configure, pod_cidr, cluster_cidr)

    async def configure_again(self) -> None:
        """The overlay has come or gone. Pods that are there keep their MTU, and learn of a narrower way from this node (path
        MTU discovery, which ends at the first hop). Raises NetworkError."""
        if self._configured[0]:
            await self.configure(*self._configured)

    async def release_leaked(self, sandbox_ids: set[str]) -> list[str]:
        """Frees the addresses of sandboxes that are not among the given ones. Only before new sandboxes are started."""
        return await asyncio.to_thread(
            cni.release_leaked, self.options.ipam_dir, self.options.network, set(sandbox_ids)
        )

    async def remove(self, pod_cidr: str) -> None:
        """Takes everything away, for a node that leaves the cluster; its sandboxes must be gone. `pod_cidr`: what `pod_cidr()`
        said before its containerd went, which takes the configuration along."""
        await asyncio.to_thread(self._remove, pod_cidr)

    def _configure(self, pod_cidr: str, cluster_cidr: str) -> None:
        options = self.options
        try:
            subnet = ipaddress.ip_network(pod_cidr)
        except ValueError as error:
            raise NetworkError(f'pod CIDR "{pod_cidr}": {error}') from error
        inside = options.cluster_cidr or cluster_cidr or _around(subnet)
        try:
            mtu = options.mtu or links.mtu_of(options.address) - (OVERHEAD if OVERLAY in links.names() else 0)
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
            firewall.let_through(options.bridge)
            masquerade.apply(masquerade.ruleset(options.table, pod_cidr, (inside,), options.bridge))
        shaping.tighten(options.bridge)
        cni.write_config(options.conf_dir / cni.HOST_PORTS_DIR, with_ports)
        cni.write_config(options.conf_dir, plain)

    def _remove(self, pod_cidr: str) -> None:
        options = self.options
        mesh.remove()
        masquerade.delete(options.table)
        masquerade.delete(SERVICES_TABLE)
        masquerade.delete(POLICIES_TABLE)
        hostports.remove_unused()
        firewall.stop_letting_through(options.bridge)
        links.drop_addresses()
        if options.bridge in links.names():
            links.ip("link", "del", options.bridge)
        conntrack.forget(pod_cidr)  # last: while there is a bridge, there are packets
        for directory in (options.conf_dir, options.conf_dir / cni.HOST_PORTS_DIR):
            (directory / cni.CONFIG_NAME).unlink(missing_ok=True)
        cni.remove_state(options.network, options.ipam_dir, options.netns_dir)

    def pod_cidr(self) -> str:
        """As it was configured last, by us or another process; "" when it never was."""
        return self._configured[0] or cni.configured_subnet(self.options.conf_dir)


def _around(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    if subnet.version == 6 or subnet.prefixlen <= _DEFAULT_CLUSTER_PREFIX:
        return str(subnet)
    return str(subnet.supernet(new_prefix=_DEFAULT_CLUSTER_PREFIX))
