"""policy/v1: PodDisruptionBudget."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import policy as tables
from controlplane.registry.validation import policy as validation


def kinds() -> Iterator[Served]:
    yield entry(
        "policy/v1", "PodDisruptionBudget", columns=tables.BUDGETS, check=validation.budget, counted=("spec",),
    )  # fmt: skip
