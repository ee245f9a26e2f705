"""Defaults of RoleBinding and ClusterRoleBinding. Called by their strategies."""

from __future__ import annotations

from typing import Any

GROUP = "rbac.authorization.k8s.io"


def binding(obj: Any) -> None:
    obj.role_ref.api_group = obj.role_ref.api_group or GROUP
    for subject in obj.subjects:
        if not subject.api_group and subject.kind in ("User", "Group"):
            subject.api_group = GROUP
