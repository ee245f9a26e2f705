"""kubectl top, the node proxy and /metrics: what a person and a Prometheus read."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from wherry.testing.kubectl import NEWEST, OLDEST, Kubectl, versions
from wherry.testing.local import until

pytestmark = pytest.mark.timeout(180)
MEMORY = re.compile(r"[1-9]\d*[KM]i")  # 1Mi on a hollow node


def measured(web: Kubectl) -> list[dict[str, Any]]:
    """The metrics of both pods. A pod has some when it was measured twice, as in Kubernetes."""

    def both() -> list[dict[str, Any]]:
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{web.namespace}/pods"
        items: list[dict[str, Any]] = json.loads(web("get", "--raw", path))["items"]
        return items if len(items) == 2 else []

    return until(both)


@pytest.mark.about_pods
@versions(NEWEST, OLDEST)
def test_top(web: Kubectl) -> None:
    measured(web)
    node = web("top", "node")
    assert re.search(r"NAME +CPU\(cores\) +CPU.* +MEMORY\(bytes\) +MEMORY", node)
    assert re.search(rf"{web.node} +\d+m +\d+% +\d+Mi +\d+%", node)
    pods = web("get", "pods", "-o", "jsonpath={.items[*].metadata.name}").split()
    rows = [line.split() for line in web("top", "pod", "--no-headers", "-l", "app=web").splitlines()]
    assert sorted(row[0] for row in rows) == sorted(pods)
    assert all(re.fullmatch(r"\d+m", row[1]) and re.fullmatch(r"\d+Mi", row[2]) for row in rows)
    summed = [line.split() for line in web("top", "pod", "-l", "app=web", "--sum").splitlines()]
    # kubectl rounds each row up, and the sum once.
    shown, total = [int(row[1][:-1]) for row in summed[1:3]], int(summed[-1][0][:-1])
    assert sum(shown) - len(shown) <= total <= sum(shown)
    with_containers = web("top", "pod", pods[0], "--containers").splitlines()
    assert with_containers[0].split() == ["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"]
    assert with_containers[1].split()[:2] == [pods[0], "web"]
    assert web.namespace in web("top", "pod", "-A")
    assert "not found" in web.fails("top", "pod", "nope")


@versions(NEWEST)
def test_metrics_as_objects(web: Kubectl) -> None:
    assert re.search(r"^nodes +metrics.k8s.io/v1beta1 +false +NodeMetrics", web("api-resources"), re.MULTILINE)
    item = measured(web)[0]
    listed = json.loads(web("get", "--raw", f"/apis/metrics.k8s.io/v1beta1/namespaces/{web.namespace}/pods"))
    assert listed["kind"] == "PodMetricsList"
    assert item["metadata"]["labels"]["app"] == "web"
    assert MEMORY.fullmatch(item["containers"][0]["usage"]["memory"])
    assert {"timestamp", "window"} <= set(item)
    assert re.search(r"NAME +CPU +MEMORY +WINDOW", web("get", "podmetrics"))
    assert "MethodNotAllowed" in web.fails("delete", "podmetrics", item["metadata"]["name"])


@pytest.mark.about_pods
@versions(NEWEST)
def test_the_node_proxy_and_the_control_planes_own_metrics(web: Kubectl) -> None:
    measured(web)
    proxy = f"/api/v1/nodes/{web.node}/proxy"
    summary = json.loads(web("get", "--raw", f"{proxy}/stats/summary"))
    assert summary["node"]["nodeName"] == web.node
    mine = [pod for pod in summary["pods"] if pod["podRef"]["namespace"] == web.namespace]
    assert [container["name"] for pod in mine for container in pod["containers"]] == ["web", "web"]
    assert 0 < mine[0]["memory"]["workingSetBytes"] <= 16 << 20
    text = web("get", "--raw", f"{proxy}/metrics/resource")
    labels = rf'container="web",namespace="{web.namespace}",pod="[-\w]+"'
    assert re.search(rf"^container_memory_working_set_bytes\{{{labels}\}} [1-9]\d+ \d+$", text, re.MULTILINE)
    pod = web("get", "pods", "-o", "jsonpath={.items[0].metadata.name}")
    log = web("logs", pod)
    assert web("get", "--raw", f"{proxy}/containerLogs/{web.namespace}/{pod}/web") == log
    assert web("get", "--raw", f"{proxy}/healthz") == "ok"
    assert "NotFound" in web.fails("get", "--raw", "/api/v1/nodes/nope/proxy/stats/summary")
    metrics = web("get", "--raw", "/metrics")
    assert re.search(r"^wherry_nodes_connected 1\.0$", metrics, re.MULTILINE)
    assert re.search(r"^process_resident_memory_bytes ", metrics, re.MULTILINE)
