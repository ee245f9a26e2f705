"""Two control plane replicas on one store: one leads, and each judges the nodes that it holds. Virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from controlplane.registry.base import ADMIN
from controlplane.server import ControlPlane, Options
from controlplane.store.open import open_store
from wherry.api.context import Env
from wherry.client.client import Client
from wherry.pb import coordination_v1_pb2, core_v1_pb2, nodelink_pb2
from wherry.testing.serving import node_identity


@asynccontextmanager
async def replicas(env: Env) -> AsyncIterator[tuple[ControlPlane, ControlPlane]]:
    store = await open_store("sqlite::memory:", env, inline=True)
    both = [ControlPlane(env, store, Options(pki=False, elect=True, replica=name)) for name in ("a", "b")]
    for control_plane in both:
        await control_plane.start()
    yield both[0], both[1]
    for control_plane in both:
        await control_plane.stop()
    await store.close()


async def hold(control_plane: ControlPlane, node: str) -> asyncio.Task[None]:
    """A stream that beats until it is cancelled."""
    stream = control_plane.local_transport(node_identity(node)).bidi("/wherry.v1.NodeLink/Connect")
    await stream.send(nodelink_pb2.AgentMessage(hello=nodelink_pb2.Hello(node_name=node)))
    status = core_v1_pb2.NodeStatus()
    status.conditions.add(type="Ready", status="True", reason="KubeletReady")
    await stream.send(nodelink_pb2.AgentMessage(status=nodelink_pb2.StatusBatch(sequence=1, node=status)))

    async def beat() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                await stream.send(nodelink_pb2.AgentMessage(heartbeat=nodelink_pb2.Heartbeat()))
        finally:
            await stream.cancel()

    return asyncio.create_task(beat())


async def ready(client: Client, node: str) -> str:
    found = await client.get(core_v1_pb2.Node, node)
    return next(condition.status for condition in found.status.conditions if condition.type == "Ready")


async def make_node(client: Client, name: str) -> None:
    node = core_v1_pb2.Node()
    node.metadata.name = name
    await client.create(node)


async def leader(client: Client) -> str:
    lease = await client.get(coordination_v1_pb2.Lease, "wherry-control-plane", "kube-system")
    return lease.spec.holder_identity


async def test_a_node_is_judged_by_the_replica_that_holds_it(env: Env) -> None:
    async with replicas(env) as (a, b):
        admin = a.local_client(ADMIN)
        await make_node(admin, "n1")
        held = await hold(a, "n1")
        await asyncio.sleep(400)
        assert await ready(admin, "n1") == "True"  # b never heard it, and keeps quiet
        held.cancel()
        await asyncio.sleep(0.5)
        held = await hold(b, "n1")
        await asyncio.sleep(60)
        assert await ready(admin, "n1") == "True"  # a lost it, and sees that b has it
        held.cancel()
        await asyncio.sleep(5)
        assert await ready(admin, "n1") == "Unknown"


async def test_a_node_that_dies_with_its_replica_is_found_by_its_lease(env: Env) -> None:
    async with replicas(env) as (a, b):
        admin = b.local_client(ADMIN)
        await make_node(admin, "n1")
        held = await hold(a, "n1")
        await asyncio.sleep(30)
        held.cancel()
        await a.stop(abrupt=True)
        await asyncio.sleep(100)
        assert await ready(admin, "n1") == "True"
        await asyncio.sleep(150)
        assert await ready(admin, "n1") == "Unknown"


async def test_the_other_replica_takes_over_when_the_leader_goes(env: Env) -> None:
    async with replicas(env) as (a, b):
        await asyncio.sleep(5)
        names = {"a": a, "b": b}
        first = await leader(b.local_client(ADMIN))
        other = next(name for name in names if name != first)
        client = names[other].local_client(ADMIN)
        await names[first].stop(abrupt=True)
        await asyncio.sleep(30)
        assert await leader(client) == other
        namespace = core_v1_pb2.Namespace()
        namespace.metadata.name = "after"
        await client.create(namespace)
        await asyncio.sleep(5)
        assert (await client.get(core_v1_pb2.ServiceAccount, "default", "after")).metadata.uid  # controllers run there
