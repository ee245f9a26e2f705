"""The Lease of a node in kube-node-lease: a durable sign of life, written seldom (heartbeats stay in memory). For people and for
tools that look at Leases; called by `monitor`."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.registry.base import RegistryAPI, RequestContext
from wherry.api import kinds
from wherry.api.errors import AlreadyExists, Conflict, NotFound
from wherry.api.times import to_micro_time
from wherry.pb import coordination_v1_pb2

NAMESPACE = "kube-node-lease"
LEASE_DURATION_S = 180  # three renewals
# Which of several control plane replicas holds the node's stream, and so judges its silence.
REPLICA_ANNOTATION = "wherry.dev/replica"
# Where that replica is reached by the others: HOST:PORT of its gRPC front.
ADDRESS_ANNOTATION = "wherry.dev/replica-address"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a node's stream, and the version of the Lease that says so; empty when there is no Lease."""

    replica: str = ""
    address: str = ""
    version: str = ""


async def renew_lease(
    registry: RegistryAPI, ctx: RequestContext, node: str, now: float, replica: str, address: str = ""
) -> None:
    kind = kinds.by_name("coordination.k8s.io/v1", "Lease")
    try:
        lease: coordination_v1_pb2.Lease = (await registry.get(ctx, kind, NAMESPACE, node)).message()
    except NotFound:
        owner = (await registry.get(ctx, kinds.by_name("v1", "Node"), "", node)).message()
        lease = coordination_v1_pb2.Lease()
        lease.metadata.name = node
        lease.metadata.namespace = NAMESPACE
        lease.metadata.owner_references.add(api_version="v1", kind="Node", name=node, uid=owner.metadata.uid)
    lease.metadata.annotations[REPLICA_ANNOTATION] = replica
    lease.metadata.annotations.pop(ADDRESS_ANNOTATION, None)
    if address:
        lease.metadata.annotations[ADDRESS_ANNOTATION] = address
    lease.spec.holder_identity = node
    lease.spec.lease_duration_seconds = LEASE_DURATION_S
    lease.spec.renew_time.CopyFrom(to_micro_time(now))
    try:
        if lease.metadata.resource_version:
            await registry.update(ctx, kind, NAMESPACE, node, lease)
        else:
            await registry.create(ctx, kind, NAMESPACE, lease)
    except (AlreadyExists, Conflict):
        pass  # someone else has just written it, which is a sign of life as well


async def read_lease(registry: RegistryAPI, ctx: RequestContext, node: str) -> Holder:
    kind = kinds.by_name("coordination.k8s.io/v1", "Lease")
    try:
        lease: coordination_v1_pb2.Lease = (await registry.get(ctx, kind, NAMESPACE, node)).message()
    except NotFound:
        return Holder()
    annotations = lease.metadata.annotations
    return Holder(
        annotations.get(REPLICA_ANNOTATION, ""),
        annotations.get(ADDRESS_ANNOTATION, ""),
        lease.metadata.resource_version,
    )
