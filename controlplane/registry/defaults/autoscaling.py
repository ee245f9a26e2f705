"""Defaults of HorizontalPodAutoscaler. Called by its strategy."""

from __future__ import annotations

from typing import Any

_UTILIZATION = 80
_PERIOD_S = 15


def autoscaler(obj: Any) -> None:
    spec = obj.spec
    if not spec.HasField("min_replicas"):
        spec.min_replicas = 1
    if not spec.metrics:
        metric = spec.metrics.add(type="Resource")
        metric.resource.name = "cpu"
        metric.resource.target.type = "Utilization"
        metric.resource.target.average_utilization = _UTILIZATION
    if not spec.HasField("behavior"):
        return
    up, down = spec.behavior.scale_up, spec.behavior.scale_down
    if not up.HasField("stabilization_window_seconds"):
        up.stabilization_window_seconds = 0
    if not up.policies:
        up.policies.add(type="Pods", value=4, period_seconds=_PERIOD_S)
        up.policies.add(type="Percent", value=100, period_seconds=_PERIOD_S)
    if not down.policies:
        down.policies.add(type="Percent", value=100, period_seconds=_PERIOD_S)
    for rules in (up, down):
        if not rules.HasField("select_policy"):
            rules.select_policy = "Max"
