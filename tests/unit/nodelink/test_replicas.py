"""Two control plane replicas on one store: one leads, and each judges the nodes that it holds. Virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from controlplane.auth.deciders import API_SERVER
from controlplane.registry.base import ADMIN
from controlplane.server import ControlPlane, Options
from controlplane.store.open import open_store
from wherry.api.context import Env
from wherry.api.errors import Forbidden, ServiceUnavailable
from wherry.client.base import BidiStream, Transport
from wherry.client.client import Client
from wherry.pb import apps_v1_pb2, coordination_v1_pb2, core_v1_pb2, nodelink_pb2, pods_pb2
from wherry.testing.serving import node_identity


@asynccontextmanager
async def replicas(env: Env) -> AsyncIterator[tuple[ControlPlane, ControlPlane]]:
    store = await open_store("sqlite::memory:", env, inline=True)
    reached: dict[str, ControlPlane] = {}

    def dial(address: str) -> Transport:
        if address not in reached:
            raise ServiceUnavailable("connection refused")
        return reached[address].local_transport(API_SERVER)

    def make(name: str) -> ControlPlane:
        return ControlPlane(env, store, Options(pki=False, elect=True, replica=name, address=f"at-{name}"), dial)

    both = [make(name) for name in ("a", "b")]
    reached.update({"at-a": both[0], "at-b": both[1]})
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


async def test_what_a_leader_wants_to_write_after_its_time_is_refused(env: Env) -> None:
    """As when its process was stopped, and does not know yet that another leads."""
    async with replicas(env) as (_, b):
        admin = b.local_client(ADMIN)
        await asyncio.sleep(5.3)
        web = apps_v1_pb2.Deployment()
        web.metadata.name, web.metadata.namespace = "web", "default"
        web.spec.replicas = 2
        web.spec.selector.match_labels["app"] = "web"
        web.spec.template.metadata.labels["app"] = "web"
        web.spec.template.spec.containers.add(name="main", image="busybox")
        await admin.create(web)
        await asyncio.sleep(1)
        assert len((await admin.list(apps_v1_pb2.ReplicaSet)).items) == 1
        lease = await admin.get(coordination_v1_pb2.Lease, "wherry-control-plane", "kube-system")
        lease.spec.holder_identity = "another"
        await admin.update(lease)
        web.metadata.name, web.metadata.resource_version = "late", ""
        await admin.create(web)
        await asyncio.sleep(1)
        assert [item.metadata.labels["app"] for item in (await admin.list(apps_v1_pb2.ReplicaSet)).items] == ["web"]
        await asyncio.sleep(30)  # the other one's Lease runs out
        assert len((await admin.list(apps_v1_pb2.ReplicaSet)).items) == 2


def pod_on(node: str) -> core_v1_pb2.Pod:
    pod = core_v1_pb2.Pod()
    pod.metadata.name = "p"
    pod.metadata.namespace = "default"
    pod.spec.node_name = node
    pod.spec.service_account_name = "default"
    pod.spec.containers.add(name="main", image="busybox")
    return pod


async def echo(control_plane: ControlPlane, node: str) -> None:
    """An agent whose sessions give back what comes, and end with what was sent last."""
    transport = control_plane.local_transport(node_identity(node))
    stream = transport.bidi("/wherry.v1.NodeLink/Connect")
    await stream.send(nodelink_pb2.AgentMessage(hello=nodelink_pb2.Hello(node_name=node)))

    async def serve(session_id: str) -> None:
        leg = transport.bidi("/wherry.v1.NodeLink/Session", metadata={"wherry-session": session_id})
        await leg.send(pods_pb2.StreamFrame())
        async for frame in leg:
            if frame.WhichOneof("frame") == "stdin_closed":
                await leg.send(pods_pb2.StreamFrame(result={"status": "Success"}))  # type: ignore[arg-type]
                await leg.done_sending()
                return
            await leg.send(pods_pb2.StreamFrame(stdout=frame.stdin))

    async def beat() -> None:
        while True:
            await asyncio.sleep(1)
            await stream.send(nodelink_pb2.AgentMessage(heartbeat=nodelink_pb2.Heartbeat()))

    tasks = [asyncio.create_task(beat())]
    try:
        async for message in stream:
            if message.WhichOneof("message") == "open_session":
                tasks.append(asyncio.create_task(serve(message.open_session.session_id)))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await stream.cancel()


async def exec_stream(control_plane: ControlPlane) -> BidiStream:
    stream = control_plane.local_transport(ADMIN).bidi("/wherry.v1.Pods/Exec")
    start = pods_pb2.StreamStart(namespace="default", name="p", command=["cat"], stdin=True, stdout=True)
    await stream.send(pods_pb2.StreamFrame(start=start))
    return stream


async def test_a_session_reaches_the_node_through_the_replica_that_holds_it(env: Env) -> None:
    async with replicas(env) as (a, b):
        admin = a.local_client(ADMIN)
        await make_node(admin, "n1")
        await asyncio.sleep(2)
        await admin.create(pod_on("n1"))
        agent = asyncio.create_task(echo(a, "n1"))
        await asyncio.sleep(2)
        stream = await exec_stream(b)
        for number in range(50):
            await stream.send(pods_pb2.StreamFrame(stdin=b"%d" % number))
        await stream.send(pods_pb2.StreamFrame(stdin_closed=True))
        await stream.done_sending()
        said = [frame async for frame in stream]
        assert b"".join(frame.stdout for frame in said) == b"".join(b"%d" % number for number in range(50))
        assert said[-1].result.status == "Success"
        agent.cancel()


async def test_a_session_ends_when_the_replica_behind_it_dies(env: Env) -> None:
    async with replicas(env) as (a, b):
        admin = a.local_client(ADMIN)
        await make_node(admin, "n1")
        await asyncio.sleep(2)
        await admin.create(pod_on("n1"))
        agent = asyncio.create_task(echo(a, "n1"))
        await asyncio.sleep(2)
        stream = await exec_stream(b)
        await stream.send(pods_pb2.StreamFrame(stdin=b"x"))
        assert (await anext(aiter(stream))).stdout == b"x"
        await a.stop(abrupt=True)
        with pytest.raises(ServiceUnavailable):
            async for _ in stream:
                pass
        agent.cancel()


async def test_a_node_that_no_replica_holds_is_said_to_be_away(env: Env) -> None:
    async with replicas(env) as (a, b):
        admin = a.local_client(ADMIN)
        await make_node(admin, "n1")
        await asyncio.sleep(2)
        await admin.create(pod_on("n1"))
        agent = asyncio.create_task(echo(a, "n1"))
        await asyncio.sleep(2)
        agent.cancel()
        await asyncio.sleep(1)
        for control_plane in (a, b):
            with pytest.raises(ServiceUnavailable, match="not connected"):
                async for _ in await exec_stream(control_plane):
                    pass


async def test_only_replicas_pass_sessions_on(env: Env) -> None:
    async with replicas(env) as (a, _):
        stream = a.local_transport(ADMIN).bidi("/wherry.v1.NodeLink/Relay", metadata={"wherry-node": "n1"})
        await stream.send(pods_pb2.StreamFrame(start=pods_pb2.StreamStart(name="p")))
        with pytest.raises(Forbidden):
            async for _ in stream:
                pass
