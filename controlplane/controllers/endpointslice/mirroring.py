"""The shell around `mirror`. Started by `controlplane.controllers.manager`."""

from __future__ import annotations

from typing import Any

from controlplane.controllers import shell
from controlplane.controllers.endpointslice import legacy, mirror
from controlplane.controllers.endpointslice import plan as planning
from controlplane.controllers.endpointslice.controller import LAG_S, SERVICE_INDEX, carry_out, service_of
from controlplane.controllers.shell import Kit
from wherry.api import meta
from wherry.api.errors import APIError
from wherry.client.base import Selection
from wherry.client.controller import Controller
from wherry.pb import core_v1_pb2, discovery_v1_pb2


class MirroringController:
    """Invariant: `_written` names the newest of our writes about Endpoints until the cache shows it."""

    def __init__(self, kit: Kit) -> None:
        self._client = kit.client
        self._services = kit.informers.informer(core_v1_pb2.Service)
        self._endpoints = kit.informers.informer(
            core_v1_pb2.Endpoints, selection=Selection(label_selector=f"{legacy.MANAGED_BY}!={legacy.CONTROLLER}")
        )
        self._slices = kit.informers.informer(
            discovery_v1_pb2.EndpointSlice,
            selection=Selection(label_selector=f"{planning.MANAGED_BY}={mirror.CONTROLLER}"),
            indexers={SERVICE_INDEX: service_of},
        )
        self._written: dict[str, int] = {}
        self._runner: Controller[str] = Controller("endpointslicemirroring", self.reconcile, workers=1)
        self._services.add_handler(self._on_object)
        self._endpoints.add_handler(self._on_object)
        self._slices.add_handler(self._on_slice)

    async def run(self) -> None:
        await self._runner.run()

    def _on_object(self, old: Any, new: Any) -> None:
        key = meta.key(new if new is not None else old)
        if self._endpoints.by_key(key) is not None or self._slices.by_index(SERVICE_INDEX, key):
            self._runner.enqueue(key)

    def _on_slice(self, old: Any, new: Any) -> None:
        for key in service_of(new if new is not None else old):
            self._runner.enqueue(key)

    async def reconcile(self, key: str) -> float | None:
        if int(self._slices.resource_version or "0") < self._written.get(key, 0):
            return LAG_S
        self._written.pop(key, None)
        decided = mirror.plan(
            self._services.by_key(key), self._endpoints.by_key(key), self._slices.by_index(SERVICE_INDEX, key)
        )
        try:
            newest = await carry_out(self._client, decided)
        except APIError as error:
            if not shell.is_namespace_terminating(error):
                raise
            return None
        if newest:
            self._written[key] = newest
            return LAG_S
        return None
