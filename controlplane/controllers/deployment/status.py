"""A Deployment's status from its ReplicaSets': counts, the three conditions, and when the progress deadline strikes.

Pure; called by the plan. The reasons and messages are Kubernetes', since scripts and `rollout status` read them.
"""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.controllers.deployment import sizes
from wherry.api import times
from wherry.pb import apps_v1_pb2

PROGRESSING, AVAILABLE, REPLICA_FAILURE = "Progressing", "Available", "ReplicaFailure"
COMPLETE = "NewReplicaSetAvailable"
TIMED_OUT = "ProgressDeadlineExceeded"
PAUSED, RESUMED = "DeploymentPaused", "DeploymentResumed"
NO_DEADLINE_S = 2**31 - 1

ReplicaSets = Sequence[apps_v1_pb2.ReplicaSet]
Condition = apps_v1_pb2.DeploymentCondition


def has_deadline(deployment: apps_v1_pb2.Deployment) -> bool:
    spec = deployment.spec
    return spec.HasField("progress_deadline_seconds") and spec.progress_deadline_seconds != NO_DEADLINE_S


def get_condition(status: apps_v1_pb2.DeploymentStatus, kind: str) -> Condition | None:
    for condition in status.conditions:
        if condition.type == kind:
            return condition
    return None


def make_condition(kind: str, value: str, reason: str, message: str, now: float) -> Condition:
    moment = times.to_time(now)
    return Condition(
        type=kind, status=value, reason=reason, message=message, last_update_time=moment, last_transition_time=moment
    )


def set_condition(status: apps_v1_pb2.DeploymentStatus, wanted: Condition, *, refresh: bool = False) -> None:
    """Replaces the condition of that type. Same status and reason: left alone (else every look at it would be a write),
    unless `refresh`, with which the progress deadline starts anew. The transition time changes with the status only."""
    old = get_condition(status, wanted.type)
    if old is not None:
        if old.status == wanted.status and old.reason == wanted.reason and not refresh:
            return
        if old.status == wanted.status:
            wanted.last_transition_time.CopyFrom(old.last_transition_time)
    remove_condition(status, wanted.type)
    status.conditions.append(wanted)


def remove_condition(status: apps_v1_pb2.DeploymentStatus, kind: str) -> None:
    kept = [condition for condition in status.conditions if condition.type != kind]
    del status.conditions[:]
    status.conditions.extend(kept)


def counted(
    deployment: apps_v1_pb2.Deployment,
    before: apps_v1_pb2.DeploymentStatus,
    new: apps_v1_pb2.ReplicaSet | None,
    everyone: ReplicaSets,
    now: float,
) -> apps_v1_pb2.DeploymentStatus:
    """The numbers and the Available condition; the other conditions are those of `before`."""
    limits = sizes.bounds(deployment)
    available = sizes.available_total(everyone)
    status = apps_v1_pb2.DeploymentStatus(
        observed_generation=deployment.metadata.generation,
        replicas=sizes.actual_total(everyone),
        updated_replicas=new.status.replicas if new is not None else 0,
        ready_replicas=sum(rs.status.ready_replicas for rs in everyone),
        available_replicas=available,
        unavailable_replicas=max(0, sizes.spec_total(everyone) - available),
        conditions=before.conditions,
    )
    if before.HasField("collision_count"):
        status.collision_count = before.collision_count
    if any(rs.status.HasField("terminating_replicas") for rs in everyone):
        status.terminating_replicas = sum(rs.status.terminating_replicas for rs in everyone)
    if available >= limits.minimum_available:
        condition = make_condition(
            AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now
        )
    else:
        condition = make_condition(
            AVAILABLE, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", now
        )
    set_condition(status, condition)
    return status


def rolled(
    deployment: apps_v1_pb2.Deployment,
    before: apps_v1_pb2.DeploymentStatus,
    new: apps_v1_pb2.ReplicaSet | None,
    everyone: ReplicaSets,
    now: float,
) -> apps_v1_pb2.DeploymentStatus:
    """As `counted`, with the Progressing and ReplicaFailure conditions of a rollout in its course."""
    status = counted(deployment, before, new, everyone, now)
    current = get_condition(before, PROGRESSING)
    subject = f'ReplicaSet "{new.metadata.name}"' if new is not None else f'Deployment "{deployment.metadata.name}"'
    settled = (
        status.replicas == status.updated_replicas and current is not None and current.reason == COMPLETE
    )  # then a pod that fails later does not start the deadline again
    if not has_deadline(deployment):
        remove_condition(status, PROGRESSING)
    elif not settled:
        if is_complete(deployment, status):
            message = f"{subject} has successfully progressed."
            set_condition(status, make_condition(PROGRESSING, "True", COMPLETE, message, now))
        elif _has_progressed(before, status):
            message = f"{subject} is progressing."
            set_condition(status, make_condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now), refresh=True)
        elif has_timed_out(deployment, status, now):
            message = f"{subject} has timed out progressing."
            set_condition(status, make_condition(PROGRESSING, "False", TIMED_OUT, message, now))
    _take_over_failure(status, new, everyone)
    return status


def is_complete(deployment: apps_v1_pb2.Deployment, status: apps_v1_pb2.DeploymentStatus) -> bool:
    """Every replica is of the new template and available, and no old one is left."""
    replicas = deployment.spec.replicas
    return (
        status.updated_replicas == replicas
        and status.replicas == replicas
        and status.available_replicas == replicas
        and status.observed_generation >= deployment.metadata.generation
    )


def _has_progressed(before: apps_v1_pb2.DeploymentStatus, after: apps_v1_pb2.DeploymentStatus) -> bool:
    return (
        after.updated_replicas > before.updated_replicas
        or after.replicas - after.updated_replicas < before.replicas - before.updated_replicas
        or after.ready_replicas > before.ready_replicas
        or after.available_replicas > before.available_replicas
    )


def has_timed_out(deployment: apps_v1_pb2.Deployment, status: apps_v1_pb2.DeploymentStatus, now: float) -> bool:
    condition = get_condition(status, PROGRESSING)
    if condition is None or condition.reason == COMPLETE or not has_deadline(deployment):
        return False
    if condition.reason == TIMED_OUT:
        return True
    return times.from_time(condition.last_update_time) + deployment.spec.progress_deadline_seconds < now


def deadline_in(deployment: apps_v1_pb2.Deployment, status: apps_v1_pb2.DeploymentStatus, now: float) -> float | None:
    """Seconds until the deadline can have passed; None when none is running."""
    condition = get_condition(status, PROGRESSING)
    if condition is None or not has_deadline(deployment) or deployment.spec.paused:
        return None
    if condition.reason == TIMED_OUT or is_complete(deployment, status):
        return None
    due = times.from_time(condition.last_update_time) + deployment.spec.progress_deadline_seconds
    return max(0.0, due - now) + 1.0  # times in the API are whole seconds: one more to be past it


def paused_or_resumed(
    deployment: apps_v1_pb2.Deployment, before: apps_v1_pb2.DeploymentStatus, now: float
) -> apps_v1_pb2.DeploymentStatus:
    """Notes in Progressing that the Deployment was paused or resumed, which stops the deadline or starts it anew."""
    status = apps_v1_pb2.DeploymentStatus()
    status.CopyFrom(before)
    current = get_condition(before, PROGRESSING)
    if not has_deadline(deployment) or (current is not None and current.reason == TIMED_OUT):
        return status
    is_noted = current is not None and current.reason == PAUSED
    if deployment.spec.paused and not is_noted:
        set_condition(status, make_condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused", now))
    elif not deployment.spec.paused and is_noted:
        set_condition(status, make_condition(PROGRESSING, "Unknown", RESUMED, "Deployment is resumed", now))
    return status


def _take_over_failure(
    status: apps_v1_pb2.DeploymentStatus, new: apps_v1_pb2.ReplicaSet | None, everyone: ReplicaSets
) -> None:
    """The new ReplicaSet's failure to make pods, else any other's, is the Deployment's."""
    for rs in [new, *everyone] if new is not None else everyone:
        for condition in rs.status.conditions:
            if condition.type == REPLICA_FAILURE:
                found = Condition(
                    type=REPLICA_FAILURE,
                    status=condition.status,
                    reason=condition.reason,
                    message=condition.message,
                    last_update_time=condition.last_transition_time,
                    last_transition_time=condition.last_transition_time,
                )
                set_condition(status, found)
                return
    remove_condition(status, REPLICA_FAILURE)
