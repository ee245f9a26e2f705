"""The mesh in the kernel, by way of iproute2. Blocking; called by `controller` in a thread, and by `NodeNetwork.remove`."""

from __future__ import annotations

import ipaddress
from typing import Any

from kubelet.network import NetworkError, links
from kubelet.network.mesh import plan
from kubelet.network.mesh.plan import LINK, OVERHEAD, PORT, VNI, Mesh, Peer, State


def on_link() -> list[str]:
    """Networks that this node reaches without a gateway. No node has its address in the network of a node's pods."""
    found = []
    for route in links.query("-4", "route", "show", "scope", "link"):
        destination = str(route["dst"])
        if route.get("dev") != LINK and destination[0].isdigit():
            found.append(str(ipaddress.ip_network(destination, strict=False)))
    return found


def apply(own: Peer, mesh: Mesh) -> bool:
    """Makes the kernel's state this one, whatever it was; True when the overlay's link came or went, which changes the MTU of
    pods to come. Raises NetworkError when not all of it could be done; what could be, is."""
    try:
        changed = _sync_link(own, mesh.vtep)
    except NetworkError:
        # A kernel without VXLAN: that much can be done.
        links.batch("ip", plan.commands(_state(False), plan.state(Mesh(mesh.routes)))[0])
        raise
    present = _state(mesh.vtep)
    for_ip, for_bridge = plan.commands(present, plan.state(mesh))
    # Entries first: a route into the overlay without them would lose packets.
    links.batch("bridge", for_bridge)
    links.batch("ip", for_ip)
    return changed


def remove() -> None:
    """Routes and link; neighbours and forwarding entries go with it."""
    ours = [str(route["dst"]) for route in links.query("-4", "route", "show", "proto", links.ROUTE_PROTOCOL)]
    links.batch("ip", [f"route del {destination} proto {links.ROUTE_PROTOCOL}" for destination in ours])
    if LINK in links.names():
        links.ip("link", "del", LINK)


def _sync_link(own: Peer, wanted: bool) -> bool:
    there = LINK in links.names()
    if not wanted:
        if there:
            links.ip("link", "del", LINK)
        return there
    hardware, end = plan.hardware_address(own.address), plan.end_of(own.pod_cidr)
    mtu = links.mtu_of(own.address) - OVERHEAD
    made = not there
    if there and not _is_right(own, hardware, mtu):
        links.ip("link", "del", LINK)
        there = False
    if not there:
        links.ip(
            "link", "add", LINK, "address", hardware, "mtu", str(mtu), "type", "vxlan", "id", str(VNI),
            "local", own.address, "dstport", str(PORT), "nolearning",
        )  # fmt: skip
    if f"{end}/32" not in links.addresses(dev=LINK):
        links.ip("address", "flush", "dev", LINK)
        links.ip("address", "add", f"{end}/32", "dev", LINK)
    links.ip("link", "set", LINK, "up")
    return made


def _is_right(own: Peer, hardware: str, mtu: int) -> bool:
    (link,) = links.query("-d", "link", "show", "dev", LINK)
    told: dict[str, Any] = link.get("linkinfo", {}).get("info_data", {})
    have = (link.get("address"), link.get("mtu"), told.get("id"), told.get("local"), told.get("port"))
    return have == (hardware, mtu, VNI, own.address, PORT)


def _state(vtep: bool) -> State:
    result = State()
    for route in links.query("-4", "route", "show", "proto", links.ROUTE_PROTOCOL):
        device = LINK if route.get("dev") == LINK else ""
        result.routes[str(route["dst"])] = (str(route.get("gateway", "")), device)
    if vtep:
        for entry in links.query("-4", "neigh", "show", "dev", LINK, "nud", "permanent"):
            result.neighbours[str(entry["dst"])] = str(entry.get("lladdr", ""))
        for entry in links.query("fdb", "show", "dev", LINK, tool="bridge"):
            if "dst" in entry:
                result.forwarding[str(entry["mac"])] = str(entry["dst"])
    return result
