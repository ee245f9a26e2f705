"""What an aggregated ClusterRole has to say. Pure; called by `controller`."""

from __future__ import annotations

from collections.abc import Iterable

from wherry.api import labels, meta
from wherry.pb import rbac_v1_pb2


def plan(
    role: rbac_v1_pb2.ClusterRole, roles: Iterable[rbac_v1_pb2.ClusterRole]
) -> list[rbac_v1_pb2.PolicyRule] | None:
    """The rules that it lacks or has too many of, all in all; None when it is as it should be. Selector by selector, role by
    role in the order of their names, each rule once."""
    if not is_aggregated(role) or meta.is_deleting(role):
        return None
    parts = sorted(
        (part for part in roles if part.metadata.name != role.metadata.name), key=lambda part: part.metadata.name
    )
    rules: list[rbac_v1_pb2.PolicyRule] = []
    for item in role.aggregation_rule.cluster_role_selectors:
        selector = labels.from_message(item)
        for part in parts:
            if selector.matches(dict(part.metadata.labels)):
                rules += (rule for rule in part.rules if rule not in rules)
    return None if rules == list(role.rules) else rules


def is_aggregated(role: rbac_v1_pb2.ClusterRole) -> bool:
    return role.HasField("aggregation_rule")
