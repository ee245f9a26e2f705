"""The pod table: above all what STATUS says, which is not one field of the pod but the story of its containers."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import NONE, age_column, name_column
from wherry.api import meta, times

_UNREACHABLE = "NodeLost"


def _is_sidecar(container: Any) -> bool:
    return bool(container.restart_policy == "Always")


def _init_reason(obj: Any) -> str:
    """The first init container that holds the pod up, or "" when all are through."""
    sidecars = {container.name for container in obj.spec.init_containers if _is_sidecar(container)}
    total = len(obj.spec.init_containers)
    for index, status in enumerate(obj.status.init_container_statuses):
        state = status.state
        if state.HasField("terminated") and state.terminated.exit_code == 0:
            continue
        if status.name in sidecars and status.started:
            continue
        if state.HasField("terminated"):
            if state.terminated.reason:
                return f"Init:{state.terminated.reason}"
            if state.terminated.signal:
                return f"Init:Signal:{state.terminated.signal}"
            return f"Init:ExitCode:{state.terminated.exit_code}"
        if state.HasField("waiting") and state.waiting.reason and state.waiting.reason != "PodInitializing":
            return f"Init:{state.waiting.reason}"
        return f"Init:{index}/{total}"
    return ""


def _containers_reason(obj: Any, reason: str) -> str:
    running = False
    for status in reversed(obj.status.container_statuses):
        state = status.state
        if state.HasField("waiting") and state.waiting.reason:
            reason = state.waiting.reason
        elif state.HasField("terminated"):
            if state.terminated.reason:
                reason = state.terminated.reason
            elif state.terminated.signal:
                reason = f"Signal:{state.terminated.signal}"
            else:
                reason = f"ExitCode:{state.terminated.exit_code}"
        elif status.ready and state.HasField("running"):
            running = True
    if reason == "Completed" and running:
        return "Running" if meta.is_true(obj.status.conditions, "Ready") else "NotReady"
    return reason


def status(obj: Any, now: float = 0.0) -> str:
    reason = obj.status.reason or obj.status.phase
    scheduled = meta.get_condition(obj.status.conditions, "PodScheduled")
    if scheduled is not None and scheduled.reason == "SchedulingGated":
        reason = "SchedulingGated"
    waiting = _init_reason(obj)
    if waiting and not meta.is_true(obj.status.conditions, "Initialized"):
        reason = waiting
    else:
        reason = _containers_reason(obj, reason)
    if obj.metadata.HasField("deletion_timestamp"):
        if obj.status.reason == _UNREACHABLE:
            return "Unknown"
        if obj.status.phase not in ("Succeeded", "Failed"):
            return "Terminating"
    return str(reason)


def _restartable(obj: Any) -> set[str]:
    return {container.name for container in obj.spec.init_containers if _is_sidecar(container)}


def ready(obj: Any, now: float) -> str:
    """Sidecars count like containers."""
    sidecars = _restartable(obj)
    total = len(obj.spec.containers) + len(sidecars)
    up = sum(1 for item in obj.status.container_statuses if item.ready and item.state.HasField("running"))
    up += sum(1 for item in obj.status.init_container_statuses if item.name in sidecars and item.ready)
    return f"{up}/{total}"


def restarts(obj: Any, now: float) -> str:
    sidecars = _restartable(obj)
    initialising = _init_reason(obj) and not meta.is_true(obj.status.conditions, "Initialized")
    if initialising:
        statuses = list(obj.status.init_container_statuses)
    else:
        statuses = [
            *(item for item in obj.status.init_container_statuses if item.name in sidecars),
            *obj.status.container_statuses,
        ]
    count = sum(item.restart_count for item in statuses)
    last = max(
        (item.last_state.terminated.finished_at.seconds for item in statuses if item.last_state.HasField("terminated")),
        default=0,
    )
    if count and last:
        return f"{count} ({times.human_duration(now - last)} ago)"
    return str(count)


def _restarted(obj: Any) -> bool:
    """What stands beside the number is how long ago the last one was."""
    return any(item.restart_count for item in (*obj.status.init_container_statuses, *obj.status.container_statuses))


def _address(obj: Any, now: float) -> str:
    if obj.status.pod_ips:
        return str(obj.status.pod_ips[0].ip)
    return str(obj.status.pod_ip) or NONE


def _gates(obj: Any, now: float) -> str:
    if not obj.spec.readiness_gates:
        return NONE
    wanted = [gate.condition_type for gate in obj.spec.readiness_gates]
    held = sum(1 for name in wanted if meta.is_true(obj.status.conditions, name))
    return f"{held}/{len(wanted)}"


COLUMNS = (
    name_column(),
    Column("Ready", ready),
    Column("Status", status),
    Column("Restarts", restarts, passes=_restarted),
    age_column(),
    Column("IP", _address, priority=1),
    Column("Node", lambda obj, now: str(obj.spec.node_name) or NONE, priority=1),
    Column("Nominated Node", lambda obj, now: str(obj.status.nominated_node_name) or NONE, priority=1),
    Column("Readiness Gates", _gates, priority=1),
)
