"""Which endpoints of a Service's port take connections: the one rule, for the node's table (`services.plan`) and for Ingress
(`kubelet.ingress.routes`). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wherry.pb import discovery_v1_pb2

Target = tuple[str, int]  # address and port of an endpoint


@dataclass(frozen=True, slots=True)
class Endpoint:
    target: Target
    ready: bool
    serving: bool
    terminating: bool
    node_name: str
    zones: frozenset[str]
    nodes: frozenset[str]


def endpoints_of(slices: Iterable[discovery_v1_pb2.EndpointSlice], port_name: str, protocol: str) -> Iterator[Endpoint]:
    """All that offer the port, whatever their state, over IPv4."""
    for item in slices:
        if item.address_type != "IPv4":
            continue
        for offered in item.ports:
            if offered.name != port_name or offered.protocol != protocol or not offered.port:
                continue
            for endpoint in item.endpoints:
                conditions = endpoint.conditions
                ready = is_ready(endpoint)
                yield Endpoint(
                    (endpoint.addresses[0], offered.port),
                    ready,
                    conditions.serving if conditions.HasField("serving") else ready,
                    conditions.terminating,
                    endpoint.node_name,
                    frozenset(hint.name for hint in endpoint.hints.for_zones),
                    frozenset(hint.name for hint in endpoint.hints.for_nodes),
                )


def is_ready(endpoint: discovery_v1_pb2.Endpoint) -> bool:
    """What says nothing about it is."""
    return endpoint.conditions.ready if endpoint.conditions.HasField("ready") else True


def usable(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Those that are ready; when there is none, those that still answer although they are on their way out."""
    found = list(endpoints)
    ready = [item for item in found if item.ready]
    chosen = ready or [item for item in found if item.serving and item.terminating]
    return sorted({item.target: item for item in chosen}.values(), key=lambda item: item.target)


def close(endpoints: list[Endpoint], node_name: str, zone: str) -> list[Endpoint]:
    """Those whose hints name this node, else this zone; all of them when one has no hint or none is near."""
    if endpoints and all(item.nodes for item in endpoints):
        near = [item for item in endpoints if node_name in item.nodes]
        if near:
            return near
    if zone and endpoints and all(item.zones for item in endpoints):
        near = [item for item in endpoints if zone in item.zones]
        if near:
            return near
    return endpoints
