"""What a kubelet answers at its own port, below nodes/NAME/proxy: stats, metrics and logs of what runs there.

Called by `resources`. Nothing listens on a node: figures and logs come over the node link. `summary` and `exposition` are pure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

from aiohttp import web

from controlplane.fronts.http import encoding, media
from controlplane.fronts.http.exchange import TEXT, Exchange
from controlplane.fronts.http.paths import Target
from controlplane.registry.base import ListOptions, RegistryAPI
from wherry.api import kinds, times
from wherry.api.errors import MethodNotAllowed, NotFound
from wherry.pb import core_v1_pb2, nodelink_pb2

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Figures(Protocol):
    async def of_node(self, node: str) -> nodelink_pb2.NodeFigures: ...


# Answers with the log of a pod, as for the log subresource.
Logs = Callable[[Exchange, Target], Awaitable[web.StreamResponse]]


class NodeProxy:
    def __init__(self, registry: RegistryAPI, figures: Figures | None, logs: Logs) -> None:
        self._registry = registry
        self._figures = figures
        self._logs = logs

    async def handle(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        if target.verb != "get":
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        # A node that is not there is said so before anything else.
        await self._registry.get(exchange.context(), kinds.by_name("v1", "Node"), "", target.name)
        parts = [part for part in target.extra.split("/") if part]
        if parts == ["healthz"]:
            await self._of_node(target.name)
            return exchange.reply(b"ok", TEXT)
        if parts == ["stats", "summary"]:
            return exchange.json(summary(target.name, await self._of_node(target.name)))
        if parts == ["metrics", "resource"]:
            return exchange.reply(exposition(await self._of_node(target.name)).encode(), EXPOSITION)
        if parts == ["pods"]:
            return await self._pods(exchange, target.name)
        if len(parts) == 4 and parts[0] == "containerLogs":
            return await self._container_log(exchange, target.name, *parts[1:])
        return exchange.page_not_found()

    async def _of_node(self, node: str) -> nodelink_pb2.NodeFigures:
        if self._figures is None:
            raise NotFound("the server could not find the requested resource")
        return await self._figures.of_node(node)

    async def _pods(self, exchange: Exchange, node: str) -> web.StreamResponse:
        kind = kinds.by_name("v1", "Pod")
        options = ListOptions(field_selector=f"spec.nodeName={node}")
        listed = await self._registry.list(exchange.context(), kind, options)
        return await exchange.reply_pieces(encoding.list_pieces(kind, listed, media.DEFAULT), media.DEFAULT)

    async def _container_log(
        self, exchange: Exchange, node: str, namespace: str, name: str, container: str
    ) -> web.StreamResponse:
        stored = await self._registry.get(exchange.context(), kinds.by_name("v1", "Pod"), namespace, name)
        pod: core_v1_pb2.Pod = stored.message()
        if pod.spec.node_name != node:
            raise NotFound(f'pod "{name}" does not exist on node "{node}"', kind="pods", name=name)
        exchange.query = {**exchange.query, "container": container}
        return await self._logs(exchange, Target("get", "", "v1", "pods", "log", namespace, name))


def _cpu(figures: nodelink_pb2.Figures) -> dict[str, Any]:
    return {
        "time": _time(figures.time),
        "usageNanoCores": figures.cpu_nano_cores,
        "usageCoreNanoSeconds": figures.cpu_usage_core_ns,
    }


def _memory(figures: nodelink_pb2.Figures) -> dict[str, Any]:
    found = {
        "time": _time(figures.time),
        "usageBytes": figures.memory_usage_bytes,
        "workingSetBytes": figures.memory_working_set_bytes,
    }
    if figures.memory_available_bytes:
        found["availableBytes"] = figures.memory_available_bytes
    return found


def _time(seconds: float) -> str:
    return times.format_seconds(int(seconds))


def _by_pod(
    figures: nodelink_pb2.NodeFigures,
) -> Iterator[tuple[nodelink_pb2.ContainerFigures, list[nodelink_pb2.ContainerFigures]]]:
    """Each pod's first container, for its names, and all of them."""
    pods: dict[str, list[nodelink_pb2.ContainerFigures]] = {}
    for container in figures.containers:
        pods.setdefault(container.uid, []).append(container)
    for uid in sorted(pods, key=lambda uid: (pods[uid][0].namespace, pods[uid][0].pod)):
        found = sorted(pods[uid], key=lambda item: item.name)
        yield found[0], found


def _sum(containers: list[nodelink_pb2.ContainerFigures]) -> nodelink_pb2.Figures:
    parts = [container.figures for container in containers]
    return nodelink_pb2.Figures(
        time=max(part.time for part in parts),
        cpu_nano_cores=sum(part.cpu_nano_cores for part in parts),
        cpu_usage_core_ns=sum(part.cpu_usage_core_ns for part in parts),
        memory_working_set_bytes=sum(part.memory_working_set_bytes for part in parts),
        memory_usage_bytes=sum(part.memory_usage_bytes for part in parts),
    )


def summary(name: str, figures: nodelink_pb2.NodeFigures) -> dict[str, Any]:
    """The kubelet's stats/v1alpha1 Summary, as far as the figures go."""
    node: dict[str, Any] = {
        "nodeName": name,
        "startTime": _time(figures.started_at),
        "cpu": _cpu(figures.node),
        "memory": _memory(figures.node),
    }
    if figures.fs_capacity_bytes:
        node["fs"] = {
            "time": _time(figures.node.time),
            "availableBytes": figures.fs_available_bytes,
            "capacityBytes": figures.fs_capacity_bytes,
            "usedBytes": figures.fs_capacity_bytes - figures.fs_available_bytes,
        }
    pods = []
    for first, containers in _by_pod(figures):
        total = _sum(containers)
        pods.append(
            {
                "podRef": {"name": first.pod, "namespace": first.namespace, "uid": first.uid},
                "startTime": _time(min(container.started_at for container in containers)),
                "containers": [
                    {
                        "name": container.name,
                        "startTime": _time(container.started_at),
                        "cpu": _cpu(container.figures),
                        "memory": _memory(container.figures),
                        "rootfs": {
                            "time": _time(container.figures.time),
                            "usedBytes": container.writable_layer_bytes,
                        },
                    }
                    for container in containers
                ],
                "cpu": _cpu(total),
                "memory": _memory(total),
            }
        )
    return {"node": node, "pods": pods}


def exposition(figures: nodelink_pb2.NodeFigures) -> str:
    """The kubelet's resource metrics, in Prometheus' text format."""
    series: dict[str, list[tuple[str, float, float]]] = {}

    def add(name: str, labels: str, value: float, moment: float) -> None:
        series.setdefault(name, []).append((labels, value, moment))

    for first, containers in _by_pod(figures):
        place = f'namespace="{first.namespace}",pod="{first.pod}"'
        for container in containers:
            labels = f'{{container="{container.name}",{place}}}'
            found = container.figures
            add("container_cpu_usage_seconds_total", labels, found.cpu_usage_core_ns / 1e9, found.time)
            add("container_memory_working_set_bytes", labels, found.memory_working_set_bytes, found.time)
            add("container_start_time_seconds", labels, container.started_at, 0)
        total = _sum(containers)
        add("pod_cpu_usage_seconds_total", f"{{{place}}}", total.cpu_usage_core_ns / 1e9, total.time)
        add("pod_memory_working_set_bytes", f"{{{place}}}", total.memory_working_set_bytes, total.time)
    node = figures.node
    add("node_cpu_usage_seconds_total", "", node.cpu_usage_core_ns / 1e9, node.time)
    add("node_memory_working_set_bytes", "", node.memory_working_set_bytes, node.time)
    add("resource_scrape_error", "", 0, 0)
    lines = []
    for name in sorted(series):
        lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"]
        for labels, value, moment in series[name]:
            number = f"{value:.9g}" if value < 1e9 else f"{value:.0f}"
            lines.append(f"{name}{labels} {number}" + (f" {int(moment * 1000)}" if moment else ""))
    return "\n".join(lines) + "\n"


_HELP = {
    "container_cpu_usage_seconds_total": "Cumulative CPU time of the container, in seconds of one core",
    "container_memory_working_set_bytes": "Working set of the container",
    "container_start_time_seconds": "When the container began, in Unix seconds",
    "node_cpu_usage_seconds_total": "Cumulative CPU time of the node, in seconds of one core",
    "node_memory_working_set_bytes": "Working set of the node",
    "pod_cpu_usage_seconds_total": "Cumulative CPU time of the pod, in seconds of one core",
    "pod_memory_working_set_bytes": "Working set of the pod",
    "resource_scrape_error": "1 if the figures could not be had, 0 otherwise",
}
