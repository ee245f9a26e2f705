"""The rows of `wherry top`."""

from __future__ import annotations

import pytest

from wherry.cli.commands.top import node_rows, pod_rows
from wherry.cli.resources import UsageError
from wherry.pb import core_v1_pb2, metrics_v1beta1_pb2


def node(name: str) -> core_v1_pb2.Node:
    found = core_v1_pb2.Node()
    found.metadata.name = name
    found.status.allocatable["cpu"].string = "2"
    found.status.allocatable["memory"].string = "1Gi"
    return found


def used(name: str, cpu: str, memory: str) -> metrics_v1beta1_pb2.NodeMetrics:
    found = metrics_v1beta1_pb2.NodeMetrics()
    found.metadata.name = name
    found.usage["cpu"].string, found.usage["memory"].string = cpu, memory
    return found


def pod(name: str, **containers: tuple[str, str]) -> metrics_v1beta1_pb2.PodMetrics:
    found = metrics_v1beta1_pb2.PodMetrics()
    found.metadata.name, found.metadata.namespace = name, "n"
    for container, (cpu, memory) in containers.items():
        added = found.containers.add(name=container)
        added.usage["cpu"].string, added.usage["memory"].string = cpu, memory
    return found


def test_nodes() -> None:
    metrics = [used("a", "500m", "256Mi"), used("b", "1", "128Mi")]
    rows = node_rows([node("a"), node("b"), node("c")], metrics, "cpu")
    assert rows == [
        ["b", "1000m", "50%", "128Mi", "12%"], ["a", "500m", "25%", "256Mi", "25%"], ["c", *["<unknown>"] * 4],
    ]  # fmt: skip
    assert node_rows([node("a"), node("b")], metrics, "memory")[0][0] == "a"


def test_pods() -> None:
    metrics = [pod("p", a=("1n", "1Mi"), b=("2m", "3Mi")), pod("q", a=("0", "9Mi"))]
    whole = pod_rows(metrics, by_container=False, with_namespace=True, sort_by="memory")
    assert whole == [["n", "q", "0m", "9Mi"], ["n", "p", "3m", "4Mi"]]
    parts = pod_rows(metrics, by_container=True, with_namespace=False, sort_by="")
    assert parts == [["p", "a", "1m", "1Mi"], ["p", "b", "2m", "3Mi"], ["q", "a", "0m", "9Mi"]]
    with pytest.raises(UsageError, match="wanted cpu or memory"):
        pod_rows(metrics, by_container=True, with_namespace=False, sort_by="age")
