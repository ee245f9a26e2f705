"""What every cluster has beside namespaces, roles and priorities: flow schemas and priority levels, the services of our own APIs,
and the range of the Services' addresses. Made once by `controlplane.auth.defaults` together with the roles.

Nothing in this control plane acts on these objects (docs/stored-only.md); tools look for them, and they say what is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from wherry.api import kinds, meta

_FLOW = "flowcontrol.apiserver.k8s.io/v1"
_ALL, _OBJECTS, _PATHS = "everything", "objects", "paths"
# Name: (priority level, precedence, told apart by, subjects, what they ask for).
SCHEMAS: dict[str, tuple[str, int, str, tuple[str, ...], str]] = {
    "exempt": ("exempt", 1, "", ("Group=system:masters",), _ALL),
    "probes": ("exempt", 2, "", ("Group=system:unauthenticated", "Group=system:authenticated"), _PATHS),
    "system-leader-election": (
        "leader-election", 100, "ByUser",
        ("User=system:kube-controller-manager", "User=system:kube-scheduler", "ServiceAccount=kube-system/*"),
        "get,create,update coordination.k8s.io leases namespaced",
    ),
    "system-node-high": (
        "node-high", 400, "ByUser", ("Group=system:nodes",),
        "* '' nodes,nodes/status cluster; * coordination.k8s.io leases namespaced",
    ),
    "system-nodes": ("system", 500, "ByUser", ("Group=system:nodes",), _ALL),
    "kube-controller-manager": ("workload-high", 800, "ByNamespace", ("User=system:kube-controller-manager",), _ALL),
    "kube-scheduler": ("workload-high", 800, "ByNamespace", ("User=system:kube-scheduler",), _ALL),
    "kube-system-service-accounts": ("workload-high", 900, "ByNamespace", ("ServiceAccount=kube-system/*",), _ALL),
    "service-accounts": ("workload-low", 9000, "ByUser", ("Group=system:serviceaccounts",), _ALL),
    "global-default": (
        "global-default", 9900, "ByUser", ("Group=system:unauthenticated", "Group=system:authenticated"), _ALL,
    ),
    "catch-all": (
        "catch-all", 10000, "ByUser", ("Group=system:unauthenticated", "Group=system:authenticated"), _ALL,
    ),
}  # fmt: skip
# Name: (shares, percent that can be lent, queues and hand size; None where there is no queue).
LEVELS: dict[str, tuple[int, int, tuple[int, int] | None]] = {
    "catch-all": (5, 0, None),
    "global-default": (20, 50, (128, 6)),
    "leader-election": (10, 0, (16, 4)),
    "node-high": (40, 25, (64, 6)),
    "system": (30, 33, (64, 6)),
    "workload-high": (40, 50, (128, 6)),
    "workload-low": (100, 90, (128, 6)),
}
_QUEUE_LENGTH = 50
# Group version: where its group stands among groups, and the version in its group.
APIS: dict[str, tuple[int, int]] = {
    "/v1": (18000, 1),
    "admissionregistration.k8s.io/v1": (16700, 15),
    "apiextensions.k8s.io/v1": (16700, 15),
    "apps/v1": (17800, 15),
    "authentication.k8s.io/v1": (17700, 15),
    "authorization.k8s.io/v1": (17600, 15),
    "autoscaling/v1": (17500, 15),
    "autoscaling/v2": (17500, 30),
    "batch/v1": (17400, 15),
    "certificates.k8s.io/v1": (17300, 15),
    "coordination.k8s.io/v1": (16500, 15),
    "discovery.k8s.io/v1": (16200, 15),
    "events.k8s.io/v1": (17750, 15),
    "flowcontrol.apiserver.k8s.io/v1": (16100, 21),
    "metrics.k8s.io/v1beta1": (100, 100),
    "networking.k8s.io/v1": (17200, 15),
    "node.k8s.io/v1": (16300, 15),
    "policy/v1": (17100, 15),
    "rbac.authorization.k8s.io/v1": (17000, 15),
    "resource.k8s.io/v1": (16200, 21),
    "scheduling.k8s.io/v1": (16600, 15),
    "storage.k8s.io/v1": (16800, 15),
    "storagemigration.k8s.io/v1": (16800, 15),
}


def version() -> str:
    """Changes with what is here."""
    return repr((SCHEMAS, LEVELS, APIS))


def objects(cidr: str, now: float) -> Iterator[Message]:
    yield from _levels()
    yield from _schemas(now)
    yield from _services(now)
    found: Any = _made("networking.k8s.io/v1", "ServiceCIDR", "kubernetes")
    found.spec.cidrs.append(cidr)
    text = "Kubernetes default Service CIDR is ready"
    meta.set_condition(found.status.conditions, "Ready", "True", now=now, message=text)
    yield found


def _made(api_version: str, kind: str, name: str) -> Any:
    found: Any = kinds.by_name(api_version, kind).message()
    found.metadata.name = name
    return found


def _levels() -> Iterator[Message]:
    exempt = _made(_FLOW, "PriorityLevelConfiguration", "exempt")
    exempt.spec.type = "Exempt"
    yield _updated(exempt)
    for name, (shares, lendable, queues) in LEVELS.items():
        found = _made(_FLOW, "PriorityLevelConfiguration", name)
        found.spec.type = "Limited"
        limited = found.spec.limited
        limited.nominal_concurrency_shares, limited.lendable_percent = shares, lendable
        limited.limit_response.type = "Queue" if queues else "Reject"
        if queues:
            queuing = limited.limit_response.queuing
            (queuing.queues, queuing.hand_size), queuing.queue_length_limit = queues, _QUEUE_LENGTH
        yield _updated(found)


def _schemas(now: float) -> Iterator[Message]:
    for name, (level, precedence, method, subjects, wanted) in SCHEMAS.items():
        found = _made(_FLOW, "FlowSchema", name)
        found.spec.priority_level_configuration.name = level
        found.spec.matching_precedence = precedence
        if method:
            found.spec.distinguisher_method.type = method
        rule = found.spec.rules.add()
        for subject in subjects:
            _subject(rule.subjects.add(), subject)
        if wanted == _PATHS:
            rule.non_resource_rules.add(verbs=["get"], non_resource_urls=["/healthz", "/readyz", "/livez"])
        elif wanted == _ALL:
            rule.resource_rules.add(
                verbs=["*"], api_groups=["*"], resources=["*"], cluster_scope=True, namespaces=["*"]
            )
            rule.non_resource_rules.add(verbs=["*"], non_resource_urls=["*"])
        else:
            for line in wanted.split("; "):
                verbs, group, resources, scope = line.split()
                rule.resource_rules.add(
                    verbs=verbs.split(","), api_groups=["" if group == "''" else group],
                    resources=resources.split(","), cluster_scope=scope == "cluster", namespaces=["*"],
                )  # fmt: skip
        text = f'This FlowSchema references the PriorityLevelConfiguration object named "{level}" and it exists'
        meta.set_condition(found.status.conditions, "Dangling", "False", now=now, reason="Found", message=text)
        yield _updated(found)


def _updated(found: Any) -> Any:
    found.metadata.annotations["apf.kubernetes.io/autoupdate-spec"] = "true"
    return found


def _subject(subject: Any, word: str) -> None:
    subject.kind, _, name = word.partition("=")
    if subject.kind == "ServiceAccount":
        subject.service_account.namespace, _, subject.service_account.name = name.partition("/")
    else:
        getattr(subject, subject.kind.lower()).name = name


def _services(now: float) -> Iterator[Message]:
    for api, (group_priority, version_priority) in APIS.items():
        group, _, version = api.rpartition("/")
        found = _made("apiregistration.k8s.io/v1", "APIService", f"{version}.{group}")
        found.metadata.labels["kube-aggregator.kubernetes.io/automanaged"] = "onstart"
        found.spec.group, found.spec.version = group, version
        found.spec.group_priority_minimum, found.spec.version_priority = group_priority, version_priority
        text = "Local APIServices are always available"
        meta.set_condition(found.status.conditions, "Available", "True", now=now, reason="Local", message=text)
        yield found
