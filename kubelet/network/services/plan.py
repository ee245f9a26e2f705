"""What one Service adds to the node's table: elements of the maps by which packets find it, and chains that choose an endpoint.
Pure; called by `controller`.

A packet costs one look-up in a hash map, however many Services there are, and one random choice within its Service. Chains of
a port, of which only those exist that are led to:

    svc-NAMESPACE/NAME/PORT/PROTOCOL   any endpoint
    loc-...                            an endpoint on this node (a traffic policy of Local)
    ext-...                            from outside by way of this node: takes the node's address, then any endpoint
    lex-...                            from outside, to this node's endpoints only; pods and the node itself may go anywhere
    aff-.../ADDRESS/PORT               one endpoint of a Service with affinity, and the set of the clients that it has
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from wherry.pb import core_v1_pb2, discovery_v1_pb2

# The kernel keeps the sets of a table in a list and walks it for each new one: with an anonymous map for each of 10,000 Services
# the table took half a minute to write. So many endpoints are tried one by one instead, each with its share of the chance.
FEW = 8
MASQUERADE_MARK = "0x4000"
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp"}

Element = tuple[str, str]  # map or set, key
Target = tuple[str, int]  # address and port of an endpoint


@dataclass(frozen=True, slots=True)
class Place:
    """Where the plan is for."""

    node_name: str
    pod_cidr: str
    zone: str = ""


@dataclass(slots=True)
class Part:
    """`elements` have "" for a value in a set. `udp`: addresses and ports at which datagrams arrive -> where they went; what
    is remembered of those that are gone has to be forgotten."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    elements: dict[Element, str] = field(default_factory=dict)
    udp: dict[Target, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Endpoint:
    target: Target
    ready: bool
    serving: bool
    terminating: bool
    local: bool
    zones: frozenset[str]
    nodes: frozenset[str]


def plan(service: core_v1_pb2.Service, slices: Iterable[discovery_v1_pb2.EndpointSlice], place: Place) -> Part:
    part = Part()
    spec = service.spec
    if spec.type == "ExternalName" or not spec.cluster_ip or spec.cluster_ip == "None":
        return part
    found = [item for item in slices if item.address_type == "IPv4"]
    for port in spec.ports:
        if port.protocol in _PROTOCOLS:
            _Port(service, port, place, part).add(list(_endpoints(found, port, place)))
    return part


def _endpoints(
    slices: Sequence[discovery_v1_pb2.EndpointSlice], port: core_v1_pb2.ServicePort, place: Place
) -> Iterator[_Endpoint]:
    for item in slices:
        for offered in item.ports:
            if offered.name != port.name or offered.protocol != port.protocol or not offered.port:
                continue
            for endpoint in item.endpoints:
                conditions = endpoint.conditions
                ready = conditions.ready if conditions.HasField("ready") else True
                yield _Endpoint(
                    (endpoint.addresses[0], offered.port),
                    ready,
                    conditions.serving if conditions.HasField("serving") else ready,
                    conditions.terminating,
                    endpoint.node_name == place.node_name,
                    frozenset(hint.name for hint in endpoint.hints.for_zones),
                    frozenset(hint.name for hint in endpoint.hints.for_nodes),
                )


def local_endpoints(slices: Iterable[discovery_v1_pb2.EndpointSlice], place: Place) -> int:
    """How many pods of this node take new connections."""
    return len(
        {
            endpoint.addresses[0]
            for item in slices
            for endpoint in item.endpoints
            if endpoint.node_name == place.node_name
            and (endpoint.conditions.ready or not endpoint.conditions.HasField("ready"))
        }
    )


def usable(endpoints: Iterable[_Endpoint]) -> list[_Endpoint]:
    """Those that are ready; when there is none, those that still answer although they are on their way out."""
    found = list(endpoints)
    ready = [item for item in found if item.ready]
    chosen = ready or [item for item in found if item.serving and item.terminating]
    return sorted({item.target: item for item in chosen}.values(), key=lambda item: item.target)


def close(endpoints: list[_Endpoint], place: Place) -> list[_Endpoint]:
    """Those whose hints name this node, else this zone; all of them when one has no hint or none is near."""
    if endpoints and all(item.nodes for item in endpoints):
        near = [item for item in endpoints if place.node_name in item.nodes]
        if near:
            return near
    if place.zone and endpoints and all(item.zones for item in endpoints):
        near = [item for item in endpoints if place.zone in item.zones]
        if near:
            return near
    return endpoints


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

    def add(self, endpoints: list[_Endpoint]) -> None:
        spec, port = self._spec, self._port
        everywhere = close(usable(endpoints), self._place)
        here = usable(item for item in endpoints if item.local)
        inside_local = spec.HasField("internal_traffic_policy") and spec.internal_traffic_policy == "Local"
        inside = self._lead("loc", here, there=bool(everywhere)) if inside_local else self._lead("svc", everywhere)
        self._address(spec.cluster_ip, inside)
        outside = self._outside(everywhere, here)
        for address in self._outer_addresses():
            self._address(address, outside)
        if port.node_port:
            table = "refused-nodeports" if outside == "goto refuse" else "nodeports"
            self._part.elements[table, f"{self._protocol} . {port.node_port}"] = outside
        for endpoint in {item.target: item for item in (*everywhere, *here) if item.local}.values():
            address = endpoint.target[0]
            self._part.elements["hairpin", f"{address} . {address}"] = ""
        if self._protocol == "udp":
            targets = frozenset(item.target[0] for item in (*everywhere, *here))
            for address in (spec.cluster_ip, *self._outer_addresses()):
                self._part.udp[address, port.port] = targets
            if port.node_port:
                self._part.udp["", port.node_port] = targets

    def _outer_addresses(self) -> list[str]:
        found = list(self._spec.external_ips)
        if self._spec.type == "LoadBalancer":
            # In mode Proxy the balancer is what connections must pass: they do not stop short of it.
            found += [item.ip for item in self._ingress if item.ip and item.ip_mode != "Proxy"]
        return [text for text in dict.fromkeys(found) if _is_ipv4(text)]

    def _outside(self, everywhere: list[_Endpoint], here: list[_Endpoint]) -> str:
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

    def _lead(self, kind: str, endpoints: list[_Endpoint], *, there: bool = False) -> str:
        """The verdict that leads to one of these. With none of them the connection is refused, or not answered when
        there are some elsewhere (`there`) and only the policy forbids them."""
        if not endpoints:
            return "drop" if there else "goto refuse"
        name = f"{kind}-{self._id}"
        if name not in self._part.chains:
            self._part.chains[name] = tuple(self._choice(endpoints))
        return f"goto {name}"

    def _choice(self, endpoints: list[_Endpoint]) -> Iterator[str]:
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
            name = f"aff-{self._id}/{address}/{port}"
            names.append(name)
            self._part.sets[name] = f"type ipv4_addr; flags dynamic,timeout; timeout {seconds}s;"
            to = f"meta l4proto {self._protocol} dnat to {address}:{port}"
            self._part.chains[name] = (f"update @{name} {{ ip saddr }}", to)
        for name in names:
            yield f"ip saddr @{name} goto {name}"
        choices = ", ".join(f"{number} : goto {name}" for number, name in enumerate(names))
        yield f"numgen random mod {len(names)} vmap {{ {choices} }}"


def _is_ipv4(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False
