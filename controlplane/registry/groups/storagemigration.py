"""storagemigration.k8s.io/v1: StorageVersionMigration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.registry import violations
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, name_column
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes


def _check(obj: Any) -> Causes:
    return [] if obj.spec.resource.resource else [violations.required("spec.resource.resource")]


def _compare(obj: Any, old: Any) -> Causes:
    return common.immutable(obj.spec, old.spec, "spec")


def _resource(obj: Any, now: float) -> str:
    found = obj.spec.resource
    return f"{found.resource}.{found.group}" if found.group else str(found.resource)


_COLUMNS = (name_column(), Column("Resource", _resource), age_column())


def kinds() -> Iterator[Served]:
    yield entry(
        "storagemigration.k8s.io/v1", "StorageVersionMigration", columns=_COLUMNS, check=_check, compare=_compare,
        counted=("spec",), stored_only="nothing is migrated for it",
    )  # fmt: skip
