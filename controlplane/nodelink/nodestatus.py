"""Writes of a Node's status: what its agent reports, and that it has fallen silent. The conditions are merged here.

Called by `connection` (under the node's identity) and by `monitor` (under the API server's).
"""

from __future__ import annotations

from typing import Any

from controlplane.registry.base import RegistryAPI, RequestContext
from wherry.api import kinds
from wherry.api.errors import Conflict
from wherry.api.times import to_time
from wherry.pb import core_v1_pb2

TRIES = 8

# What the kubelet reports, and the node controller therefore declares unknown.
KUBELET_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
STOPPED = ("NodeStatusUnknown", "Kubelet stopped posting node status.")
NEVER = ("NodeStatusNeverUpdated", "Kubelet never posted node status.")


async def write_node_status(
    registry: RegistryAPI, ctx: RequestContext, node: str, status: core_v1_pb2.NodeStatus, now: float
) -> None:
    """Takes the agent's status over; conditions of types that it does not report (other writers') stay."""
    kind = kinds.by_name("v1", "Node")
    for attempt in range(TRIES):
        stored = await registry.get(ctx, kind, "", node)
        current = stored.message()
        wanted = merged(current, status, now)
        if wanted == current:
            return
        try:
            await registry.update(ctx, kind, "", node, wanted, subresource="status")
            return
        except Conflict:
            if attempt == TRIES - 1:
                raise


async def write_silence(registry: RegistryAPI, ctx: RequestContext, node: str, now: float) -> bool:
    """Sets what its agent reported to Unknown. False when that is so already."""
    kind = kinds.by_name("v1", "Node")
    for attempt in range(TRIES):
        stored = await registry.get(ctx, kind, "", node)
        wanted = silenced(stored.message(), now)
        if wanted is None:
            return False
        try:
            await registry.update(ctx, kind, "", node, wanted, subresource="status")
            return True
        except Conflict:
            if attempt == TRIES - 1:
                raise
    return False


def merged(current: core_v1_pb2.Node, status: core_v1_pb2.NodeStatus, now: float) -> core_v1_pb2.Node:
    """`current` with `status`; lastTransitionTime is kept for a condition whose status did not change. The agent does not know
    of those that were changed behind its back (Unknown, while it was silent): they change back now."""
    wanted = core_v1_pb2.Node()
    wanted.CopyFrom(current)
    wanted.status.CopyFrom(status)
    before = {condition.type: condition for condition in current.status.conditions}
    for condition in wanted.status.conditions:
        old = before.pop(condition.type, None)
        if old is None or not old.HasField("last_transition_time"):
            continue
        if old.status == condition.status:
            condition.last_transition_time.CopyFrom(old.last_transition_time)
        elif old.status == "Unknown":
            condition.last_transition_time.CopyFrom(to_time(now))
    reported = {condition.type for condition in status.conditions}
    wanted.status.conditions.extend(
        condition for condition in current.status.conditions if condition.type not in reported
    )
    if not status.volumes_attached:
        wanted.status.volumes_attached.extend(current.status.volumes_attached)
    return wanted


def silenced(current: core_v1_pb2.Node, now: float) -> core_v1_pb2.Node | None:
    """`current` with its agent's conditions Unknown; None when they are."""
    before: dict[str, Any] = {condition.type: condition for condition in current.status.conditions}
    if all(before[name].status == "Unknown" for name in KUBELET_CONDITIONS if name in before) and "Ready" in before:
        return None
    wanted = core_v1_pb2.Node()
    wanted.CopyFrom(current)
    found = set()
    for condition in wanted.status.conditions:
        if condition.type in KUBELET_CONDITIONS:
            found.add(condition.type)
            if condition.status != "Unknown":
                condition.status = "Unknown"
                condition.reason, condition.message = STOPPED
                condition.last_transition_time.CopyFrom(to_time(now))
    for name in KUBELET_CONDITIONS:
        if name not in found:
            added = wanted.status.conditions.add(type=name, status="Unknown", reason=NEVER[0], message=NEVER[1])
            added.last_heartbeat_time.CopyFrom(current.metadata.creation_timestamp)
            added.last_transition_time.CopyFrom(to_time(now))
    return wanted
