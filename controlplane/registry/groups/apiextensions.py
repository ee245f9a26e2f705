"""apiextensions.k8s.io/v1: CustomResourceDefinition. The kinds that they define are `controlplane.registry.custom`'s."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.strategies.definitions import Definitions
from controlplane.registry.tables.common import name_column
from controlplane.registry.tables.workloads import created_column


def kinds() -> Iterator[Served]:
    columns = (name_column(), created_column())
    yield entry("apiextensions.k8s.io/v1", "CustomResourceDefinition", Definitions, columns=columns)
