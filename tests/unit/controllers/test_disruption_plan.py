"""A disruption budget's status, by what is asked for and what is there."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.disruption import plan as planning
from wherry.api import codec, times
from wherry.pb import core_v1_pb2, policy_v1_pb2
from wherry.testing.builders import PodBuilder, make_pod

NOW = 10_000.0


def budget(disrupted: dict[str, float] | None = None, **spec: Any) -> policy_v1_pb2.PodDisruptionBudget:
    body = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "b", "namespace": "default", "generation": 3},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }  # fmt: skip
    made = codec.from_dict(body, policy_v1_pb2.PodDisruptionBudget)
    for name, moment in (disrupted or {}).items():
        made.status.disrupted_pods[name].CopyFrom(times.to_time(moment))
    return made


def pods(ready: int, unready: int = 0, *, owner: str = "rs-uid", deleting: int = 0) -> list[core_v1_pb2.Pod]:
    def one(name: str) -> PodBuilder:
        made = make_pod(name).labels(app="web")
        return made.owner("ReplicaSet", "rs", owner) if owner else made

    found = [one(f"r{number}").ready().build() for number in range(ready)]
    found += [one(f"u{number}").build() for number in range(unready)]
    return found + [one(f"d{number}").ready().deleting().build() for number in range(deleting)]


OWNED = {"rs-uid": 10}
# spec, pods, scales -> (allowed, healthy, desired, expected)
CASES: dict[str, tuple[dict[str, Any], list[core_v1_pb2.Pod], dict[str, int], tuple[int, int, int, int]]] = {
    "so many must stay": ({"minAvailable": 2}, pods(3), {}, (1, 3, 2, 3)),
    "none to spare": ({"minAvailable": 3}, pods(3), {}, (0, 3, 3, 3)),
    "fewer than must be": ({"minAvailable": 5}, pods(3), {}, (0, 3, 5, 3)),
    "one that is not ready does not count": ({"minAvailable": 2}, pods(2, 2), {}, (0, 2, 2, 4)),
    "one that is going does not count": ({"minAvailable": 2}, pods(2, deleting=1), {}, (0, 2, 2, 3)),
    "a share is rounded up": ({"minAvailable": "25%"}, pods(10), {"rs-uid": 10}, (7, 10, 3, 10)),
    "a share of what there should be": ({"minAvailable": "50%"}, pods(4), OWNED, (0, 4, 5, 10)),
    "so many may be missing": ({"maxUnavailable": 1}, pods(10), OWNED, (1, 10, 9, 10)),
    "and are": ({"maxUnavailable": 1}, pods(9), OWNED, (0, 9, 9, 10)),
    "a share may be missing, rounded up": ({"maxUnavailable": "15%"}, pods(10), OWNED, (2, 10, 8, 10)),
    "all may be missing": ({"maxUnavailable": 20}, pods(10), OWNED, (10, 10, 0, 10)),
    "pods without a controller count for nothing": ({"maxUnavailable": 1}, pods(2, owner=""), {}, (0, 2, 0, 0)),
    "no pods": ({"minAvailable": 1}, [], {}, (0, 0, 1, 0)),
    "nothing is said": ({}, pods(2), {}, (0, 2, 0, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_counts(case: str) -> None:
    spec, found, scales, wanted = CASES[case]
    status = planning.plan(budget(**spec), found, scales, NOW).status
    assert status is not None
    got = (status.disruptions_allowed, status.current_healthy, status.desired_healthy, status.expected_pods)
    assert got == wanted
    assert status.observed_generation == 3
    (condition,) = status.conditions
    assert (condition.type, condition.status) == ("DisruptionAllowed", "True" if wanted[0] else "False")
    assert condition.reason == ("SufficientPods" if wanted[0] else "InsufficientPods")
    settled = budget(**spec)
    settled.status.CopyFrom(status)
    assert planning.plan(settled, found, scales, NOW + 5).status is None


def test_a_controller_whose_scale_nobody_knows() -> None:
    with pytest.raises(planning.UnknownScale, match='found no controllers for pod "r0"'):
        planning.plan(budget(maxUnavailable=1), pods(1), {}, NOW)
    failed = planning.plan_failure(budget(maxUnavailable=1), "why", NOW).status
    assert failed is not None
    assert failed.disruptions_allowed == 0
    assert [(item.status, item.reason, item.message) for item in failed.conditions] == [("False", "SyncFailed", "why")]


def test_two_replica_sets_of_a_deployment_count_once() -> None:
    found = [*pods(3), *pods(2, owner="other-uid")]
    status = planning.plan(budget(maxUnavailable=1), found, {"rs-uid": 5, "other-uid": 0}, NOW).status
    assert status is not None
    assert (status.expected_pods, status.desired_healthy) == (5, 4)


def test_an_evicted_pod_does_not_count_until_it_is_given_up() -> None:
    spent = budget({"r0": NOW - 10, "gone": NOW - 10}, minAvailable=2)
    outcome = planning.plan(spent, pods(4), {}, NOW)
    assert outcome.status is not None
    assert outcome.status.current_healthy == 3
    assert sorted(outcome.status.disrupted_pods) == ["r0"]
    assert outcome.again_in_s == planning.DELETION_TIMEOUT_S - 10
    late = planning.plan(spent, pods(4), {}, NOW + planning.DELETION_TIMEOUT_S)
    assert late.status is not None
    assert (late.status.current_healthy, dict(late.status.disrupted_pods)) == (4, {})
    assert [pod.metadata.name for pod in late.undeleted] == ["r0"]
