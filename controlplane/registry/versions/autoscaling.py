"""autoscaling/v1 HorizontalPodAutoscaler: the older shape of autoscaling/v2. Pure.

v1 knows one metric, the share of the requested CPU. All else is carried in annotations, as Kubernetes does it, so that a client
of v1 that writes back what it read loses nothing.
"""

from __future__ import annotations

import json
from typing import Any

from controlplane.registry.violations import Causes
from wherry.api import codec, jsontext
from wherry.api.errors import BadRequest
from wherry.pb import autoscaling_v1_pb2, autoscaling_v2_pb2

_PREFIX = "autoscaling.alpha.kubernetes.io/"
METRICS, CURRENT, CONDITIONS, BEHAVIOR = (
    f"{_PREFIX}metrics", f"{_PREFIX}current-metrics", f"{_PREFIX}conditions", f"{_PREFIX}behavior",
)  # fmt: skip
FIELD_NAMES: dict[str, str] = {}

_V2 = autoscaling_v2_pb2
_SOURCES = ("resource", "containerResource", "pods", "object", "external")


def check(obj: Any) -> Causes:
    return []


def to_primary(obj: autoscaling_v1_pb2.HorizontalPodAutoscaler) -> _V2.HorizontalPodAutoscaler:
    """Raises BadRequest for an annotation that is none of ours."""
    out = _V2.HorizontalPodAutoscaler()
    out.metadata.CopyFrom(obj.metadata)
    annotations = out.metadata.annotations
    kept = {name: annotations.pop(name) for name in (METRICS, CURRENT, CONDITIONS, BEHAVIOR) if name in annotations}
    _reference(obj.spec.scale_target_ref, out.spec.scale_target_ref)
    if obj.spec.HasField("min_replicas"):
        out.spec.min_replicas = obj.spec.min_replicas
    out.spec.max_replicas = obj.spec.max_replicas
    for metric in _parsed(kept, METRICS, list):
        out.spec.metrics.append(_decoded(_newer(metric, "target"), _V2.MetricSpec, METRICS))
    if obj.spec.HasField("target_cpu_utilization_percentage"):
        cpu = out.spec.metrics.add(type="Resource")
        cpu.resource.name = "cpu"
        cpu.resource.target.type = "Utilization"
        cpu.resource.target.average_utilization = obj.spec.target_cpu_utilization_percentage
    if BEHAVIOR in kept:
        behavior = _lowered(_parsed(kept, BEHAVIOR, dict))
        out.spec.behavior.CopyFrom(_decoded(behavior, _V2.HorizontalPodAutoscalerBehavior, BEHAVIOR))
    if not obj.HasField("status"):
        return out
    _copy_status(obj.status, out.status)
    for current in _parsed(kept, CURRENT, list):
        out.status.current_metrics.append(_decoded(_newer(current, "current"), _V2.MetricStatus, CURRENT))
    if obj.status.HasField("current_cpu_utilization_percentage") and not _cpu_status(out.status.current_metrics):
        found = out.status.current_metrics.add(type="Resource")
        found.resource.name = "cpu"
        found.resource.current.average_utilization = obj.status.current_cpu_utilization_percentage
    for condition in _parsed(kept, CONDITIONS, list):
        out.status.conditions.append(_decoded(condition, _V2.HorizontalPodAutoscalerCondition, CONDITIONS))
    return out


def from_primary(obj: _V2.HorizontalPodAutoscaler) -> autoscaling_v1_pb2.HorizontalPodAutoscaler:
    out = autoscaling_v1_pb2.HorizontalPodAutoscaler()
    out.metadata.CopyFrom(obj.metadata)
    annotations = out.metadata.annotations
    _reference(obj.spec.scale_target_ref, out.spec.scale_target_ref)
    if obj.spec.HasField("min_replicas"):
        out.spec.min_replicas = obj.spec.min_replicas
    out.spec.max_replicas = obj.spec.max_replicas
    others = []
    for metric in obj.spec.metrics:
        resource = metric.resource
        is_cpu = (
            metric.type == "Resource" and resource.name == "cpu" and resource.target.HasField("average_utilization")
        )
        if is_cpu and not out.spec.HasField("target_cpu_utilization_percentage"):
            out.spec.target_cpu_utilization_percentage = resource.target.average_utilization
        else:
            others.append(_older(codec.to_dict(metric), "target"))
    if others:
        annotations[METRICS] = _text(others)
    if obj.spec.HasField("behavior"):
        annotations[BEHAVIOR] = _text(_raised(codec.to_dict(obj.spec.behavior)))
    if not obj.HasField("status"):
        return out
    _copy_status(obj.status, out.status)
    if (cpu := _cpu_status(obj.status.current_metrics)) is not None:
        out.status.current_cpu_utilization_percentage = cpu
    if obj.status.current_metrics:
        annotations[CURRENT] = _text([_older(codec.to_dict(item), "current") for item in obj.status.current_metrics])
    if obj.status.conditions:
        annotations[CONDITIONS] = _text([codec.to_dict(item) for item in obj.status.conditions])
    return out


def _reference(source: Any, target: Any) -> None:
    target.kind, target.name, target.api_version = source.kind, source.name, source.api_version


def _copy_status(source: Any, target: Any) -> None:
    if source.HasField("observed_generation"):
        target.observed_generation = source.observed_generation
    if source.HasField("last_scale_time"):
        target.last_scale_time.CopyFrom(source.last_scale_time)
    target.current_replicas, target.desired_replicas = source.current_replicas, source.desired_replicas


def _cpu_status(metrics: Any) -> int | None:
    for metric in metrics:
        is_cpu = metric.type == "Resource" and metric.resource.name == "cpu"
        if is_cpu and metric.resource.current.HasField("average_utilization"):
            return int(metric.resource.current.average_utilization)
    return None


# The shapes of a metric. `what` is "target" in a spec and "current" in a status.


def _older(metric: dict[str, Any], what: str) -> dict[str, Any]:
    """autoscaling/v2's metric as autoscaling/v1 writes it."""
    out: dict[str, Any] = {"type": metric.get("type", "")}
    for name in _SOURCES:
        source = metric.get(name)
        if source is None:
            continue
        value = source.get(what) or {}
        identity = source.get("metric") or {}
        if name in ("resource", "containerResource"):
            out[name] = _present(
                name=source.get("name"),
                container=source.get("container"),
                **{f"{what}AverageUtilization": value.get("averageUtilization"),
                   f"{what}AverageValue": value.get("averageValue")},
            )  # fmt: skip
        elif name == "pods":
            out[name] = _present(
                metricName=identity.get("name"), selector=identity.get("selector"),
                **{f"{what}AverageValue": value.get("averageValue")},
            )  # fmt: skip
        elif name == "object":
            out[name] = _present(
                target=source.get("describedObject"), metricName=identity.get("name"),
                selector=identity.get("selector"), averageValue=value.get("averageValue"),
                **{f"{what}Value": value.get("value", "0")},
            )  # fmt: skip
        else:
            out[name] = _present(
                metricName=identity.get("name"), metricSelector=identity.get("selector"),
                **{f"{what}Value": value.get("value"), f"{what}AverageValue": value.get("averageValue")},
            )  # fmt: skip
    return out


def _newer(metric: dict[str, Any], what: str) -> dict[str, Any]:
    out: dict[str, Any] = {"type": metric.get("type", "")}
    for name in _SOURCES:
        source = metric.get(name)
        if not isinstance(source, dict):
            continue
        average = source.get(f"{what}AverageValue", source.get("averageValue") if name == "object" else None)
        value = source.get(f"{what}Value")
        if name == "object" and average is not None:
            value = None
        utilization = source.get(f"{what}AverageUtilization")
        measured = _present(averageUtilization=utilization, averageValue=average, value=value)
        if what == "target":
            measured["type"] = (
                "Utilization" if utilization is not None else "AverageValue" if average is not None else "Value"
            )
        out[name] = {what: measured}
        if name in ("resource", "containerResource"):
            out[name] |= _present(name=source.get("name"), container=source.get("container"))
        else:
            selector = source.get("metricSelector" if name == "external" else "selector")
            out[name]["metric"] = _present(name=source.get("metricName"), selector=selector)
            if name == "object":
                out[name]["describedObject"] = source.get("target")
    return out


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _raised(value: Any) -> Any:
    """Kubernetes writes the behaviour with the names of its own structures."""
    if isinstance(value, dict):
        return {name[:1].upper() + name[1:]: _raised(item) for name, item in value.items()}
    return [_raised(item) for item in value] if isinstance(value, list) else value


def _lowered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name[:1].lower() + name[1:]: _lowered(item) for name, item in value.items() if item is not None}
    return [_lowered(item) for item in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _parsed(kept: dict[str, str], name: str, wanted: type) -> Any:
    if name not in kept:
        return wanted()
    try:
        value = jsontext.read(kept[name])
    except ValueError as error:
        raise BadRequest(f"metadata.annotations[{name}]: no JSON: {error}") from error
    if not isinstance(value, wanted) or (isinstance(value, list) and not all(isinstance(item, dict) for item in value)):
        raise BadRequest(f"metadata.annotations[{name}]: wanted what a server of autoscaling/v1 writes there")
    return value


def _decoded(value: Any, cls: Any, name: str) -> Any:
    try:
        return codec.from_dict(value, cls, strict=False)
    except codec.DecodeError as error:
        raise BadRequest(f"metadata.annotations[{name}]: {error.message}") from error
