"""The rules of aggregated ClusterRoles."""

from __future__ import annotations

import pytest

from controlplane.controllers.aggregation.plan import plan
from wherry.pb import meta_v1_pb2, rbac_v1_pb2


def role(name: str, *verbs: str, **labels: str) -> rbac_v1_pb2.ClusterRole:
    """A rule for each verb."""
    made = rbac_v1_pb2.ClusterRole(metadata=meta_v1_pb2.ObjectMeta(name=name, labels=labels))
    for verb in verbs:
        made.rules.add(verbs=[verb], api_groups=[""], resources=["pods"])
    return made


def whole(name: str, *verbs: str, of: tuple[str, ...], **labels: str) -> rbac_v1_pb2.ClusterRole:
    """Made of the roles that have one of these labels."""
    made = role(name, *verbs, **labels)
    made.aggregation_rule.SetInParent()
    for label in of:
        made.aggregation_rule.cluster_role_selectors.add(match_labels={label: "yes"})
    return made


A, B = role("a", "get", part="yes"), role("b", "list", "get", part="yes", other="yes")
CASES = {
    "no aggregation": (role("view", "get"), None),
    "made of two": (whole("view", of=("part",)), ["get", "list"]),
    "as it should be": (whole("view", "get", "list", of=("part",)), None),
    "what somebody wrote into it goes": (whole("view", "get", "list", "delete", of=("part",)), ["get", "list"]),
    "selector by selector": (whole("view", of=("other", "part")), ["list", "get"]),
    "of none": (whole("view", "get", of=("none",)), []),
    "not of itself": (whole("a", "delete", of=("part",), part="yes"), ["list", "get"]),
}  # fmt: skip


@pytest.mark.parametrize(("given", "wanted"), CASES.values(), ids=CASES)
def test_rules(given: rbac_v1_pb2.ClusterRole, wanted: list[str] | None) -> None:
    decided = plan(given, [B, A, given])
    assert (None if decided is None else [rule.verbs[0] for rule in decided]) == wanted


def test_one_that_is_being_deleted_is_left_alone() -> None:
    given = whole("view", of=("part",))
    given.metadata.deletion_timestamp.seconds = 1
    assert plan(given, [A, given]) is None
