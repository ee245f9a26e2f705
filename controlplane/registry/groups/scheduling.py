"""scheduling.k8s.io/v1: PriorityClass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import policy as tables
from controlplane.registry.validation import policy as validation


def kinds() -> Iterator[Served]:
    yield entry(
        "scheduling.k8s.io/v1", "PriorityClass", columns=tables.PRIORITY_CLASSES, fill=_preemption,
        check=validation.priority_class, compare=validation.priority_class_update, counted=("value",),
    )  # fmt: skip


def _preemption(obj: Any) -> None:
    if not obj.HasField("preemption_policy"):
        obj.preemption_policy = "PreemptLowerPriority"
