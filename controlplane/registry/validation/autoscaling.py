"""HorizontalPodAutoscaler."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes

_SOURCES = {
    "ContainerResource": "container_resource", "External": "external", "Object": "object", "Pods": "pods",
    "Resource": "resource",
}  # fmt: skip


def autoscaler(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    can_be_zero = any(metric.type in ("Object", "External") for metric in spec.metrics)
    if spec.min_replicas < 1 and not (spec.min_replicas == 0 and can_be_zero):
        detail = "must be greater than or equal to 1"
        causes.append(violations.invalid("spec.minReplicas", spec.min_replicas, detail))
    if spec.min_replicas == 0 and not can_be_zero:
        detail = "must specify at least one Object or External metric to support scaling to zero replicas"
        causes.append(violations.forbidden("spec.metrics", detail))
    if spec.max_replicas < 1:
        causes.append(violations.required("spec.maxReplicas", "must be set and greater than 0"))
    if spec.max_replicas < spec.min_replicas:
        detail = "must be greater than or equal to `minReplicas`"
        causes.append(violations.invalid("spec.maxReplicas", spec.max_replicas, detail))
    target = spec.scale_target_ref
    for name, value in (("kind", target.kind), ("name", target.name)):
        if not value:
            causes.append(violations.required(f"spec.scaleTargetRef.{name}"))
    if "/" not in target.api_version and not (target.api_version == "v1" and target.kind == "ReplicationController"):
        path = "spec.scaleTargetRef.apiVersion"
        causes.append(violations.invalid(path, target.api_version, "apiVersion must specify API group"))
    for index, metric in enumerate(spec.metrics):
        causes += _metric(metric, f"spec.metrics[{index}]")
    if spec.HasField("behavior"):
        for name, rules in (("scaleUp", spec.behavior.scale_up), ("scaleDown", spec.behavior.scale_down)):
            causes += _rules(rules, f"spec.behavior.{name}")
    return causes


def _metric(metric: Any, path: str) -> Causes:
    if metric.type not in _SOURCES:
        if not metric.type:
            return [violations.required(f"{path}.type", "must specify a metric source type")]
        return [violations.unsupported(f"{path}.type", metric.type, tuple(_SOURCES))]
    given = [name for name in _SOURCES.values() if metric.HasField(name)]
    wanted = _SOURCES[metric.type]
    json_name = metric.DESCRIPTOR.fields_by_name[wanted].json_name
    if wanted not in given:
        detail = "must populate information for the given metric source"
        return [violations.required(f"{path}.{json_name}", detail)]
    causes: Causes = []
    for name in given:
        if name != wanted:
            other = metric.DESCRIPTOR.fields_by_name[name].json_name
            detail = "must populate the given metric source only"
            causes.append(violations.forbidden(f"{path}.{other}", detail))
    return [*causes, *_target(getattr(metric, wanted).target, f"{path}.{json_name}.target")]


def _target(target: Any, path: str) -> Causes:
    causes: Causes = []
    if not target.type:
        causes.append(violations.required(f"{path}.type", "must specify a metric target type"))
    elif target.type not in ("Utilization", "Value", "AverageValue"):
        detail = "must be either Utilization, Value, or AverageValue"
        causes.append(violations.invalid(f"{path}.type", target.type, detail))
    if not (target.HasField("average_utilization") or target.HasField("average_value") or target.HasField("value")):
        detail = "must specify a target: averageUtilization, averageValue or value"
        causes.append(violations.required(path, detail))
    if target.HasField("average_utilization") and target.average_utilization < 1:
        place = f"{path}.averageUtilization"
        causes.append(violations.invalid(place, target.average_utilization, "must be greater than 0"))
    return causes


def _rules(rules: Any, path: str) -> Causes:
    causes: Causes = []
    if rules.HasField("stabilization_window_seconds"):
        window = rules.stabilization_window_seconds
        place = f"{path}.stabilizationWindowSeconds"
        if window < 0:
            causes.append(violations.invalid(place, window, "must be greater than or equal to zero"))
        elif window > 3600:
            causes.append(violations.invalid(place, window, "must be less than or equal to 3600"))
    if rules.HasField("select_policy"):
        causes += common.one_of(rules.select_policy, ("Disabled", "Max", "Min"), f"{path}.selectPolicy")
    for index, policy in enumerate(rules.policies):
        place = f"{path}.policies[{index}]"
        causes += common.one_of(policy.type, ("Percent", "Pods"), f"{place}.type")
        if policy.value <= 0:
            causes.append(violations.invalid(f"{place}.value", policy.value, "must be greater than zero"))
        if policy.period_seconds <= 0:
            detail = "must be greater than zero"
            causes.append(violations.invalid(f"{place}.periodSeconds", policy.period_seconds, detail))
        elif policy.period_seconds > 1800:
            detail = "must be less than or equal to 1800"
            causes.append(violations.invalid(f"{place}.periodSeconds", policy.period_seconds, detail))
    return causes
