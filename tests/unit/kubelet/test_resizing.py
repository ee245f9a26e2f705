"""Resizes in place: whether one fits, what becomes of a running container, and what a restarted agent makes of it."""

from __future__ import annotations

import pytest

from kubelet.pods import model as m
from kubelet.pods import resizing
from kubelet.pods.plan import plan
from kubelet.pods.policy import spec_hash
from kubelet.pods.resources import larger, pod_requests
from kubelet.runtime.base import ContainerState, ContainerStatus, Resources, SandboxState, SandboxStatus
from wherry.api import codec
from wherry.pb import core_v1_pb2
from wherry.testing.builders import CREATED_S, PodBuilder, make_pod

T0 = float(CREATED_S)
NODE = m.NodeFacts("n1", ("192.0.2.1",))
ALLOCATABLE = {"cpu": "4", "memory": "4Gi"}
SANDBOX = SandboxStatus("s0", "default", "p", "u", 0, SandboxState.READY, T0, ("10.0.0.5",), {}, {})


def sized(cpu: str, memory: str = "1Gi", *, limit: str = "") -> PodBuilder:
    made = make_pod("p").on("n1").cpu(cpu).memory(memory)
    return made.limit("cpu", limit) if limit else made


def requirements(cpu: str, memory: str = "1Gi") -> core_v1_pb2.ResourceRequirements:
    return codec.from_dict({"requests": {"cpu": cpu, "memory": memory}}, core_v1_pb2.ResourceRequirements)


@pytest.mark.parametrize(
    ("wanted", "others", "expected"),
    [
        (sized("2"), [sized("2")], None),
        (
            sized("2001m"), [sized("2")],
            ("Deferred", "Node didn't have enough resource: cpu, requested: 2001, used: 2000, capacity: 4000"),
        ),
        (
            sized("1", "4500Mi"), [],
            ("Infeasible", "Node didn't have enough capacity: memory, requested: 4718592000, capacity: 4294967296"),
        ),
    ],
    ids=["fits", "has to wait", "never"],
)  # fmt: skip
def test_verdicts(wanted: PodBuilder, others: list[PodBuilder], expected: tuple[str, str] | None) -> None:
    assert resizing.verdict(wanted.build(), [pod_requests(other.build()) for other in others], ALLOCATABLE) == expected


def running(pod: core_v1_pb2.Pod, name: str = "c") -> ContainerStatus:
    container = next(item for item in pod.spec.containers if item.name == name)
    return ContainerStatus(
        f"{name}-0", "s0", name, 0, ContainerState.RUNNING, T0, T0, 0.0, 0, "", "", container.image, "sha", "/l", {},
        {m.SPEC_HASH: spec_hash(container)},
    )  # fmt: skip


def decide(pod: core_v1_pb2.Pod, memory: m.PodMemory, now: float = T0) -> m.Plan:
    memory.volumes_ready = True
    containers = [running(pod, container.name) for container in pod.spec.containers]
    return plan(pod, m.Observed((SANDBOX,), tuple(containers)), memory, NODE, now)


def conditions(made: m.Plan) -> dict[str, tuple[str, str]]:
    kinds = (resizing.PENDING, resizing.IN_PROGRESS)
    return {item.type: (item.reason, item.message) for item in made.status.conditions if item.type in kinds}


def test_a_running_container_gets_what_it_is_allocated() -> None:
    pod = sized("2").build()
    name = pod.spec.containers[0].name
    memory = m.PodMemory(seen_at=T0, applied={f"{name}-0": requirements("1")})
    made = decide(pod, memory)
    assert made.actions == [m.ResizeContainers((f"{name}-0",))]
    assert conditions(made) == {"PodResizeInProgress": ("", "")}
    entry = made.status.container_statuses[0]
    assert entry.resources.requests["cpu"].string == "1", "what it runs with"
    assert entry.allocated_resources["cpu"].string == "2"
    memory.applied[f"{name}-0"] = requirements("2000m")
    made = decide(pod, memory)
    assert (made.actions, conditions(made)) == ([], {})


def test_a_failure_is_told_and_tried_again_later() -> None:
    pod = sized("2").build()
    name = pod.spec.containers[0].name
    memory = m.PodMemory(seen_at=T0, applied={f"{name}-0": requirements("1")})
    memory.resize_failure = m.Failure("Error", "no", T0)
    made = decide(pod, memory)
    assert (made.actions, conditions(made)) == ([], {"PodResizeInProgress": ("Error", "no")})
    assert made.wake_at == T0 + 1
    assert decide(pod, memory, T0 + 1).actions == [m.ResizeContainers((f"{name}-0",))]


@pytest.mark.parametrize(
    ("resource", "restarts"), [("cpu", True), ("memory", False)], ids=["of what changes", "of what stays"]
)
def test_a_policy_may_want_a_new_container(resource: str, restarts: bool) -> None:
    pod = sized("2").build()
    pod.spec.containers[0].resize_policy.add(resource_name=resource, restart_policy="RestartContainer")
    runtime_id = f"{pod.spec.containers[0].name}-0"
    memory = m.PodMemory(seen_at=T0, applied={runtime_id: requirements("1")})
    (action,) = decide(pod, memory).actions
    if restarts:
        assert isinstance(action, m.KillContainer)
        assert action.message == f"Container {pod.spec.containers[0].name} resize requires restart"
        assert memory.resize_kills == {runtime_id}, "which is no crash: the next one starts at once"
    else:
        assert action == m.ResizeContainers((runtime_id,))


def test_one_that_waits_is_told() -> None:
    pod = sized("1").build()
    memory = m.PodMemory(seen_at=T0, resize_pending=("Deferred", "why"))
    assert conditions(decide(pod, memory)) == {"PodResizePending": ("Deferred", "why")}
    # Conditions of a former agent do not stay.
    pod.status.conditions.add(type=resizing.PENDING, status="True", reason="Deferred")
    memory.resize_pending = None
    assert conditions(decide(pod, memory)) == {}


def test_a_restarted_agent_takes_what_runs_for_allocated() -> None:
    pod = sized("2").build()
    assert resizing.allocated_before(pod) == resizing.of_spec(pod)
    name = pod.spec.containers[0].name
    pod.status.container_statuses.add(name=name, container_id="hollow://x", resources=requirements("1"))
    assert resizing.allocated_before(pod)[name] == requirements("1")
    assert resizing.applied_ids(pod.status) == {"x": requirements("1")}
    held = resizing.with_resources(pod, resizing.allocated_before(pod))
    assert held.spec.containers[0].resources == requirements("1")
    assert pod.spec.containers[0].resources == requirements("2"), "nobody changes what is shared"
    assert resizing.with_resources(pod, resizing.of_spec(pod)) is pod


def test_an_event_tells_the_sizes() -> None:
    pod = sized("2", limit="3").build()
    name = pod.spec.containers[0].name
    pod.metadata.generation = 4
    assert resizing.told(pod, "why") == (
        f'{{"containers":[{{"name":"{name}","resources":{{"limits":{{"cpu":"3"}},"requests":{{"cpu":"2","memory":"1Gi"}}}}}}],'
        '"generation":4,"error":"why"}'
    )


def test_between_two_sizes_the_pod_has_the_larger_limits() -> None:
    small, large = Resources(10, 100, 1000, 5), Resources(20, 50, 1000, 7)
    assert larger(small, large) == Resources(20, 100, 1000, 7)
    assert larger(small, Resources(1, 0, 1000, 0)) == Resources(10, 0, 1000, 0)
