"""Draining nodes of a simulated cluster: a PodDisruptionBudget holds, through a crash of the control plane too."""

from __future__ import annotations

import asyncio

from wherry.api.context import Env
from wherry.api.errors import APIError, NotFound, TooManyRequests
from wherry.pb import core_v1_pb2, policy_v1_pb2
from wherry.testing.checkers import ReadyPodsNeverBelow
from wherry.testing.cluster import SimCluster, sim_cluster
from wherry.testing.manifests import deployment

BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 25%, selector: {matchLabels: {app: web}}}
"""


def status(cluster: SimCluster) -> policy_v1_pb2.PodDisruptionBudgetStatus:
    found: policy_v1_pb2.PodDisruptionBudget = cluster.objects("poddisruptionbudgets.policy")["default/web"]
    return found.status


async def cordon(cluster: SimCluster, name: str) -> None:
    def change(node: core_v1_pb2.Node) -> None:
        node.spec.unschedulable = True

    await cluster.change(core_v1_pb2.Node, name, change)


async def evict(cluster: SimCluster, pod: core_v1_pb2.Pod, refused: list[str]) -> None:
    """Until it is let go, as a drain does."""
    for _ in range(200):
        try:
            await cluster.client.evict(pod.metadata.name, pod.metadata.namespace)
            return
        except TooManyRequests as error:
            refused.append(error.causes[0].message)
        except NotFound:
            return
        except APIError:
            pass  # the control plane is away
        await asyncio.sleep(1)
    raise AssertionError(f"{pod.metadata.name} was never evicted")


async def test_a_drain_keeps_to_the_budget(env: Env) -> None:
    watch = ReadyPodsNeverBelow("default", {"app": "web"}, minimum=6, maximum=16)
    async with sim_cluster(env, nodes=4, checkers=[watch]) as cluster:
        await cluster.apply(deployment("web", replicas=8) + "---" + BUDGET)
        await cluster.converge()
        await cluster.wait_until(lambda: status(cluster).disruptions_allowed == 2)
        assert (status(cluster).expected_pods, status(cluster).desired_healthy) == (8, 6)
        refused: list[str] = []
        for name in ("node-1", "node-2"):
            await cordon(cluster, name)
        leaving = [pod for pod in cluster.pods(app="web") if pod.spec.node_name in ("node-1", "node-2")]
        assert len(leaving) == 4
        draining = asyncio.gather(*(evict(cluster, pod, refused) for pod in leaving))
        await asyncio.sleep(0.5)
        await cluster.crash_control_plane()
        await cluster.start_control_plane()
        await draining
        assert any(text.startswith("The disruption budget web needs 6 healthy pods") for text in refused)
        await cluster.wait_until(
            lambda: len(cluster.ready_pods(app="web")) == 8 and status(cluster).disruptions_allowed == 2
        )
        assert {pod.spec.node_name for pod in cluster.active_pods(app="web")} == {"node-3", "node-4"}
        assert not status(cluster).disrupted_pods


async def test_a_budget_that_nothing_is_known_for_allows_nothing(env: Env) -> None:
    async with sim_cluster(env, nodes=1) as cluster:
        await cluster.apply(
            BUDGET
            + """---
apiVersion: v1
kind: Pod
metadata:
  name: odd
  labels: {app: web}
  ownerReferences: [{apiVersion: example.com/v1, kind: Thing, name: t, uid: some-uid, controller: true}]
spec: {containers: [{name: c, image: web:1}]}
"""
        )
        await cluster.wait_until(lambda: bool(cluster.events("CalculateExpectedPodCountFailed")))
        assert status(cluster).conditions[0].reason == "SyncFailed"
        assert status(cluster).conditions[0].message == 'found no controllers for pod "odd"'
