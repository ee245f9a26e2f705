"""Tables of disruption budgets, autoscalers, scales, priority classes and runtime classes."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, name_column
from wherry.api import intstr

_UNKNOWN = "<unknown>"


def _limit(field: str) -> Any:
    def cell(obj: Any, now: float) -> str:
        if not obj.spec.HasField(field):
            return "N/A"
        return str(intstr.to_value(getattr(obj.spec, field)))

    return cell


BUDGETS = (
    name_column(),
    Column("Min Available", _limit("min_available")),
    Column("Max Unavailable", _limit("max_unavailable")),
    Column("Allowed Disruptions", lambda obj, now: int(obj.status.disruptions_allowed), type="integer"),
    age_column(),
)


def _reference(obj: Any, now: float) -> str:
    target = obj.spec.scale_target_ref
    return f"{target.kind}/{target.name}"


_SOURCES = (
    ("Resource", "resource"), ("ContainerResource", "container_resource"), ("Pods", "pods"), ("Object", "object"),
    ("External", "external"),
)  # fmt: skip


def _shown(target: Any) -> str:
    if target.HasField("average_utilization"):
        return f"{target.average_utilization}%"
    for name in ("average_value", "value"):
        if target.HasField(name):
            suffix = " (avg)" if name == "average_value" and not hasattr(target, "type") else ""
            return f"{getattr(target, name).string}{suffix}"
    return _UNKNOWN


def _targets(obj: Any, now: float) -> str:
    current = {}
    for status in obj.status.current_metrics:
        for kind, field in _SOURCES:
            if status.type == kind and status.HasField(field):
                current[kind, _metric_name(getattr(status, field))] = _shown(getattr(status, field).current)
    parts = []
    for metric in obj.spec.metrics[:2]:
        for kind, field in _SOURCES:
            if metric.type == kind and metric.HasField(field):
                source = getattr(metric, field)
                name = _metric_name(source)
                prefix = f"{name}: " if kind in ("Resource", "ContainerResource") else ""
                parts.append(f"{prefix}{current.get((kind, name), _UNKNOWN)}/{_shown(source.target)}")
    more = len(obj.spec.metrics) - 2
    return ", ".join(parts) + (f" + {more} more..." if more > 0 else "") or "<none>"


def _metric_name(source: Any) -> str:
    return str(source.name if hasattr(source, "name") else source.metric.name)


def _min_pods(obj: Any, now: float) -> str:
    return str(obj.spec.min_replicas) if obj.spec.HasField("min_replicas") else "<unset>"


AUTOSCALERS = (
    name_column(),
    Column("Reference", _reference),
    Column("Targets", _targets),
    Column("MinPods", _min_pods),
    Column("MaxPods", lambda obj, now: int(obj.spec.max_replicas)),
    Column("Replicas", lambda obj, now: int(obj.status.current_replicas)),
    age_column(),
)

SCALES = (
    name_column(),
    Column("Desired", lambda obj, now: int(obj.spec.replicas), type="integer"),
    Column("Available", lambda obj, now: int(obj.status.replicas), type="integer"),
    age_column(),
)

PRIORITY_CLASSES = (
    name_column(),
    Column("Value", lambda obj, now: int(obj.value), type="integer"),
    Column("Global-Default", lambda obj, now: bool(obj.global_default), type="boolean"),
    age_column(),
    Column("PreemptionPolicy", lambda obj, now: str(obj.preemption_policy)),
)

RUNTIME_CLASSES = (name_column(), Column("Handler", lambda obj, now: str(obj.handler)), age_column())
