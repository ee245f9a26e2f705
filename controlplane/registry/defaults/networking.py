"""Defaults of NetworkPolicy and IngressClass. Called by their strategies."""

from __future__ import annotations

from typing import Any


def network_policy(obj: Any) -> None:
    """Without a word on it, a policy is about ingress, and about egress if it has rules for that."""
    spec = obj.spec
    if not spec.policy_types:
        spec.policy_types.append("Ingress")
        if spec.egress:
            spec.policy_types.append("Egress")
    for rule in (*spec.ingress, *spec.egress):
        for port in rule.ports:
            if not port.HasField("protocol"):
                port.protocol = "TCP"


def ingress_class(obj: Any) -> None:
    if obj.spec.HasField("parameters") and not obj.spec.parameters.HasField("scope"):
        obj.spec.parameters.scope = "Cluster"
