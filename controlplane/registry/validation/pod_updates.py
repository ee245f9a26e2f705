"""What may change on a pod that exists, by each of its endpoints."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common, containers, volumes
from controlplane.registry.violations import Causes
from wherry.api import names

_ONLY = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def update(obj: Any, old: Any) -> Causes:
    causes: Causes = []
    new_spec, old_spec = obj.spec, old.spec
    if len(new_spec.containers) != len(old_spec.containers) or len(new_spec.init_containers) != len(
        old_spec.init_containers
    ):
        return [violations.forbidden("spec.containers", "pod updates may not add or remove containers")]
    causes += _deadline(new_spec, old_spec)
    causes += _tolerations(new_spec.tolerations, old_spec.tolerations)
    added = sorted(
        {gate.name for gate in new_spec.scheduling_gates} - {gate.name for gate in old_spec.scheduling_gates}
    )
    if added:
        detail = "only deletion is allowed, but found new scheduling gate"
        causes.append(violations.forbidden("spec.schedulingGates", f"{detail} '{added[0]}'"))
    if not _same_but_for_the_changeable(new_spec, old_spec):
        causes.append(violations.forbidden("spec", _ONLY))
    return causes


def _deadline(new: Any, old: Any) -> Causes:
    """It may be set, and come nearer."""
    path = "spec.activeDeadlineSeconds"
    if new.HasField("active_deadline_seconds"):
        value = new.active_deadline_seconds
        if old.HasField("active_deadline_seconds") and old.active_deadline_seconds < value:
            detail = "must be less than or equal to previous value"
            return [violations.invalid(path, value, detail)]
    elif old.HasField("active_deadline_seconds"):
        return [violations.invalid(path, None, "must not update from a positive integer to nil value")]
    return []


def _tolerations(new: Any, old: Any) -> Causes:
    for toleration in old:
        # tolerationSeconds of one that is there may change.
        if not any(_like(toleration, other) for other in new):
            return [
                violations.forbidden(
                    "spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"
                )
            ]
    return []


def _like(left: Any, right: Any) -> bool:
    return all(getattr(left, name) == getattr(right, name) for name in ("key", "operator", "value", "effect"))


def _same_but_for_the_changeable(new: Any, old: Any) -> bool:
    copy = type(new)()
    copy.CopyFrom(new)
    for field in ("containers", "init_containers"):
        for container, before in zip(getattr(copy, field), getattr(old, field), strict=True):
            container.image = before.image
    for name in ("active_deadline_seconds", "tolerations", "scheduling_gates"):
        copy.ClearField(name)
        if name == "active_deadline_seconds":
            if old.HasField(name):
                copy.active_deadline_seconds = old.active_deadline_seconds
        else:
            getattr(copy, name).MergeFrom(getattr(old, name))
    if old.scheduling_gates:
        # While it is gated, a pod's placement may still be narrowed down.
        copy.node_selector.clear()
        copy.node_selector.update(old.node_selector)
        copy.ClearField("affinity")
        if old.HasField("affinity"):
            copy.affinity.CopyFrom(old.affinity)
    if old.termination_grace_period_seconds < 0 and copy.termination_grace_period_seconds == 1:
        copy.termination_grace_period_seconds = old.termination_grace_period_seconds
    return bool(copy == old)


def status(obj: Any, old: Any) -> Causes:
    causes: Causes = []
    now, before = obj.status, old.status
    if now.nominated_node_name != before.nominated_node_name and now.nominated_node_name:
        name, path = now.nominated_node_name, "status.nominatedNodeName"
        causes += (violations.invalid(path, name, text) for text in names.dns1123_subdomain(name))
    for index, address in enumerate(now.pod_ips):
        causes += common.ip_address(address.ip, f"status.podIPs[{index}]")
    for index, address in enumerate(now.host_ips):
        causes += common.ip_address(address.ip, f"status.hostIPs[{index}].ip")
    return causes


def ephemeral_containers(obj: Any, old: Any) -> Causes:
    """They can be added, and stay as they are."""
    path = "spec.ephemeralContainers"
    _, known = volumes.volumes(obj.spec.volumes, "spec.volumes")
    setting = containers.Setting(known, set(), 0, obj.spec.restart_policy, obj.spec.host_network)
    causes = [cause for cause in containers.containers(obj.spec, "spec", setting) if cause.field.startswith(path)]
    present = {item.ephemeral_container_common.name: item for item in obj.spec.ephemeral_containers}
    for item in old.spec.ephemeral_containers:
        name = item.ephemeral_container_common.name
        if name not in present:
            detail = f"existing ephemeral containers {violations.quote(name)} may not be removed"
            causes.append(violations.forbidden(path, detail))
        elif present[name] != item:
            detail = f"existing ephemeral containers {violations.quote(name)} may not be changed"
            causes.append(violations.forbidden(path, detail))
    return causes
