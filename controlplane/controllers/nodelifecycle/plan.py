"""Taints from conditions, evictions from taints. Pure; called by `controller`.

How long a pod may stay is counted from the taint's own `timeAdded`, so that a restarted control plane goes on counting
where the old one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from controlplane.controllers import objects
from wherry.api import meta, times
from wherry.pb import core_v1_pb2

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
NO_SCHEDULE, NO_EXECUTE = "NoSchedule", "NoExecute"

# Which taint a condition of that status gives. Taints with these keys are ours: we also take them away.
_BY_CONDITION = {
    ("Ready", "False"): NOT_READY,
    ("Ready", "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): "node.kubernetes.io/memory-pressure",
    ("DiskPressure", "True"): "node.kubernetes.io/disk-pressure",
    ("PIDPressure", "True"): "node.kubernetes.io/pid-pressure",
    ("NetworkUnavailable", "True"): "node.kubernetes.io/network-unavailable",
}
_OURS = frozenset(
    [(key, NO_SCHEDULE) for key in (*_BY_CONDITION.values(), UNSCHEDULABLE)]
    + [(NOT_READY, NO_EXECUTE), (UNREACHABLE, NO_EXECUTE)]
)


def is_ready(node: core_v1_pb2.Node) -> bool:
    return meta.is_true(node.status.conditions, "Ready")


def is_unreachable(node: core_v1_pb2.Node) -> bool:
    ready = meta.get_condition(node.status.conditions, "Ready")
    return ready is not None and ready.status == "Unknown"


def plan_taints(node: core_v1_pb2.Node, *, may_evict: bool, now: float) -> list[core_v1_pb2.Taint] | None:
    """The node's taints as they should be; None when they are. `may_evict` false adds no NoExecute taint (but leaves one
    that is there)."""
    wanted = _wanted(node)
    if not may_evict:
        present = {(taint.key, taint.effect) for taint in node.spec.taints}
        wanted = [place for place in wanted if place[1] != NO_EXECUTE or place in present]
    kept = []
    for taint in node.spec.taints:
        place = (taint.key, taint.effect)
        if place not in _OURS or place in wanted:
            kept.append(taint)
            if place in wanted:
                wanted.remove(place)
    if not wanted and len(kept) == len(node.spec.taints):
        return None
    added = [core_v1_pb2.Taint(key=key, effect=effect, time_added=times.to_time(now)) for key, effect in wanted]
    return [*kept, *added]


def _wanted(node: core_v1_pb2.Node) -> list[tuple[str, str]]:
    places = []
    if meta.get_condition(node.status.conditions, "Ready") is None:
        places.append((NOT_READY, NO_SCHEDULE))  # registered, but has not said anything yet
    for condition in node.status.conditions:
        key = _BY_CONDITION.get((condition.type, condition.status))
        if key is None:
            continue
        places.append((key, NO_SCHEDULE))
        if condition.type == "Ready":
            places.append((key, NO_EXECUTE))
    if node.spec.unschedulable:
        places.append((UNSCHEDULABLE, NO_SCHEDULE))
    return places


def readiness_event(node: core_v1_pb2.Node, taints: Sequence[core_v1_pb2.Taint]) -> str:
    """The reason of the event that goes with these taints: they are the first to say that the node is ready, or is so no more.
    A node that registers is not ready for a moment and has lost nothing."""
    before, after = _effects(node.spec.taints), _effects(taints)
    if before and not after:
        return "NodeReady"
    if NO_EXECUTE not in after or NO_EXECUTE in before:
        return ""
    ready = meta.get_condition(node.status.conditions, "Ready")
    since_birth = ready is not None and (
        times.from_time(ready.last_transition_time) <= times.from_time(node.metadata.creation_timestamp) + 1.0
    )
    return "" if since_birth else "NodeNotReady"


def _effects(taints: Iterable[core_v1_pb2.Taint]) -> set[str]:
    return {taint.effect for taint in taints if taint.key in (NOT_READY, UNREACHABLE)}


@dataclass(frozen=True, slots=True)
class Evictions:
    now: tuple[core_v1_pb2.Pod, ...]
    next_in_s: float | None


def plan_evictions(taints: Sequence[core_v1_pb2.Taint], pods: Iterable[core_v1_pb2.Pod], now: float) -> Evictions:
    """The pods of a node with these taints that must go now, and when to look again."""
    executing = [taint for taint in taints if taint.effect == NO_EXECUTE]
    due: list[core_v1_pb2.Pod] = []
    later: list[float] = []
    for pod in pods:
        if not executing or meta.is_deleting(pod):
            continue
        moment = eviction_at(executing, pod)
        if moment <= now:
            due.append(pod)
        else:
            later.append(moment)
    return Evictions(tuple(due), objects.earliest(later, now))


def eviction_at(executing: Sequence[core_v1_pb2.Taint], pod: core_v1_pb2.Pod) -> float:
    """Unix seconds, perhaps past; NEVER when the pod tolerates all of them for ever. A pod that came after the taint
    has its time from its own creation on."""
    moment = objects.NEVER
    created = times.from_time(pod.metadata.creation_timestamp)
    for taint in executing:
        toleration = next((each for each in pod.spec.tolerations if tolerates(each, taint)), None)
        if toleration is None:
            return 0.0
        if toleration.HasField("toleration_seconds"):
            since = max(times.from_time(taint.time_added), created)
            moment = min(moment, since + max(0, toleration.toleration_seconds))
    return moment


def tolerates(toleration: core_v1_pb2.Toleration, taint: core_v1_pb2.Taint) -> bool:
    """As Kubernetes: an empty effect matches every effect, an empty key with Exists every taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def plan_marks(node: core_v1_pb2.Node, pods: Iterable[core_v1_pb2.Pod], now: float) -> list[core_v1_pb2.Pod]:
    """Pods of an unreachable node that still say they are ready, changed to say that they are not: nobody can know,
    so they get no traffic. The agent, which owns their status, says otherwise when it is back; should its word have come
    before a mark that was late, the mark is taken off here."""
    changed = []
    for pod in pods:
        if is_unreachable(node) and objects.is_ready(pod):
            changed.append(_with_ready(pod, "False", now))
        elif is_ready(node) and is_marked(pod):
            changed.append(_with_ready(pod, "True", now))
    return changed


def is_marked(pod: core_v1_pb2.Pod) -> bool:
    """Not ready though its containers are: no agent says that of a pod without readiness gates."""
    return (
        not objects.is_ready(pod)
        and meta.is_true(pod.status.conditions, "ContainersReady")
        and not pod.spec.readiness_gates
        and objects.is_active(pod)
    )


def _with_ready(pod: core_v1_pb2.Pod, status: str, now: float) -> core_v1_pb2.Pod:
    copy = core_v1_pb2.Pod()
    copy.CopyFrom(pod)
    meta.set_condition(copy.status.conditions, "Ready", status, now=now)
    return copy
