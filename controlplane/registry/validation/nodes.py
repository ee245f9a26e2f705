"""Node: addresses of its pods, taints, what it says it has."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes
from wherry.api import codec, names, quantity

TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def node(obj: Any) -> Causes:
    causes = taints(obj.spec.taints, "metadata.taints")
    for index, text in enumerate(obj.spec.pod_cidrs):
        causes += common.cidr(text, f"spec.podCIDRs[{index}]")
    if len(obj.spec.pod_cidrs) > 2:
        detail = "must specify no more than one CIDR for each IP family"
        causes.append(violations.invalid("spec.podCIDRs", list(obj.spec.pod_cidrs), detail))
    if obj.spec.pod_cidr and obj.spec.pod_cidrs and obj.spec.pod_cidr != obj.spec.pod_cidrs[0]:
        causes.append(violations.invalid("spec.podCIDR", obj.spec.pod_cidr, "must be the first of podCIDRs"))
    for field, amounts in (("capacity", obj.status.capacity), ("allocatable", obj.status.allocatable)):
        for name in sorted(amounts):
            path = f"status.{field}[{name}]"
            if quantity.amount(amounts[name]) < 0:
                causes.append(violations.invalid(path, amounts[name].string, "must be greater than or equal to 0"))
    return causes


def taints(found: Any, path: str) -> Causes:
    causes: Causes = []
    seen = set()
    for index, taint in enumerate(found):
        place = f"{path}[{index}]"
        causes += (
            violations.invalid(f"{place}.key", taint.key, message) for message in names.qualified_name(taint.key)
        )
        causes += (
            violations.invalid(f"{place}.value", taint.value, message) for message in names.label_value(taint.value)
        )
        if not taint.effect:
            causes.append(violations.required(f"{place}.effect"))
        elif taint.effect not in TAINT_EFFECTS:
            causes.append(violations.unsupported(f"{place}.effect", taint.effect, TAINT_EFFECTS))
        if (taint.key, taint.effect) in seen:
            shown = {"Key": taint.key, "Value": taint.value, "Effect": taint.effect, "TimeAdded": None}
            if taint.HasField("time_added"):
                shown["TimeAdded"] = codec.to_dict(taint).get("timeAdded")
            causes.append(violations.duplicate(place, shown, "taints must be unique by key and effect pair"))
        seen.add((taint.key, taint.effect))
    return causes


def node_update(obj: Any, old: Any) -> Causes:
    """The addresses of a node's pods, and who it is to its cloud, are set once."""
    causes: Causes = []
    if old.spec.pod_cidrs and list(obj.spec.pod_cidrs) != list(old.spec.pod_cidrs):
        causes.append(
            violations.forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')
        )
    if old.spec.provider_id and obj.spec.provider_id != old.spec.provider_id:
        detail = 'node updates may not change providerID except from "" to valid'
        causes.append(violations.forbidden("spec.providerID", detail))
    return causes
