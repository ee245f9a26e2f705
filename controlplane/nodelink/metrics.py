"""metrics.k8s.io: what the agents tell, as NodeMetrics and PodMetrics, and v1 ComponentStatus. Nothing of it is stored.

`controlplane.server` gives `Measurements.measure` to the registry, which calls it for the kinds that are measured. `node_metrics`
and `pod_metrics` are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controlplane.nodelink.figures import FiguresReader
from controlplane.registry.base import ListOptions, RegistryAPI, RequestContext
from wherry.api import kinds, quantity, times
from wherry.api.kinds import Kind
from wherry.pb import core_v1_pb2, meta_resource_pb2, meta_v1_pb2, metrics_v1beta1_pb2, nodelink_pb2


def node_metrics(
    node: core_v1_pb2.Node, found: nodelink_pb2.NodeFigures, now: float
) -> metrics_v1beta1_pb2.NodeMetrics:
    out = metrics_v1beta1_pb2.NodeMetrics()
    _describe(out.metadata, node.metadata, now)
    _fill(out, [found.node], now)
    _usage(out.usage, found.node)
    return out


def pod_metrics(
    pod: core_v1_pb2.Pod, found: Sequence[nodelink_pb2.ContainerFigures], now: float
) -> metrics_v1beta1_pb2.PodMetrics:
    """`found`: the pod's running containers, of which there is at least one."""
    out = metrics_v1beta1_pb2.PodMetrics()
    _describe(out.metadata, pod.metadata, now)
    _fill(out, [item.figures for item in found], now)
    for item in sorted(found, key=lambda item: item.name):
        _usage(out.containers.add(name=item.name).usage, item.figures)
    return out


def _describe(target: meta_v1_pb2.ObjectMeta, source: meta_v1_pb2.ObjectMeta, now: float) -> None:
    target.name, target.namespace = source.name, source.namespace
    target.labels.update(source.labels)
    target.creation_timestamp.CopyFrom(times.to_time(now))


def _fill(
    out: metrics_v1beta1_pb2.NodeMetrics | metrics_v1beta1_pb2.PodMetrics,
    figures: Sequence[nodelink_pb2.Figures],
    now: float,
) -> None:
    moment = max((item.time for item in figures if item.time), default=now)
    out.timestamp.CopyFrom(times.to_time(moment))
    window_s = max((item.window_s for item in figures), default=0.0)
    out.window.duration = int(window_s * 1000) * 1_000_000


def _usage(usage: Mapping[str, meta_resource_pb2.Quantity], figures: nodelink_pb2.Figures) -> None:
    usage["cpu"].string = quantity.canonical(f"{figures.cpu_nano_cores}n")
    usage["memory"].string = quantity.from_bytes(figures.memory_working_set_bytes)


def components() -> list[core_v1_pb2.ComponentStatus]:
    """What Kubernetes runs apart is one process here: that it answers says that all of it is there."""
    found = []
    for name in ("controller-manager", "scheduler", "store"):
        status = core_v1_pb2.ComponentStatus()
        status.metadata.name = name
        status.conditions.add(type="Healthy", status="True", message="ok")
        found.append(status)
    return found


class Measurements:
    def __init__(self, registry: RegistryAPI, reader: FiguresReader, ctx: RequestContext) -> None:
        self._registry = registry
        self._reader = reader
        self._ctx = ctx

    async def measure(self, kind: Kind, namespace: str, name: str, now: float) -> list[Any]:
        """All objects of the kind, of a namespace ("": all) or of one name; fewer when agents do not answer."""
        if kind.kind == "ComponentStatus":
            return [status for status in components() if name in ("", status.metadata.name)]
        found: list[Any] = []
        if kind.kind == "NodeMetrics":
            nodes: list[core_v1_pb2.Node] = await self._listed("Node", "", name)
            figures = await self._reader.of_nodes(node.metadata.name for node in nodes)
            found += (
                node_metrics(node, figures[node.metadata.name], now) for node in nodes if node.metadata.name in figures
            )
            return found
        pods: list[core_v1_pb2.Pod] = await self._listed("Pod", namespace, name)
        running = [pod for pod in pods if pod.spec.node_name and pod.status.phase == "Running"]
        figures = await self._reader.of_nodes(pod.spec.node_name for pod in running)
        by_uid = _by_uid(figures.values())
        found += (pod_metrics(pod, by_uid[pod.metadata.uid], now) for pod in running if pod.metadata.uid in by_uid)
        return found

    async def _listed(self, kind: str, namespace: str, name: str) -> list[Any]:
        options = ListOptions(namespace=namespace, field_selector=f"metadata.name={name}" if name else "")
        listed = await self._registry.list(self._ctx, kinds.by_name("v1", kind), options)
        return [stored.message() for stored in listed.items]


def _by_uid(figures: Iterable[nodelink_pb2.NodeFigures]) -> dict[str, list[nodelink_pb2.ContainerFigures]]:
    out: dict[str, list[nodelink_pb2.ContainerFigures]] = {}
    for node in figures:
        for container in node.containers:
            out.setdefault(container.uid, []).append(container)
    return out
