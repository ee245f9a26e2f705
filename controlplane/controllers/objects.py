"""What several plans ask of pods. Pure; called by the plans and the shells of this package."""

from __future__ import annotations

from collections.abc import Iterable

from wherry.api import meta, times
from wherry.pb import core_v1_pb2

NEVER = float("inf")


def is_finished(pod: core_v1_pb2.Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def is_active(pod: core_v1_pb2.Pod) -> bool:
    """Counts as a replica: neither finished nor on its way out."""
    return not is_finished(pod) and not meta.is_deleting(pod)


def is_ready(pod: core_v1_pb2.Pod) -> bool:
    return meta.is_true(pod.status.conditions, "Ready")


def ready_since(pod: core_v1_pb2.Pod) -> float:
    """Unix seconds; 0.0 when the pod is not ready or does not say since when."""
    condition = meta.get_condition(pod.status.conditions, "Ready")
    if condition is None or condition.status != "True":
        return 0.0
    return times.from_time(condition.last_transition_time)


def available_at(pod: core_v1_pb2.Pod, min_ready_s: int) -> float:
    """When the pod, as it is, will have been ready for `min_ready_s`; NEVER when it is not ready."""
    if not is_ready(pod):
        return NEVER
    if min_ready_s == 0:
        return 0.0
    since = ready_since(pod)
    return since + min_ready_s if since else NEVER


def max_restarts(pod: core_v1_pb2.Pod) -> int:
    return max((status.restart_count for status in pod.status.container_statuses), default=0)


def earliest(moments: Iterable[float], now: float) -> float | None:
    """Seconds until the first of the moments that are still to come; None when there is none."""
    coming = [moment for moment in moments if now < moment < NEVER]
    return min(coming) - now if coming else None
