"""What one Service adds to the node's table: elements of the maps by which packets find it, and chains that choose an endpoint.
Pure; called by `controller`.

A packet costs one look-up in a hash map, however many Services there are, and one random choice within its Service. The kernel
goes through every element and chain that may lead somewhere whenever one changes, so a Service without affinity has none for
its cluster address: the map `counts` says how many endpoints it has, one draws a number (`ruleset.drawing`), and the map
`endpoints-PROTOCOL` has the address under it.

Chains of a port, of which only those exist that are led to:

    svc-NAMESPACE/NAME/PORT/PROTOCOL   any endpoint (with affinity, or from outside)
    loc-...                            an endpoint on this node (a traffic policy of Local)
    ext-...                            from outside by way of this node: takes the node's address, then any endpoint
    lex-...                            from outside, to this node's endpoints only; pods and the node itself may go anywhere
    fwl-...                            to a load balancer's address, from where it may be used only
    aff-.../ADDRESS/PORT               one endpoint of a Service with affinity, and the set of the clients that it has
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kubelet.network.endpoints import Endpoint, Target, close, endpoints_of, is_ready, usable
from kubelet.network.services import affinity
from wherry.pb import core_v1_pb2, discovery_v1_pb2

# The kernel keeps the sets of a table in a list and walks it for each new one: with an anonymous map for each of 10,000 Services
# the table took half a minute to write. So many endpoints are tried one by one instead, each with its share of the chance.
FEW = 8
# Up to here there is always a rule that draws from so many: with a new rule the kernel goes through all that its map has.
DRAWS = 16
MASQUERADE_MARK = "0x4000"
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp"}

Element = tuple[str, str]  # map or set, key


@dataclass(frozen=True, slots=True)
class Place:
    """Where the plan is for."""

    node_name: str
    pod_cidr: str
    zone: str = ""


@dataclass(slots=True)
class Part:
    """`elements` have "" for a value in a set. `counts`: how many endpoints are drawn from, if more than `DRAWS`.
    `udp`: addresses and ports at which datagrams arrive -> where they went; what is remembered of those that are gone has to be
    forgotten."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    counts: set[int] = field(default_factory=set)
    sets: dict[str, str] = field(default_factory=dict)
    elements: dict[Element, str] = field(default_factory=dict)
    udp: dict[Target, frozenset[str]] = field(default_factory=dict)


def plan(service: core_v1_pb2.Service, slices: Iterable[discovery_v1_pb2.EndpointSlice], place: Place) -> Part:
    part = Part()
    spec = service.spec
    if spec.type == "ExternalName" or not spec.cluster_ip or spec.cluster_ip == "None":
        return part
    found = list(slices)
    for port in spec.ports:
        if port.protocol in _PROTOCOLS:
            _Port(service, port, place, part).add(list(endpoints_of(found, port.name, port.protocol)))
    return part


def count_value(count: int) -> str:
    """As the maps have it; the type is that of a packet's priority, where a count stands between two rules."""
    return f"0:{count:x}"


def local_endpoints(slices: Iterable[discovery_v1_pb2.EndpointSlice], place: Place) -> int:
    """How many pods of this node take new connections."""
    return len(
        {
            endpoint.addresses[0]
            for item in slices
            for endpoint in item.endpoints
            if endpoint.node_name == place.node_name and is_ready(endpoint)
        }
    )


class _Port:
    """One port of one Service."""

    def __init__(self, service: core_v1_pb2.Service, port: core_v1_pb2.ServicePort, place: Place, part: Part) -> None:
        self._spec = service.spec
        self._ingress = service.status.load_balancer.ingress
        self._port = port
        self._place = place
        self._part = part
        self._protocol = _PROTOCOLS[port.protocol]
        self._id = f"{service.metadata.namespace}/{service.metadata.name}/{port.port}/{self._protocol}"

    def add(self, endpoints: list[Endpoint]) -> None:
        spec, port = self._spec, self._port
        node_name = self._place.node_name
        everywhere = close(usable(endpoints), node_name, self._place.zone)
        here = usable(item for item in endpoints if item.node_name == node_name)
        self._inside(everywhere, here)
        outside = self._outside(everywhere, here)
        balancers = self._balancers()
        for address in dict.fromkeys((*spec.external_ips, *balancers)):
            if _is_ipv4(address):
                self._address(address, self._guarded(outside, balancers) if address in balancers else outside)
        if port.node_port:
            table = "refused-nodeports" if outside == "goto refuse" else "nodeports"
            self._part.elements[table, f"{self._protocol} . {port.node_port}"] = outside
        for address, _ in sorted({item.target for item in (*everywhere, *here) if item.node_name == node_name}):
            self._part.elements["hairpin", f"{address} . {address}"] = ""
        if self._protocol == "udp":
            targets = frozenset(item.target[0] for item in (*everywhere, *here))
            for address in (spec.cluster_ip, *self._outer_addresses()):
                self._part.udp[address, port.port] = targets
            if port.node_port:
                self._part.udp["", port.node_port] = targets

    def _balancers(self) -> list[str]:
        if self._spec.type != "LoadBalancer":
            return []
        # In mode Proxy the balancer is what connections must pass: they do not stop short of it.
        return [item.ip for item in self._ingress if item.ip and item.ip_mode != "Proxy" and _is_ipv4(item.ip)]

    def _outer_addresses(self) -> list[str]:
        return [text for text in dict.fromkeys((*self._spec.external_ips, *self._balancers())) if _is_ipv4(text)]

    def _guarded(self, outside: str, balancers: list[str]) -> str:
        """The verdict at a load balancer's address. The node itself may always: it is where that address is."""
        ranges = [text for given in self._spec.load_balancer_source_ranges if (text := _ipv4_network(given.strip()))]
        if not self._spec.load_balancer_source_ranges or outside == "goto refuse":
            return outside
        rules = [f"ip saddr {text} {outside}" for text in dict.fromkeys((*ranges, *balancers))]
        self._part.chains[f"fwl-{self._id}"] = (*rules, "drop")
        return f"goto fwl-{self._id}"

    def _inside(self, everywhere: list[Endpoint], here: list[Endpoint]) -> None:
        """What packets to the cluster address find."""
        local = self._spec.HasField("internal_traffic_policy") and self._spec.internal_traffic_policy == "Local"
        chosen = here if local else everywhere
        if not chosen or self._spec.session_affinity == "ClientIP":
            verdict = self._lead("loc" if local else "svc", chosen, there=local and bool(everywhere))
            self._address(self._spec.cluster_ip, verdict)
            return
        address = f"{self._spec.cluster_ip} . {self._port.port}"
        for number, item in enumerate(chosen):
            key = f"{address} . {number}"
            self._part.elements[f"endpoints-{self._protocol}", key] = f"{item.target[0]} . {item.target[1]}"
        key = f"{self._spec.cluster_ip} . {self._protocol} . {self._port.port}"
        self._part.elements["counts", key] = count_value(len(chosen))
        if len(chosen) > DRAWS:
            self._part.counts.add(len(chosen))

    def _outside(self, everywhere: list[Endpoint], here: list[Endpoint]) -> str:
        """The verdict for packets that come to an address that is known outside of the cluster."""
        if not (self._port.node_port or self._outer_addresses()):
            return ""
        if not everywhere:
            return "goto refuse"
        any_endpoint = self._lead("svc", everywhere)
        if self._spec.external_traffic_policy == "Local":
            rules = [f"ip saddr {self._place.pod_cidr} {any_endpoint}", f"fib saddr type local {any_endpoint}"]
            local = self._lead("loc", here, there=True)
            rules.append(local if here else "drop")
            self._part.chains[f"lex-{self._id}"] = tuple(rules)
            return f"goto lex-{self._id}"
        mark = f"meta mark set meta mark | {MASQUERADE_MARK}"
        self._part.chains[f"ext-{self._id}"] = (mark, any_endpoint)
        return f"goto ext-{self._id}"

    def _address(self, address: str, verdict: str) -> None:
        key = f"{address} . {self._protocol} . {self._port.port}"
        table = "refused" if verdict in ("goto refuse", "drop") else "services"
        self._part.elements[table, key] = verdict

    def _lead(self, kind: str, endpoints: list[Endpoint], *, there: bool = False) -> str:
        """The verdict that leads to one of these. With none of them the connection is refused, or not answered when
        there are some elsewhere (`there`) and only the policy forbids them."""
        if not endpoints:
            return "drop" if there else "goto refuse"
        name = f"{kind}-{self._id}"
        if name not in self._part.chains:
            self._part.chains[name] = tuple(self._choice(endpoints))
        return f"goto {name}"

    def _choice(self, endpoints: list[Endpoint]) -> Iterator[str]:
        targets = [item.target for item in endpoints]
        if self._spec.session_affinity == "ClientIP":
            yield from self._sticky(targets)
        elif len(targets) <= FEW:
            for number, (address, port) in enumerate(targets):
                left = len(targets) - number
                chance = f"numgen random mod {left} == 0 " if left > 1 else ""
                yield f"meta l4proto {self._protocol} {chance}dnat to {address}:{port}"
        else:
            choices = ", ".join(f"{n} : {address} . {port}" for n, (address, port) in enumerate(targets))
            yield f"meta l4proto {self._protocol} dnat to numgen random mod {len(targets)} map {{ {choices} }}"

    def _sticky(self, targets: list[Target]) -> Iterator[str]:
        seconds = self._spec.session_affinity_config.client_ip.timeout_seconds or 10800
        names = []
        for address, port in targets:
            name = affinity.set_name(self._id, address, port)
            names.append(name)
            self._part.sets[name] = affinity.SET
            to = f"meta l4proto {self._protocol} dnat to {address}:{port}"
            self._part.chains[name] = (f"update @{name} {{ ip saddr timeout {seconds}s }}", to)
        for name in names:
            yield f"ip saddr @{name} goto {name}"
        choices = ", ".join(f"{number} : goto {name}" for number, name in enumerate(names))
        yield f"numgen random mod {len(names)} vmap {{ {choices} }}"


def _ipv4_network(text: str) -> str:
    """As nft reads it, whatever was stored; "" for what is none."""
    try:
        return str(ipaddress.IPv4Network(text, strict=False))
    except ValueError:
        return ""


def _is_ipv4(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False
