"""node.k8s.io/v1: RuntimeClass."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import policy as tables
from controlplane.registry.validation import policy as validation


def kinds() -> Iterator[Served]:
    yield entry(
        "node.k8s.io/v1", "RuntimeClass", columns=tables.RUNTIME_CLASSES, check=validation.runtime_class,
        compare=validation.runtime_class_update,
    )  # fmt: skip
