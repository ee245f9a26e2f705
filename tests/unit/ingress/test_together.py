"""Several ingresses of one control plane, and what nodes have to do with them: without sockets, on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from controlplane.auth.names import INGRESS_USER
from controlplane.nodelink.routing import LIMIT_S
from controlplane.registry.base import ADMIN, Identity
from controlplane.server import ControlPlane
from kubelet.ingress.acknowledge import ROUTE, RouteStream
from kubelet.ingress.presence import DURATION_S, RENEW_S, Presence
from kubelet.network.level import Level
from wherry.api.context import Env
from wherry.api.errors import Forbidden, ServiceUnavailable
from wherry.client.base import ClientAPI
from wherry.pb import coordination_v1_pb2, core_v1_pb2, discovery_v1_pb2, nodelink_pb2
from wherry.testing.serving import node_identity, plane

INGRESS = Identity(INGRESS_USER, ("system:authenticated",))


class Line:
    """To the control plane; without it nothing is written, and the watch of the Leases is silent because all are without."""

    def __init__(self, client: ClientAPI) -> None:
        self._client = client
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        if self.broken:
            raise ServiceUnavailable("Connection refused")
        return getattr(self._client, name)


class Together:
    """Ingresses by name, each with its addresses."""

    def __init__(self, control_plane: ControlPlane, env: Env) -> None:
        self._control_plane, self._env = control_plane, env
        self.lines: dict[str, Line] = {}
        self.all: dict[str, Presence] = {}
        self.changes: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, *addresses: str) -> None:
        self.lines[name] = line = Line(self._control_plane.local_client(INGRESS))
        self.all[name] = Presence(cast(ClientAPI, line), self._env, name, addresses, lambda: self.changes.append(name))
        self._tasks[name] = asyncio.create_task(self.all[name].run())

    async def kill(self, name: str) -> None:
        del self.all[name]
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.wait((task,))

    def addresses(self) -> set[tuple[str, ...]]:
        return {presence.addresses() for presence in self.all.values()}


async def test_all_ingresses_publish_the_addresses_of_all(env: Env) -> None:
    async with plane(env) as control_plane:
        ingresses = Together(control_plane, env)
        ingresses.start("one", "192.0.2.1")
        await asyncio.sleep(1)
        assert ingresses.addresses() == {("192.0.2.1",)}
        ingresses.start("two", "192.0.2.2", "in.example.org")
        ingresses.start("three", "192.0.2.1")  # the same balancer is in front of it
        await asyncio.sleep(1)
        assert ingresses.addresses() == {("192.0.2.1", "192.0.2.2", "in.example.org")}
        assert set(ingresses.changes) == {"one", "two", "three"}
        await asyncio.sleep(3 * DURATION_S)
        assert ingresses.addresses() == {("192.0.2.1", "192.0.2.2", "in.example.org")}
        await ingresses.kill("two")
        ingresses.changes.clear()
        await asyncio.sleep(DURATION_S / 2)
        assert ("192.0.2.1", "192.0.2.2", "in.example.org") in ingresses.addresses()
        await asyncio.sleep(DURATION_S)
        assert ingresses.addresses() == {("192.0.2.1",)}
        assert set(ingresses.changes) == {"one", "three"}
        client = control_plane.local_client(ADMIN)
        left = [lease.metadata.name for lease in (await client.list(coordination_v1_pb2.Lease)).items]
        assert [name for name in left if "ingress" in name] == ["wherry-ingress-one", "wherry-ingress-three"]
        ingresses.start("two", "192.0.2.2")
        await asyncio.sleep(1)
        assert ingresses.addresses() == {("192.0.2.1", "192.0.2.2")}
        await ingresses.all["three"].leave()
        await asyncio.sleep(RENEW_S)
        for name in list(ingresses.all):
            await ingresses.kill(name)


async def test_an_outage_of_ones_own_is_not_the_others_absence(env: Env) -> None:
    async with plane(env) as control_plane:
        ingresses = Together(control_plane, env)
        ingresses.start("one", "192.0.2.1")
        ingresses.start("two", "192.0.2.2")
        await asyncio.sleep(RENEW_S)
        both = {("192.0.2.1", "192.0.2.2")}
        assert ingresses.addresses() == both
        for line in ingresses.lines.values():
            line.broken = True
        for _ in range(12):
            await asyncio.sleep(RENEW_S)
            assert ingresses.addresses() == both
        ingresses.changes.clear()
        ingresses.lines["one"].broken = False  # the other is back a little later
        await asyncio.sleep(DURATION_S / 2)
        client = control_plane.local_client(ADMIN)
        left = [lease.metadata.name for lease in (await client.list(coordination_v1_pb2.Lease)).items]
        assert [name for name in left if "ingress" in name] == ["wherry-ingress-one", "wherry-ingress-two"]
        ingresses.lines["two"].broken = False
        await asyncio.sleep(3 * DURATION_S)
        assert ingresses.addresses() == both
        assert not ingresses.changes
        # Who really stays away is missed after all.
        ingresses.lines["two"].broken = True
        await asyncio.sleep(DURATION_S + 2 * RENEW_S)
        assert ingresses.all["one"].addresses() == ("192.0.2.1",)
        for name in list(ingresses.all):
            await ingresses.kill(name)


def slice_of(revision: int) -> discovery_v1_pb2.EndpointSlice:
    made = discovery_v1_pb2.EndpointSlice()
    made.metadata.resource_version = str(revision)
    return made


class Node:
    """Asks whether everyone routes by a revision; routes nothing itself."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self.settled: list[nodelink_pb2.RoutesSettled] = []

    async def run(self) -> None:
        client = self._control_plane.local_client(ADMIN)
        node = core_v1_pb2.Node()
        node.metadata.name = "n1"
        await client.create(node)
        self._stream = self._control_plane.local_transport(node_identity("n1")).bidi("/wherry.v1.NodeLink/Connect")
        await self._stream.send(nodelink_pb2.AgentMessage(hello=nodelink_pb2.Hello(node_name="n1")))
        async for message in self._stream:
            if message.WhichOneof("message") == "routes_settled":
                self.settled.append(message.routes_settled)

    async def ask(self, request: int, revision: int) -> None:
        asked = nodelink_pb2.RoutesRequest(request=request, revision=revision)
        await self._stream.send(nodelink_pb2.AgentMessage(routes_request=asked))


async def test_a_pod_that_ends_waits_for_every_ingress(env: Env) -> None:
    async with plane(env) as control_plane:
        level, node = Level(), Node(control_plane)
        ingress = RouteStream(control_plane.local_transport(INGRESS), env, "one", level.reached)
        tasks = [asyncio.create_task(node.run()), asyncio.create_task(ingress.run())]
        await asyncio.sleep(1)
        await node.ask(1, 70)
        await asyncio.sleep(LIMIT_S / 2)
        assert not node.settled
        level.seen(slice_of(71))
        level.done(level.mark())
        await asyncio.sleep(0.1)
        assert [list(item.missing) for item in node.settled] == [[]]
        # One that does not answer delays it by a bounded time, one that has gone does not.
        await node.ask(2, 90)
        await asyncio.sleep(LIMIT_S + 0.1)
        assert [list(item.missing) for item in node.settled[1:]] == [["edge/one"]]
        tasks[1].cancel()
        await asyncio.sleep(0.1)
        await node.ask(3, 99)
        await asyncio.sleep(0.1)
        assert [item.request for item in node.settled] == [1, 2, 3]
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_stream_comes_back_after_the_control_plane(env: Env) -> None:
    async with plane(env) as control_plane:
        level, node = Level(), Node(control_plane)
        first = RouteStream(control_plane.local_transport(INGRESS), env, "one", level.reached)
        second = RouteStream(control_plane.local_transport(INGRESS), env, "one", level.reached)
        tasks = [asyncio.create_task(task) for task in (node.run(), first.run())]
        await asyncio.sleep(1)
        tasks.append(asyncio.create_task(second.run()))  # takes the name; the first goes on trying
        await asyncio.sleep(1)
        level.seen(slice_of(50))
        level.done(level.mark())
        await node.ask(1, 50)
        await asyncio.sleep(LIMIT_S * 2)
        assert [list(item.missing) for item in node.settled] == [[]]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_only_ingresses_say_how_connections_are_led(env: Env) -> None:
    async with plane(env) as control_plane:
        stream = control_plane.local_transport(node_identity("n1")).bidi(ROUTE)
        await stream.send(nodelink_pb2.AgentMessage(hello=nodelink_pb2.Hello(node_name="n1")))
        with pytest.raises(Forbidden):
            async for _ in stream:
                pass
