"""rbac.authorization.k8s.io/v1: roles and bindings. `controlplane.auth.rbac` decides by them."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.defaults import rbac as defaults
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import rbac as tables
from controlplane.registry.validation import rbac as validation

_V1 = "rbac.authorization.k8s.io/v1"


def kinds() -> Iterator[Served]:
    yield entry(
        _V1, "ClusterRoleBinding", columns=tables.BINDINGS, name_rule=validation.segment, fill=defaults.binding,
        check=validation.cluster_binding, compare=validation.binding_update,
    )  # fmt: skip
    yield entry(
        _V1, "ClusterRole", columns=tables.ROLES, name_rule=validation.segment, check=validation.cluster_role
    )  # fmt: skip
    yield entry(
        _V1, "RoleBinding", columns=tables.BINDINGS, name_rule=validation.segment, fill=defaults.binding,
        check=validation.binding, compare=validation.binding_update,
    )  # fmt: skip
    yield entry(_V1, "Role", columns=tables.ROLES, name_rule=validation.segment, check=validation.role)
