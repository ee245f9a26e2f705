"""The agent against a control plane of a few lines: registering, adopting, losing the stream, orphans, sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from kubelet.agent import Agent
from kubelet.options import AgentOptions
from kubelet.runtime.hollow import BEHAVIOUR, HollowRuntime
from kubelet.streams.sessions import SESSION
from wherry.api.context import Env
from wherry.api.errors import NotFound, ServiceUnavailable
from wherry.client.windows import WINDOW_BYTES
from wherry.pb import core_v1_pb2, nodelink_pb2, pods_pb2
from wherry.testing.builders import PodBuilder, make_pod

IMAGE = "example.com/app:1"


class Stream:
    """One end of a bidirectional call: `sent` is what the agent said, `say` what it hears."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self.broken = False

    def say(self, message: Message | None) -> None:
        self._heard.put_nowait(message)

    async def send(self, message: Message) -> None:
        if self.broken:
            raise ServiceUnavailable("broken")
        copy = type(message)()
        copy.CopyFrom(message)
        self.sent.append(copy)

    async def done_sending(self) -> None: ...

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self._heard.get()) is not None:
            yield message
        if self.broken:
            raise ServiceUnavailable("broken")

    async def cancel(self) -> None:
        self.broken = True


class ControlPlane:
    """The transport, and what stands behind it. Acknowledges statuses at once."""

    def __init__(self) -> None:
        self.up = True
        self.node: core_v1_pb2.Node | None = None
        self.links: list[Stream] = []
        self.sessions: dict[str, Stream] = {}
        self.pods: dict[str, core_v1_pb2.Pod] = {}
        self.statuses: dict[str, core_v1_pb2.PodStatus] = {}
        self.terminated: list[str] = []
        self.beats = 0
        self.deaf = False  # takes messages and forgets them, as a server that is about to crash
        self.node_status = core_v1_pb2.NodeStatus()

    async def unary(self, method: str, request: Any, *, timeout_s: float | None = None) -> Any:
        if not self.up:
            raise ServiceUnavailable("down")
        from wherry.pb import resources_pb2

        if method.endswith("/Get"):
            if self.node is None:
                raise NotFound("no such node")
            answer = resources_pb2.ObjectResponse()
            answer.object.Pack(self.node)
            return answer
        if method.endswith("/Create"):
            if request.object.Is(core_v1_pb2.Node.DESCRIPTOR):
                self.node = core_v1_pb2.Node()
                request.object.Unpack(self.node)
            answer = resources_pb2.ObjectResponse()
            answer.object.CopyFrom(request.object)
            return answer
        raise ServiceUnavailable(method)

    def server_stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        raise NotImplementedError

    def bidi(self, method: str, *, metadata: Mapping[str, str] | None = None) -> Any:
        stream = Stream()
        if method == SESSION:
            self.sessions[(metadata or {})["wherry-session"]] = stream
            return stream
        if not self.up:
            stream.broken = True
            stream.say(None)
            return stream
        self.links.append(stream)
        send = stream.send

        async def heard(message: Any) -> None:
            await send(message)
            self._take(stream, message)

        stream.send = heard  # type: ignore[method-assign]
        stream.say(nodelink_pb2.ControlMessage(settings=nodelink_pb2.Settings(heartbeat_interval_ms=2000)))
        batch = nodelink_pb2.PodBatch(upserts=list(self.pods.values()), synced=True)
        stream.say(nodelink_pb2.ControlMessage(pods=batch))
        return stream

    def _take(self, stream: Stream, message: nodelink_pb2.AgentMessage) -> None:
        if self.deaf:
            return
        if message.HasField("heartbeat"):
            self.beats += 1
        if message.HasField("status"):
            ack = nodelink_pb2.StatusAck(sequence=message.status.sequence)
            for update in message.status.pods:
                if update.uid not in self.pods:
                    ack.unknown.add(namespace=update.namespace, name=update.name, uid=update.uid)
                    continue
                self.statuses[update.name] = update.status
                if update.terminated:
                    self.terminated.append(update.name)
                    self.remove(update.name)
            if message.status.HasField("node"):
                self.node_status = message.status.node
            stream.say(nodelink_pb2.ControlMessage(ack=ack))

    async def close(self) -> None: ...

    def put(self, pod: PodBuilder) -> None:
        made = pod.build()
        self.pods[made.metadata.uid] = made
        self._send(nodelink_pb2.PodBatch(upserts=[made]))

    def remove(self, name: str) -> None:
        for uid, pod in list(self.pods.items()):
            if pod.metadata.name == name:
                del self.pods[uid]
                self._send(nodelink_pb2.PodBatch(removed=[nodelink_pb2.PodKey(name=name, uid=uid)]))

    def _send(self, batch: nodelink_pb2.PodBatch) -> None:
        if self.links and not self.links[-1].broken:
            self.links[-1].say(nodelink_pb2.ControlMessage(pods=batch))

    def go_down(self) -> None:
        self.up = False
        for link in self.links:
            link.broken = True
            link.say(None)

    def phase(self, name: str) -> str:
        return self.statuses[name].phase if name in self.statuses else ""


class Addresses:
    """The node's network: which calls for lost addresses it got."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    async def configure(self, pod_cidr: str) -> None:
        pass

    async def release_leaked(self, sandbox_ids: set[str]) -> list[str]:
        self.asked.append(sandbox_ids)
        return []


class World:
    def __init__(self, env: Env, root: Path) -> None:
        self.env = env
        self.control = ControlPlane()
        self.runtime = HollowRuntime(env, write_logs=True)
        self.runtime.load_image(IMAGE)
        self.root = root
        self.network = Addresses()
        self.task: asyncio.Task[None] | None = None
        self.agent: Agent = self.make()

    def make(self) -> Agent:
        options = AgentOptions(
            "n1", root=self.root, ips=("192.0.2.1",), pod_cgroups=False, capacity={"cpu": "2"}, network=self.network
        )
        return Agent(self.env, self.control, self.runtime, options)

    def start(self) -> None:
        self.agent = self.make()
        self.task = asyncio.ensure_future(self.agent.run())

    async def kill(self) -> None:
        """As kill -9 would: nothing is said or written any more."""
        assert self.task is not None
        for link in self.control.links:
            link.broken = True
        self.task.cancel()
        await asyncio.wait((self.task,))

    async def until(self, what: Callable[[], Any], limit_s: float = 120.0) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while not what():
            await asyncio.sleep(0.05)
            assert loop.time() < end, f"never happened: {self.control.statuses}"

    async def ids(self) -> list[str]:
        return sorted(c.id for c in await self.runtime.list_containers())


@pytest_asyncio.fixture
async def world(env: Env, tmp_path: Path) -> AsyncIterator[World]:
    made = World(env, tmp_path)
    made.start()
    yield made
    assert made.task is not None
    if not made.task.done():
        made.agent.check_invariants()
        await made.kill()
    made.runtime.check_invariants()


def pod(name: str, behaviour: str = "") -> PodBuilder:
    return make_pod(name).on("n1").annotations({BEHAVIOUR + "all": behaviour})


async def test_the_node_registers_reports_and_beats(world: World) -> None:
    await world.until(
        lambda: any(c.type == "Ready" and c.status == "True" for c in world.control.node_status.conditions)
    )
    assert world.control.node is not None
    assert world.control.node.metadata.labels["kubernetes.io/hostname"] == "n1"
    status = world.control.node_status
    assert status.capacity["cpu"].string == "2"
    assert [(a.type, a.address) for a in status.addresses] == [("InternalIP", "192.0.2.1"), ("Hostname", "n1")]
    assert status.node_info.container_runtime_version == "hollow://1.0"
    before = world.control.beats
    await asyncio.sleep(10)
    assert world.control.beats - before == 5


async def test_a_pod_comes_and_goes(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    world.control.put(pod("a").version(2).deleting(grace_s=1))
    await world.until(lambda: world.control.terminated == ["a"])
    await world.until(lambda: not world.agent.statuses._latest)
    assert await world.ids() == []
    assert list((world.root / "checkpoints").iterdir()) == []


async def test_without_a_control_plane_pods_run_on_and_restart(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    world.control.go_down()
    await asyncio.sleep(60)
    (only,) = await world.ids()
    world.runtime.kill_process(only)
    await asyncio.sleep(5)
    assert len(await world.ids()) == 2, "the dead one and its successor"
    world.control.up = True
    await world.until(lambda: world.control.statuses["a"].container_statuses[0].restart_count == 1)


async def test_a_killed_agent_adopts_everything_also_without_a_control_plane(world: World) -> None:
    for name in ("a", "b"):
        world.control.put(pod(name))
    await world.until(lambda: world.control.phase("a") == world.control.phase("b") == "Running")
    await asyncio.sleep(2)
    before = await world.ids()
    await world.kill()
    world.control.go_down()
    world.start()
    await asyncio.sleep(30)
    assert await world.ids() == before
    world.runtime.kill_process(before[0])
    await asyncio.sleep(5)
    assert len(await world.ids()) == 3, "it is still looked after"
    world.control.up = True
    await asyncio.sleep(30)
    assert world.control.terminated == []
    assert len(await world.ids()) == 3


async def test_pods_that_are_no_longer_its_own_go_after_the_sync_and_not_before(world: World) -> None:
    world.control.put(pod("a"))
    world.control.put(pod("b"))
    await world.until(lambda: world.control.phase("a") == world.control.phase("b") == "Running")
    world.control.go_down()
    del world.control.pods["uid-default-a"]
    await asyncio.sleep(30)
    assert len(await world.ids()) == 2
    world.control.up = True
    await world.until(lambda: list(world.agent.stages()) == ["b"])
    await asyncio.sleep(1)
    assert len(await world.ids()) == 1
    assert world.control.terminated == []


async def test_orphans_without_a_checkpoint_are_removed_and_strangers_stay(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    await world.kill()
    for file in list((world.root / "checkpoints").iterdir()):
        file.unlink()
    (mine,) = await world.runtime.list_sandboxes()
    from kubelet.runtime.base import SandboxConfig

    stranger = await world.runtime.run_sandbox(SandboxConfig("other", "x", "u", 0, "x", "/l"))
    world.control.pods.clear()
    world.start()
    await asyncio.sleep(60)
    left = [sandbox.id for sandbox in await world.runtime.list_sandboxes()]
    assert left == [stranger]
    assert mine.id not in left


async def test_without_its_checkpoints_it_adopts_what_the_control_plane_names(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    before = await world.ids()
    await world.kill()
    for file in list((world.root / "checkpoints").iterdir()):
        file.unlink()
    world.start()
    await asyncio.sleep(60)
    assert await world.ids() == before
    assert len(await world.runtime.list_sandboxes()) == 1


async def test_a_deletion_that_the_control_plane_did_not_hear_of_is_told_again(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    world.control.put(pod("a").version(2).deleting(grace_s=1))
    await asyncio.sleep(0.001)
    world.control.go_down()
    await asyncio.sleep(20)
    assert await world.ids() == []
    world.control.up = True
    await world.until(lambda: world.control.terminated == ["a"])


async def test_a_status_that_was_sent_and_lost_is_sent_again(world: World) -> None:
    await world.until(lambda: world.control.links)
    world.control.deaf = True
    world.control.put(pod("a"))
    await asyncio.sleep(5)
    assert world.control.statuses == {}
    world.control.go_down()
    world.control.up, world.control.deaf = True, False
    await world.until(lambda: world.control.phase("a") == "Running", 10)


def open_session(world: World, number: str, **start: Any) -> None:
    message = nodelink_pb2.ControlMessage()
    message.open_session.session_id = number
    message.open_session.start.CopyFrom(pods_pb2.StreamStart(namespace="default", name="a", **start))
    world.control.links[-1].say(message)


async def finished(world: World, number: str) -> tuple[bytes, bytes, Any]:
    """(stdout, stderr, result)."""
    await world.until(lambda: number in world.control.sessions)
    stream = world.control.sessions[number]
    await world.until(lambda: any(frame.WhichOneof("frame") == "result" for frame in stream.sent))
    stream.say(None)
    return (
        b"".join(frame.stdout for frame in stream.sent),
        b"".join(frame.stderr for frame in stream.sent),
        stream.sent[-1].result,
    )


async def test_sessions(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    kind = pods_pb2.StreamStart
    open_session(world, "1", kind=kind.EXEC, command=["echo", "hi"], stdout=True)
    stdout, _, result = await finished(world, "1")
    assert (stdout, result.status) == (b"hi\n", "Success")
    open_session(world, "2", kind=kind.EXEC, command=["exit", "3"], stdout=True)
    _, _, result = await finished(world, "2")
    assert (result.reason, result.details.causes[0].reason, result.details.causes[0].message) == (
        "NonZeroExitCode", "ExitCode", "3",
    )  # fmt: skip
    open_session(world, "3", kind=kind.LOGS)
    stdout, _, result = await finished(world, "3")
    assert (stdout, result.status) == (b"started c\n", "Success")
    open_session(world, "4", kind=kind.LOGS, log_options=core_v1_pb2.PodLogOptions(previous=True))
    _, _, result = await finished(world, "4")
    assert result.message == 'previous terminated container "c" in pod "a" not found'
    open_session(world, "5", kind=kind.EXEC, command=["cat"], stdin=True, stdout=True)
    await world.until(lambda: "5" in world.control.sessions)
    world.control.sessions["5"].say(pods_pb2.StreamFrame(stdin=b"abc"))
    world.control.sessions["5"].say(pods_pb2.StreamFrame(stdin_closed=True))
    stdout, _, result = await finished(world, "5")
    assert (stdout, result.status) == (b"abc", "Success")


async def test_port_forward_keeps_connections_apart(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    open_session(world, "1", kind=pods_pb2.StreamStart.PORT_FORWARD)
    await world.until(lambda: "1" in world.control.sessions)
    stream = world.control.sessions["1"]
    for channel in (1, 2):
        stream.say(pods_pb2.StreamFrame(channel=channel, start_port=80))
        stream.say(pods_pb2.StreamFrame(channel=channel, data=b"x" * channel))
    await world.until(lambda: sum(len(frame.data) for frame in stream.sent) == 3)
    assert {(frame.channel, frame.data) for frame in stream.sent if frame.data} == {(1, b"x"), (2, b"xx")}
    stream.say(pods_pb2.StreamFrame(channel=1, channel_closed=True))
    await world.until(lambda: any(frame.channel_closed and frame.channel == 1 for frame in stream.sent))
    stream.say(None)
    await world.until(lambda: any(frame.WhichOneof("frame") == "result" for frame in stream.sent))


class Port:
    """A connection into a pod that sends for ever, and takes what it is sent only where it is not stuck."""

    def __init__(self, *, stuck: bool) -> None:
        self.stuck = stuck
        self.taken = 0

    async def send(self, data: bytes) -> None:
        if self.stuck:
            await asyncio.get_running_loop().create_future()
        self.taken += len(data)

    async def send_eof(self) -> None: ...
    async def resize(self, width: int, height: int) -> None: ...
    async def close(self) -> None: ...

    async def wait(self) -> int:
        return 0

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        while True:
            await asyncio.sleep(0.001)
            yield 1, b"y" * 10_000


async def test_one_stuck_connection_of_a_port_forward_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 is sound, 81 takes nothing, 82 takes for ever to connect; nobody reads what comes from 81."""
    ports = {80: Port(stuck=False), 81: Port(stuck=True)}

    async def port_forward(sandbox_id: str, port: int, address: str = "") -> Port:
        if port not in ports:
            await asyncio.sleep(3600)
        return ports[port]

    monkeypatch.setattr(world.runtime, "port_forward", port_forward)
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    open_session(world, "1", kind=pods_pb2.StreamStart.PORT_FORWARD, windows=True)
    await world.until(lambda: "1" in world.control.sessions)
    stream = world.control.sessions["1"]
    for channel, port in ((2, 82), (1, 81), (0, 80)):
        stream.say(pods_pb2.StreamFrame(channel=channel, start_port=port))
    for _ in range(8):
        stream.say(pods_pb2.StreamFrame(channel=1, data=b"x" * (WINDOW_BYTES // 8)))

    def took(size: int) -> bool:
        return ports[80].taken == size

    sent = 0
    for _ in range(40):  # more than a window, as the credit comes
        stream.say(pods_pb2.StreamFrame(channel=0, data=b"x" * (WINDOW_BYTES // 8)))
        stream.say(pods_pb2.StreamFrame(channel=0, credit=WINDOW_BYTES // 8))
        sent += WINDOW_BYTES // 8
        await world.until(partial(took, sent))

    def received(channel: int) -> int:
        return sum(len(frame.data) for frame in stream.sent if frame.channel == channel)

    await asyncio.sleep(60)
    assert received(0) == WINDOW_BYTES + sent
    assert received(1) == WINDOW_BYTES, "what nobody reads stays within its window"
    credit = sum(frame.credit for frame in stream.sent if frame.channel == 0)
    assert sent - WINDOW_BYTES // 4 < credit <= sent
    stream.say(pods_pb2.StreamFrame(channel=2, channel_error="not wanted any more"))
    stream.say(None)
    await world.until(lambda: any(frame.WhichOneof("frame") == "result" for frame in stream.sent))


async def test_a_broken_session_leaves_the_agent_and_other_sessions_alone(world: World) -> None:
    """A client that goes away while the pod still sends."""
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    open_session(world, "1", kind=pods_pb2.StreamStart.PORT_FORWARD)
    await world.until(lambda: "1" in world.control.sessions)
    stream = world.control.sessions["1"]
    stream.say(pods_pb2.StreamFrame(channel=1, start_port=80))
    stream.say(pods_pb2.StreamFrame(channel=1, data=b"x"))
    await world.until(lambda: any(frame.data for frame in stream.sent))
    stream.broken = True
    stream.say(pods_pb2.StreamFrame(channel=1, data=b"y"))
    await asyncio.sleep(10)
    assert world.task is not None
    assert not world.task.done(), "the agent must live on"
    world.control.put(pod("b"))
    await world.until(lambda: world.control.phase("b") == "Running")


async def test_a_client_that_leaves_ends_the_following_of_a_log(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    open_session(world, "1", kind=pods_pb2.StreamStart.LOGS, log_options=core_v1_pb2.PodLogOptions(follow=True))
    await world.until(lambda: "1" in world.control.sessions and len(world.control.sessions["1"].sent) == 2)
    await asyncio.sleep(100)
    assert world.agent.sessions._tasks
    world.control.sessions["1"].say(None)
    await asyncio.sleep(1)
    world.control.sessions["1"].say(None)
    await world.until(lambda: not world.agent.sessions._tasks)


@pytest.mark.parametrize("moment_s", [0.02, 0.12, 0.16, 0.3])
async def test_killed_at_any_moment_of_a_start_the_next_agent_finishes_it(world: World, moment_s: float) -> None:
    world.control.put(pod("a"))
    await asyncio.sleep(moment_s)
    await world.kill()
    await asyncio.sleep(1)
    world.start()
    await world.until(lambda: world.control.phase("a") == "Running", 60)
    await asyncio.sleep(30)
    ready = [s for s in await world.runtime.list_sandboxes() if s.state.value == "ready"]
    assert len(ready) == 1
    assert len([c for c in await world.runtime.list_containers() if c.state.value == "running"]) == 1


async def test_a_pod_that_does_not_fit_fails_and_leaves_the_others_alone(world: World) -> None:
    world.control.put(pod("a").cpu("1500m"))
    await world.until(lambda: world.control.phase("a") == "Running")
    world.control.put(pod("b").cpu("600m"))
    world.control.put(pod("c").cpu("500m"))
    await world.until(lambda: world.control.phase("b") == "Failed" and world.control.phase("c") == "Running")
    refused = world.control.statuses["b"]
    assert refused.reason == "OutOfcpu"
    assert not refused.container_statuses
    assert refused.message.endswith("resource: cpu, requested: 600, used: 1500, capacity: 2000")
    assert world.control.phase("a") == "Running"
    assert len(await world.ids()) == 2


async def test_addresses_are_given_back_only_when_the_runtime_has_lost_its_sandboxes(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    assert world.network.asked == [set()]
    await world.kill()
    world.start()
    await asyncio.sleep(5)
    assert world.network.asked == [set()]


def _applied(world: World, name: str) -> str:
    entries = world.control.statuses[name].container_statuses
    return entries[0].resources.requests["cpu"].string if entries else ""


def _resizing(world: World, name: str) -> dict[str, str]:
    found = world.control.statuses[name].conditions
    return {item.type: item.reason for item in found if item.type.startswith("PodResize")}


async def test_a_pod_is_resized_in_place_when_there_is_room(world: World) -> None:
    world.control.put(pod("a").cpu("1"))
    world.control.put(pod("b").cpu("500m"))
    await world.until(lambda: world.control.phase("a") == world.control.phase("b") == "Running")
    before = await world.ids()
    world.control.put(pod("a").version(2).cpu("1200m"))
    await world.until(lambda: _applied(world, "a") == "1200m")
    shares = {found.config.resources.cpu_shares for found in world.runtime._containers.values()}
    assert shares == {1200 * 1024 // 1000, 512}
    assert await world.ids() == before, "nothing was restarted"
    # Two cores are all there is: one waits for the other, one will never have three.
    world.control.put(pod("a").version(3).cpu("1800m"))
    world.control.put(pod("b").version(3).cpu("3"))
    await world.until(lambda: _resizing(world, "a") == {"PodResizePending": "Deferred"})
    await world.until(lambda: _resizing(world, "b") == {"PodResizePending": "Infeasible"})
    assert (_applied(world, "a"), _applied(world, "b")) == ("1200m", "500m")
    # An agent that dies meanwhile knows from the status what is allocated.
    for name in ("a", "b"):
        made = world.control.pods[f"uid-default-{name}"]
        made.status.CopyFrom(world.control.statuses[name])
    await world.kill()
    world.start()
    await world.until(lambda: world.control.beats > 0)
    await asyncio.sleep(30)
    assert (_applied(world, "a"), _applied(world, "b")) == ("1200m", "500m")
    assert await world.ids() == before
    world.control.put(pod("b").version(4).cpu("500m").deleting(grace_s=1))
    await world.until(lambda: _applied(world, "a") == "1800m")
    assert _resizing(world, "a") == {}
