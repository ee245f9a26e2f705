"""Tables of roles and bindings."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, name_column
from controlplane.registry.tables.workloads import created_column

ROLES = (name_column(), created_column())


def _subjects(kind: str) -> Any:
    def cell(obj: Any, now: float) -> str:
        found = [subject for subject in obj.subjects if subject.kind == kind]
        if kind == "ServiceAccount":
            return ", ".join(f"{subject.namespace}/{subject.name}" for subject in found)
        return ", ".join(subject.name for subject in found)

    return cell


BINDINGS = (
    name_column(),
    Column("Role", lambda obj, now: f"{obj.role_ref.kind}/{obj.role_ref.name}"),
    age_column(),
    Column("Users", _subjects("User"), priority=1),
    Column("Groups", _subjects("Group"), priority=1),
    Column("ServiceAccounts", _subjects("ServiceAccount"), priority=1),
)
