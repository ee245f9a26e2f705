"""Nodes that are cut off, lose their power or are deleted, in a simulated cluster."""

from __future__ import annotations

import asyncio

import pytest

from wherry.api import meta
from wherry.api.context import Env
from wherry.client.base import DeleteOptions
from wherry.pb import core_v1_pb2
from wherry.testing.cluster import SimCluster, sim_cluster
from wherry.testing.manifests import deployment

NOT_READY_WITHIN_S = 5.0
REPLACED_WITHIN_S = 15.0


def taints(cluster: SimCluster, node: str) -> set[str]:
    return {f"{taint.key}:{taint.effect}" for taint in cluster.objects("nodes")[node].spec.taints}


def victims(cluster: SimCluster, node: str) -> list[core_v1_pb2.Pod]:
    return [pod for pod in cluster.pods() if pod.spec.node_name == node]


@pytest.mark.parametrize("seed", range(5))
async def test_a_node_that_is_cut_off_is_found_replaced_and_tidied_up(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=6))
        await cluster.converge()
        await asyncio.sleep(20 + env.rng.random())
        node = cluster.nodes["node-2"]
        lost = {meta.key(pod) for pod in victims(cluster, "node-2")}
        assert lost
        node.cut()
        cut_at = cluster.now_s
        await cluster.wait_until(lambda: not cluster.is_ready("node-2"), what="NotReady")
        assert cluster.now_s - cut_at < NOT_READY_WITHIN_S

        def replaced() -> bool:
            ready = cluster.ready_pods(app="web")
            return len(ready) == 6 and all(pod.spec.node_name != "node-2" for pod in ready)

        await cluster.wait_until(replaced, what="all pods replaced")
        assert cluster.now_s - cut_at < REPLACED_WITHIN_S
        assert "node.kubernetes.io/unreachable:NoExecute" in taints(cluster, "node-2")
        assert cluster.events("NodeNotReady")
        # Its containers run on, and nobody may say that the pods are gone.
        assert set(await node.sandboxes()) == lost
        assert {meta.key(pod) for pod in victims(cluster, "node-2")} == lost

        node.heal()
        await cluster.wait_until(lambda: cluster.is_ready("node-2") and not taints(cluster, "node-2"), what="back")
        await cluster.wait_until(lambda: not lost & cluster.objects("pods").keys(), what="the old pods end")
        assert not lost & set(await node.sandboxes())
        await cluster.converge()


async def test_a_short_cut_costs_no_pod(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=3))
        await cluster.converge()
        before = set(cluster.objects("pods"))
        cluster.nodes["node-1"].cut()
        await cluster.wait_until(lambda: not cluster.is_ready("node-1"))
        await cluster.wait_until(lambda: len(cluster.ready_pods(app="web")) == 2, what="its pod is marked")
        cluster.nodes["node-1"].heal()
        await cluster.wait_until(lambda: cluster.is_ready("node-1"))
        await cluster.wait_until(lambda: len(cluster.ready_pods(app="web")) == 3, what="ready again")
        await asyncio.sleep(30)
        assert set(cluster.objects("pods")) == before


async def test_when_all_nodes_are_lost_nobody_is_evicted(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=3))
        await cluster.converge()
        before = set(cluster.objects("pods"))
        for node in cluster.nodes.values():
            node.cut()
        await cluster.wait_until(lambda: not any(cluster.is_ready(name) for name in cluster.nodes))
        await asyncio.sleep(60)
        assert not any(meta.is_deleting(pod) for pod in cluster.pods())
        for node in cluster.nodes.values():
            node.heal()
        await cluster.ready()
        await cluster.wait_until(lambda: len(cluster.ready_pods(app="web")) == 3)
        assert set(cluster.objects("pods")) == before


async def test_a_node_without_power_comes_back_empty(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=4))
        await cluster.converge()
        node = cluster.nodes["node-3"]
        await node.power_off()
        await cluster.wait_until(lambda: len(cluster.ready_pods(app="web")) == 4 and not cluster.is_ready("node-3"))
        await node.power_on()
        await cluster.ready()
        await cluster.wait_until(lambda: len(cluster.pods(app="web")) == 4, what="no trace of the old pods")
        await cluster.converge()


async def test_pods_of_a_deleted_node_are_collected(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=4))
        await cluster.converge()
        node = cluster.nodes["node-2"]
        await node.power_off()
        lost = {meta.key(pod) for pod in victims(cluster, "node-2")}
        await cluster.client.delete(core_v1_pb2.Node, "node-2")
        await cluster.wait_until(lambda: not lost & cluster.objects("pods").keys(), what="podgc")
        await cluster.converge()
        assert "kube-node-lease/node-2" not in cluster.objects("leases.coordination.k8s.io")


async def test_a_cordoned_node_is_tainted_and_gets_no_pods(env: Env) -> None:
    async with sim_cluster(env) as cluster:

        def cordon(node: core_v1_pb2.Node) -> None:
            node.spec.unschedulable = True

        await cluster.change(core_v1_pb2.Node, "node-1", cordon)
        await cluster.wait_until(lambda: taints(cluster, "node-1") == {"node.kubernetes.io/unschedulable:NoSchedule"})
        await cluster.apply(deployment("web", replicas=6))
        await cluster.converge()
        assert {pod.spec.node_name for pod in cluster.pods(app="web")} == {"node-2", "node-3"}


async def test_a_killed_container_runs_again(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=1))
        await cluster.converge()
        (pod,) = cluster.pods(app="web")
        runtime = cluster.nodes[pod.spec.node_name].runtime
        (container,) = [each for each in await runtime.list_containers() if each.name == "c"]
        runtime.kill_process(container.id)

        def restarted() -> bool:
            (now,) = cluster.pods(app="web")
            return now.status.container_statuses[0].restart_count == 1 and len(cluster.ready_pods(app="web")) == 1

        assert await cluster.wait_until(restarted) < 20
        (now,) = cluster.pods(app="web")
        assert now.metadata.uid == pod.metadata.uid


async def test_a_pod_deleted_by_hand_is_replaced(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=3))
        await cluster.converge()
        first = cluster.pods(app="web")[0]
        await cluster.client.delete(core_v1_pb2.Pod, first.metadata.name, "default", DeleteOptions(grace_period_s=0))
        await cluster.wait_until(
            lambda: meta.key(first) not in cluster.objects("pods") and len(cluster.ready_pods(app="web")) == 3
        )


@pytest.mark.parametrize("seed", range(3))
async def test_an_agent_that_starts_again_adopts_what_runs(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=6))
        await cluster.converge()
        node = cluster.nodes["node-1"]
        before = sorted((each.id, each.state.name) for each in await node.runtime.list_containers())
        pods = set(cluster.objects("pods"))
        assert before
        await node.stop()
        await asyncio.sleep(env.rng.random() * 6)
        await node.start()
        await cluster.wait_until(lambda: cluster.is_ready("node-1") and len(cluster.ready_pods(app="web")) == 6)
        await asyncio.sleep(30)
        assert sorted((each.id, each.state.name) for each in await node.runtime.list_containers()) == before
        assert set(cluster.objects("pods")) == pods
