"""Resizes in place, as far as they are decisions: what of a pod is wanted, allocated and applied, and whether it fits. Pure.

Three amounts are told apart, as in Kubernetes. The spec says what is *wanted*. What the agent has agreed to is *allocated*: it
counts for the node, and new containers get it. What a running container has is *applied*. They differ while a resize waits for
room or is under way. The agent's checkpoint of a pod has what is allocated, written before it is applied, and its status what is
applied, so a restarted agent goes on from there; without a checkpoint it takes the status for both. Called by `kubelet.agent`
(`verdict`), `podstate`, `plan` and `report`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from kubelet.pods.model import containers_of
from kubelet.pods.resources import pod_requests
from kubelet.pods.states import Role
from wherry.api import codec, quantity
from wherry.pb import core_v1_pb2

Requirements = core_v1_pb2.ResourceRequirements
Allocation = Mapping[str, Requirements]  # by the container's name
PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
INFEASIBLE, DEFERRED = "Infeasible", "Deferred"
RESTART = "RestartContainer"


def of_spec(pod: core_v1_pb2.Pod) -> dict[str, Requirements]:
    """By the container's name; of those that can be resized: containers and sidecars."""
    return {
        container.name: copied(container.resources)
        for container, role in containers_of(pod.spec)
        if role in (Role.APP, Role.SIDECAR)
    }


def allocated_before(pod: core_v1_pb2.Pod) -> dict[str, Requirements]:
    """What a restarted agent takes for allocated: what containers run with, as the status tells, or else what is wanted."""
    entries = [*pod.status.init_container_statuses, *pod.status.container_statuses]
    applied = {entry.name: entry.resources for entry in entries if entry.HasField("resources")}
    return {name: copied(applied.get(name, wanted)) for name, wanted in of_spec(pod).items()}


def applied_ids(status: core_v1_pb2.PodStatus) -> dict[str, Requirements]:
    """What containers run with, by the runtime's id."""
    return {
        entry.container_id.rpartition("://")[2]: copied(entry.resources)
        for entry in [*status.init_container_statuses, *status.container_statuses]
        if entry.container_id and entry.HasField("resources")
    }


def with_resources(pod: core_v1_pb2.Pod, allocated: Mapping[str, Requirements]) -> core_v1_pb2.Pod:
    """The pod with these in place of its own; itself when they are its own."""
    if all(same(wanted, allocated.get(name, wanted)) for name, wanted in of_spec(pod).items()):
        return pod
    made = core_v1_pb2.Pod()
    made.CopyFrom(pod)
    for containers in (made.spec.containers, made.spec.init_containers):
        for container in containers:
            if container.name in allocated:
                container.resources.CopyFrom(allocated[container.name])
    return made


def same(one: Requirements, other: Requirements) -> bool:
    """As far as a resize goes: other resources and claims do not change in a living pod."""
    return _amounts(one) == _amounts(other)


def _amounts(given: Requirements) -> list[int | None]:
    found: list[int | None] = []
    for amounts in (given.requests, given.limits):
        found.append(quantity.milli(amounts["cpu"]) if "cpu" in amounts else None)
        found.append(quantity.value(amounts["memory"]) if "memory" in amounts else None)
    return found


def copied(given: Requirements) -> Requirements:
    """What is kept must not be a part of a pod: it would keep all of it."""
    made = Requirements()
    made.CopyFrom(given)
    return made


def verdict(
    wanted: core_v1_pb2.Pod, held: Sequence[tuple[int, int]], allocatable: Mapping[str, str]
) -> tuple[str, str] | None:
    """Reason and message of a resize that must wait (Deferred) or can never be (Infeasible), in the kubelet's words; None when
    there is room. `held`: what each other pod on the node is allocated (milli CPU, memory bytes)."""
    milli, memory = pod_requests(wanted)
    figures = (
        ("cpu", milli, sum(each for each, _ in held), quantity.milli),
        ("memory", memory, sum(each for _, each in held), quantity.value),
    )
    for resource, requested, _, count in figures:
        if resource in allocatable and requested > count(allocatable[resource]):
            capacity = count(allocatable[resource])
            return INFEASIBLE, (
                f"Node didn't have enough capacity: {resource}, requested: {requested}, capacity: {capacity}"
            )
    for resource, requested, used, count in figures:
        if resource in allocatable and used + requested > count(allocatable[resource]):
            capacity = count(allocatable[resource])
            return DEFERRED, (
                f"Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            )
    return None


def needs_restart(container: core_v1_pb2.Container, applied: Requirements) -> bool:
    """Whether its resizePolicy wants a new container for a resource that is to change."""
    now, then = _amounts(container.resources), _amounts(applied)
    changed = {"cpu": now[0::2] != then[0::2], "memory": now[1::2] != then[1::2]}
    return any(
        changed.get(policy.resource_name) and policy.restart_policy == RESTART for policy in container.resize_policy
    )


def told(pod: core_v1_pb2.Pod, error: str = "") -> str:
    """The resize of an event, as the kubelet tells it."""
    containers = [
        {"name": name, "resources": codec.to_dict(given)} for name, given in of_spec(pod).items() if given.ByteSize()
    ]
    found = {"containers": containers, "generation": pod.metadata.generation}
    return json.dumps(found | ({"error": error} if error else {}), separators=(",", ":"))
