"""authorization.k8s.io/v1: questions that are answered and not stored. `controlplane.auth.reviews` answers."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry

_V1 = "authorization.k8s.io/v1"


def kinds() -> Iterator[Served]:
    for kind in (
        "LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview",
    ):  # fmt: skip
        yield entry(_V1, kind, verbs=("create",))
