"""The control stream: one `NodeLink.Connect`, kept up for as long as the agent lives.

Step of the data path: pods come down it, statuses and heartbeats go up. Reads and writes nothing else; what the
messages mean is the business of its `Handler`, the agent. One batch of statuses is under way at a time: while it is
being written, newer statuses replace older ones, so a slow control plane makes batches larger and never a queue longer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from kubelet.pods.status import StatusManager
from wherry.api.context import Env
from wherry.api.errors import APIError, ServiceUnavailable, Unauthorized
from wherry.api.tasks import TaskGroup
from wherry.client.base import BidiStream, Transport
from wherry.pb import core_v1_pb2, nodelink_pb2

log = logging.getLogger(__name__)

CONNECT = "/wherry.v1.NodeLink/Connect"
SESSION = "/wherry.v1.NodeLink/Session"  # dialled by kubelet.streams.sessions
HEARTBEAT_S = 1.0  # until the server says otherwise
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.1, 2.0
STEADY_S = 10.0  # a stream that lasted this long starts the back-off anew
OUTGOING_LIMIT = 1000
CALL_LIMIT_S = 15.0  # an acknowledgement that takes longer means a dead stream


class Handler(Protocol):
    async def before_connect(self) -> None:
        """Raises APIError when this node cannot be registered now."""
        ...

    def on_settings(self, settings: nodelink_pb2.Settings) -> None: ...
    def on_connected(self) -> None: ...
    def on_pods(self, batch: nodelink_pb2.PodBatch) -> None: ...
    def on_unknown(self, keys: list[nodelink_pb2.PodKey]) -> None: ...
    def on_open_session(self, session: nodelink_pb2.OpenSession) -> None: ...
    def on_close_session(self, session_id: str) -> None: ...
    def on_routes_query(self, query: int, revision: int) -> None: ...
    def on_routes_settled(self, request: int, missing: list[str]) -> None: ...
    def on_server_time(self, sent: float, received: float, theirs: float) -> None: ...


class ControlLink:
    def __init__(
        self,
        env: Env,
        transport: Transport,
        hello: nodelink_pb2.Hello,
        statuses: StatusManager,
        handler: Handler,
    ) -> None:
        """`hello` without the incarnation."""
        self._env, self._transport, self._statuses, self._handler = env, transport, statuses, handler
        self._hello = nodelink_pb2.Hello()
        self._hello.CopyFrom(hello)
        self._hello.incarnation = env.uuid()
        self._interval_s = HEARTBEAT_S
        self._node_status: core_v1_pb2.NodeStatus | None = None
        self._node_status_sent = True
        self._work = asyncio.Event()
        self._sequence = 0
        self._sent_at = 0.0  # our clock when the batch with `_sequence` went
        self._acknowledged = asyncio.Event()
        self.connected = False
        self._outgoing: list[nodelink_pb2.AgentMessage] = []
        self._has_outgoing = asyncio.Event()
        self._redial = asyncio.Event()

    def ask_routes(self, request: int, revision: int) -> bool:
        """Asks whether every node routes by this revision; False when there is no stream to ask over."""
        return self._post(
            nodelink_pb2.AgentMessage(routes_request=nodelink_pb2.RoutesRequest(request=request, revision=revision))
        )

    def routes_level(self, query: int) -> bool:
        return self._post(nodelink_pb2.AgentMessage(routes_level=nodelink_pb2.RoutesLevel(query=query)))

    def _post(self, message: nodelink_pb2.AgentMessage) -> bool:
        if not self.connected or len(self._outgoing) >= OUTGOING_LIMIT:
            return False
        self._outgoing.append(message)
        self._has_outgoing.set()
        return True

    def redial(self) -> None:
        """Ends the stream and opens it anew, over what the transport offers now."""
        self._redial.set()

    def put_node_status(self, status: core_v1_pb2.NodeStatus) -> None:
        self._node_status, self._node_status_sent = status, False
        self._work.set()

    async def run(self) -> None:
        """Until cancelled. A lost control plane is no reason to touch a pod."""
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_FIRST_S
        while True:
            began = loop.time()
            try:
                await self._handler.before_connect()
                await self._session()
                problem = "the stream has ended"
            except APIError as error:
                problem = error.message
                if isinstance(error, Unauthorized):
                    backoff_s = BACKOFF_MAX_S
            except TimeoutError:
                problem = f"no acknowledgement within {CALL_LIMIT_S:g} s"
            if loop.time() - began > STEADY_S:
                backoff_s = BACKOFF_FIRST_S
            wait_s = backoff_s * (0.5 + self._env.rng.random())
            log.warning("no control stream: %s; trying again in %.1f s", problem, wait_s)
            await asyncio.sleep(wait_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _session(self) -> None:
        self._redial.clear()
        stream = self._transport.bidi(CONNECT)
        lock = asyncio.Lock()
        try:
            await self._send(stream, lock, nodelink_pb2.AgentMessage(hello=self._hello))
            self._statuses.resend_all()
            self._node_status_sent = self._node_status is None
            self._sequence = 0
            self._acknowledged.set()
            self._handler.on_connected()
            try:
                async with TaskGroup() as group:
                    senders = [
                        group.create_task(self._heartbeats(stream, lock)),
                        group.create_task(self._send_statuses(stream, lock)),
                        group.create_task(self._forward_changes()),
                        group.create_task(self._send_outgoing(stream, lock)),
                        group.create_task(self._until_redial()),
                    ]
                    async for message in stream:
                        self._take(message)
                    for task in senders:
                        task.cancel()
            except BaseExceptionGroup as group_error:
                raise _first(group_error) from group_error
        finally:
            self.connected = False
            self._outgoing.clear()  # about queries of a stream that is no more
            await stream.cancel()

    async def _send(self, stream: BidiStream, lock: asyncio.Lock, message: nodelink_pb2.AgentMessage) -> None:
        async with lock, asyncio.timeout(CALL_LIMIT_S):
            await stream.send(message)

    def _take(self, message: nodelink_pb2.ControlMessage) -> None:
        which = message.WhichOneof("message")
        if which == "settings":
            self.connected = True
            if message.settings.heartbeat_interval_ms:
                self._interval_s = message.settings.heartbeat_interval_ms / 1000
            self._handler.on_settings(message.settings)
        elif which == "pods":
            self._handler.on_pods(message.pods)
        elif which == "ack":
            if message.ack.sequence >= self._sequence:
                self._acknowledged.set()
                self._handler.on_server_time(self._sent_at, self._env.now(), message.ack.server_time)
            self._handler.on_unknown(list(message.ack.unknown))
        elif which == "open_session":
            self._handler.on_open_session(message.open_session)
        elif which == "close_session":
            self._handler.on_close_session(message.close_session.session_id)
        elif which == "routes_query":
            self._handler.on_routes_query(message.routes_query.query, message.routes_query.revision)
        elif which == "routes_settled":
            settled = message.routes_settled
            self._handler.on_routes_settled(settled.request, list(settled.missing))

    async def _send_outgoing(self, stream: BidiStream, lock: asyncio.Lock) -> None:
        while True:
            await self._has_outgoing.wait()
            self._has_outgoing.clear()
            while self._outgoing:
                await self._send(stream, lock, self._outgoing.pop(0))

    async def _until_redial(self) -> None:
        await self._redial.wait()
        raise ServiceUnavailable("it is dialled anew, with the node's new certificate")

    async def _heartbeats(self, stream: BidiStream, lock: asyncio.Lock) -> None:
        sequence = 0
        while True:
            sequence += 1
            await self._send(
                stream, lock, nodelink_pb2.AgentMessage(heartbeat=nodelink_pb2.Heartbeat(sequence=sequence))
            )
            await asyncio.sleep(self._interval_s)

    async def _forward_changes(self) -> None:
        """Pod statuses and the node's own wake up one sender."""
        while True:
            await self._statuses.changed()
            self._work.set()
            await self._acknowledged.wait()
            await asyncio.sleep(0)

    async def _send_statuses(self, stream: BidiStream, lock: asyncio.Lock) -> None:
        self._work.set()
        while True:
            await self._work.wait()
            async with asyncio.timeout(CALL_LIMIT_S):
                await self._acknowledged.wait()
            self._work.clear()
            batch = nodelink_pb2.StatusBatch(pods=self._statuses.take())
            if not self._node_status_sent and self._node_status is not None:
                batch.node.CopyFrom(self._node_status)
                self._node_status_sent = True
            if not batch.pods and not batch.HasField("node"):
                continue
            self._sequence += 1
            batch.sequence = self._sequence
            self._sent_at = self._env.now()
            self._acknowledged.clear()
            await self._send(stream, lock, nodelink_pb2.AgentMessage(status=batch))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to tell about a group: our own kind of error if there is one."""
    flat: list[BaseException] = []
    for error in group.exceptions:
        flat.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in flat if isinstance(error, APIError | TimeoutError)), flat[0])
