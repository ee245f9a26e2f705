"""The shell around the plan of aggregated ClusterRoles. Started by `controlplane.controllers.manager`."""

from __future__ import annotations

from typing import Any

from controlplane.controllers import shell
from controlplane.controllers.aggregation import plan as planning
from controlplane.controllers.shell import Kit
from wherry.client.controller import Controller
from wherry.pb import rbac_v1_pb2


class AggregationController:
    def __init__(self, kit: Kit) -> None:
        self._client = kit.client
        self._roles = kit.informers.informer(rbac_v1_pb2.ClusterRole)
        self._runner: Controller[str] = Controller("clusterrole-aggregation", self.reconcile, workers=1)
        self._roles.add_handler(self._on_role)

    async def run(self) -> None:
        await self._runner.run()

    def _on_role(self, old: Any, new: Any) -> None:
        """Any role may be, or have been, a part of any that is aggregated; there are few of these."""
        for role in self._roles.list():
            if planning.is_aggregated(role):
                self._runner.enqueue(role.metadata.name)

    async def reconcile(self, name: str) -> float | None:
        role = self._roles.get(name)
        rules = planning.plan(role, self._roles.list()) if role is not None else None
        if role is not None and rules is not None:
            copy = shell.copy_of(role)
            del copy.rules[:]
            copy.rules.extend(rules)
            await self._client.update(copy)
        return None
