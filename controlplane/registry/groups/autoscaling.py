"""autoscaling/v2: HorizontalPodAutoscaler."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.defaults import autoscaling as defaults
from controlplane.registry.groups.apps import NO_CONTROLLER
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import policy as tables
from controlplane.registry.validation import autoscaling as validation


def kinds() -> Iterator[Served]:
    yield entry(
        "autoscaling/v2", "HorizontalPodAutoscaler", columns=tables.AUTOSCALERS, fill=defaults.autoscaler,
        check=validation.autoscaler, stored_only=NO_CONTROLLER,
    )  # fmt: skip
