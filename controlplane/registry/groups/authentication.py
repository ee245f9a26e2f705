"""authentication.k8s.io/v1: who am I, and whose token is it. `controlplane.auth.reviews` answers; nothing is stored."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry


def kinds() -> Iterator[Served]:
    for kind in ("SelfSubjectReview", "TokenReview"):
        yield entry("authentication.k8s.io/v1", kind, verbs=("create",))
