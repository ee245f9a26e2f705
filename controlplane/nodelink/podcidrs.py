"""Which addresses the pods of a node get: the first free subnet of the cluster's range, written into the Node's spec once and
for ever. Called by `monitor` when a node connects, under a lock.

Replicas exclude each other by a key that each allotment writes, on condition that it is as it was before the nodes were
listed."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import replace

from controlplane.registry.base import ListOptions, RegistryAPI, RequestContext
from controlplane.store.base import Compare, KeyValue, Operation, Put, Store, StoreError
from wherry.api import kinds
from wherry.api.errors import Conflict, ServiceUnavailable

NODE_PREFIX_LENGTH = 24
TRIES = 16
ALLOTTED_KEY = "/wherry/pod-cidrs"


class _Unchanged:
    """The condition that nobody has allotted a subnet since."""

    def __init__(self, found: KeyValue | None, node: str) -> None:
        self._compare = Compare(ALLOTTED_KEY, 0 if found is None else found.mod_revision)
        self._node = node

    def plan(self) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
        return (self._compare,), (Put(ALLOTTED_KEY, self._node.encode()),)

    def failed(self, current: Sequence[KeyValue | None]) -> None:
        raise Conflict("another node was given a pod CIDR meanwhile")


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


async def ensure_pod_cidr(
    registry: RegistryAPI, store: Store, ctx: RequestContext, node: str, cluster_cidr: str
) -> str:
    """The node's pod CIDR, given to it now if it has none. Raises NotFound (no such Node), ServiceUnavailable (none left)."""
    kind = kinds.by_name("v1", "Node")
    for _ in range(TRIES):
        current = (await registry.get(ctx, kind, "", node)).message()
        if current.spec.pod_cidr:
            return str(current.spec.pod_cidr)
        try:
            unchanged = _Unchanged(await store.get(ALLOTTED_KEY), node)
        except StoreError as error:
            raise ServiceUnavailable(f"the store is unavailable: {error}", retry_after_s=1) from error
        listed = await registry.list(ctx, kind, ListOptions())
        taken = [cidr for stored in listed.items for cidr in stored.message().spec.pod_cidrs]
        subnet = free_subnet(cluster_cidr, taken)
        if not subnet:
            raise ServiceUnavailable(f"no pod CIDR is left for node {node} in {cluster_cidr}; widen --cluster-cidr")
        current.spec.pod_cidr = subnet
        current.spec.pod_cidrs.append(subnet)
        try:
            await registry.update(replace(ctx, condition=unchanged), kind, "", node, current)
            return subnet
        except Conflict:
            continue
    raise ServiceUnavailable(f"node {node} changes too fast to be given a pod CIDR")
