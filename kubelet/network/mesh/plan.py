"""Which way leads to which node's pods, and what that takes in the kernel. Pure; called by `controller` and `kernel`.

Each node's end of the overlay has the first address of its pod CIDR and a hardware address made of the node's own, so that
nothing has to be exchanged but what a Node object says anyway. Packets are accepted either way, so two nodes that do not agree
on whether they share a segment (their masks differ) still reach each other, as long as both have an end: hence `Mesh.vtep`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kubelet.network.links import ROUTE_PROTOCOL
from wherry.pb import core_v1_pb2

LINK = "wherry-vx"
VNI = 7700
PORT = 4789
# What an outer Ethernet, IPv4, UDP and VXLAN header take of a packet.
OVERHEAD = 50
# Locally administered; the node's IPv4 address follows.
_MAC_PREFIX = "02:77"


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    pod_cidr: str
    address: str


@dataclass(frozen=True, slots=True)
class Mesh:
    """`routes` and `overlay`: pod CIDR -> address of the node that has it."""

    routes: dict[str, str] = field(default_factory=dict)
    overlay: dict[str, str] = field(default_factory=dict)

    @property
    def vtep(self) -> bool:
        return bool(self.overlay)


@dataclass(frozen=True, slots=True)
class State:
    """What there is, or is to be, in the kernel, as far as it is ours. `routes`: destination -> (gateway, "" or the overlay's
    link); `neighbours`: address -> hardware address; `forwarding`: hardware address -> node."""

    routes: dict[str, tuple[str, str]] = field(default_factory=dict)
    neighbours: dict[str, str] = field(default_factory=dict)
    forwarding: dict[str, str] = field(default_factory=dict)


def peer_of(node: core_v1_pb2.Node) -> Peer | None:
    """None while the node has no pod CIDR or no address of its own, or none that this network can use."""
    address = next((item.address for item in node.status.addresses if item.type == "InternalIP"), "")
    try:
        if not isinstance(ipaddress.ip_network(node.spec.pod_cidr), ipaddress.IPv4Network):
            return None
        if not isinstance(ipaddress.ip_address(address), ipaddress.IPv4Address):
            return None
    except ValueError:
        return None
    return Peer(node.metadata.name, node.spec.pod_cidr, address)


def choose(own: Peer, peers: Iterable[Peer], on_link: Sequence[str]) -> Mesh:
    """`on_link`: the networks that this node reaches without a gateway. Of two nodes that claim one pod CIDR the first by
    name has it; nobody gets ours."""
    near = [ipaddress.ip_network(network) for network in on_link]
    mesh = Mesh()
    mine = ipaddress.ip_network(own.pod_cidr)
    for peer in sorted(peers, key=lambda item: item.name):
        taken = peer.pod_cidr in mesh.routes or peer.pod_cidr in mesh.overlay
        if taken or peer.address == own.address or mine.overlaps(ipaddress.ip_network(peer.pod_cidr)):
            continue
        shared = any(ipaddress.ip_address(peer.address) in network for network in near)
        (mesh.routes if shared else mesh.overlay)[peer.pod_cidr] = peer.address
    return mesh


def end_of(pod_cidr: str) -> str:
    """The overlay's address at the node with these pods; `host-local` gives it to no pod."""
    return str(ipaddress.ip_network(pod_cidr).network_address)


def hardware_address(node_address: str) -> str:
    return ":".join([_MAC_PREFIX, *(f"{byte:02x}" for byte in ipaddress.ip_address(node_address).packed)])


def state(mesh: Mesh) -> State:
    result = State()
    for cidr, node in mesh.routes.items():
        result.routes[cidr] = (node, "")
    for cidr, node in mesh.overlay.items():
        end, hardware = end_of(cidr), hardware_address(node)
        result.routes[cidr] = (end, LINK)
        result.neighbours[end] = hardware
        result.forwarding[hardware] = node
    return result


def commands(present: State, wanted: State) -> tuple[list[str], list[str]]:
    """Lines for `ip -batch` and for `bridge -batch`. Neighbours come before the routes that need them."""
    return list(_ip(present, wanted)), list(_bridge(present, wanted))


def _ip(present: State, wanted: State) -> Iterator[str]:
    for destination, (gateway, _) in sorted(present.routes.items()):
        if destination not in wanted.routes:
            yield f"route del {destination} via {gateway} proto {ROUTE_PROTOCOL}"
    for address in sorted(present.neighbours.keys() - wanted.neighbours.keys()):
        yield f"neigh del {address} dev {LINK}"
    for address, hardware in sorted(wanted.neighbours.items()):
        if present.neighbours.get(address) != hardware:
            yield f"neigh replace {address} lladdr {hardware} dev {LINK} nud permanent"
    for destination, (gateway, link) in sorted(wanted.routes.items()):
        if present.routes.get(destination) != (gateway, link):
            device = f" dev {link} onlink" if link else ""
            yield f"route replace {destination} via {gateway}{device} proto {ROUTE_PROTOCOL}"


def _bridge(present: State, wanted: State) -> Iterator[str]:
    for hardware, node in sorted(present.forwarding.items()):
        if wanted.forwarding.get(hardware) != node:
            yield f"fdb del {hardware} dev {LINK} dst {node} self"
    for hardware, node in sorted(wanted.forwarding.items()):
        if present.forwarding.get(hardware) != node:
            yield f"fdb append {hardware} dev {LINK} dst {node} self permanent"
