"""metrics.k8s.io/v1beta1: measured by the agents when somebody asks. `controlplane.nodelink.metrics` answers."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.measured import VERBS
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import metrics as tables

_V1BETA1 = "metrics.k8s.io/v1beta1"


def kinds() -> Iterator[Served]:
    yield entry(_V1BETA1, "NodeMetrics", columns=tables.NODES, verbs=VERBS)
    yield entry(_V1BETA1, "PodMetrics", columns=tables.PODS, verbs=VERBS)
