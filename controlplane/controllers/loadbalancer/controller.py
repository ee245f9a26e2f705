"""The shell around the plan of load balancers' addresses. Started by `controlplane.controllers.manager`."""

from __future__ import annotations

from typing import Any

from controlplane.controllers import shell
from controlplane.controllers.endpointslice import plan as slices
from controlplane.controllers.endpointslice.controller import SERVICE_INDEX, service_of
from controlplane.controllers.loadbalancer import plan as planning
from controlplane.controllers.shell import Kit
from wherry.api import meta
from wherry.client.base import Selection
from wherry.client.controller import Controller
from wherry.pb import core_v1_pb2, discovery_v1_pb2


class LoadBalancerController:
    def __init__(self, kit: Kit, *, workers: int = 2) -> None:
        self._client = kit.client
        self._services = kit.informers.informer(core_v1_pb2.Service)
        self._nodes = kit.informers.informer(core_v1_pb2.Node)
        self._slices = kit.informers.informer(
            discovery_v1_pb2.EndpointSlice,
            selection=Selection(label_selector=f"{slices.MANAGED_BY}={slices.CONTROLLER}"),
            indexers={SERVICE_INDEX: service_of},
        )
        self._runner: Controller[str] = Controller("loadbalancer", self.reconcile, workers=workers)
        self._services.add_handler(self._on_service)
        self._nodes.add_handler(self._on_node)
        self._slices.add_handler(self._on_slice)

    async def run(self) -> None:
        await self._runner.run()

    def _on_service(self, old: Any, new: Any) -> None:
        if any(_concerns(service) for service in (old, new)) and new is not None:
            self._runner.enqueue(meta.key(new))

    def _on_node(self, old: Any, new: Any) -> None:
        if old is not None and new is not None and _facts(old) == _facts(new):
            return
        for service in self._services.list():
            if _concerns(service):
                self._runner.enqueue(meta.key(service))

    def _on_slice(self, old: Any, new: Any) -> None:
        for key in service_of(new if new is not None else old):
            service = self._services.by_key(key)
            if _concerns(service) and service is not None and service.spec.external_traffic_policy == "Local":
                self._runner.enqueue(key)

    async def reconcile(self, key: str) -> float | None:
        service = self._services.by_key(key)
        if service is None:
            return None
        status = planning.plan(service, self._nodes.list(), self._slices.by_index(SERVICE_INDEX, key))
        if status is not None:
            copy = shell.copy_of(service)
            copy.status.load_balancer.CopyFrom(status)
            await self._client.update_status(copy)
        return None


def _concerns(service: core_v1_pb2.Service | None) -> bool:
    return service is not None and (service.spec.type == "LoadBalancer" or bool(service.status.load_balancer.ingress))


def _facts(node: core_v1_pb2.Node) -> tuple[object, ...]:
    addresses = [(item.type, item.address) for item in node.status.addresses]
    return (
        dict(node.metadata.labels), meta.is_true(node.status.conditions, "Ready"), meta.is_deleting(node), addresses,
    )  # fmt: skip
