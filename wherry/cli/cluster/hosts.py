"""Node hosts on one machine: a network namespace each, cabled (veth) to one bridge on the host, from where traffic to the
outside is masqueraded. Each namespace has links, routes, nftables and iptables of its own. Called by `up` and `down`; every
function is idempotent and starts from what there is, not from what should be.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Collection, Iterable
from pathlib import Path

from kubelet.network import NetworkError, firewall, links, masquerade
from kubelet.runtime import mounts
from kubelet.runtime.processes import ProcessRef
from wherry.cli.cluster import resolver, switch
from wherry.cli.cluster.layout import Cluster, ClusterError, Node, known, load

# Nodes live in a /24 of the first, pods in a /16 of the second; the first free one is taken.
HOST_NETWORKS = ipaddress.IPv4Network("10.77.0.0/16")
POD_NETWORKS = ipaddress.IPv4Network("10.128.0.0/10")
# Another mark than `links.ROUTE_PROTOCOL`: an agent on this machine itself holds all routes with that one for its own, and takes
# away what it knows nothing of. Without its routes a cluster's pods would be looked for on the default route.
ROUTE_PROTOCOL = "78"
CLAIM_METRIC = "4096"  # any other route to the same place comes first
FIRST_PORT, LAST_PORT, PORT_STEP = 7443, 7543, 4
PORT_OFFSETS = (0, 1, 3)  # gRPC, where nodes join, the Kubernetes API
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
# Whether a packet's socket is looked for before its route: in a node's namespace nearly all packets are on their way to a pod.
_EARLY_DEMUX = Path("/proc/sys/net/ipv4/ip_early_demux")


# -- choosing


def choose_host_subnet(taken: Iterable[str]) -> str:
    return first_free(HOST_NETWORKS.subnets(new_prefix=24), taken, "10.77.0.0/16")


def choose_cluster_cidr(taken: Iterable[str]) -> str:
    return first_free(POD_NETWORKS.subnets(new_prefix=16), taken, "10.128.0.0/10")


def first_free(candidates: Iterable[ipaddress.IPv4Network], taken: Iterable[str], pool: str) -> str:
    used = [ipaddress.IPv4Network(item, strict=False) for item in taken]
    for candidate in candidates:
        if not any(candidate.overlaps(item) for item in used):
            return str(candidate)
    raise ClusterError(f"every network of {pool} is in use on this machine; take one down, or remove a route")


def networks_in_use() -> list[str]:
    """What this machine has addresses in or routes to (the default route is none), or a described cluster has been given.
    Hold `layout.locked("choosing")` until the choice is described."""
    routed = [destination for destination in links.routes() if destination[0].isdigit()]
    described = [network for other in described_clusters() for network in (other.host_subnet, other.cluster_cidr)]
    return sorted({*links.addresses(), *routed, *described})


def described_clusters() -> list[Cluster]:
    found = []
    for name in known():
        try:
            cluster = load(name)
        except ClusterError:
            continue  # damaged: what it has shows in addresses and routes
        if cluster is not None:
            found.append(cluster)
    return found


def choose_port(taken: Collection[int] = ()) -> int:
    """A port that is free together with those that the control plane has beside it."""
    for port in range(FIRST_PORT, LAST_PORT, PORT_STEP):
        if port not in taken and all(_is_free(port + offset) for offset in PORT_OFFSETS):
            return port
    raise ClusterError(f"no free ports between {FIRST_PORT} and {LAST_PORT} for the control plane")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def forwarding() -> str:
    """The host's present setting, "0" or "1"."""
    return _FORWARDING.read_text().strip()


# -- making


def make_switch(cluster: Cluster) -> bool:
    """The bridge with the host's address, the claim to the pods' network, forwarding, the way out. False when all was there."""
    changed = False
    if cluster.bridge not in links.names():
        links.ip("link", "add", cluster.bridge, "mtu", str(links.mtu_of("")), "type", "bridge")
        changed = True
    address = f"{cluster.gateway}/{cluster.prefix_length}"
    if address not in links.addresses():
        links.ip("address", "replace", address, "dev", cluster.bridge)
        changed = True
    links.ip("link", "set", cluster.bridge, "up")
    if not links.query("-4", "route", "show", cluster.cluster_cidr, "dev", cluster.bridge):
        # The nodes' own parts come once they have joined. Until then, and for parts of nodes that are no more, the whole shows
        # as taken, to whoever else looks for a free network; and nothing for a pod goes out by the default route.
        place = ("dev", cluster.bridge, "proto", ROUTE_PROTOCOL, "metric", CLAIM_METRIC)
        links.ip("route", "replace", cluster.cluster_cidr, *place)
        changed = True
    if forwarding() != "1":
        _FORWARDING.write_text("1\n")
        changed = True
    if cluster.table not in masquerade.tables():
        rules = masquerade.ruleset(
            cluster.table, cluster.host_subnet, (cluster.host_subnet, cluster.cluster_cidr), cluster.bridge
        )
        masquerade.apply(rules)
        changed = True
    return firewall.let_through(cluster.bridge) or changed


def make_host(cluster: Cluster, node: Node) -> bool:
    """The node's namespace and cable. False when it was there, whole."""
    if node.netns in links.namespaces() and _is_whole(cluster, node):
        return False
    remove_host(node)
    mtu = str(links.mtu_of(""))
    inner = "eth0"
    links.ip("netns", "add", node.netns)
    links.ip(
        "link", "add", node.link, "mtu", mtu, "type", "veth", "peer", "name", inner, "mtu", mtu, "netns", node.netns
    )
    links.ip("link", "set", node.link, "master", cluster.bridge, "up")
    # A pod may talk to itself through a port of its node.
    links.ip("link", "set", "lo", "up", netns=node.netns)
    links.ip("netns", "exec", node.netns, "sh", "-c", f"echo 0 > {_EARLY_DEMUX}")
    links.ip("address", "add", f"{node.address}/{cluster.prefix_length}", "dev", inner, netns=node.netns)
    links.ip("link", "set", inner, "up", netns=node.netns)
    links.ip("route", "add", "default", "via", cluster.gateway, netns=node.netns)
    resolver.set_up(node.netns_path)
    return True


def _is_whole(cluster: Cluster, node: Node) -> bool:
    try:
        return (
            node.link in links.names()
            and f"{node.address}/{cluster.prefix_length}" in links.addresses(netns=node.netns)
            and links.routes(netns=node.netns).get("default") == cluster.gateway
        )
    except NetworkError:
        return False  # a name without a namespace behind it, as an unclean end leaves


def route_to_pods(cluster: Cluster, pod_cidrs: dict[str, str]) -> bool:
    """Routes from the host to every node's pods; those between the nodes are their agents'. `pod_cidrs`: node name -> CIDR."""
    via = {pod_cidrs[node.name]: node.address for node in cluster.nodes if node.name in pod_cidrs}
    changed = False
    # The host has routes of other clusters too: ours are those to our nodes.
    inside = ipaddress.ip_network(cluster.host_subnet)
    present = {
        str(route["dst"]): str(route.get("gateway", ""))
        for route in links.query("-4", "route", "show")
        # The other mark: of a Wherry of before there were two.
        if str(route.get("protocol")) in (ROUTE_PROTOCOL, links.ROUTE_PROTOCOL)
        and _within(str(route.get("gateway", "")), inside)
    }
    for destination in sorted(present.keys() - via.keys()):
        links.ip("route", "del", destination, "via", present[destination])
        changed = True
    for destination, gateway in sorted(via.items()):
        if present.get(destination) != gateway:
            # Never "replace" a route that is not ours: that would take another cluster's pods off the host.
            verb = "replace" if destination in present else "add"
            links.ip("route", verb, destination, "via", gateway, "proto", ROUTE_PROTOCOL)
            changed = True
    return changed


def _within(destination: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_network(destination).overlaps(network)
    except ValueError:
        return False


# -- removing


def remove_host(node: Node) -> bool:
    return remove_namespace(node.netns) | _remove_link(node.link)


def remove_namespace(name: str) -> bool:
    """With every process inside (a namespace lives as long as one of them does). False when there was none."""
    if name not in links.namespaces():
        return False
    for ref in _inside(links.NETNS_DIR / name):
        ref.terminate(0.0)
    try:
        links.ip("netns", "del", name)
    except NetworkError:
        # Half made or half removed: a plain file, mounted on or not.
        mounts.unmount_below(links.NETNS_DIR / name)
        (links.NETNS_DIR / name).unlink(missing_ok=True)
    return True


def _inside(path: Path) -> list[ProcessRef]:
    try:
        wanted = path.stat()
    except OSError:
        return []
    found = []
    for entry in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            status = os.stat(f"/proc/{entry}/ns/net")
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino) and entry != os.getpid():
            ref = ProcessRef.of(entry)
            if ref is not None:
                found.append(ref)
    return found


def remove_network(name: str, ip_forward: str) -> bool:
    """All links, rules, routes and namespaces of the cluster of this name, whatever `up` had got to. `ip_forward`: what the
    host's forwarding is to be set back to; "" leaves it."""
    changed = False
    for netns in namespaces_of(name):
        changed = remove_namespace(netns) or changed
    for link in links_of(name):
        changed = _remove_link(link) or changed  # routes over it go with it
    changed = switch.disconnect(f"wherry-{name}") or changed
    changed = masquerade.delete(f"wherry-{name}") or changed
    changed = firewall.stop_letting_through(f"wh-{name}") or changed
    if not links.namespaces() and links.NETNS_DIR.is_dir():
        # `ip netns add` had mounted it on itself; nobody needs that any more.
        mounts.unmount_below(links.NETNS_DIR)
        links.NETNS_DIR.rmdir()
    if ip_forward and not _other_clusters(name) and forwarding() != ip_forward:
        _FORWARDING.write_text(ip_forward + "\n")
        changed = True
    return changed


def namespaces_of(name: str) -> list[str]:
    pattern = re.compile(rf"wherry-{re.escape(name)}-node-\d+")
    return [netns for netns in links.namespaces() if pattern.fullmatch(netns)]


def links_of(name: str) -> list[str]:
    """Nodes' cables first, the bridge last."""
    pattern = re.compile(rf"wh-{re.escape(name)}(-\d+)?")
    return sorted(
        (link for link in links.names() if pattern.fullmatch(link)), key=lambda link: (link.count("-") < 2, link)
    )


def names_in_kernel() -> list[str]:
    """Clusters of which there are traces, whether or not they have a description."""
    found = set()
    for netns in links.namespaces():
        if match := re.fullmatch(r"wherry-([a-z][a-z0-9]{0,7})-node-\d+", netns):
            found.add(match[1])
    for link in links.names():
        if match := re.fullmatch(r"wh-([a-z][a-z0-9]{0,7})(-\d+)?", link):
            found.add(match[1])
    return sorted(found)


def _other_clusters(name: str) -> bool:
    return any(other != name for other in names_in_kernel())


def _remove_link(name: str) -> bool:
    if name not in links.names():
        return False
    try:
        links.ip("link", "del", name)
    except NetworkError:
        if name in links.names():  # else it went with its namespace in the meantime
            raise
    return True
