"""Tables of DaemonSet, StatefulSet, ControllerRevision and the rarer kinds of v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import NONE, age_column, container_columns, name_column, text_of_map
from wherry.api import meta, times


def created_column() -> Column:
    """Of kinds that have no table of their own: when they were made."""
    return Column(
        "Created At", lambda obj, now: times.format_seconds(obj.metadata.creation_timestamp.seconds), type="date"
    )


def _integer(name: str, field: str) -> Column:
    return Column(name, lambda obj, now: int(getattr(obj.status, field)), type="integer")


def _controller(obj: Any, now: float) -> str:
    owner = meta.controller_of(obj)
    if owner is None:
        return NONE
    group = owner.api_version.rpartition("/")[0]
    return f"{owner.kind.lower()}{'.' + group if group else ''}/{owner.name}"


CONTROLLER_REVISIONS = (
    name_column(),
    Column("Controller", _controller),
    Column("Revision", lambda obj, now: int(obj.revision)),
    age_column(),
)

DAEMON_SETS = (
    name_column(),
    _integer("Desired", "desired_number_scheduled"),
    _integer("Current", "current_number_scheduled"),
    _integer("Ready", "number_ready"),
    _integer("Up-to-date", "updated_number_scheduled"),
    _integer("Available", "number_available"),
    Column("Node Selector", lambda obj, now: text_of_map(dict(obj.spec.template.spec.node_selector))),
    age_column(),
    *container_columns(),
)

STATEFUL_SETS = (
    name_column(),
    Column("Ready", lambda obj, now: f"{obj.status.ready_replicas}/{obj.spec.replicas}"),
    age_column(),
    *container_columns()[:2],
)

REPLICATION_CONTROLLERS = (
    name_column(),
    Column("Desired", lambda obj, now: int(obj.spec.replicas), type="integer"),
    _integer("Current", "replicas"),
    _integer("Ready", "ready_replicas"),
    age_column(),
    *container_columns()[:2],
    Column("Selector", lambda obj, now: text_of_map(dict(obj.spec.selector)), priority=1),
)


def _join(containers: Sequence[Any], field: str) -> str:
    return ",".join(getattr(container, field) for container in containers)


POD_TEMPLATES = (
    name_column(),
    Column("Containers", lambda obj, now: _join(obj.template.spec.containers, "name")),
    Column("Images", lambda obj, now: _join(obj.template.spec.containers, "image")),
    Column("Pod Labels", lambda obj, now: text_of_map(dict(obj.template.metadata.labels))),
)

LIMIT_RANGES = (name_column(), created_column())


def _quota(limits: bool) -> Any:
    def cell(obj: Any, now: float) -> str:
        parts = []
        for name in sorted(obj.status.hard):
            if name.startswith("limits.") == limits:
                used = obj.status.used[name].string if name in obj.status.used else "0"
                parts.append(f"{name}: {used}/{obj.status.hard[name].string}")
        return ", ".join(parts)

    return cell


RESOURCE_QUOTAS = (name_column(), Column("Request", _quota(False)), Column("Limit", _quota(True)), age_column())


def _component(field: str) -> Any:
    def cell(obj: Any, now: float) -> str:
        return next((str(getattr(item, field)) for item in obj.conditions if item.type == "Healthy"), "")

    return cell


def _health(obj: Any, now: float) -> str:
    return "Healthy" if _component("status")(obj, now) == "True" else "Unhealthy"


COMPONENTS = (
    name_column(),
    Column("Status", _health),
    Column("Message", _component("message")),
    Column("Error", _component("error")),
)
