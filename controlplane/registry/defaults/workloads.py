"""Defaults of DaemonSet, StatefulSet, ReplicationController and LimitRange. Called by their strategies."""

from __future__ import annotations

from typing import Any

from controlplane.registry.defaults import pods
from controlplane.registry.defaults.storage import claim
from wherry.api import intstr


def daemon_set(obj: Any) -> None:
    spec = obj.spec
    strategy = spec.update_strategy
    strategy.type = strategy.type or "RollingUpdate"
    if strategy.type == "RollingUpdate":
        update = strategy.rolling_update
        update.SetInParent()
        if not update.HasField("max_unavailable"):
            update.max_unavailable.CopyFrom(intstr.of(1))
        if not update.HasField("max_surge"):
            update.max_surge.CopyFrom(intstr.of(0))
    if not spec.HasField("revision_history_limit"):
        spec.revision_history_limit = 10
    pods.pod_template(spec.template)


def stateful_set(obj: Any) -> None:
    spec = obj.spec
    spec.pod_management_policy = spec.pod_management_policy or "OrderedReady"
    strategy = spec.update_strategy
    strategy.type = strategy.type or "RollingUpdate"
    if strategy.type == "RollingUpdate":
        strategy.rolling_update.SetInParent()
        if not strategy.rolling_update.HasField("partition"):
            strategy.rolling_update.partition = 0
    kept = spec.persistent_volume_claim_retention_policy
    kept.when_deleted = kept.when_deleted or "Retain"
    kept.when_scaled = kept.when_scaled or "Retain"
    if not spec.HasField("replicas"):
        spec.replicas = 1
    if not spec.HasField("revision_history_limit"):
        spec.revision_history_limit = 10
    pods.pod_template(spec.template)
    for template in spec.volume_claim_templates:
        claim(template)
        template.status.phase = template.status.phase or "Pending"


def replication_controller(obj: Any) -> None:
    """Labels and selector may be left out: they are those of the template."""
    spec = obj.spec
    labels = dict(spec.template.metadata.labels)
    if labels and not spec.selector:
        spec.selector.update(labels)
    if labels and not obj.metadata.labels:
        obj.metadata.labels.update(labels)
    if not spec.HasField("replicas"):
        spec.replicas = 1
    if spec.HasField("template"):
        pods.pod_template(spec.template)


def limit_range(obj: Any) -> None:
    """A container's default is its maximum; its default request is its default, else its minimum."""
    for item in obj.spec.limits:
        if item.type != "Container":
            continue
        for target, source in (
            (item.default, item.max), (item.default_request, item.default), (item.default_request, item.min),
        ):  # fmt: skip
            for name in source:
                if name not in target:
                    target[name].CopyFrom(source[name])
