"""The control plane dies at the worst moments; nothing acknowledged is lost and everything goes on."""

from __future__ import annotations

import asyncio

import pytest

from wherry.api.context import Env
from wherry.pb import core_v1_pb2, meta_v1_pb2
from wherry.testing.cluster import sim_cluster
from wherry.testing.manifests import deployment


@pytest.mark.parametrize("seed", range(5))
async def test_a_crash_in_the_middle_of_creates_loses_nothing_acknowledged(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=4))
        await cluster.converge()
        containers = {name: await node.sandboxes() for name, node in cluster.nodes.items()}
        acknowledged: list[str] = []

        async def create(number: int) -> None:
            await asyncio.sleep(number * 0.002)
            made = core_v1_pb2.ConfigMap(
                metadata=meta_v1_pb2.ObjectMeta(name=f"c{number}", namespace="default"), data={"n": str(number)}
            )
            try:
                cluster.acknowledged.acknowledge(await cluster.client.create(made))
            except Exception:
                return
            acknowledged.append(f"default/c{number}")

        creates = [asyncio.create_task(create(number)) for number in range(300)]
        await asyncio.sleep(0.1 + env.rng.random() * 0.3)
        await cluster.restart_control_plane(down_s=2)
        await asyncio.gather(*creates)
        assert 20 < len(acknowledged) < 300
        living = {f"default/{each.metadata.name}" for each in await cluster.read_list(core_v1_pb2.ConfigMap, "default")}
        assert set(acknowledged) <= living
        assert {name: await node.sandboxes() for name, node in cluster.nodes.items()} == containers
        # Watches and agents resume by themselves.
        await cluster.scale("default/web", 7)
        await cluster.converge()
        await cluster.ready()


@pytest.mark.parametrize("seed", range(6))
async def test_a_rollout_survives_crashes(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=8, ready_after_s=1))
        await cluster.converge()
        await cluster.set_image("default/web", "example.com/app:2")
        for _ in range(6):
            await asyncio.sleep(env.rng.random() * 1.5)
            await cluster.restart_control_plane(down_s=env.rng.random() * 3)
        await cluster.converge()
        await cluster.wait_until(lambda: len(cluster.pods(app="web")) == 8, what="no pod too many")
        assert {pod.spec.containers[0].image for pod in cluster.pods(app="web")} == {"example.com/app:2"}
        assert len(cluster.objects("replicasets.apps")) == 2


async def test_nodes_are_not_declared_lost_because_the_control_plane_was(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=3))
        await cluster.converge()
        before = set(cluster.objects("pods"))
        await cluster.restart_control_plane(down_s=60)
        await asyncio.sleep(60)
        assert set(cluster.objects("pods")) == before
        assert not cluster.events("NodeNotReady")
