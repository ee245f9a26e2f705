"""An agent against a control plane of a few lines: on a hollow runtime, for tests on virtual time (`world` of
tests/unit/kubelet/conftest.py starts one), and on any runtime for tests/contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from kubelet.agent import Agent
from kubelet.link import SESSION
from kubelet.options import AgentOptions
from kubelet.runtime.base import Runtime
from kubelet.runtime.hollow import BEHAVIOUR, HollowRuntime
from wherry.api.context import Env
from wherry.api.errors import NotFound, ServiceUnavailable
from wherry.pb import core_v1_pb2, nodelink_pb2
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
        self.objects: dict[tuple[str, str], Message] = {}  # kind and name -> what pods refer to
        self.events: list[core_v1_pb2.Event] = []

    async def unary(self, method: str, request: Any, *, timeout_s: float | None = None) -> Any:
        if not self.up:
            raise ServiceUnavailable("down")
        from wherry.pb import resources_pb2

        if method.endswith("/Get"):
            asked = request.resource.resource.rstrip("s"), request.name
            found = self.node if asked[0] == "node" else self.objects.get(asked)
            if found is None:
                raise NotFound(f'{asked[0]}s "{asked[1]}" not found')
            answer = resources_pb2.ObjectResponse()
            answer.object.Pack(found)
            return answer
        if method.endswith("/Create"):
            if request.object.Is(core_v1_pb2.Node.DESCRIPTOR):
                self.node = core_v1_pb2.Node()
                request.object.Unpack(self.node)
            answer = resources_pb2.ObjectResponse()
            answer.object.CopyFrom(request.object)
            return answer
        if method.endswith("/CreateBatch"):
            made = resources_pb2.CreateBatchResponse()
            for item in request.objects:
                self.events.append(core_v1_pb2.Event.FromString(item.value))
                made.results.add(name=self.events[-1].metadata.name)
            return made
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

    def put(self, pod: PodBuilder | core_v1_pb2.Pod) -> None:
        made = pod if isinstance(pod, core_v1_pb2.Pod) else pod.build()
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

    async def configure(self, pod_cidr: str, cluster_cidr: str = "") -> None: ...
    async def configure_again(self) -> None: ...

    async def release_leaked(self, sandbox_ids: set[str]) -> list[str]:
        self.asked.append(sandbox_ids)
        return []


R = TypeVar("R", bound=Runtime)


class AnyWorld(Generic[R]):
    """One agent at a time, on the same runtime. `options` of the agent, beside those that all of them have."""

    def __init__(self, env: Env, root: Path, runtime: R, **options: Any) -> None:
        self.env = env
        self.control = ControlPlane()
        self.runtime = runtime
        self.options = options
        self.root = root
        self.network = Addresses()
        self.task: asyncio.Task[None] | None = None
        self.agent: Agent = self.make()

    def make(self) -> Agent:
        fixed: dict[str, Any] = {"ips": ("192.0.2.1",), "pod_cgroups": False, "capacity": {"cpu": "2"}}
        options = AgentOptions("n1", root=self.root, network=self.network, **(fixed | self.options))
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


class World(AnyWorld[HollowRuntime]):
    def __init__(self, env: Env, root: Path) -> None:
        super().__init__(env, root, HollowRuntime(env, write_logs=True))
        self.runtime.load_image(IMAGE)


def pod(name: str, behaviour: str = "") -> PodBuilder:
    return make_pod(name).on("n1").annotations({BEHAVIOUR + "all": behaviour})
