"""The node link from an agent's point of view: a whole control plane without sockets, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controlplane.registry.base import ADMIN
from controlplane.server import ControlPlane
from wherry.api.context import Env
from wherry.api.errors import APIError, BadRequest, Forbidden, Invalid, NotFound, ServiceUnavailable, Timeout
from wherry.client.base import DeleteOptions
from wherry.client.client import Client
from wherry.pb import core_v1_pb2, nodelink_pb2, pods_pb2
from wherry.testing.serving import node_identity, plane

CONNECT = "/wherry.v1.NodeLink/Connect"
SESSION = "/wherry.v1.NodeLink/Session"


def node_object(name: str, ready: str = "True") -> core_v1_pb2.Node:
    node = core_v1_pb2.Node()
    node.metadata.name = name
    return node


def node_status(ready: str = "True", reason: str = "KubeletReady") -> core_v1_pb2.NodeStatus:
    status = core_v1_pb2.NodeStatus()
    status.conditions.add(type="Ready", status=ready, reason=reason, message="hollow")
    return status


def pod_object(name: str, node: str, *containers: str) -> core_v1_pb2.Pod:
    pod = core_v1_pb2.Pod()
    pod.metadata.name = name
    pod.metadata.namespace = "default"
    pod.spec.node_name = node
    pod.spec.service_account_name = "default"
    for container in containers or ("main",):
        pod.spec.containers.add(name=container, image="busybox")
    return pod


class Agent:
    """The least that an agent does: greets, beats, and keeps what it is told."""

    def __init__(self, control_plane: ControlPlane, name: str, *, interval_s: float = 1.0) -> None:
        self.name = name
        self.transport = control_plane.local_transport(node_identity(name))
        self.pods: dict[str, core_v1_pb2.Pod] = {}
        self.settings: nodelink_pb2.Settings | None = None
        self.acks: list[nodelink_pb2.StatusAck] = []
        self.synced = asyncio.Event()
        self.opened: asyncio.Queue[nodelink_pb2.OpenSession] = asyncio.Queue()
        self.closed_sessions: list[str] = []
        self.error: APIError | None = None
        self.sequence = 0
        self._interval_s = interval_s
        self._tasks: list[asyncio.Task[Any]] = []

    async def connect(self) -> None:
        self.stream = self.transport.bidi(CONNECT)
        hello = nodelink_pb2.Hello(node_name=self.name, agent_version="test", incarnation="1")
        await self.stream.send(nodelink_pb2.AgentMessage(hello=hello))
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._beat())]

    async def _read(self) -> None:
        try:
            async for message in self.stream:
                which = message.WhichOneof("message")
                if which == "settings":
                    self.settings = message.settings
                elif which == "pods":
                    for pod in message.pods.upserts:
                        self.pods[pod.metadata.name] = pod
                    for key in message.pods.removed:
                        self.pods.pop(key.name, None)
                    if message.pods.synced:
                        self.synced.set()
                elif which == "ack":
                    self.acks.append(message.ack)
                elif which == "open_session":
                    self.opened.put_nowait(message.open_session)
                elif which == "close_session":
                    self.closed_sessions.append(message.close_session.session_id)
        except APIError as error:
            self.error = error

    async def _beat(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(self._interval_s)
            number += 1
            try:
                await self.stream.send(nodelink_pb2.AgentMessage(heartbeat=nodelink_pb2.Heartbeat(sequence=number)))
            except APIError:
                return

    async def report(self, *pods: nodelink_pb2.PodStatusUpdate, node: core_v1_pb2.NodeStatus | None = None) -> None:
        """Sends a batch and waits for its acknowledgement."""
        self.sequence += 1
        batch = nodelink_pb2.StatusBatch(sequence=self.sequence, pods=pods, node=node)
        await self.stream.send(nodelink_pb2.AgentMessage(status=batch))
        for _ in range(100):
            if self.acks and self.acks[-1].sequence >= self.sequence:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"no acknowledgement; the stream ended with {self.error!r}")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.stream.cancel()

    def freeze(self) -> None:
        """Neither beats nor reads any more, as behind a network that swallows everything."""
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def joined(control_plane: ControlPlane, name: str = "n1") -> AsyncIterator[tuple[Agent, Client]]:
    admin = control_plane.local_client(ADMIN)
    await admin.create(node_object(name))
    agent = Agent(control_plane, name)
    await agent.connect()
    await agent.synced.wait()
    await agent.report(node=node_status())
    try:
        yield agent, admin
    finally:
        await agent.stop()


async def ready_of(client: Client, name: str = "n1") -> tuple[str, str]:
    node = await client.get(core_v1_pb2.Node, name)
    return next(((c.status, c.reason) for c in node.status.conditions if c.type == "Ready"), ("", ""))


async def until_not_ready(client: Client) -> None:
    async for batch in client.watch(core_v1_pb2.Node, resource_version="0"):
        for event in batch.events:
            if any(c.type == "Ready" and c.status != "True" for c in event.object.status.conditions):
                return


def status_of(pod: core_v1_pb2.Pod, phase: str, *, terminated: bool = False) -> nodelink_pb2.PodStatusUpdate:
    return nodelink_pb2.PodStatusUpdate(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        status=core_v1_pb2.PodStatus(phase=phase),
        terminated=terminated,
    )


async def test_settings_come_first_with_interval_and_a_pod_cidr_that_stays(env: Env) -> None:
    async with (
        plane(env) as control_plane,
        joined(control_plane, "n1") as (first, admin),
        joined(control_plane, "n2") as (second, _),
    ):
        assert first.settings is not None
        assert second.settings is not None
        assert first.settings.heartbeat_interval_ms == 1000
        assert (first.settings.pod_cidr, second.settings.pod_cidr) == ("10.244.0.0/24", "10.244.1.0/24")
        await first.stop()
        await first.connect()
        await asyncio.sleep(1)
        assert first.settings.pod_cidr == "10.244.0.0/24"
        assert (await admin.get(core_v1_pb2.Node, "n1")).spec.pod_cidr == "10.244.0.0/24"


async def test_pods_of_the_node_and_only_those_come_down(env: Env) -> None:
    async with plane(env) as control_plane:
        admin = control_plane.local_client(ADMIN)
        for number in range(250):
            await admin.create(pod_object(f"before-{number}", "n1"))
        async with joined(control_plane) as (agent, _):
            assert len(agent.pods) == 250
            await admin.create(pod_object("mine", "n1"))
            await admin.create(pod_object("other", "n2"))
            await asyncio.sleep(1)
            assert "mine" in agent.pods
            assert "other" not in agent.pods
            await admin.delete(core_v1_pb2.Pod, "mine", "default", DeleteOptions(grace_period_s=0))
            await asyncio.sleep(1)
            assert "mine" not in agent.pods


async def test_statuses_go_up_and_a_terminated_pod_goes_for_good(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        pod = await admin.create(pod_object("web", "n1"))
        await asyncio.sleep(1)
        await agent.report(status_of(pod, "Running"))
        assert (await admin.get(core_v1_pb2.Pod, "web", "default")).status.phase == "Running"
        remaining = await admin.delete(core_v1_pb2.Pod, "web", "default")
        assert remaining is not None
        await asyncio.sleep(1)
        assert agent.pods["web"].metadata.HasField("deletion_timestamp")
        await agent.report(status_of(pod, "Succeeded", terminated=True))
        with pytest.raises(NotFound):
            await admin.get(core_v1_pb2.Pod, "web", "default")
        await asyncio.sleep(1)
        assert "web" not in agent.pods
        assert not any(ack.unknown for ack in agent.acks)


async def test_a_status_of_a_pod_that_is_not_the_nodes_is_refused(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        foreign = await admin.create(pod_object("foreign", "n2"))
        mine = await admin.create(pod_object("mine", "n1"))
        mine.metadata.uid = "an-older-pod-of-that-name"
        await asyncio.sleep(1)
        await agent.report(status_of(foreign, "Failed"), status_of(mine, "Failed"))
        assert sorted(key.name for key in agent.acks[-1].unknown) == ["foreign", "mine"]
        for name in ("foreign", "mine"):
            assert (await admin.get(core_v1_pb2.Pod, name, "default")).status.phase == "Pending"


async def test_a_silent_node_is_unknown_within_5_s_and_known_again_when_it_returns(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        await asyncio.sleep(60)
        assert await ready_of(admin) == ("True", "KubeletReady")
        agent.freeze()
        silent_since = asyncio.get_running_loop().time()
        await until_not_ready(admin)
        assert 3 <= asyncio.get_running_loop().time() - silent_since <= 5
        assert await ready_of(admin) == ("Unknown", "NodeStatusUnknown")
        node = await admin.get(core_v1_pb2.Node, "n1")
        assert node.status.conditions[0].message == "Kubelet stopped posting node status."
        await asyncio.sleep(0.1)
        assert not control_plane.heartbeats.connected("n1")
        await agent.connect()
        await agent.report(node=node_status())
        assert await ready_of(admin) == ("True", "KubeletReady")
        await asyncio.sleep(30)
        assert await ready_of(admin) == ("True", "KubeletReady")


async def test_a_stream_that_breaks_and_returns_at_once_is_not_noticed(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        for _ in range(5):
            await agent.stop()
            await asyncio.sleep(2)
            await agent.connect()
            await asyncio.sleep(1)
        await asyncio.sleep(10)
        assert await ready_of(admin) == ("True", "KubeletReady")


async def test_after_a_restart_nodes_have_time_to_return(env: Env, tmp_path: Any) -> None:
    url = f"sqlite://{tmp_path}/state.db"
    async with plane(env, url=url) as control_plane, joined(control_plane):
        pass
    async with plane(env, url=url) as control_plane:
        admin = control_plane.local_client(ADMIN)
        await asyncio.sleep(12)
        assert await ready_of(admin) == ("True", "KubeletReady")
        await asyncio.sleep(5)
        assert await ready_of(admin) == ("Unknown", "NodeStatusUnknown")


async def test_a_stalled_control_plane_blames_nobody(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        agent.freeze()
        await asyncio.sleep(2)
        control_plane.heartbeats.forgive(3.0)
        await asyncio.sleep(3)
        assert await ready_of(admin) == ("True", "KubeletReady")


async def test_the_lease_is_written_on_connect_and_seldom_after(env: Env) -> None:
    from wherry.pb.coordination_v1_pb2 import Lease

    async with plane(env) as control_plane, joined(control_plane) as (_, admin):
        await asyncio.sleep(2)
        lease = await admin.get(Lease, "n1", "kube-node-lease")
        assert lease.spec.holder_identity == "n1"
        assert lease.metadata.owner_references[0].kind == "Node"
        before = int(lease.metadata.resource_version)
        await asyncio.sleep(300)
        lease = await admin.get(Lease, "n1", "kube-node-lease")
        assert 3 <= int(lease.metadata.resource_version) - before <= 6  # all writes of the whole store


async def test_a_second_stream_of_a_node_replaces_the_first(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (first, admin):
        second = Agent(control_plane, "n1")
        await second.connect()
        await second.synced.wait()
        await asyncio.sleep(1)
        assert isinstance(first.error, ServiceUnavailable)
        assert control_plane.heartbeats.connected("n1")
        await asyncio.sleep(20)
        assert await ready_of(admin) == ("True", "KubeletReady")
        await second.stop()


@pytest.mark.parametrize(
    ("user", "node", "error"),
    [
        pytest.param("n1", "n2", Forbidden, id="another node"),
        pytest.param("n1", "n1", NotFound, id="no Node object yet"),
    ],
)
async def test_refused_hellos(env: Env, user: str, node: str, error: type[APIError]) -> None:
    async with plane(env) as control_plane:
        stream = control_plane.local_transport(node_identity(user)).bidi(CONNECT)
        await stream.send(nodelink_pb2.AgentMessage(hello=nodelink_pb2.Hello(node_name=node)))
        with pytest.raises(error):
            await anext(aiter(stream))


async def test_an_administrator_is_no_node(env: Env) -> None:
    async with plane(env) as control_plane:
        stream = control_plane.local_transport(ADMIN).bidi(CONNECT)
        await stream.send(nodelink_pb2.AgentMessage(hello=nodelink_pb2.Hello(node_name="n1")))
        with pytest.raises(Forbidden):
            await anext(aiter(stream))


async def test_a_deleted_node_is_told_to_dial_anew(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        await admin.delete(core_v1_pb2.Node, "n1")
        await asyncio.sleep(1)
        assert isinstance(agent.error, ServiceUnavailable)


async def with_pod(admin: Client, *containers: str) -> None:
    await admin.create(pod_object("web", "n1", *containers))


async def test_an_exec_session_carries_frames_both_ways_and_its_result(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        await with_pod(admin)
        start = pods_pb2.StreamStart(namespace="default", name="web", command=["cat"], stdin=True, stdout=True)
        client = admin.exec(start)
        await client.send(pods_pb2.StreamFrame(stdin=b"hello"))
        opened = await agent.opened.get()
        assert (opened.start.container, opened.start.kind) == ("main", pods_pb2.StreamStart.EXEC)
        assert opened.start.uid
        leg = agent.transport.bidi(SESSION, metadata={"wherry-session": opened.session_id})
        await leg.send(pods_pb2.StreamFrame())
        assert (await anext(aiter(leg))).stdin == b"hello"
        await leg.send(pods_pb2.StreamFrame(stdout=b"HELLO"))
        assert (await anext(aiter(client))).stdout == b"HELLO"
        await client.done_sending()
        assert (await anext(aiter(leg))).stdin_closed
        await leg.send(pods_pb2.StreamFrame(result={"status": "Success"}))  # type: ignore[arg-type]
        await leg.done_sending()
        assert [frame.result.status async for frame in client] == ["Success"]
        assert [frame async for frame in leg] == []


async def test_a_slow_client_holds_the_agent_back(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        await with_pod(admin)
        start = pods_pb2.StreamStart(namespace="default", name="web", command=["yes"], stdout=True)
        client = admin.exec(start)
        reader = asyncio.create_task(anext(aiter(client)))  # type: ignore[arg-type]
        opened = await agent.opened.get()
        leg = agent.transport.bidi(SESSION, metadata={"wherry-session": opened.session_id})
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await leg.send(pods_pb2.StreamFrame(stdout=b"y" * 1000))
                sent += 1

        task = asyncio.create_task(flood())
        await asyncio.sleep(60)
        assert (await reader).stdout
        assert sent < 300
        assert await ready_of(admin) == ("True", "KubeletReady")
        task.cancel()
        await client.cancel()
        await leg.cancel()


async def test_when_the_client_goes_the_agents_leg_ends(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        await with_pod(admin)
        client = admin.exec(pods_pb2.StreamStart(namespace="default", name="web", command=["sh"], stdout=True))
        reader = asyncio.create_task(anext(aiter(client)))  # type: ignore[arg-type]
        opened = await agent.opened.get()
        leg = agent.transport.bidi(SESSION, metadata={"wherry-session": opened.session_id})
        await asyncio.sleep(1)
        await client.cancel()
        with pytest.raises(ServiceUnavailable):
            await reader
        assert [frame async for frame in leg] == []


async def test_when_the_agents_leg_breaks_the_client_is_told(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        await with_pod(admin)
        client = admin.exec(pods_pb2.StreamStart(namespace="default", name="web", command=["sh"], stdout=True))
        reader = asyncio.create_task(anext(aiter(client)))  # type: ignore[arg-type]
        opened = await agent.opened.get()
        leg = agent.transport.bidi(SESSION, metadata={"wherry-session": opened.session_id})
        await asyncio.sleep(1)
        await leg.cancel()
        with pytest.raises(ServiceUnavailable):
            await reader


async def test_an_agent_that_never_dials_is_given_up(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        await with_pod(admin)
        with pytest.raises(Timeout):
            [chunk async for chunk in admin.logs("web", "default", core_v1_pb2.PodLogOptions())]
        await asyncio.sleep(1)
        assert agent.closed_sessions == [agent.opened.get_nowait().session_id]


async def test_logs_pass_the_agents_refusal_on(env: Env) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (agent, admin):
        await with_pod(admin)
        words = 'container "main" in pod "web" is waiting to start: ContainerCreating'

        async def serve() -> None:
            opened = await agent.opened.get()
            leg = agent.transport.bidi(SESSION, metadata={"wherry-session": opened.session_id})
            result = {"status": "Failure", "reason": "BadRequest", "code": 400, "message": words}
            await leg.send(pods_pb2.StreamFrame(result=result))  # type: ignore[arg-type]
            await leg.done_sending()
            assert [frame async for frame in leg] == []

        task = asyncio.create_task(serve())
        with pytest.raises(BadRequest) as caught:
            [chunk async for chunk in admin.logs("web", "default", core_v1_pb2.PodLogOptions())]
        assert caught.value.message == words
        await task


@pytest.mark.parametrize(
    ("containers", "options", "words"),
    [
        pytest.param(
            ("a", "b"), {}, "a container name must be specified for pod web, choose one of: [a b]", id="which"
        ),
        pytest.param(("a",), {"container": "x"}, "container x is not valid for pod web", id="no such container"),
        pytest.param(
            ("a",),
            {"tail_lines": -1},
            ('PodLogOptions "web" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0'),
            id="bad option",
        ),
    ],
)
async def test_questions_that_need_no_agent(
    env: Env, containers: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    async with plane(env) as control_plane, joined(control_plane) as (_, admin):
        await with_pod(admin, *containers)
        with pytest.raises((BadRequest, Invalid)) as caught:
            [chunk async for chunk in admin.logs("web", "default", core_v1_pb2.PodLogOptions(**options))]
        assert caught.value.message == words


async def test_a_node_that_is_not_connected(env: Env) -> None:
    async with plane(env) as control_plane:
        admin = control_plane.local_client(ADMIN)
        await admin.create(node_object("n1"))
        await with_pod(admin)
        with pytest.raises(ServiceUnavailable, match='node "n1" is not connected'):
            [chunk async for chunk in admin.logs("web", "default", core_v1_pb2.PodLogOptions())]


async def test_a_session_belongs_to_its_node(env: Env) -> None:
    async with (
        plane(env) as control_plane,
        joined(control_plane) as (agent, admin),
        joined(control_plane, "n2") as (thief, _),
    ):
        await with_pod(admin)
        client = admin.exec(pods_pb2.StreamStart(namespace="default", name="web", command=["sh"], stdout=True))
        reader = asyncio.create_task(anext(aiter(client)))  # type: ignore[arg-type]
        opened = await agent.opened.get()
        leg = thief.transport.bidi(SESSION, metadata={"wherry-session": opened.session_id})
        with pytest.raises(Forbidden):
            await anext(aiter(leg))
        await client.cancel()
        with pytest.raises(ServiceUnavailable):
            await reader
