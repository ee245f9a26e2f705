"""The shell around the plan of EndpointSlices and Endpoints. Started by `controlplane.controllers.manager`."""

from __future__ import annotations

from typing import Any

from controlplane.controllers import objects, shell
from controlplane.controllers.endpointslice import hints, legacy
from controlplane.controllers.endpointslice import plan as planning
from controlplane.controllers.shell import Kit
from wherry.api import labels, meta
from wherry.api.errors import AlreadyExists, APIError, NotFound
from wherry.client.base import ClientAPI, DeleteOptions, Selection
from wherry.client.controller import Controller
from wherry.pb import core_v1_pb2, discovery_v1_pb2

NAMESPACE_INDEX = "namespace"
SERVICE_INDEX = "service"
LAG_S = 1.0  # how long to wait for a cache that should have shown our own writes by now


def _namespace(obj: Any) -> tuple[str, ...]:
    return (obj.metadata.namespace,)


def service_of(found: discovery_v1_pb2.EndpointSlice) -> tuple[str, ...]:
    """Index function."""
    name = found.metadata.labels.get(planning.SERVICE_NAME, "")
    return (meta.key_of(found.metadata.namespace, name),) if name else ()


async def carry_out(client: ClientAPI, decided: planning.Plan) -> int:
    """The newest revision written, or 0. New slices first: in between an endpoint is in two slices rather than in none."""
    newest = 0
    for made in decided.create:
        newest = max(newest, int((await client.create(made)).metadata.resource_version))
    for changed in decided.update:
        newest = max(newest, int((await client.update(changed)).metadata.resource_version))
    for found in decided.delete:
        options = DeleteOptions(uid=found.metadata.uid)
        try:
            await client.delete(type(found), found.metadata.name, found.metadata.namespace, options)
        except NotFound:
            pass
    return newest


class EndpointSliceController:
    """Invariant: `_written` names the newest of our writes about a Service until the cache shows it; before, nothing more
    is decided about its slices, or a slice would be made twice."""

    def __init__(self, kit: Kit, *, workers: int = 4) -> None:
        self._client = kit.client
        self._services = kit.informers.informer(core_v1_pb2.Service, indexers={NAMESPACE_INDEX: _namespace})
        self._pods = shell.pods(kit)
        self._pods.add_indexer(NAMESPACE_INDEX, _namespace)
        self._nodes = kit.informers.informer(core_v1_pb2.Node)
        self._slices = kit.informers.informer(
            discovery_v1_pb2.EndpointSlice,
            selection=Selection(label_selector=f"{planning.MANAGED_BY}={planning.CONTROLLER}"),
            indexers={SERVICE_INDEX: service_of},
        )
        self._endpoints = kit.informers.informer(
            core_v1_pb2.Endpoints, selection=Selection(label_selector=f"{legacy.MANAGED_BY}={legacy.CONTROLLER}")
        )
        self._written: dict[str, int] = {}
        self._runner: Controller[str] = Controller("endpointslice", self.reconcile, workers=workers)
        self._services.add_handler(self._on_service)
        self._pods.add_handler(self._on_pod)
        self._nodes.add_handler(self._on_node)
        self._slices.add_handler(self._on_slice)
        self._endpoints.add_handler(self._on_service)

    async def run(self) -> None:
        await self._runner.run()

    # -- what wakes a Service

    def _on_service(self, old: Any, new: Any) -> None:
        self._runner.enqueue(meta.key(new if new is not None else old))

    def _on_slice(self, old: Any, new: Any) -> None:
        for key in service_of(new if new is not None else old):
            self._runner.enqueue(key)

    def _on_pod(self, old: Any, new: Any) -> None:
        if old is not None and new is not None and _facts(old) == _facts(new):
            return
        for service in self._services.by_index(NAMESPACE_INDEX, (new if new is not None else old).metadata.namespace):
            if any(pod is not None and _selects(service, pod) for pod in (old, new)):
                self._runner.enqueue(meta.key(service))

    def _on_node(self, old: Any, new: Any) -> None:
        if hints.cpu_by_zone([old] if old else []) != hints.cpu_by_zone([new] if new else []):
            for service in self._services.list():
                if hints.is_auto(service):
                    self._runner.enqueue(meta.key(service))
        if _zone(old) == _zone(new):
            return
        for pod in self._pods.by_index(shell.NODE_INDEX, (new if new is not None else old).metadata.name):
            self._on_pod(None, pod)

    # -- one step

    async def reconcile(self, key: str) -> float | None:
        service = self._services.by_key(key)
        if service is None or meta.is_deleting(service):
            # The slices have the Service for an owner, and go with it; Endpoints never had one.
            self._written.pop(key, None)
            await self._remove_endpoints(key)
            return None
        if int(self._slices.resource_version or "0") < self._written.get(key, 0):
            return LAG_S
        self._written.pop(key, None)
        pods = [
            pod for pod in self._pods.by_index(NAMESPACE_INDEX, service.metadata.namespace) if _selects(service, pod)
        ]
        names = sorted({pod.spec.node_name for pod in pods})
        zones = {name: _zone(self._nodes.get(name)) for name in names}
        cpu = hints.cpu_by_zone(self._nodes.list()) if hints.is_auto(service) else {}
        decided = planning.plan(service, pods, zones, self._slices.by_index(SERVICE_INDEX, key), cpu)
        try:
            newest = await carry_out(self._client, decided)
            if newest:
                self._written[key] = newest
            if planning.has_slices(service):
                await self._write_endpoints(service, pods)
            else:
                await self._remove_endpoints(key)
        except APIError as error:
            if not shell.is_namespace_terminating(error):
                raise
        return LAG_S if key in self._written else None

    async def _write_endpoints(self, service: core_v1_pb2.Service, pods: list[core_v1_pb2.Pod]) -> None:
        made = legacy.plan(service, pods, self._endpoints.by_key(meta.key(service)))
        if made is None:
            return
        if made.metadata.uid:
            await self._client.update(made)
            return
        try:
            await self._client.create(made)
        except AlreadyExists:
            pass  # ours, and not yet in the cache; or a user's from before the Service had a selector, which stays

    async def _remove_endpoints(self, key: str) -> None:
        old = self._endpoints.by_key(key)
        if old is None:
            return
        options = DeleteOptions(uid=old.metadata.uid)
        try:
            await self._client.delete(core_v1_pb2.Endpoints, old.metadata.name, old.metadata.namespace, options)
        except NotFound:
            pass


def _selects(service: core_v1_pb2.Service, pod: core_v1_pb2.Pod) -> bool:
    wanted = service.spec.selector
    return bool(wanted) and labels.from_map(wanted).matches(pod.metadata.labels)


def _facts(pod: core_v1_pb2.Pod) -> tuple[object, ...]:
    """What of a pod an endpoint shows, or is chosen by."""
    return (
        pod.metadata.uid, dict(pod.metadata.labels), meta.is_deleting(pod), pod.spec.node_name, pod.spec.hostname,
        pod.spec.subdomain, objects.is_finished(pod), objects.is_ready(pod), pod.status.pod_ip,
        [item.ip for item in pod.status.pod_ips],
    )  # fmt: skip


def _zone(node: core_v1_pb2.Node | None) -> str:
    return node.metadata.labels.get(planning.ZONE, "") if node is not None else ""
