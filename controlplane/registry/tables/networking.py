"""Tables of networking.k8s.io."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import NONE, age_column, name_column, text_of_selector


def _parameters(obj: Any, now: float) -> str:
    if not obj.spec.HasField("parameters"):
        return NONE
    found = obj.spec.parameters
    kind = f"{found.kind}.{found.api_group}" if found.api_group else found.kind
    return f"{kind}/{found.name}"


INGRESS_CLASSES = (
    name_column(),
    Column("Controller", lambda obj, now: str(obj.spec.controller)),
    Column("Parameters", _parameters),
    age_column(),
)


def _class(obj: Any, now: float) -> str:
    return str(obj.spec.ingress_class_name or obj.metadata.annotations.get("kubernetes.io/ingress.class", "")) or NONE


def _hosts(obj: Any, now: float) -> str:
    hosts = [rule.host for rule in obj.spec.rules if rule.host]
    if len(hosts) > 3:
        return f"{','.join(hosts[:3])} + {len(hosts) - 3} more..."
    return ",".join(hosts) or "*"


def _addresses(obj: Any, now: float) -> str:
    return ",".join(item.ip or item.hostname for item in obj.status.load_balancer.ingress)


INGRESSES = (
    name_column(),
    Column("Class", _class),
    Column("Hosts", _hosts),
    Column("Address", _addresses),
    Column("Ports", lambda obj, now: "80, 443" if obj.spec.tls else "80"),
    age_column(),
)


def _parent(obj: Any, now: float) -> str:
    ref = obj.spec.parent_ref
    resource = f"{ref.resource}.{ref.group}" if ref.group else ref.resource
    return "/".join(part for part in (resource, ref.namespace, ref.name) if part)


IP_ADDRESSES = (name_column(), Column("ParentRef", _parent), age_column())

NETWORK_POLICIES = (
    name_column(), Column("Pod-Selector", lambda obj, now: text_of_selector(obj.spec.pod_selector)), age_column(),
)  # fmt: skip

SERVICE_CIDRS = (name_column(), Column("CIDRs", lambda obj, now: ",".join(obj.spec.cidrs)), age_column())
