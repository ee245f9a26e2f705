"""Two control plane replicas on one store: one leads, and each judges the nodes that it holds. Virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from grpc_health.v1 import health_pb2

from controlplane.auth.deciders import API_SERVER
from controlplane.auth.names import INGRESS_USER
from controlplane.nodelink.routing import LIMIT_S
from controlplane.registry.base import ADMIN, Identity
from controlplane.replicas import RENEWAL_S, TTL_S
from controlplane.server import ControlPlane, Options
from controlplane.store.faulty import Faults, FaultyStore
from controlplane.store.open import open_store
from controlplane.storehealth import LOST_AFTER_S
from wherry.api.context import Env
from wherry.api.errors import Forbidden, ServiceUnavailable
from wherry.api.tasks import stop
from wherry.client.base import BidiStream, Transport
from wherry.client.client import Client
from wherry.pb import apps_v1_pb2, coordination_v1_pb2, core_v1_pb2, nodelink_pb2, pods_pb2
from wherry.testing.serving import node_identity


@asynccontextmanager
async def replicas(
    env: Env, faults: dict[str, Faults] | None = None
) -> AsyncIterator[tuple[ControlPlane, ControlPlane]]:
    store = await open_store("sqlite::memory:", env, inline=True)
    reached: dict[str, ControlPlane] = {}

    def dial(address: str) -> Transport:
        if address not in reached:
            raise ServiceUnavailable("connection refused")
        return reached[address].local_transport(API_SERVER)

    def make(name: str) -> ControlPlane:
        own = FaultyStore(store, env, (faults or {}).get(name))
        return ControlPlane(env, own, Options(pki=False, elect=True, replica=name, address=f"at-{name}"), dial)

    both = [make(name) for name in ("a", "b")]
    reached.update({"at-a": both[0], "at-b": both[1]})
    for control_plane in both:
        await control_plane.start()
    try:
        yield both[0], both[1]
    finally:
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


async def healthy(control_plane: ControlPlane) -> bool:
    transport = control_plane.local_transport(ADMIN)
    answer = await transport.unary("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_a_replica_that_is_cut_off_from_the_store_says_so_and_lets_its_nodes_go(env: Env) -> None:
    faults = {"a": Faults()}
    async with replicas(env, faults) as (a, b):
        admin = b.local_client(ADMIN)
        await make_node(admin, "n1")
        held = await hold(a, "n1")
        await asyncio.sleep(10)
        faults["a"].down = True
        with pytest.raises(ServiceUnavailable):
            await a.local_client(ADMIN).get(core_v1_pb2.Node, "n1")  # it may be old: nothing is better
        await asyncio.sleep(2)
        assert await healthy(a), "as long as an election of the store's may take"
        await asyncio.sleep(LOST_AFTER_S)
        assert not await healthy(a)
        with pytest.raises(ServiceUnavailable):
            await asyncio.wait_for(held, 2)
        ingress = a.local_transport(Identity(INGRESS_USER)).bidi("/wherry.v1.NodeLink/Route")
        await ingress.send(nodelink_pb2.AgentMessage(hello=nodelink_pb2.Hello(node_name="i")))
        with pytest.raises(ServiceUnavailable, match="does not reach its store"):
            await anext(aiter(ingress))
        held = await hold(b, "n1")
        await asyncio.sleep(300)
        assert await ready(admin, "n1") == "True"
        faults["a"].down = False
        await asyncio.sleep(1)
        assert await healthy(a)
        await asyncio.sleep(60)
        assert await ready(admin, "n1") == "True"
        held.cancel()


async def test_an_outage_of_the_whole_store_makes_no_node_silent(env: Env) -> None:
    faults = {"a": Faults(), "b": Faults()}
    async with replicas(env, faults) as (a, b):
        admin = b.local_client(ADMIN)
        await make_node(admin, "n1")
        held = await hold(a, "n1")
        await asyncio.sleep(10)
        for each in faults.values():
            each.down = True
        await asyncio.sleep(400)
        assert held.done()
        for each in faults.values():
            each.down = False
        await asyncio.sleep(5)  # as long as an agent takes to dial again, and more
        held = await hold(b, "n1")
        node = await admin.get(core_v1_pb2.Node, "n1")
        assert [item.status for item in node.status.conditions if item.type == "Ready"] == ["True"]
        await asyncio.sleep(300)
        assert await ready(admin, "n1") == "True"
        held.cancel()


class Routing:
    """An agent (or, without a node, an ingress) that says by what it routes when it is told to."""

    def __init__(self, control_plane: ControlPlane, name: str, *, ingress: bool = False) -> None:
        identity = Identity(INGRESS_USER, ("system:authenticated",)) if ingress else node_identity(name)
        method = "Route" if ingress else "Connect"
        self._stream = control_plane.local_transport(identity).bidi(f"/wherry.v1.NodeLink/{method}")
        self._hello = nodelink_pb2.Hello(node_name=name, routes_services=True)
        self.asked: asyncio.Queue[nodelink_pb2.RoutesQuery] = asyncio.Queue()
        self.settled: asyncio.Queue[nodelink_pb2.RoutesSettled] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Routing:
        await self._stream.send(nodelink_pb2.AgentMessage(hello=self._hello))
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._beat())]
        await asyncio.sleep(0.5)
        return self

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(1)
            await self._stream.send(nodelink_pb2.AgentMessage(heartbeat=nodelink_pb2.Heartbeat()))

    async def _read(self) -> None:
        with contextlib.suppress(ServiceUnavailable):
            async for message in self._stream:
                if message.WhichOneof("message") == "routes_query":
                    self.asked.put_nowait(message.routes_query)
                elif message.WhichOneof("message") == "routes_settled":
                    self.settled.put_nowait(message.routes_settled)

    async def ask(self, revision: int) -> None:
        request = nodelink_pb2.RoutesRequest(request=7, revision=revision)
        await self._stream.send(nodelink_pb2.AgentMessage(routes_request=request))

    async def answer(self) -> int:
        async with asyncio.timeout(60):
            query = await self.asked.get()
        await self._stream.send(nodelink_pb2.AgentMessage(routes_level=nodelink_pb2.RoutesLevel(query=query.query)))
        return int(query.revision)

    async def stop(self) -> None:
        await self._stream.cancel()
        await stop(*self._tasks)


async def answered_after_s(asker: Routing) -> tuple[float, list[str]]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(60):
        settled = await asker.settled.get()
    return loop.time() - began, sorted(settled.missing)


async def test_a_pod_waits_for_routers_of_all_replicas(env: Env) -> None:
    async with replicas(env) as (a, b):
        for name in ("n1", "n2"):
            await make_node(a.local_client(ADMIN), name)
        here, there = await Routing(a, "n1").start(), await Routing(b, "n2").start()
        ingress = await Routing(b, "i", ingress=True).start()
        await here.ask(90)
        assert [await here.answer(), await there.answer()] == [90, 90]
        await asyncio.sleep(0.5)
        assert here.settled.empty(), "the ingress has not answered"
        assert await ingress.answer() == 90
        waited_s, missing = await answered_after_s(here)
        assert waited_s < 0.1
        assert missing == []
        # One that says nothing holds it up for as long as one of one's own.
        await here.ask(91)
        await here.answer()
        await ingress.answer()
        waited_s, missing = await answered_after_s(here)
        assert waited_s == pytest.approx(LIMIT_S, abs=0.1)
        assert missing in (["other replicas"], ["n2"])
        for each in (here, there, ingress):
            await each.stop()


async def test_a_replica_that_dies_while_it_is_asked_is_not_waited_for_longer(env: Env) -> None:
    async with replicas(env) as (a, b):
        for name in ("n1", "n2"):
            await make_node(a.local_client(ADMIN), name)
        here, there = await Routing(a, "n1").start(), await Routing(b, "n2").start()
        await here.ask(90)
        await here.answer()
        await there.asked.get()
        await b.stop(abrupt=True)
        waited_s, _ = await answered_after_s(here)
        assert waited_s <= LIMIT_S
        # It has not gone from the store yet: one look more, and then its nodes are with others.
        moved = await Routing(a, "n2").start()
        await asyncio.sleep(TTL_S + RENEWAL_S)
        await here.ask(91)
        assert [await here.answer(), await moved.answer()] == [91, 91]
        waited_s, missing = await answered_after_s(here)
        assert waited_s < 0.1
        assert missing == []
        for each in (here, there, moved):
            await each.stop()


async def test_nobody_but_replicas_asks_what_is_routed(env: Env) -> None:
    async with replicas(env) as (a, _):
        with pytest.raises(Forbidden, match="is no replica: only they ask what is routed here"):
            await a.local_transport(node_identity("n1")).unary(
                "/wherry.v1.NodeLink/Routed", nodelink_pb2.RoutedRequest(revision=1)
            )


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
