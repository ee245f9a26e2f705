"""At which addresses a Service of type LoadBalancer is reached. Pure; called by `controller`."""

from __future__ import annotations

from collections.abc import Iterable

from wherry.api import meta
from wherry.pb import core_v1_pb2, discovery_v1_pb2

EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"


def plan(
    service: core_v1_pb2.Service,
    nodes: Iterable[core_v1_pb2.Node],
    slices: Iterable[discovery_v1_pb2.EndpointSlice],
) -> core_v1_pb2.LoadBalancerStatus | None:
    """The new status; None when it is right, or somebody else's."""
    if service.spec.load_balancer_class or meta.is_deleting(service):
        return None
    wanted = core_v1_pb2.LoadBalancerStatus()
    if service.spec.type == "LoadBalancer":
        chosen = [node for node in nodes if _takes_part(node)]
        if service.spec.external_traffic_policy == "Local":
            busy = {end.node_name for found in slices for end in found.endpoints if end.conditions.ready}
            chosen = [node for node in chosen if node.metadata.name in busy]
        for address in sorted(filter(None, map(_address, chosen))):
            wanted.ingress.add(ip=address, ip_mode="VIP")
    return None if meta.equal(wanted, service.status.load_balancer) else wanted


def _takes_part(node: core_v1_pb2.Node) -> bool:
    return (
        not meta.is_deleting(node)
        and EXCLUDED not in node.metadata.labels
        and meta.is_true(node.status.conditions, "Ready")
    )


def _address(node: core_v1_pb2.Node) -> str:
    by_type = {item.type: item.address for item in node.status.addresses}
    return by_type.get("ExternalIP") or by_type.get("InternalIP", "")
