"""Defaults of Deployment and ReplicaSet. Called by their strategies."""

from __future__ import annotations

from controlplane.registry.defaults import pods
from wherry.pb import apps_v1_pb2, meta_intstr_pb2

STRING = 1  # IntOrString.type


def deployment(obj: apps_v1_pb2.Deployment) -> None:
    spec = obj.spec
    if not spec.HasField("replicas"):
        spec.replicas = 1
    strategy = spec.strategy
    strategy.type = strategy.type or "RollingUpdate"
    if strategy.type == "RollingUpdate":
        update = strategy.rolling_update
        update.SetInParent()
        for name in ("max_unavailable", "max_surge"):
            if not update.HasField(name):
                getattr(update, name).CopyFrom(meta_intstr_pb2.IntOrString(type=STRING, str_val="25%"))
    if not spec.HasField("revision_history_limit"):
        spec.revision_history_limit = 10
    if not spec.HasField("progress_deadline_seconds"):
        spec.progress_deadline_seconds = 600
    pods.pod_template(spec.template)


def replica_set(obj: apps_v1_pb2.ReplicaSet) -> None:
    if not obj.spec.HasField("replicas"):
        obj.spec.replicas = 1
    pods.pod_template(obj.spec.template)
