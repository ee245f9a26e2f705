"""The shell around the policies' plan: when the table is written, and when it is gone. The kernel and the API are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from kubelet.network import NetworkError
from kubelet.network.policy.controller import RETRY_S, PolicyController
from wherry.api import meta
from wherry.pb import core_v1_pb2, networking_v1_pb2, nodelink_pb2


class Copy:
    """An informer's, changed by hand."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self._handlers: list[Callable[[Any, Any], None]] = []

    async def wait_synced(self) -> None: ...

    def add_handler(self, handler: Callable[[Any, Any], None]) -> None:
        self._handlers.append(handler)

    def list(self) -> list[Any]:
        return list(self.objects.values())

    def put(self, obj: Any) -> None:
        old, self.objects[meta.key(obj)] = self.objects.get(meta.key(obj)), obj
        for handler in self._handlers:
            handler(old, obj)

    def remove(self, key: str) -> None:
        old = self.objects.pop(key)
        for handler in self._handlers:
            handler(old, None)


class Informers:
    def __init__(self) -> None:
        self.copies: dict[Any, Copy] = {}

    def informer(self, cls: Any) -> Copy:
        return self.copies.setdefault(cls, Copy())


class Kernel:
    def __init__(self) -> None:
        self.written: list[str] = []
        self.state = ""
        self.removed = 0
        self.broken = False

    def prepare(self) -> bool:
        return True

    def has(self, state: str) -> bool:
        return self.state == state

    def apply(self, transaction: str) -> None:
        if self.broken:
            raise NetworkError("no")
        self.written.append(transaction)

    def remove(self) -> bool:
        self.removed += 1
        return True


class Peers:
    """`following` while somebody follows."""

    def __init__(self) -> None:
        self.following = False
        self.take: Callable[[nodelink_pb2.PodBatch], None] = lambda batch: None

    async def follow(self, take: Callable[[nodelink_pb2.PodBatch], None], restart: Callable[[], None]) -> None:
        self.take, self.following = take, True
        restart()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.following = False


class Scene:
    def __init__(self) -> None:
        self.informers, self.peers, self.kernel = Informers(), Peers(), Kernel()
        self.policies = self.informers.informer(networking_v1_pb2.NetworkPolicy)
        self.controller = PolicyController(self.informers, self.peers, self.kernel, "n1")  # type: ignore[arg-type]

    def sync(self) -> None:
        self.peers.take(nodelink_pb2.PodBatch(synced=True))


@asynccontextmanager
async def running() -> AsyncIterator[Scene]:
    scene = Scene()
    task = asyncio.create_task(scene.controller.run())
    await asyncio.sleep(0.1)
    try:
        yield scene
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def policy(name: str = "p") -> networking_v1_pb2.NetworkPolicy:
    made = networking_v1_pb2.NetworkPolicy()
    made.metadata.namespace, made.metadata.name = "default", name
    made.spec.policy_types.append("Ingress")
    return made


def pod() -> core_v1_pb2.Pod:
    made = core_v1_pb2.Pod()
    made.metadata.namespace, made.metadata.name, made.metadata.uid = "default", "a", "u"
    made.spec.node_name = "n1"
    return made


async def test_without_policies_there_is_no_table_and_nobody_follows_the_pods() -> None:
    async with running() as scene:
        await scene.controller.isolate(pod(), "10.1.0.1")
        assert (scene.kernel.removed, scene.kernel.written, scene.peers.following) == (1, [], False)
        scene.policies.put(policy())
        await asyncio.sleep(0.1)
        assert scene.peers.following
        assert scene.kernel.written == []  # the pods are not known yet
        scene.sync()
        await asyncio.sleep(0.1)
        assert len(scene.kernel.written) == 1
        scene.policies.remove("default/p")
        await asyncio.sleep(0.1)
        assert (scene.kernel.removed, scene.peers.following) == (2, False)


async def test_a_pod_is_isolated_when_the_kernel_has_it() -> None:
    async with running() as scene:
        scene.policies.put(policy())
        await asyncio.sleep(0.1)
        isolating = asyncio.create_task(scene.controller.isolate(pod(), "10.1.0.1"))
        await asyncio.sleep(0.1)
        assert not isolating.done()
        scene.kernel.broken = True
        scene.sync()
        await asyncio.sleep(0.1)
        assert not isolating.done()
        scene.kernel.broken = False
        await isolating
        assert "ingress { 10.1.0.1 : jump" in scene.kernel.written[-1]


async def test_what_the_kernel_refuses_is_written_as_a_whole() -> None:
    async with running() as scene:
        scene.policies.put(policy())
        await asyncio.sleep(0.1)
        scene.sync()
        await asyncio.sleep(0.1)
        scene.kernel.broken = True
        told = pod()
        told.status.pod_ip = "10.1.0.7"
        scene.peers.take(nodelink_pb2.PodBatch(upserts=[told]))
        await asyncio.sleep(0.1)
        scene.kernel.broken = False
        await asyncio.sleep(RETRY_S * 2)
        assert scene.kernel.written[-1].startswith("add table")
        assert "ingress { 10.1.0.7 : jump" in scene.kernel.written[-1]
