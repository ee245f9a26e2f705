"""Taints from conditions and evictions from taints, as tables."""

from __future__ import annotations

import pytest

from controlplane.controllers.nodelifecycle import plan as planning
from controlplane.controllers.nodelifecycle.plan import plan_evictions, plan_marks, plan_taints
from wherry.pb import core_v1_pb2
from wherry.testing.builders import CREATED_S, make_node, make_pod

NOW = CREATED_S + 1_000.0
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"


def node(conditions: dict[str, str], taints: tuple[str, ...] = (), unschedulable: bool = False) -> core_v1_pb2.Node:
    """Taints as `key:effect`."""
    built = make_node("n1").build()
    del built.status.conditions[:]
    del built.spec.taints[:]
    for kind, status in conditions.items():
        built.status.conditions.add(type=kind, status=status)
    for taint in taints:
        key, _, effect = taint.partition(":")
        built.spec.taints.add(key=key, effect=effect).time_added.seconds = CREATED_S
    built.spec.unschedulable = unschedulable
    return built


def pod(name: str, tolerations: dict[str, int | None], *, created: int = CREATED_S) -> core_v1_pb2.Pod:
    built = make_pod(name).on("n1").build()
    built.metadata.creation_timestamp.seconds = created
    for key, seconds in tolerations.items():
        toleration = built.spec.tolerations.add(key=key, operator="Exists", effect="NoExecute")
        if seconds is not None:
            toleration.toleration_seconds = seconds
    return built


TAINTS = [
    pytest.param(node({"Ready": "True"}), True, None, id="well"),
    pytest.param(
        node({"Ready": "True"}, (f"{NOT_READY}:NoSchedule",)), True, [], id="well again: the first taint goes"
    ),
    pytest.param(
        node({"Ready": "Unknown"}), True, [f"{UNREACHABLE}:NoSchedule", f"{UNREACHABLE}:NoExecute"], id="lost"
    ),
    pytest.param(node({"Ready": "False"}), True, [f"{NOT_READY}:NoSchedule", f"{NOT_READY}:NoExecute"], id="not ready"),
    pytest.param(
        node({"Ready": "Unknown"}, (f"{NOT_READY}:NoSchedule", f"{NOT_READY}:NoExecute")),
        True,
        [f"{UNREACHABLE}:NoSchedule", f"{UNREACHABLE}:NoExecute"],
        id="not ready, then lost",
    ),
    pytest.param(node({"Ready": "Unknown"}), False, [f"{UNREACHABLE}:NoSchedule"], id="all lost: nobody is evicted"),
    pytest.param(
        node({"Ready": "Unknown"}, (f"{UNREACHABLE}:NoSchedule", f"{UNREACHABLE}:NoExecute")),
        False,
        None,
        id="all lost: what is there stays",
    ),
    pytest.param(
        node({"Ready": "True", "MemoryPressure": "True", "DiskPressure": "False", "PIDPressure": "True"}),
        True,
        ["node.kubernetes.io/memory-pressure:NoSchedule", "node.kubernetes.io/pid-pressure:NoSchedule"],
        id="pressure",
    ),
    pytest.param(
        node({"Ready": "True"}, unschedulable=True),
        True,
        ["node.kubernetes.io/unschedulable:NoSchedule"],
        id="cordoned",
    ),
    pytest.param(
        node({"Ready": "Unknown"}, ("example.com/mine:NoSchedule",)),
        True,
        ["example.com/mine:NoSchedule", f"{UNREACHABLE}:NoSchedule", f"{UNREACHABLE}:NoExecute"],
        id="the user's taints stay",
    ),
    pytest.param(node({}), True, [f"{NOT_READY}:NoSchedule"], id="nothing said yet"),
]


@pytest.mark.parametrize(("before", "may_evict", "expected"), TAINTS)
def test_taints(before: core_v1_pb2.Node, may_evict: bool, expected: list[str] | None) -> None:
    taints = plan_taints(before, may_evict=may_evict, now=NOW)
    assert (taints if taints is None else [f"{taint.key}:{taint.effect}" for taint in taints]) == expected
    if taints is None:
        return
    for taint in taints:
        known = any((taint.key, taint.effect) == (old.key, old.effect) for old in before.spec.taints)
        assert taint.time_added.seconds == (CREATED_S if known else NOW)
    del before.spec.taints[:]
    before.spec.taints.extend(taints)
    assert plan_taints(before, may_evict=may_evict, now=NOW + 5) is None


# The Ready condition, how long after the node's creation it came, the taints that the node had: the event's reason.
EVENTS = [
    pytest.param("Unknown", 500, (), "NodeNotReady", id="lost"),
    pytest.param("False", 500, (), "NodeNotReady", id="says so itself"),
    pytest.param("False", 500, (f"{NOT_READY}:NoExecute",), "", id="told already"),
    pytest.param("Unknown", 500, (f"{NOT_READY}:NoExecute",), "", id="told already, another reason"),
    pytest.param("False", 0, (), "", id="registers"),
    pytest.param("False", 0, (f"{NOT_READY}:NoSchedule",), "", id="registers, said nothing before"),
    pytest.param("True", 500, (f"{NOT_READY}:NoSchedule", f"{NOT_READY}:NoExecute"), "NodeReady", id="ready"),
    pytest.param("True", 500, (f"{UNREACHABLE}:NoExecute",), "NodeReady", id="back"),
    pytest.param("True", 500, ("node.kubernetes.io/unschedulable:NoSchedule",), "", id="uncordoned"),
]


@pytest.mark.parametrize(("status", "after_s", "before", "reason"), EVENTS)
def test_readiness_events(status: str, after_s: int, before: tuple[str, ...], reason: str) -> None:
    found = node({"Ready": status}, before)
    found.metadata.creation_timestamp.seconds = CREATED_S
    found.status.conditions[0].last_transition_time.seconds = CREATED_S + after_s
    taints = plan_taints(found, may_evict=True, now=NOW)
    assert (planning.readiness_event(found, taints) if taints is not None else "") == reason


# Tolerations of a pod on a node that became unreachable at CREATED_S + 990, when it is evicted (from NOW, NEVER: None).
EVICTIONS = [
    pytest.param({}, 0, id="no toleration: at once"),
    pytest.param({UNREACHABLE: 10}, 0, id="its time is over"),
    pytest.param({UNREACHABLE: 15}, 5, id="its time is not over"),
    pytest.param({UNREACHABLE: None}, None, id="tolerates for ever"),
    pytest.param({NOT_READY: None}, 0, id="tolerates something else"),
    pytest.param({"": None}, None, id="tolerates everything"),
    pytest.param({UNREACHABLE: -5}, 0, id="negative is none at all"),
]


@pytest.mark.parametrize(("tolerations", "expected"), EVICTIONS)
def test_evictions(tolerations: dict[str, int | None], expected: float | None) -> None:
    taint = core_v1_pb2.Taint(key=UNREACHABLE, effect="NoExecute")
    taint.time_added.seconds = CREATED_S + 990
    found = plan_evictions([taint], [pod("p", tolerations)], NOW)
    assert bool(found.now) == (expected == 0)
    assert found.next_in_s == (expected or None)


def test_a_pod_that_came_after_the_taint_has_its_time() -> None:
    taint = core_v1_pb2.Taint(key=UNREACHABLE, effect="NoExecute")
    taint.time_added.seconds = CREATED_S
    found = plan_evictions([taint], [pod("p", {UNREACHABLE: 10}, created=CREATED_S + 995)], NOW)
    assert (found.now, found.next_in_s) == ((), 5)


def test_no_schedule_evicts_nobody_and_a_terminating_pod_is_let_be() -> None:
    assert plan_evictions([core_v1_pb2.Taint(key="k", effect="NoSchedule")], [pod("p", {})], NOW).now == ()
    deleting = pod("p", {})
    deleting.metadata.deletion_timestamp.seconds = CREATED_S
    assert plan_evictions([core_v1_pb2.Taint(key="k", effect="NoExecute")], [deleting], NOW).now == ()


TOLERATES = [
    pytest.param({"key": "k", "operator": "Exists"}, True, id="any value, any effect"),
    pytest.param({"key": "k", "value": "v"}, True, id="equal by default"),
    pytest.param({"key": "k", "operator": "Equal", "value": "w"}, False, id="other value"),
    pytest.param({"key": "j", "operator": "Exists"}, False, id="other key"),
    pytest.param({"operator": "Exists"}, True, id="everything"),
    pytest.param({"operator": "Exists", "effect": "NoSchedule"}, False, id="other effect"),
]


@pytest.mark.parametrize(("toleration", "expected"), TOLERATES)
def test_tolerates(toleration: dict[str, str], expected: bool) -> None:
    taint = core_v1_pb2.Taint(key="k", value="v", effect="NoExecute")
    assert planning.tolerates(core_v1_pb2.Toleration(**toleration), taint) == expected  # type: ignore[arg-type]


def test_ready_pods_of_an_unreachable_node_are_marked() -> None:
    ready, unready = pod("a", {}), pod("b", {})
    ready.status.conditions.add(type="Ready", status="True")
    unready.status.conditions.add(type="Ready", status="False")
    assert plan_marks(node({"Ready": "False"}), [ready, unready], NOW) == []
    (marked,) = plan_marks(node({"Ready": "Unknown"}), [ready, unready], NOW)
    assert marked.metadata.name == "a"
    assert (marked.status.conditions[0].status, marked.status.conditions[0].last_transition_time.seconds) == (
        "False",
        NOW,
    )
    assert ready.status.conditions[0].status == "True"


def test_a_mark_that_came_too_late_is_taken_off() -> None:
    marked, unready = pod("a", {}), pod("b", {})
    marked.status.conditions.add(type="Ready", status="False")
    marked.status.conditions.add(type="ContainersReady", status="True")
    unready.status.conditions.add(type="Ready", status="False")
    unready.status.conditions.add(type="ContainersReady", status="False")
    assert plan_marks(node({"Ready": "Unknown"}), [marked, unready], NOW) == []
    (taken_off,) = plan_marks(node({"Ready": "True"}), [marked, unready], NOW)
    assert (taken_off.metadata.name, taken_off.status.conditions[0].status) == ("a", "True")
    marked.spec.readiness_gates.add(condition_type="example.com/gate")
    assert plan_marks(node({"Ready": "True"}), [marked], NOW) == []
