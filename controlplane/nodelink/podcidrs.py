"""Which addresses the pods of a node get: the first free subnet of the cluster's range, written into the Node's spec once and
for ever. Called by `monitor` when a node connects, under a lock."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from controlplane.registry.base import ListOptions, RegistryAPI, RequestContext
from wherry.api import kinds
from wherry.api.errors import Conflict, ServiceUnavailable

NODE_PREFIX_LENGTH = 24
TRIES = 8


def free_subnet(cluster_cidr: str, taken: Collection[str]) -> str:
    """The first /24 of the range that overlaps none of `taken`; "" when there is none."""
    used = []
    for text in taken:
        try:
            used.append(ipaddress.ip_network(text))
        except ValueError:
            continue  # written by hand; the registry refuses most of these
    cluster = ipaddress.ip_network(cluster_cidr)
    for subnet in cluster.subnets(new_prefix=max(NODE_PREFIX_LENGTH, cluster.prefixlen)):
        if not any(subnet.version == other.version and subnet.overlaps(other) for other in used):
            return str(subnet)
    return ""


async def ensure_pod_cidr(registry: RegistryAPI, ctx: RequestContext, node: str, cluster_cidr: str) -> str:
    """The node's pod CIDR, given to it now if it has none. Raises NotFound (no such Node), ServiceUnavailable (none left)."""
    kind = kinds.by_name("v1", "Node")
    for _ in range(TRIES):
        current = (await registry.get(ctx, kind, "", node)).message()
        if current.spec.pod_cidr:
            return str(current.spec.pod_cidr)
        listed = await registry.list(ctx, kind, ListOptions())
        taken = [cidr for stored in listed.items for cidr in stored.message().spec.pod_cidrs]
        subnet = free_subnet(cluster_cidr, taken)
        if not subnet:
            raise ServiceUnavailable(f"no pod CIDR is left for node {node} in {cluster_cidr}; widen --cluster-cidr")
        current.spec.pod_cidr = subnet
        current.spec.pod_cidrs.append(subnet)
        try:
            await registry.update(ctx, kind, "", node, current)
            return subnet
        except Conflict:
            continue
    raise ServiceUnavailable(f"node {node} changes too fast to be given a pod CIDR")
