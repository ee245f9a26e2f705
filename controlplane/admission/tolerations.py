"""Every pod tolerates a node that is not ready or unreachable for a while; then it is evicted and replaced."""

from __future__ import annotations

from controlplane.admission.base import Lookup, Request

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"


class DefaultTolerations:
    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if request.kind.kind != "Pod" or request.subresource or request.operation == "DELETE":
            return
        if request.operation == "UPDATE" and request.old.spec.node_name:
            return  # a pod that runs keeps the tolerations that it was given
        present: set[str] = set()
        for toleration in request.obj.spec.tolerations:
            if toleration.effect in ("NoExecute", ""):
                present.update((toleration.key,) if toleration.key else (NOT_READY, UNREACHABLE))
        for key in (NOT_READY, UNREACHABLE):
            if key not in present:
                request.obj.spec.tolerations.add(
                    key=key, operator="Exists", effect="NoExecute", toleration_seconds=self._seconds
                )

    async def validate(self, request: Request, lookup: Lookup) -> None:
        return
