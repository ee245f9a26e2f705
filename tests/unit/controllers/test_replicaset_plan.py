"""The ReplicaSet's plan as tables: how many pods, which go first, and the status."""

from __future__ import annotations

import pytest

from controlplane.controllers import claims
from controlplane.controllers.replicaset.expectations import Expectations
from controlplane.controllers.replicaset.plan import Plan, make_pod, plan, plan_status
from wherry.pb import core_v1_pb2
from wherry.testing import builders
from wherry.testing.builders import CREATED_S
from wherry.testing.workloads import make_replicaset

NOW = CREATED_S + 100_000.0


def pod(
    name: str, *, node: str = "n1", phase: str = "Running", ready_for_s: float | None = 3_600, age_s: float = 7_200,
    restarts: int = 0, cost: str = "", deleting: bool = False,
) -> core_v1_pb2.Pod:  # fmt: skip
    built = builders.make_pod(name).build()
    built.spec.node_name = node
    built.status.phase = phase
    built.metadata.creation_timestamp.seconds = int(NOW - age_s)
    if ready_for_s is not None:
        condition = built.status.conditions.add(type="Ready", status="True")
        condition.last_transition_time.seconds = int(NOW - ready_for_s)
    if restarts:
        built.status.container_statuses.add(name="c", restart_count=restarts)
    if cost:
        built.metadata.annotations["controller.kubernetes.io/pod-deletion-cost"] = cost
    if deleting:
        built.metadata.deletion_timestamp.seconds = int(NOW)
    return built


COUNTS = [
    pytest.param(3, [], 3, id="none yet"),
    pytest.param(3, [pod("a")], 2, id="one there"),
    pytest.param(1, [pod("a")], 0, id="enough"),
    pytest.param(1, [pod("a", deleting=True)], 1, id="a terminating one does not count"),
    pytest.param(1, [pod("a", phase="Failed")], 1, id="a failed one does not count"),
    pytest.param(2_000, [], 500, id="no more than a burst"),
]


@pytest.mark.parametrize(("replicas", "pods", "expected"), COUNTS)
def test_missing_pods_are_made(replicas: int, pods: list[core_v1_pb2.Pod], expected: int) -> None:
    rs = make_replicaset("rs", replicas).build()
    assert plan(rs, pods, pods, NOW) == Plan(create=expected)


# Two pods of which the first is to go.
VICTIMS = [
    pytest.param(pod("b", node="", phase="Pending", ready_for_s=None), pod("a", phase="Pending"), id="without a node"),
    pytest.param(pod("b", phase="Pending"), pod("a", phase="Unknown"), id="pending before unknown"),
    pytest.param(pod("b", phase="Unknown"), pod("a"), id="unknown before running"),
    pytest.param(pod("b", ready_for_s=None), pod("a", cost="-5"), id="not ready, whatever the other costs"),
    pytest.param(pod("b", cost="-5"), pod("a"), id="cheap by annotation"),
    pytest.param(pod("b", ready_for_s=10), pod("a"), id="ready for a shorter time"),
    pytest.param(pod("b", ready_for_s=None, restarts=4), pod("a", ready_for_s=None), id="restarted more often"),
    pytest.param(pod("b", ready_for_s=None, age_s=10), pod("a", ready_for_s=None), id="younger"),
    pytest.param(pod("a"), pod("b", ready_for_s=3_500), id="about the same age: by uid"),
]


@pytest.mark.parametrize(("first", "second"), VICTIMS)
def test_the_pod_that_costs_least_goes_first(first: core_v1_pb2.Pod, second: core_v1_pb2.Pod) -> None:
    rs = make_replicaset("rs", 1).build()
    for pods in ([first, second], [second, first]):
        assert [victim.metadata.name for victim in plan(rs, pods, pods, NOW).delete] == [first.metadata.name]


def test_a_node_that_runs_many_pods_of_the_same_owner_loses_one_first() -> None:
    rs = make_replicaset("rs", 1).build()
    mine = [pod("a", node="n1"), pod("b", node="n2")]
    others = [pod("c", node="n2"), pod("d", node="n2", deleting=True)]
    assert [victim.metadata.name for victim in plan(rs, mine, mine + others, NOW).delete] == ["b"]


def test_a_deleted_replica_set_makes_and_deletes_nothing() -> None:
    rs = make_replicaset("rs", 3).deleting().build()
    assert plan(rs, [pod("a")], [], NOW) == Plan()


def test_a_pod_is_made_from_the_template_and_owned() -> None:
    rs = make_replicaset("rs", 1).build()
    made = make_pod(rs)
    assert made.metadata.generate_name == "rs-"
    assert dict(made.metadata.labels) == {"app": "rs"}
    (owner,) = made.metadata.owner_references
    assert (owner.api_version, owner.kind, owner.name, owner.uid) == ("apps/v1", "ReplicaSet", "rs", rs.metadata.uid)
    assert owner.controller
    assert owner.block_owner_deletion
    assert made.spec == rs.spec.template.spec


def test_status_counts_and_says_when_a_pod_becomes_available() -> None:
    rs = make_replicaset("rs", 4).min_ready(10).build()
    pods = [
        pod("a"),
        pod("b", ready_for_s=4),
        pod("c", ready_for_s=None),
        pod("d", deleting=True),
        pod("e", phase="Failed"),
    ]
    for each in pods:
        each.metadata.labels["app"] = "rs"
    pods[0].metadata.labels["app"] = "else"
    status, again_in_s = plan_status(rs, pods, Plan(), "", NOW)
    assert status is not None
    assert (status.replicas, status.ready_replicas, status.available_replicas) == (3, 2, 1)
    assert (status.fully_labeled_replicas, status.terminating_replicas, status.observed_generation) == (2, 1, 1)
    assert again_in_s == 6


def test_an_unchanged_status_is_not_written() -> None:
    rs = make_replicaset("rs", 1).build()
    status, _ = plan_status(rs, [pod("a")], Plan(), "", NOW)
    assert status is not None
    rs.status.CopyFrom(status)
    assert plan_status(rs, [pod("a")], Plan(), "", NOW + 50) == (None, None)


def test_a_failure_is_reported_once_and_cleared() -> None:
    rs = make_replicaset("rs", 1).build()
    status, _ = plan_status(rs, [], Plan(create=1), "no quota", NOW)
    assert status is not None
    (condition,) = status.conditions
    assert (condition.type, condition.status, condition.reason, condition.message) == (
        "ReplicaFailure", "True", "FailedCreate", "no quota",
    )  # fmt: skip
    rs.status.CopyFrom(status)
    assert plan_status(rs, [], Plan(create=1), "still no quota", NOW + 5)[0] is None
    status, _ = plan_status(rs, [pod("a")], Plan(), "", NOW + 9)
    assert status is not None
    assert not status.conditions


def test_expectations_wait_for_the_revision_of_what_was_made() -> None:
    expectations = Expectations()
    assert expectations.satisfied("ns/rs", lambda name, uid: False)
    expectations.expect_revision("ns/rs", "17")
    expectations.observe("16")
    assert not expectations.satisfied("ns/rs", lambda name, uid: False)
    assert expectations.satisfied("ns/other", lambda name, uid: False)
    expectations.observe("18")
    assert expectations.satisfied("ns/rs", lambda name, uid: False)
    expectations.check_invariants()


def test_expectations_wait_until_what_was_deleted_is_gone() -> None:
    expectations = Expectations()
    expectations.expect_deletion("ns/rs", "p", "u")
    assert not expectations.satisfied("ns/rs", lambda name, uid: (name, uid) == ("p", "u"))
    assert expectations.satisfied("ns/rs", lambda name, uid: False)


def test_a_write_without_an_answer_blocks_until_it_is_settled() -> None:
    expectations = Expectations()
    expectations.observe("30")
    expectations.doubt("ns/rs")
    assert expectations.in_doubt("ns/rs")
    assert not expectations.satisfied("ns/rs", lambda name, uid: False)
    expectations.settle("ns/rs", "31")
    assert not expectations.satisfied("ns/rs", lambda name, uid: False)
    expectations.observe("31")
    assert expectations.satisfied("ns/rs", lambda name, uid: False)


def test_claims() -> None:
    rs = make_replicaset("rs", 1).build()

    def owned(name: str, uid: str, **labels: str) -> core_v1_pb2.Pod:
        built = builders.make_pod(name).labels(**labels).build()
        if uid:
            built.metadata.owner_references.add(uid=uid, kind="ReplicaSet", name="x", controller=True)
        return built

    mine = rs.metadata.uid
    pods = [
        owned("mine", mine, app="rs"),
        owned("mine-no-more", mine, app="else"),
        owned("orphan", "", app="rs"),
        owned("stranger", "other", app="rs"),
        owned("unrelated", "", app="else"),
    ]
    found = claims.plan(rs, rs.spec.selector, pods)
    names = [[p.metadata.name for p in group] for group in (found.owned, found.adopt, found.release)]
    assert names == [["mine"], ["orphan"], ["mine-no-more"]]
    rs.metadata.deletion_timestamp.seconds = 1
    found = claims.plan(rs, rs.spec.selector, pods)
    names = [[p.metadata.name for p in group] for group in (found.owned, found.adopt, found.release)]
    assert names == [["mine"], [], []]
