"""PodDisruptionBudget, PriorityClass and RuntimeClass."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common, pods
from controlplane.registry.violations import Causes
from wherry.api import codec, names

SYSTEM_PRIORITIES = {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}
HIGHEST_USER_PRIORITY = 1000000000


def budget(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    if spec.HasField("min_available") and spec.HasField("max_unavailable"):
        value = codec.to_dict(spec)
        order = ("minAvailable", "selector", "maxUnavailable", "unhealthyPodEvictionPolicy")
        shown = {name[0].upper() + name[1:]: value.get(name) for name in order}
        causes.append(violations.invalid("spec", shown, "minAvailable and maxUnavailable cannot be both set"))
    for name, json_name in (("min_available", "minAvailable"), ("max_unavailable", "maxUnavailable")):
        if spec.HasField(name):
            value = getattr(spec, name)
            causes += common.positive_int_or_percent(value, f"spec.{json_name}")
            causes += common.at_most_whole(value, f"spec.{json_name}")
    if spec.HasField("selector"):
        causes += common.label_selector(spec.selector, "spec.selector")
    if spec.HasField("unhealthy_pod_eviction_policy"):
        allowed = ("AlwaysAllow", "IfHealthyBudget")
        causes += common.one_of(spec.unhealthy_pod_eviction_policy, allowed, "spec.unhealthyPodEvictionPolicy")
    return causes


def priority_class(obj: Any) -> Causes:
    name = obj.metadata.name
    causes: Causes = []
    if name.startswith("system-"):
        if SYSTEM_PRIORITIES.get(name) != obj.value or obj.global_default:
            if name in SYSTEM_PRIORITIES:
                error = f"value of {name} PriorityClass must be {SYSTEM_PRIORITIES[name]}"
            else:
                error = f"{name} is not a known system priority class"
            detail = f"priority class names with 'system-' prefix are reserved for system use only. error: {error}"
            causes.append(violations.forbidden("metadata.name", detail))
    elif obj.value > HIGHEST_USER_PRIORITY:
        detail = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
        causes.append(violations.forbidden("value", detail))
    if obj.preemption_policy not in ("PreemptLowerPriority", "Never"):
        allowed = ("PreemptLowerPriority", "Never")
        causes.append(violations.unsupported("preemptionPolicy", obj.preemption_policy, allowed))
    return causes


def priority_class_update(obj: Any, old: Any) -> Causes:
    causes: Causes = []
    if obj.value != old.value:
        causes.append(violations.forbidden("value", "may not be changed in an update."))
    return [*causes, *common.immutable(obj.preemption_policy, old.preemption_policy, "preemptionPolicy")]


def runtime_class(obj: Any) -> Causes:
    causes: Causes = []
    if not obj.handler:
        causes.append(violations.required("handler"))
    else:
        causes += (violations.invalid("handler", obj.handler, text) for text in names.dns1123_label(obj.handler))
    if obj.HasField("scheduling"):
        causes += pods.tolerations(obj.scheduling.tolerations, "scheduling.tolerations")
    return causes


def runtime_class_update(obj: Any, old: Any) -> Causes:
    return common.immutable(obj.handler, old.handler, "handler")
