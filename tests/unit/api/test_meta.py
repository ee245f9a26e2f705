"""Helpers on metadata and conditions, IntOrString, and sums of resources."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.api import codec, intstr, meta, resources
from wherry.pb import apps_v1_pb2, core_v1_pb2


def test_keys() -> None:
    assert meta.key(core_v1_pb2.Pod(metadata={"namespace": "a", "name": "b"})) == "a/b"
    assert meta.key(core_v1_pb2.Node(metadata={"name": "b"})) == "b"
    assert meta.split_key("a/b") == ("a", "b")
    assert meta.split_key("b") == ("", "b")


def test_owners() -> None:
    owner = apps_v1_pb2.ReplicaSet(metadata={"name": "r", "uid": "u"})
    pod = core_v1_pb2.Pod()
    assert meta.controller_of(pod) is None
    pod.metadata.owner_references.append(meta.owner_reference(owner, controller=False))
    assert meta.controller_of(pod) is None
    pod.metadata.owner_references.append(meta.owner_reference(owner))
    found = meta.controller_of(pod)
    assert found is not None
    assert (found.api_version, found.kind, found.uid) == ("apps/v1", "ReplicaSet", "u")
    assert meta.is_controlled_by(pod, owner)


def test_finalizers() -> None:
    pod = core_v1_pb2.Pod(metadata={"finalizers": ["x/a", "x/b"]})
    assert meta.remove_finalizer(pod, "x/a")
    assert not meta.remove_finalizer(pod, "x/a")
    assert list(pod.metadata.finalizers) == ["x/b"]


def test_conditions_move_their_time_only_with_their_status() -> None:
    status = core_v1_pb2.PodStatus()
    assert meta.set_condition(status.conditions, "Ready", "False", reason="A", now=10.0)
    assert not meta.set_condition(status.conditions, "Ready", "False", reason="A", now=11.0)
    assert meta.set_condition(status.conditions, "Ready", "False", reason="B", now=12.0)
    assert status.conditions[0].last_transition_time.seconds == 10
    assert meta.set_condition(status.conditions, "Ready", "True", now=13.0)
    assert status.conditions[0].last_transition_time.seconds == 13
    assert meta.is_true(status.conditions, "Ready")
    assert not meta.is_true(status.conditions, "Other")
    assert meta.remove_condition(status.conditions, "Ready")
    assert not meta.remove_condition(status.conditions, "Ready")


def test_deployment_conditions_have_an_update_time() -> None:
    status = apps_v1_pb2.DeploymentStatus()
    meta.set_condition(status.conditions, "Progressing", "True", reason="A", now=10.0)
    meta.set_condition(status.conditions, "Progressing", "True", reason="B", now=20.0)
    assert status.conditions[0].last_update_time.seconds == 20
    assert status.conditions[0].last_transition_time.seconds == 10


@pytest.mark.parametrize(
    ("value", "up", "down"), [(3, 3, 3), ("25%", 3, 2), ("0%", 0, 0), ("100%", 10, 10), ("1%", 1, 0)]
)
def test_int_or_string(value: int | str, up: int, down: int) -> None:
    given = intstr.of(value)
    assert intstr.resolve(given, 10, round_up=True) == up
    assert intstr.resolve(given, 10, round_up=False) == down
    assert intstr.to_value(given) == value


def test_no_percentage() -> None:
    with pytest.raises(ValueError, match="not a percentage"):
        intstr.resolve(intstr.of("abc"), 10, round_up=True)


def container(requests: dict[str, str], limits: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": requests, "limits": limits or {}}, **more}


def pod(**spec: Any) -> core_v1_pb2.Pod:
    return codec.from_dict({"spec": spec}, core_v1_pb2.Pod)


REQUESTS = {
    "nothing": ({"containers": [{"name": "c"}]}, {}),
    "sum": (
        {"containers": [container({"cpu": "100m"}), container({"cpu": "0.2", "memory": "1Mi"})]},
        {"cpu": 300, "memory": 1 << 20},
    ),
    "init is the peak": (
        {"containers": [container({"cpu": "100m"})], "initContainers": [container({"cpu": "1"}), container({"cpu": "2"})]},
        {"cpu": 2000},
    ),
    "sidecar counts beside containers": (
        {"containers": [container({"cpu": "1"})], "initContainers": [container({"cpu": "500m"}, restartPolicy="Always")]},
        {"cpu": 1500},
    ),
    "init after a sidecar runs beside it": (
        {
            "containers": [container({"cpu": "1"})],
            "initContainers": [container({"cpu": "500m"}, restartPolicy="Always"), container({"cpu": "3"})],
        },
        {"cpu": 3500},
    ),
    "init before a sidecar runs alone": (
        {
            "containers": [container({"cpu": "1"})],
            "initContainers": [container({"cpu": "3"}), container({"cpu": "500m"}, restartPolicy="Always")],
        },
        {"cpu": 3000},
    ),
    "overhead": ({"containers": [container({"cpu": "1"})], "overhead": {"cpu": "250m"}}, {"cpu": 1250}),
    "pod level wins": ({"containers": [container({"cpu": "1"})], "resources": {"requests": {"cpu": "4"}}}, {"cpu": 4000}),
    "rounded once": ({"containers": [container({"cpu": "100u"})] * 10}, {"cpu": 1}),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "expected"), REQUESTS.values(), ids=REQUESTS.keys())
def test_requests(spec: dict[str, Any], expected: dict[str, int]) -> None:
    assert resources.pod_requests(pod(**spec)) == expected


@pytest.mark.parametrize(
    ("spec", "allocated", "applied", "reason", "expected"),
    [
        ("1", "1", "1", "", 1000),
        ("2", "1", "1", "", 2000),
        ("1", "2", "2", "", 2000),
        ("1", "1", "2", "", 2000),
        ("2", "1", "1", "Deferred", 2000),
        ("2", "1", "1", "Infeasible", 1000),
    ],
    ids=["as it is", "wants more", "wants less", "does not have less yet", "waits for room", "can never have it"],
)
def test_a_pod_that_is_resized_holds_the_most(
    spec: str, allocated: str, applied: str, reason: str, expected: int
) -> None:
    given = pod(containers=[container({"cpu": spec})])
    entry = {"name": "c", "allocatedResources": {"cpu": allocated}, "resources": {"requests": {"cpu": applied}}}
    condition = {"type": "PodResizePending", "status": "True", "reason": reason}
    status = {"containerStatuses": [entry], "conditions": [condition] if reason else []}
    given.status.CopyFrom(codec.from_dict({"status": status}, core_v1_pb2.Pod).status)
    held = resources.as_held(given)
    assert resources.pod_requests(held) == {"cpu": expected}
    assert (held is given) == (spec == allocated == applied)


def test_limits_take_overhead_only_where_there_is_a_limit() -> None:
    given = pod(containers=[container({}, {"cpu": "1"})], overhead={"cpu": "1", "memory": "1Mi"})
    assert resources.to_units(resources.exact_limits(given.spec)) == {"cpu": 2000}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([container({})], "BestEffort"),
        ([container({"cpu": "1"})], "Burstable"),
        ([container({"cpu": "1", "memory": "1"}, {"cpu": "1", "memory": "1"})], "Guaranteed"),
        ([container({"cpu": "1", "memory": "1"}, {"cpu": "2", "memory": "1"})], "Burstable"),
        ([container({"cpu": "1", "memory": "1"}, {"cpu": "1", "memory": "1"}), container({})], "Burstable"),
        ([container({"cpu": "1"}, {"cpu": "1"})], "Burstable"),
    ],
)
def test_qos_class(containers: list[dict[str, Any]], expected: str) -> None:
    assert resources.qos_class(pod(containers=containers)) == expected


def test_scoring_counts_a_container_that_asks_for_nothing() -> None:
    assert resources.scoring_requests(pod(containers=[{"name": "c"}])) == (100, 200 << 20)
    assert resources.scoring_requests(pod(containers=[container({"cpu": "1", "memory": "1Mi"})])) == (1000, 1 << 20)
