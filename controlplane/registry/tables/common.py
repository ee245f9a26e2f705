"""Columns and texts that several kinds share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.registry.strategy import Column
from wherry.api import labels, times
from wherry.pb import meta_v1_pb2

NONE = "<none>"


def name_column() -> Column:
    return Column("Name", lambda obj, now: str(obj.metadata.name), format="name")


def age_column() -> Column:
    return Column("Age", lambda obj, now: times.age(obj.metadata.creation_timestamp, now), ages=True)


def text_of_map(values: Mapping[str, str]) -> str:
    return ",".join(f"{key}={values[key]}" for key in sorted(values)) or NONE


def text_of_selector(selector: meta_v1_pb2.LabelSelector) -> str:
    try:
        return str(labels.from_message(selector)) or NONE
    except labels.BadSelector:
        return "<error>"


def container_columns() -> Sequence[Column]:
    """Of a workload with a template."""

    def containers(obj: Any, now: float) -> str:
        return ",".join(container.name for container in obj.spec.template.spec.containers)

    def images(obj: Any, now: float) -> str:
        return ",".join(container.image for container in obj.spec.template.spec.containers)

    def selector(obj: Any, now: float) -> str:
        return text_of_selector(obj.spec.selector)

    return (
        Column("Containers", containers, priority=1),
        Column("Images", images, priority=1),
        Column("Selector", selector, priority=1),
    )
