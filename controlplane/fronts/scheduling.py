"""The Scheduling servicer: passes questions on to the scheduler, when it runs in this process.

Called through `fronts.services`; `controlplane.server` hands the scheduler (`controlplane.scheduler.scheduler.Scheduler`) in.
"""

from __future__ import annotations

from typing import Protocol

from controlplane.auth.authorizer import Attributes, Authorizer
from controlplane.fronts.call import Call
from wherry.api.errors import ServiceUnavailable
from wherry.pb import scheduling_pb2


class Explainer(Protocol):
    async def explain(self, request: scheduling_pb2.ExplainRequest) -> scheduling_pb2.ExplainResponse: ...
    async def plan(self, request: scheduling_pb2.PlanRequest) -> scheduling_pb2.PlanResponse: ...


class SchedulingServicer:
    """`explainer` is set by `controlplane.server` while a scheduler runs here."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self.explainer: Explainer | None = None

    async def Explain(self, request: scheduling_pb2.ExplainRequest, call: Call) -> scheduling_pb2.ExplainResponse:
        asked = Attributes("get", "", "pods", "", request.namespace, request.name)
        await self._authorizer.check(call.identity, asked)
        # The answer tells about every node.
        await self._authorizer.check(call.identity, Attributes("list", "", "nodes"))
        return await self._scheduler().explain(request)

    async def Plan(self, request: scheduling_pb2.PlanRequest, call: Call) -> scheduling_pb2.PlanResponse:
        await self._authorizer.check(call.identity, Attributes("list", "", "nodes"))
        return await self._scheduler().plan(request)

    def _scheduler(self) -> Explainer:
        if self.explainer is None:
            raise ServiceUnavailable("no scheduler runs in this server")
        return self.explainer
