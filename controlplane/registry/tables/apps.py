"""Tables of Deployment and ReplicaSet."""

from __future__ import annotations

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, container_columns, name_column

DEPLOYMENTS = (
    name_column(),
    Column("Ready", lambda obj, now: f"{obj.status.ready_replicas}/{obj.spec.replicas}"),
    Column("Up-to-date", lambda obj, now: int(obj.status.updated_replicas)),
    Column("Available", lambda obj, now: int(obj.status.available_replicas)),
    age_column(),
    *container_columns(),
)

REPLICA_SETS = (
    name_column(),
    Column("Desired", lambda obj, now: int(obj.spec.replicas), type="integer"),
    Column("Current", lambda obj, now: int(obj.status.replicas), type="integer"),
    Column("Ready", lambda obj, now: int(obj.status.ready_replicas), type="integer"),
    age_column(),
    *container_columns(),
)
