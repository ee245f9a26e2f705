"""metrics.k8s.io in a simulated cluster: what the agents tell when asked, and what is left when one does not answer."""

from __future__ import annotations

import pytest

from wherry.api.context import Env
from wherry.api.errors import MethodNotAllowed, NotFound
from wherry.client.base import Selection
from wherry.pb import metrics_v1beta1_pb2
from wherry.testing.cluster import SimCluster, sim_cluster
from wherry.testing.manifests import deployment


async def nodes(cluster: SimCluster) -> list[str]:
    page = await cluster.client.list(metrics_v1beta1_pb2.NodeMetrics)
    return sorted(item.metadata.name for item in page.items)


async def test_figures_come_from_the_nodes_that_answer(env: Env) -> None:
    async with sim_cluster(env, nodes=2) as cluster:
        await cluster.apply(deployment("web", replicas=4))
        await cluster.converge()
        assert await nodes(cluster) == ["node-1", "node-2"]
        pods = (await cluster.client.list(metrics_v1beta1_pb2.PodMetrics, Selection("default", "app=web"))).items
        assert sorted(item.metadata.name for item in pods) == sorted(p.metadata.name for p in cluster.pods(app="web"))
        assert {container.usage["memory"].string for item in pods for container in item.containers} == {"1Mi"}
        assert {item.metadata.labels["app"] for item in pods} == {"web"}
        assert not (await cluster.client.list(metrics_v1beta1_pb2.PodMetrics, Selection("kube-system"))).items
        one = await cluster.client.get(metrics_v1beta1_pb2.PodMetrics, pods[0].metadata.name, "default")
        assert one.window.duration > 0
        with pytest.raises(NotFound, match=r'podmetrics\.metrics\.k8s\.io "default/nope" not found'):
            await cluster.client.get(metrics_v1beta1_pb2.PodMetrics, "nope", "default")
        with pytest.raises(MethodNotAllowed):
            await cluster.client.delete(metrics_v1beta1_pb2.PodMetrics, "nope", "default")
        cluster.nodes["node-1"].cut()
        assert await nodes(cluster) == ["node-2"]
