"""A new node takes no pods until the node lifecycle controller has seen it ready."""

from __future__ import annotations

from controlplane.admission.base import Lookup, Request
from controlplane.admission.tolerations import NOT_READY


class NodeTaints:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if request.kind.kind != "Node" or request.operation != "CREATE":
            return
        if not any(taint.key == NOT_READY and taint.effect == "NoSchedule" for taint in request.obj.spec.taints):
            request.obj.spec.taints.add(key=NOT_READY, effect="NoSchedule")

    async def validate(self, request: Request, lookup: Lookup) -> None:
        return
