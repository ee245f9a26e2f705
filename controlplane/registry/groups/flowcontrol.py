"""flowcontrol.apiserver.k8s.io/v1: which requests go before others."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.defaults import flowcontrol as defaults
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import flowcontrol as tables
from controlplane.registry.validation import flowcontrol as validation

_V1 = "flowcontrol.apiserver.k8s.io/v1"
_IDLE = "requests are not sorted by it"


def kinds() -> Iterator[Served]:
    yield entry(
        _V1, "FlowSchema", columns=tables.FLOW_SCHEMAS, fill=defaults.flow_schema, check=validation.flow_schema,
        counted=("spec",), stored_only=_IDLE,
    )  # fmt: skip
    yield entry(
        _V1, "PriorityLevelConfiguration", columns=tables.PRIORITY_LEVELS, fill=defaults.priority_level,
        check=validation.priority_level, counted=("spec",), stored_only=_IDLE,
    )  # fmt: skip
