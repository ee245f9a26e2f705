"""The node authoriser: a node may do what running its pods needs, and nothing else.

It may read its own pods, and the ConfigMaps, Secrets and ServiceAccounts that these refer to; whatever else a node needs is in
a short table. What a node may *write into* an object that it may write at all is the admission's (`node_restriction`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from controlplane.auth.authorizer import ALLOW, NO_OPINION, Attributes, Decision, Verdict
from controlplane.auth.names import node_of
from controlplane.registry.base import Identity
from wherry.pb import core_v1_pb2

# The pods that are bound to a node, from the registry.
PodsOf = Callable[[str], Awaitable[Sequence[core_v1_pb2.Pod]]]
# The user that made a certificate request, or "" when there is no such request.
RequesterOf = Callable[[str], Awaitable[str]]

LEASE_NAMESPACE = "kube-node-lease"
_READ = ("get", "list", "watch")
# Read by every node: what services, policies and routes between nodes need.
_READABLE = {
    ("", "nodes"),
    ("", "services"),
    ("", "namespaces"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "networkpolicies"),
    ("node.k8s.io", "runtimeclasses"),
    ("storage.k8s.io", "csidrivers"),
}
_GRAPH = ("configmaps", "secrets", "serviceaccounts", "persistentvolumeclaims")


class Nodes:
    """Denies in the end what it does not allow to a node: no later decider is to give a node more."""

    def __init__(self, pods_of: PodsOf, requester_of: RequesterOf) -> None:
        self._pods_of = pods_of
        self._requester_of = requester_of

    async def decide(self, identity: Identity, attributes: Attributes) -> Decision:
        node = node_of(identity)
        if not node or attributes.path:
            return NO_OPINION
        reason = await self._problem(node, identity, attributes)
        return ALLOW if reason is None else Decision(Verdict.DENY, reason)

    async def _problem(self, node: str, identity: Identity, asked: Attributes) -> str | None:
        """None when it is allowed; else why not, which may be empty."""
        place = (asked.group, asked.resource)
        if place == ("", "nodes"):
            return _node_problem(node, asked)
        if place in _READABLE:
            return None if asked.verb in _READ and not asked.subresource else ""
        if place == ("", "pods"):
            return await self._pod_problem(node, asked)
        if place[0] == "" and asked.resource in _GRAPH:
            return await self._graph_problem(node, asked)
        if place in (("", "events"), ("events.k8s.io", "events")):
            return None if asked.verb in ("create", "update", "patch") and not asked.subresource else ""
        if place == ("coordination.k8s.io", "leases"):
            return _lease_problem(node, asked)
        if place == ("certificates.k8s.io", "certificatesigningrequests"):
            return await self._csr_problem(identity, asked)
        return ""

    async def _pod_problem(self, node: str, asked: Attributes) -> str | None:
        if asked.verb in ("list", "watch"):
            if f"spec.nodeName={node}" in asked.field_selector.split(","):
                return None
            return "can only list/watch pods with spec.nodeName field selector"
        allowed = {"": ("get", "delete"), "status": ("get", "update", "patch"), "eviction": ("create",)}
        if asked.verb not in allowed.get(asked.subresource, ()):
            return ""
        for pod in await self._pods_of(node):
            if pod.metadata.name == asked.name and pod.metadata.namespace == asked.namespace:
                return None
        return f"no relationship found between node '{node}' and this object"

    async def _graph_problem(self, node: str, asked: Attributes) -> str | None:
        if asked.subresource == "token" and asked.resource == "serviceaccounts" and asked.verb == "create":
            name = asked.name
        elif asked.subresource or asked.verb not in _READ:
            return f"can only read resources of this type, not {asked.verb}" if not asked.subresource else ""
        elif asked.verb == "get":
            name = asked.name
        else:
            # One named object may be watched; a list of all would show what other nodes' pods use.
            name = _selected_name(asked.field_selector)
        if not name or not asked.namespace:
            return "can only read namespaced object of this type"
        for pod in await self._pods_of(node):
            if pod.metadata.namespace == asked.namespace and (asked.resource, name) in references(pod):
                return None
        return f"no relationship found between node '{node}' and this object"

    async def _csr_problem(self, identity: Identity, asked: Attributes) -> str | None:
        if asked.subresource:
            return ""
        if asked.verb == "create":
            return None  # who asks is written into it by the registry, and the signer looks at that
        name = asked.name if asked.verb == "get" else _selected_name(asked.field_selector)
        if asked.verb not in _READ or not name:
            return ""
        if await self._requester_of(name) == identity.user:
            return None
        return "can only read its own certificate signing requests"


def references(pod: core_v1_pb2.Pod) -> set[tuple[str, str]]:
    """(resource, name) of all objects in the pod's namespace that running it needs."""
    return set(_references(pod))


def _references(pod: core_v1_pb2.Pod) -> Iterator[tuple[str, str]]:
    spec = pod.spec
    yield "serviceaccounts", spec.service_account_name or "default"
    for pull_secret in spec.image_pull_secrets:
        yield "secrets", pull_secret.name
    for volume in spec.volumes:
        yield from _of_volume(volume)
    containers: list[Any] = [*spec.init_containers, *spec.containers, *spec.ephemeral_containers]
    for container in containers:
        if isinstance(container, core_v1_pb2.EphemeralContainer):
            container = container.ephemeral_container_common
        for source in container.env_from:
            if source.config_map_ref.local_object_reference.name:
                yield "configmaps", source.config_map_ref.local_object_reference.name
            if source.secret_ref.local_object_reference.name:
                yield "secrets", source.secret_ref.local_object_reference.name
        for variable in container.env:
            if variable.value_from.config_map_key_ref.local_object_reference.name:
                yield "configmaps", variable.value_from.config_map_key_ref.local_object_reference.name
            if variable.value_from.secret_key_ref.local_object_reference.name:
                yield "secrets", variable.value_from.secret_key_ref.local_object_reference.name


def _of_volume(volume: core_v1_pb2.Volume) -> Iterator[tuple[str, str]]:
    # Inlined messages (`volume_source`, `local_object_reference`) lie beside their siblings in JSON, one level down here.
    source: Any = volume.volume_source
    if source.config_map.local_object_reference.name:
        yield "configmaps", source.config_map.local_object_reference.name
    if source.secret.secret_name:
        yield "secrets", source.secret.secret_name
    if source.persistent_volume_claim.claim_name:
        yield "persistentvolumeclaims", source.persistent_volume_claim.claim_name
    for projection in source.projected.sources:
        if projection.config_map.local_object_reference.name:
            yield "configmaps", projection.config_map.local_object_reference.name
        if projection.secret.local_object_reference.name:
            yield "secrets", projection.secret.local_object_reference.name


def _node_problem(node: str, asked: Attributes) -> str | None:
    if asked.verb in _READ and not asked.subresource:
        return None
    if asked.verb in ("create", "update", "patch") and asked.subresource in ("", "status"):
        if asked.name == node:
            return None
        return f"node '{node}' cannot {asked.verb} another node"
    return ""


def _lease_problem(node: str, asked: Attributes) -> str | None:
    if asked.verb not in ("get", "create", "update", "patch", "delete") or asked.subresource:
        return ""
    if asked.namespace != LEASE_NAMESPACE:
        return f'can only access leases in the "{LEASE_NAMESPACE}" system namespace'
    if asked.name != node:
        return "can only access node lease with the same name as the requesting node"
    return None


def _selected_name(field_selector: str) -> str:
    for part in field_selector.split(","):
        field, equals, value = part.replace("==", "=").partition("=")
        if field.strip() == "metadata.name" and equals:
            return value.strip()
    return ""
