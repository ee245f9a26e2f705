"""What a budget's status must say, given its pods and how many there should be. Pure; called by `controller`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.controllers import objects
from wherry.api import intstr, meta, times
from wherry.pb import core_v1_pb2, meta_v1_pb2, policy_v1_pb2

# An eviction after which the pod is not seen to go within this time did not take place: its pod counts again.
DELETION_TIMEOUT_S = 120.0
DISRUPTION_ALLOWED = "DisruptionAllowed"

# The uid of a controller -> how many pods it should have.
Scales = Mapping[str, int]


class UnknownScale(Exception):
    """The number of pods that there should be cannot be found out; no disruption is allowed then."""


@dataclass(slots=True)
class Outcome:
    """`status` is None when it is right as it is. `undeleted` are pods whose eviction came to nothing."""

    status: policy_v1_pb2.PodDisruptionBudgetStatus | None
    again_in_s: float | None = None
    undeleted: list[core_v1_pb2.Pod] = field(default_factory=list)


def wants_scales(budget: policy_v1_pb2.PodDisruptionBudget) -> bool:
    """Whether the pods' controllers must be asked how many there should be."""
    spec = budget.spec
    if spec.HasField("max_unavailable"):
        return True
    return spec.HasField("min_available") and bool(spec.min_available.type)


def unmanaged(pods: Sequence[core_v1_pb2.Pod]) -> list[core_v1_pb2.Pod]:
    return [pod for pod in pods if meta.controller_of(pod) is None]


def expected(
    budget: policy_v1_pb2.PodDisruptionBudget, pods: Sequence[core_v1_pb2.Pod], scales: Scales
) -> tuple[int, int]:
    """How many pods there should be, and how many of them healthy. Raises UnknownScale."""
    spec = budget.spec
    try:
        if spec.HasField("max_unavailable"):
            total = _total(pods, scales)
            return total, max(0, total - intstr.resolve(spec.max_unavailable, total, round_up=True))
        if spec.HasField("min_available"):
            if not spec.min_available.type:
                return len(pods), int(spec.min_available.int_val)
            total = _total(pods, scales)
            return total, intstr.resolve(spec.min_available, total, round_up=True)
    except ValueError as error:
        raise UnknownScale(str(error)) from error
    return 0, 0


def _total(pods: Sequence[core_v1_pb2.Pod], scales: Scales) -> int:
    wanted: dict[str, int] = {}
    for pod in pods:
        owner = meta.controller_of(pod)
        if owner is None:
            continue
        if owner.uid not in scales:
            raise UnknownScale(f'found no controllers for pod "{pod.metadata.name}"')
        wanted[owner.uid] = scales[owner.uid]
    return sum(wanted.values())


def plan(
    budget: policy_v1_pb2.PodDisruptionBudget, pods: Sequence[core_v1_pb2.Pod], scales: Scales, now: float
) -> Outcome:
    """`scales` by the uid of the pods' controllers; two ReplicaSets of one Deployment have one entry each, of which one is 0.
    Raises UnknownScale."""
    total, desired = expected(budget, pods, scales)
    disrupted, again, undeleted = _still_awaited(budget, pods, now)
    healthy = sum(
        objects.is_ready(pod) and not meta.is_deleting(pod) and pod.metadata.name not in disrupted for pod in pods
    )
    allowed = healthy - desired
    if total <= 0 or allowed <= 0:
        allowed = 0
    old = budget.status
    status = policy_v1_pb2.PodDisruptionBudgetStatus(
        observed_generation=budget.metadata.generation,
        disruptions_allowed=allowed,
        current_healthy=healthy,
        desired_healthy=desired,
        expected_pods=total,
        conditions=old.conditions,
    )
    for name in sorted(disrupted):
        status.disrupted_pods[name].CopyFrom(disrupted[name])
    _judge(status, budget, "True" if allowed else "False", "SufficientPods" if allowed else "InsufficientPods", "", now)
    return Outcome(None if meta.equal(status, old) else status, again, undeleted)


def plan_failure(budget: policy_v1_pb2.PodDisruptionBudget, why: str, now: float) -> Outcome:
    """As long as nobody knows how many pods there should be, none may be evicted."""
    status = policy_v1_pb2.PodDisruptionBudgetStatus()
    status.CopyFrom(budget.status)
    status.disruptions_allowed = 0
    status.observed_generation = budget.metadata.generation
    _judge(status, budget, "False", "SyncFailed", why, now)
    return Outcome(None if meta.equal(status, budget.status) else status)


def _still_awaited(
    budget: policy_v1_pb2.PodDisruptionBudget, pods: Sequence[core_v1_pb2.Pod], now: float
) -> tuple[dict[str, meta_v1_pb2.Time], float | None, list[core_v1_pb2.Pod]]:
    """The evicted pods that are not seen to go yet, when the first of them is given up, and those that are given up now."""
    awaited: dict[str, meta_v1_pb2.Time] = {}
    given_up = []
    moments = []
    for pod in pods:
        name = pod.metadata.name
        if meta.is_deleting(pod) or name not in budget.status.disrupted_pods:
            continue
        since = budget.status.disrupted_pods[name]
        moment = times.from_time(since) + DELETION_TIMEOUT_S
        if moment <= now:
            given_up.append(pod)
        else:
            awaited[name] = since
            moments.append(moment)
    return awaited, objects.earliest(moments, now), given_up


def _judge(
    status: policy_v1_pb2.PodDisruptionBudgetStatus,
    budget: policy_v1_pb2.PodDisruptionBudget,
    verdict: str,
    reason: str,
    message: str,
    now: float,
) -> None:
    meta.set_condition(
        status.conditions, DISRUPTION_ALLOWED, verdict, reason=reason, message=message, now=now,
        observed_generation=budget.metadata.generation,
    )  # fmt: skip
