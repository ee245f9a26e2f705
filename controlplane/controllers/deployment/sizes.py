"""The arithmetic of a rollout: how large each ReplicaSet may be now. Pure; called by the plan.

Three numbers bound everything: at most `replicas + surge` pods, at least `replicas - unavailable` available ones, and
those are counted over all ReplicaSets of the Deployment. Sizes are dictionaries from ReplicaSet name to replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.controllers.deployment import template
from wherry.api import intstr, times
from wherry.pb import apps_v1_pb2

ReplicaSets = Sequence[apps_v1_pb2.ReplicaSet]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one Deployment as it is now; a percentage of surge is rounded up, one of unavailability down."""

    replicas: int
    surge: int
    unavailable: int

    @property
    def maximum(self) -> int:
        return self.replicas + self.surge

    @property
    def minimum_available(self) -> int:
        return self.replicas - self.unavailable


def bounds(deployment: apps_v1_pb2.Deployment) -> Bounds:
    replicas = deployment.spec.replicas
    if deployment.spec.strategy.type == "Recreate":
        return Bounds(replicas, 0, 0)
    rolling = deployment.spec.strategy.rolling_update
    surge = intstr.resolve(rolling.max_surge, replicas, round_up=True)
    unavailable = intstr.resolve(rolling.max_unavailable, replicas, round_up=False)
    if surge == 0 and unavailable == 0:
        # Two percentages that both round to nothing: without this the rollout could not move.
        unavailable = 1
    return Bounds(replicas, surge, min(unavailable, replicas))


def spec_total(sets: ReplicaSets) -> int:
    return sum(rs.spec.replicas for rs in sets)


def actual_total(sets: ReplicaSets) -> int:
    return sum(rs.status.replicas for rs in sets)


def available_total(sets: ReplicaSets) -> int:
    return sum(rs.status.available_replicas for rs in sets)


def active(sets: ReplicaSets) -> list[apps_v1_pb2.ReplicaSet]:
    return [rs for rs in sets if rs.spec.replicas > 0]


def of_new(deployment: apps_v1_pb2.Deployment, old: ReplicaSets, new_replicas: int) -> int:
    """How large the new ReplicaSet, which has `new_replicas`, should become in this step."""
    limits = bounds(deployment)
    if deployment.spec.strategy.type == "Recreate" or new_replicas > limits.replicas:
        return limits.replicas
    room = limits.maximum - spec_total(old) - new_replicas
    if room <= 0:
        return new_replicas
    return new_replicas + min(room, limits.replicas - new_replicas)


def of_old(deployment: apps_v1_pb2.Deployment, old: ReplicaSets, new: apps_v1_pb2.ReplicaSet) -> dict[str, int]:
    """The old ReplicaSets that may shrink in this step, and to what: unhealthy pods go first, then healthy ones as far as
    enough available pods remain. Statuses may lag behind: `budget`, which counts what is asked for, holds all the same.
    """
    limits = bounds(deployment)
    new_unavailable = new.spec.replicas - new.status.available_replicas
    budget = spec_total(old) + new.spec.replicas - limits.minimum_available - new_unavailable
    sizes: dict[str, int] = {}
    ordered = template.by_age(active(old))
    for rs in ordered:
        unhealthy = max(0, rs.spec.replicas - rs.status.available_replicas)
        cut = min(max(0, budget), unhealthy)
        if cut:
            sizes[rs.metadata.name] = rs.spec.replicas - cut
            budget -= cut
    spare = available_total([*old, new]) - limits.minimum_available
    for rs in ordered:
        size = sizes.get(rs.metadata.name, rs.spec.replicas)
        cut = min(max(0, budget), max(0, spare), size)
        if cut:
            sizes[rs.metadata.name] = size - cut
            budget -= cut
            spare -= cut
    return sizes


def scaled(deployment: apps_v1_pb2.Deployment, new: apps_v1_pb2.ReplicaSet | None, old: ReplicaSets) -> dict[str, int]:
    """The sizes after the Deployment itself was scaled (or while it is paused). In the middle of a rollout every
    ReplicaSet grows or shrinks in proportion, so that a mix of a good and a bad version stays that mix."""
    limits = bounds(deployment)
    everyone = [*old, new] if new is not None else list(old)
    living = active(everyone)
    if len(living) <= 1:
        only = living[0] if living else new
        if only is None:
            if not old:
                return {}
            only = template.by_age(old)[-1]
        return {only.metadata.name: limits.replicas}
    if new is not None and _is_saturated(new, limits.replicas):
        return {rs.metadata.name: 0 for rs in template.by_age(active(old))}
    if deployment.spec.strategy.type == "Recreate":
        return {}
    return _proportional(deployment, living, limits)


def _is_saturated(new: apps_v1_pb2.ReplicaSet, replicas: int) -> bool:
    return (
        template.annotated_int(new, template.DESIRED_REPLICAS) == replicas
        and new.spec.replicas == replicas
        and new.status.available_replicas == replicas
    )


def _proportional(
    deployment: apps_v1_pb2.Deployment, living: list[apps_v1_pb2.ReplicaSet], limits: Bounds
) -> dict[str, int]:
    to_add = (limits.maximum if limits.replicas > 0 else 0) - spec_total(living)
    # Largest first; of equals the newer grows first and the older shrinks first.
    newer_first = sorted(
        living, key=lambda rs: (times.from_time(rs.metadata.creation_timestamp), rs.metadata.name), reverse=to_add > 0
    )
    ordered = sorted(newer_first, key=lambda rs: -rs.spec.replicas)
    sizes: dict[str, int] = {}
    added = 0
    for rs in ordered:
        share = 0
        if to_add != added and rs.spec.replicas:
            fraction = _fraction(deployment, rs, limits)
            left = to_add - added
            share = min(fraction, left) if to_add > 0 else max(fraction, left)
        sizes[rs.metadata.name] = rs.spec.replicas + share
        added += share
    first = ordered[0].metadata.name
    sizes[first] = max(0, sizes[first] + to_add - added)
    return sizes


def _fraction(deployment: apps_v1_pb2.Deployment, rs: apps_v1_pb2.ReplicaSet, limits: Bounds) -> int:
    if limits.replicas == 0:
        return -rs.spec.replicas
    before = template.annotated_int(rs, template.MAX_REPLICAS) or deployment.status.replicas
    if not before:
        return 0
    return int(rs.spec.replicas * limits.maximum / before + 0.5) - rs.spec.replicas


def is_scaling(deployment: apps_v1_pb2.Deployment, sets: ReplicaSets) -> bool:
    """True when a ReplicaSet in use was sized for another number of replicas than the Deployment has now. (A Recreate
    with several in use is in the middle of its rollout, which sets all sizes anyway.)"""
    if deployment.spec.strategy.type == "Recreate" and len(active(sets)) > 1:
        return False
    desired = (template.annotated_int(rs, template.DESIRED_REPLICAS) for rs in active(sets))
    return any(value is not None and value != deployment.spec.replicas for value in desired)
