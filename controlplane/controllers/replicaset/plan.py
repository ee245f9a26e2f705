"""How many pods a ReplicaSet must make, which ones it deletes, and its status.

Pure; called by `controller`. The order in which pods are deleted is Kubernetes': those whose loss costs least go first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane.controllers import objects
from wherry.api import meta, times
from wherry.pb import apps_v1_pb2, core_v1_pb2

BURST = 500  # pods made or deleted in one reconcile, as Kubernetes; the rest follows in the next
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
REPLICA_FAILURE = "ReplicaFailure"
_PHASE_ORDER = {"Pending": 0, "Unknown": 1, "Running": 2}


@dataclass(frozen=True, slots=True)
class Plan:
    create: int = 0
    delete: tuple[core_v1_pb2.Pod, ...] = ()


def plan(
    rs: apps_v1_pb2.ReplicaSet, pods: Sequence[core_v1_pb2.Pod], siblings: Sequence[core_v1_pb2.Pod], now: float
) -> Plan:
    """`pods`: those that the ReplicaSet controls. `siblings`: those of all ReplicaSets of the same owner, `pods`
    included; a node that runs many of them loses one first."""
    if meta.is_deleting(rs):
        return Plan()
    active = [pod for pod in pods if objects.is_active(pod)]
    surplus = len(active) - rs.spec.replicas
    if surplus < 0:
        return Plan(create=min(-surplus, BURST))
    if surplus == 0:
        return Plan()
    on_node = Counter(pod.spec.node_name for pod in siblings if objects.is_active(pod))
    active.sort(key=lambda pod: deletion_rank(pod, on_node, now))
    return Plan(delete=tuple(active[: min(surplus, BURST)]))


def deletion_rank(pod: core_v1_pb2.Pod, on_node: Mapping[str, int], now: float) -> tuple[object, ...]:
    """Lower goes first: without a node, not running, not ready, cheap by annotation, crowded, ready for a shorter time,
    restarted more often, younger. Times count by their order of magnitude, so that among pods of about the same age
    the choice is spread (by uid) instead of always taking the newest."""
    ready = objects.is_ready(pod)
    return (
        bool(pod.spec.node_name),
        _PHASE_ORDER.get(pod.status.phase, 1),
        ready,
        deletion_cost(pod),
        -on_node.get(pod.spec.node_name, 0),
        _magnitude(objects.ready_since(pod), now) if ready else 0,
        pod.metadata.uid if ready else "",
        -objects.max_restarts(pod),
        _magnitude(times.from_time(pod.metadata.creation_timestamp), now),
        pod.metadata.uid,
    )


def deletion_cost(pod: core_v1_pb2.Pod) -> int:
    try:
        return int(pod.metadata.annotations.get(DELETION_COST, "0"))
    except ValueError:
        return 0


def _magnitude(since: float, now: float) -> int:
    """Of the age in nanoseconds; -1 for none."""
    age_ns = (now - since) * 1e9 if since else 0.0
    return int(math.log2(age_ns)) if age_ns > 1 else -1


def make_pod(rs: apps_v1_pb2.ReplicaSet) -> core_v1_pb2.Pod:
    """From the template. The server completes the name."""
    pod = core_v1_pb2.Pod()
    pod.metadata.namespace = rs.metadata.namespace
    pod.metadata.generate_name = f"{rs.metadata.name}-"
    pod.metadata.labels.update(rs.spec.template.metadata.labels)
    pod.metadata.annotations.update(rs.spec.template.metadata.annotations)
    pod.metadata.finalizers.extend(rs.spec.template.metadata.finalizers)
    pod.metadata.owner_references.append(meta.owner_reference(rs))
    pod.spec.CopyFrom(rs.spec.template.spec)
    return pod


def plan_status(
    rs: apps_v1_pb2.ReplicaSet, pods: Sequence[core_v1_pb2.Pod], decided: Plan, error: str, now: float
) -> tuple[apps_v1_pb2.ReplicaSetStatus | None, float | None]:
    """The new status (None: unchanged), and in how many seconds it changes by itself, a pod having been ready for
    long enough then. `error`: what kept `decided` from being carried out, "" for nothing."""
    active = [pod for pod in pods if objects.is_active(pod)]
    wanted = rs.spec.template.metadata.labels.items()
    moments = [objects.available_at(pod, rs.spec.min_ready_seconds) for pod in active]
    status = apps_v1_pb2.ReplicaSetStatus(
        replicas=len(active),
        fully_labeled_replicas=sum(all(pod.metadata.labels.get(k) == v for k, v in wanted) for pod in active),
        ready_replicas=sum(objects.is_ready(pod) for pod in active),
        available_replicas=sum(moment <= now for moment in moments),
        terminating_replicas=sum(meta.is_deleting(pod) and not objects.is_finished(pod) for pod in pods),
        observed_generation=rs.metadata.generation,
        conditions=_conditions(rs, decided, error, now),
    )
    return (None if meta.equal(status, rs.status) else status), objects.earliest(moments, now)


def _conditions(
    rs: apps_v1_pb2.ReplicaSet, decided: Plan, error: str, now: float
) -> list[apps_v1_pb2.ReplicaSetCondition]:
    others = [condition for condition in rs.status.conditions if condition.type != REPLICA_FAILURE]
    if not error:
        return others
    if len(others) < len(rs.status.conditions):
        return list(rs.status.conditions)  # as it is: the message of each retry would be another write
    return [
        *others,
        apps_v1_pb2.ReplicaSetCondition(
            type=REPLICA_FAILURE,
            status="True",
            reason="FailedDelete" if decided.delete else "FailedCreate",
            message=error,
            last_transition_time=times.to_time(now),
        ),
    ]
