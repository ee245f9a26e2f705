"""One request below pods/NAME/proxy or services/NAME/proxy: finds the pod, asks admission, connects, passes on. Called by
`fronts.http.resources`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from controlplane.fronts.http.exchange import Exchange
from controlplane.fronts.http.paths import Target
from controlplane.fronts.http.proxy import places, rewrite
from controlplane.fronts.http.proxy.exchange import pass_on
from controlplane.registry.base import ListOptions, RegistryAPI
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import NotFound, ServiceUnavailable
from wherry.pb import core_v1_pb2

if TYPE_CHECKING:
    from controlplane.nodelink.podports import PodPorts

_OPTIONS = {"pods": "PodProxyOptions", "services": "ServiceProxyOptions"}
_SERVICE_NAME = "kubernetes.io/service-name"
_SEGMENTS = 7  # of the path before what is meant for the pod: api, v1, namespaces, NAMESPACE, pods, NAME, proxy


class PodProxy:
    def __init__(self, registry: RegistryAPI, env: Env, ports: PodPorts) -> None:
        self._registry, self._env, self._ports = registry, env, ports

    async def handle(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        """Raises BadRequest, NotFound, ServiceUnavailable, Timeout."""
        exchange.seat.leave()  # how long it takes is for the pod to say
        prefix, url = split_path(exchange.request.raw_path)
        kind = kinds.by_name("v1", "Pod" if target.resource == "pods" else "Service")
        options = {"kind": _OPTIONS[target.resource], "apiVersion": "v1", "path": url.partition("?")[0]}
        name = places.split(target.name, kind.singular)
        pod, port = await (self._of_pod if target.resource == "pods" else self._of_service)(exchange, target, name)
        await self._registry.admit_session(exchange.context(), target.namespace, target.name, "proxy", options, kind)
        if not options["path"] and exchange.request.method in ("GET", "HEAD"):
            # So that relative links of the page lead below it.
            return exchange.reply(b"", status=301, headers={"Location": f"{prefix}/{url}"})
        connection = await self._ports.connect(pod, port)
        try:
            return await pass_on(
                exchange, connection, tls=name.scheme == "https", url=url if url.startswith("/") else f"/{url}",
                prefix=prefix,
            )  # fmt: skip
        finally:
            await connection.close()

    async def _of_pod(self, exchange: Exchange, target: Target, name: places.Name) -> tuple[core_v1_pb2.Pod, int]:
        pod = await self._pod(exchange, target.namespace, name.name)
        port = places.pod_port(pod, name)
        if not pod.spec.node_name:
            raise ServiceUnavailable(f"pod {name.name} does not have a host assigned")
        return pod, port

    async def _of_service(self, exchange: Exchange, target: Target, name: places.Name) -> tuple[core_v1_pb2.Pod, int]:
        ctx = exchange.context()
        stored = await self._registry.get(ctx, kinds.by_name("v1", "Service"), target.namespace, name.name)
        port = places.service_port(stored.message(), name, target.name)
        listed = await self._registry.list(
            ctx,
            kinds.by_name("discovery.k8s.io/v1", "EndpointSlice"),
            ListOptions(namespace=target.namespace, label_selector=f"{_SERVICE_NAME}={name.name}"),
        )
        found = places.backends([item.message() for item in listed.items], port)
        for backend in places.shuffled(found, self._env.rng):
            try:
                pod = await self._pod(exchange, target.namespace, backend.pod)
            except NotFound:
                continue
            # An endpoint is what somebody has written; only the pod's own status tells where the pod is.
            if backend.address in [ip.ip for ip in pod.status.pod_ips] and places.allowed(backend.address):
                return pod, backend.port
        raise places.no_endpoints(target.name)

    async def _pod(self, exchange: Exchange, namespace: str, name: str) -> core_v1_pb2.Pod:
        stored = await self._registry.get(exchange.context(), kinds.by_name("v1", "Pod"), namespace, name)
        found: Any = stored.message()
        pod: core_v1_pb2.Pod = found
        return pod


def split_path(raw_path: str) -> tuple[str, str]:
    """The path of the proxy, and what follows it with the query, both as they were written (a pod may tell %2F from a slash),
    but for bytes that no URL has."""
    path, mark, query = rewrite.ascii_url(raw_path.encode("utf-8", "surrogateescape")).partition("?")
    at = 0
    for _ in range(_SEGMENTS):
        while path[at : at + 1] == "/":
            at += 1
        end = path.find("/", at)
        at = len(path) if end < 0 else end
    return path[:at], path[at:] + mark + query
