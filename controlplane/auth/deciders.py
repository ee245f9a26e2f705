"""The deciders that need to look at nothing but the question: administrators, the control plane's own components, and what
everyone may do. Nodes have `nodes`; RBAC will be one more of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane.auth.authorizer import ALLOW, NO_OPINION, Attributes, Decision
from controlplane.auth.names import MASTERS_GROUP
from controlplane.registry.base import Identity

SCHEDULER = Identity("system:kube-scheduler", ("system:authenticated",))
CONTROLLER_MANAGER = Identity("system:kube-controller-manager", ("system:authenticated",))
# The parts of the API server that write objects themselves: the node link, the bootstrap of namespaces, the CSR signer.
API_SERVER = Identity("system:apiserver", (MASTERS_GROUP, "system:authenticated"))

READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch")
ALL = ("*",)


@dataclass(frozen=True, slots=True)
class Rule:
    """As in a ClusterRole. `resources` may name a subresource (`pods/status`); "*" stands for all, subresources included."""

    verbs: Sequence[str]
    groups: Sequence[str]
    resources: Sequence[str]

    def covers(self, attributes: Attributes) -> bool:
        if attributes.path:
            return False
        resource = attributes.resource + (f"/{attributes.subresource}" if attributes.subresource else "")
        return (
            ("*" in self.verbs or attributes.verb in self.verbs)
            and ("*" in self.groups or attributes.group in self.groups)
            and ("*" in self.resources or resource in self.resources)
        )


_EVENTS = Rule(("create", "update", "patch"), ("", "events.k8s.io"), ("events",))
_LEASES = Rule(("get", "list", "watch", "create", "update", "patch"), ("coordination.k8s.io",), ("leases",))

COMPONENTS: Mapping[str, Sequence[Rule]] = {
    SCHEDULER.user: (
        _EVENTS,
        _LEASES,
        Rule(READ, ("*",), (
            "pods", "nodes", "namespaces", "services", "replicasets", "statefulsets", "replicationcontrollers",
            "persistentvolumes", "persistentvolumeclaims", "storageclasses", "csinodes", "csidrivers",
            "csistoragecapacities", "poddisruptionbudgets", "priorityclasses",
        )),
        Rule(("create",), ("",), ("pods/binding", "bindings")),
        Rule(("update", "patch"), ("",), ("pods/status",)),
        Rule(("delete",), ("",), ("pods",)),
    ),
    CONTROLLER_MANAGER.user: (
        _EVENTS,
        _LEASES,
        # The garbage collector and the namespace controller must find and delete whatever there is.
        Rule((*READ, "delete", "deletecollection"), ("*",), ("*",)),
        Rule(("update", "patch"), ("*",), ("*",)),
        # An aggregated role holds what its parts hold, and the controllers hold none of it.
        Rule(("escalate",), ("rbac.authorization.k8s.io",), ("clusterroles",)),
        Rule(("create",), ("", "apps", "batch", "discovery.k8s.io"), (
            "pods", "replicasets", "controllerrevisions", "jobs", "configmaps", "serviceaccounts", "endpoints",
            "endpointslices", "pods/eviction", "persistentvolumes", "persistentvolumeclaims", "serviceaccounts/token",
        )),
    ),
}  # fmt: skip


class Masters:
    """Members of system:masters may do everything."""

    async def decide(self, identity: Identity, attributes: Attributes) -> Decision:
        return ALLOW if MASTERS_GROUP in identity.groups else NO_OPINION


class Components:
    """The scheduler and the controllers may do what their rules say."""

    async def decide(self, identity: Identity, attributes: Attributes) -> Decision:
        rules = COMPONENTS.get(identity.user, ())
        return ALLOW if any(rule.covers(attributes) for rule in rules) else NO_OPINION


class Everyone:
    """Whoever is authenticated may learn what the API serves; anybody at all, whether it is well and which version it is."""

    PUBLIC = ("/version", "/healthz", "/livez", "/readyz")
    PATHS = ("/api", "/apis", "/openapi", *PUBLIC)

    async def decide(self, identity: Identity, attributes: Attributes) -> Decision:
        if attributes.verb not in ("get", "head"):
            return NO_OPINION
        paths = self.PATHS if "system:authenticated" in identity.groups else self.PUBLIC
        below = any(attributes.path == path or attributes.path.startswith(path + "/") for path in paths)
        return ALLOW if below else NO_OPINION
