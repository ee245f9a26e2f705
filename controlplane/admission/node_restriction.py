"""What a node's own identity (`system:node:NAME` in group system:nodes) may write: its Node and Lease, the status of its
pods and their deletion, mirror pods, events, certificate requests. A stolen node credential reaches no further.

Which objects a node may read is the node authoriser's, in `controlplane.auth`.
"""

from __future__ import annotations

from typing import Any

from controlplane.admission.base import Lookup, Request
from controlplane.admission.service_account import MIRROR_ANNOTATION
from wherry.api.errors import NotFound

GROUP = "system:nodes"
USER_PREFIX = "system:node:"
_RESERVED_DOMAIN = "node-restriction.kubernetes.io"
_KUBERNETES_DOMAINS = ("kubernetes.io", "k8s.io")
_OWN_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
_OWN_LABELS = frozenset(
    (
        "kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region", "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
    )
)  # fmt: skip


def node_name(request: Request) -> str | None:
    """None: the caller is no node. "": a node that does not say which."""
    if GROUP not in request.identity.groups:
        return None
    user = request.identity.user
    return user.removeprefix(USER_PREFIX) if user.startswith(USER_PREFIX) else ""


class NodeRestriction:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        return

    async def validate(self, request: Request, lookup: Lookup) -> None:
        self.check(request)
        if request.kind.kind == "ServiceAccount" and (name := node_name(request)):
            await self._token(request, lookup, name)

    def check(self, request: Request) -> None:
        name = node_name(request)
        if name is None:
            return
        if not name:
            raise request.forbid(f"could not determine node identity from user {request.identity.user}")
        match request.kind.kind:
            case "Pod":
                self._pod(request, name)
            case "Node":
                self._node(request, name)
            case "Lease":
                self._lease(request, name)
            case "Event" | "CertificateSigningRequest":
                pass
            case "ServiceAccount" if request.operation == "CREATE" and request.subresource == "token":
                pass  # `_token` looks at the pod
            case _:
                raise request.forbid(f"node {name} may not write {request.kind.group_resource}")

    async def _token(self, request: Request, lookup: Lookup, name: str) -> None:
        """A token for a pod that runs here, and only for those whom the pod is to show it to."""
        ref = request.obj.spec.bound_object_ref
        if ref.api_version != "v1" or ref.kind != "Pod" or not ref.name:
            raise request.forbid("node requested token not bound to a pod")
        if not ref.uid:
            raise request.forbid("node requested token with a pod binding without a uid")
        pod = await lookup.find("v1", "Pod", request.namespace, ref.name)
        if pod is None:
            raise NotFound(f'pods "{ref.name}" not found', kind="pods", name=ref.name)
        if ref.uid != pod.metadata.uid:
            raise request.forbid(
                f"the UID in the bound object reference ({ref.uid}) does not match the UID in record. The object might have "
                "been deleted and then recreated"
            )
        if pod.spec.node_name != name:
            raise request.forbid("node requested token bound to a pod scheduled on a different node")
        named = {
            source.service_account_token.audience
            for volume in pod.spec.volumes
            for source in volume.volume_source.projected.sources
            if source.HasField("service_account_token")
        }
        for audience in request.obj.spec.audiences or ("",):
            if audience not in named:
                raise request.forbid(f'audience "{audience}" not found in pod spec volume, {request.identity.user} is not '
                                     "authorized to request tokens for this audience")  # fmt: skip

    def _pod(self, request: Request, name: str) -> None:
        pod: Any = request.obj
        if request.subresource == "status":
            if request.old.spec.node_name != name:
                raise request.forbid(
                    f"node {name} can only update pod status for pods with spec.nodeName set to itself"
                )
            if dict(request.old.metadata.labels) != dict(pod.metadata.labels):
                raise request.forbid(f"node {name} cannot update labels through pod status")
        elif request.subresource == "eviction" or (request.operation == "DELETE" and not request.subresource):
            if request.old is not None and request.old.spec.node_name != name:
                raise request.forbid(f"node {name} can only delete pods with spec.nodeName set to itself")
        elif request.operation == "CREATE" and not request.subresource:
            if MIRROR_ANNOTATION not in pod.metadata.annotations:
                raise request.forbid(
                    f'pod does not have "{MIRROR_ANNOTATION}" annotation, node {name} can only create mirror pods'
                )
            if pod.spec.node_name != name:
                raise request.forbid(f"node {name} can only create pods with spec.nodeName set to itself")
        else:
            what = f"pods/{request.subresource}" if request.subresource else "pods"
            raise request.forbid(
                f"unexpected operation {request.operation} on {what}, node {name} can only create and delete mirror pods"
            )

    def _node(self, request: Request, name: str) -> None:
        if request.operation == "DELETE":
            raise request.forbid(f"node {name} is not allowed to delete nodes")
        if request.name != name:
            raise request.forbid(f'node "{name}" is not allowed to modify node "{request.name}"')
        old_labels = dict(request.old.metadata.labels) if request.old is not None else {}
        changed = sorted(
            key
            for key in {*old_labels, *request.obj.metadata.labels}
            if old_labels.get(key) != dict(request.obj.metadata.labels).get(key)
        )
        refused = [key for key in changed if not _may_label(key)]
        if refused:
            raise request.forbid(f"is not allowed to modify labels: {', '.join(refused)}")
        if request.operation == "UPDATE" and list(request.old.spec.taints) != list(request.obj.spec.taints):
            raise request.forbid(f'node "{name}" is not allowed to modify taints')
        old_owners = list(request.old.metadata.owner_references) if request.old is not None else []
        if list(request.obj.metadata.owner_references) != old_owners:
            raise request.forbid(f'node "{name}" is not allowed to modify ownerReferences')

    def _lease(self, request: Request, name: str) -> None:
        if request.namespace != "kube-node-lease":
            raise request.forbid('can only access leases in the "kube-node-lease" system namespace')
        if request.name != name:
            raise request.forbid("can only access node lease with the same name as the requesting node")


def _may_label(key: str) -> bool:
    """A node may set labels of its own making and those that describe the machine, none that steer secrets to it."""
    domain = key.rpartition("/")[0]
    if domain == _RESERVED_DOMAIN or domain.endswith("." + _RESERVED_DOMAIN):
        return False
    if key in _OWN_LABELS or any(domain == own or domain.endswith("." + own) for own in _OWN_DOMAINS):
        return True
    return not any(domain == owned or domain.endswith("." + owned) for owned in _KUBERNETES_DOMAINS)
