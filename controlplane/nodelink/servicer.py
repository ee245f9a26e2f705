"""NodeLink: Join, Connect and Session. Authenticates by the caller's certificate; a node speaks for itself only.

Called through `fronts.services`, by gRPC or in process. Holds the live connections, one per node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING, Protocol

from controlplane.auth.deciders import API_SERVER
from controlplane.auth.names import INGRESS_USER, MASTERS_GROUP, node_of
from controlplane.fronts.call import Call
from controlplane.fronts.commit import Commits
from controlplane.nodelink.channel import Channel
from controlplane.nodelink.connection import Connection
from controlplane.nodelink.heartbeats import Heartbeats
from controlplane.nodelink.peers import peers
from controlplane.nodelink.relays import NODE_KEY
from controlplane.nodelink.routing import Routing
from controlplane.nodelink.sessions import SESSION_KEY, Sessions, pump_client
from controlplane.registry.base import RegistryAPI
from wherry.api.context import Env
from wherry.api.errors import APIError, BadRequest, Forbidden, ServiceUnavailable
from wherry.api.tasks import stop
from wherry.pb import nodelink_pb2, pods_pb2

if TYPE_CHECKING:
    from controlplane.auth.join import Joiner

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
EDGE = "edge/"  # before the names of what is no node, which can't have a slash
MAX_EDGES = 64
EDGE_OUTBOX = 64
CUT_OFF = "this replica of the control plane does not reach its store; dial another one"


class Welcomer(Protocol):
    """What the servicer needs of the monitor."""

    @property
    def cut_off(self) -> bool:
        """The store is out of reach: who is connected here was sent to other replicas."""
        ...

    async def welcome(self, node: str) -> nodelink_pb2.Settings:
        """Called when a node has said hello, before it is told anything. Raises NotFound when there is no such Node."""
        ...

    def has_absent(self, elsewhere: Collection[str]) -> bool:
        """Some node that is not silent has no control stream here, nor is it among those that other replicas hold."""
        ...


class NodeLinkServicer:
    """Invariants: `_connections[node]` is the newest live control stream of that node; `_edges[name]` likewise of a process that
    leads connections to endpoints without being a node."""

    def __init__(
        self, env: Env, registry: RegistryAPI, commits: Commits, heartbeats: Heartbeats, joiner: Joiner | None
    ) -> None:
        self._env = env
        self._registry = registry
        self._commits = commits
        self._heartbeats = heartbeats
        self._joiner = joiner
        self._connections: dict[str, Connection] = {}
        self._edges: dict[str, Channel] = {}
        self.sessions = Sessions(env, self.send)
        self.monitor: Welcomer | None = None
        self.routing = Routing(self._send_router, self._routers, self._has_absent)

    def send(self, node: str, message: nodelink_pb2.ControlMessage) -> bool:
        """Down the node's control stream, if there is one that has room."""
        connection = self._connections.get(node)
        return connection is not None and connection.outbox.offer(message)

    def _send_router(self, name: str, message: nodelink_pb2.ControlMessage) -> bool:
        edge = self._edges.get(name)
        return edge.offer(message) if edge is not None else self.send(name, message)

    def _routers(self) -> list[str]:
        nodes = [node for node, connection in self._connections.items() if connection.hello.routes_services]
        return [*nodes, *self._edges]

    def _has_absent(self, elsewhere: Collection[str]) -> bool:
        return self.monitor is not None and self.monitor.has_absent(elsewhere)

    def _check_reach(self) -> None:
        if self.monitor is not None and self.monitor.cut_off:
            raise ServiceUnavailable(CUT_OFF)

    def disconnect(self, node: str, error: APIError) -> None:
        """Ends the node's control stream, so that its agent dials anew and tells all it knows."""
        connection = self._connections.get(node)
        if connection is not None:
            connection.end(error)

    def disconnect_all(self, error: APIError) -> None:
        """Everybody who is connected here shall go to another replica."""
        for connection in list(self._connections.values()):
            connection.end(error)
        for outbox in list(self._edges.values()):
            outbox.abandon(error)

    def update_settings(self, node: str, heartbeat_interval_ms: int) -> None:
        """Tells a connected node its new interval; one that can't be told now dials anew and is told then."""
        connection = self._connections.get(node)
        if connection is None or connection.settings is None:
            return
        connection.settings.heartbeat_interval_ms = heartbeat_interval_ms
        message = nodelink_pb2.ControlMessage(settings=connection.settings)
        if not connection.outbox.offer(message):
            connection.end(ServiceUnavailable("the agent does not read its control stream; dial again"))

    async def Join(self, request: nodelink_pb2.JoinRequest, call: Call) -> nodelink_pb2.JoinResponse:
        if self._joiner is None:
            raise ServiceUnavailable("this control plane has no certificate authority: nodes cannot join it")
        return await self._joiner.join(request, call.identity)

    async def Connect(
        self, requests: AsyncIterator[nodelink_pb2.AgentMessage], call: Call
    ) -> AsyncIterator[nodelink_pb2.ControlMessage]:
        hello = await _hello(requests)
        node = _authenticated(call, hello.node_name)
        if self.monitor is None:
            raise ServiceUnavailable("the node link has not started yet")
        connection = Connection(
            node, hello, call, self._registry, self._commits, self._heartbeats, self.routing, self._env
        )
        settings = await self.monitor.welcome(node)
        self._check_reach()
        older = self._connections.get(node)
        self._connections[node] = connection
        if older is not None:
            older.end(ServiceUnavailable(f"node {node} has dialled anew; this control stream gives way"))
        self._heartbeats.connect(node)
        log.info("node %s connected (agent %s, incarnation %s)", node, hello.agent_version, hello.incarnation)
        connection.settings = settings
        connection.outbox.offer(nodelink_pb2.ControlMessage(settings=settings))
        task = asyncio.get_running_loop().create_task(connection.run(requests), name=f"node-{node}")
        try:
            async for message in connection.outbox:
                yield message
        finally:
            if self._connections.get(node) is connection:
                del self._connections[node]
                self.sessions.lost(node)
            await stop(task)
            self._heartbeats.disconnect(node)
            log.info("node %s disconnected", node)

    async def Route(
        self, requests: AsyncIterator[nodelink_pb2.AgentMessage], call: Call
    ) -> AsyncIterator[nodelink_pb2.ControlMessage]:
        if call.identity.user != INGRESS_USER and MASTERS_GROUP not in call.identity.groups:
            raise Forbidden(f'User "{call.identity.user}" cannot say how connections are led to endpoints')
        name = EDGE + (await _hello(requests)).node_name
        self._check_reach()
        if len(self._edges) >= MAX_EDGES and name not in self._edges:
            raise ServiceUnavailable(f"{MAX_EDGES} processes say how connections are led already")
        older, outbox = self._edges.get(name), Channel(EDGE_OUTBOX)
        self._edges[name] = outbox
        if older is not None:
            older.close(ServiceUnavailable(f"{name} has dialled anew; this stream gives way"))
        log.info("%s leads connections to endpoints", name)
        task = asyncio.get_running_loop().create_task(self._hear_edge(name, requests, outbox), name=name)
        try:
            async for message in outbox:
                yield message
        finally:
            if self._edges.get(name) is outbox:
                del self._edges[name]  # what it was asked is waited for, since it may have broken off only for a moment
            await stop(task)
            log.info("%s has gone", name)

    async def _hear_edge(self, name: str, requests: AsyncIterator[nodelink_pb2.AgentMessage], outbox: Channel) -> None:
        try:
            async for message in requests:
                if message.WhichOneof("message") == "routes_level":
                    self.routing.level(name, message.routes_level.query)
            outbox.close()
        except APIError as error:
            outbox.close(error)
        finally:
            outbox.close(ServiceUnavailable(f"{name} cannot be heard any more; dial again"))

    async def Session(
        self, requests: AsyncIterator[pods_pb2.StreamFrame], call: Call
    ) -> AsyncIterator[pods_pb2.StreamFrame]:
        node = node_of(call.identity)
        if not node:
            raise Forbidden(f'User "{call.identity.user}" is no node: only agents serve sessions')
        frames = self.sessions.serve_agent(node, call.metadata.get(SESSION_KEY, ""), requests)
        try:
            async for frame in frames:
                yield frame
        finally:
            await frames.aclose()  # type: ignore[attr-defined]

    async def Relay(
        self, requests: AsyncIterator[pods_pb2.StreamFrame], call: Call
    ) -> AsyncIterator[pods_pb2.StreamFrame]:
        _check_replica(call, "pass sessions on")
        node = call.metadata.get(NODE_KEY, "")
        try:
            first = await anext(aiter(requests))
        except StopAsyncIteration:
            raise BadRequest("start: the stream ended before it; it is the first frame") from None
        session = await self.sessions.open(node, first.start, here=True)
        pump = asyncio.get_running_loop().create_task(
            pump_client(requests, session, stdin=False), name="session-from-replica"
        )
        try:
            yield pods_pb2.StreamFrame()
            async for frame in session.to_client:
                yield frame
        finally:
            self.sessions.close(session)
            await stop(pump)

    async def Routed(self, request: nodelink_pb2.RoutedRequest, call: Call) -> nodelink_pb2.RoutedResponse:
        _check_replica(call, "ask what is routed here")
        nodes = list(self._connections)
        return nodelink_pb2.RoutedResponse(missing=await self.routing.here(request.revision), nodes=nodes)

    async def Peers(self, request: nodelink_pb2.PeersRequest, call: Call) -> AsyncIterator[nodelink_pb2.PodBatch]:
        if not node_of(call.identity):
            raise Forbidden(f'User "{call.identity.user}" is no node: only agents follow the pods of others')
        stream = peers(self._registry, call.context())
        try:
            async for batch in stream:
                yield batch
        finally:
            await stream.aclose()  # type: ignore[attr-defined]


async def _hello(requests: AsyncIterator[nodelink_pb2.AgentMessage]) -> nodelink_pb2.Hello:
    # A timeout around this one read would kill the call, which is what is wanted when nothing comes.
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            message = await anext(aiter(requests))
    except StopAsyncIteration:
        raise BadRequest("hello: the stream ended before it was said") from None
    except TimeoutError as error:
        raise BadRequest(f"hello: not said within {HELLO_TIMEOUT_S:g} s") from error
    if message.WhichOneof("message") != "hello":
        raise BadRequest(f"hello: wanted as the first message, got {message.WhichOneof('message')}")
    return message.hello


def _check_replica(call: Call, what: str) -> None:
    if call.identity.user != API_SERVER.user or MASTERS_GROUP not in call.identity.groups:
        raise Forbidden(f'User "{call.identity.user}" is no replica: only they {what}')


def _authenticated(call: Call, name: str) -> str:
    node = node_of(call.identity)
    if not node or node != name:
        raise Forbidden(
            f'nodes "{name}" is forbidden: User "{call.identity.user}" cannot open its control stream',
            kind="nodes",
            name=name,
        )
    return node
