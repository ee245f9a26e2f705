"""TCP connections to ports of pods, for whoever on the control plane has something to say to one: the pod and Service proxies.

Called by `fronts.http.proxy`. Each connection is a port-forward session over the node link, so that it works wherever the agent
can be reached and the pod network cannot; the agent connects to the pod's own address. The caller sees one end of a socket pair.
"""

from __future__ import annotations

import asyncio
import socket

from controlplane.nodelink.session import Session
from controlplane.nodelink.sessions import Sessions
from wherry.api.errors import APIError
from wherry.api.tasks import stop
from wherry.client.windows import Credit, Window
from wherry.pb import core_v1_pb2, pods_pb2

_PIECE_BYTES = 64 << 10
_CHANNEL = 1

Frame = pods_pb2.StreamFrame


class PodPorts:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def connect(self, pod: core_v1_pb2.Pod, port: int) -> PodConnection:
        """Raises ServiceUnavailable, Timeout. The pod may still refuse: see `PodConnection.problem`."""
        start = pods_pb2.StreamStart(
            kind=pods_pb2.StreamStart.PORT_FORWARD,
            namespace=pod.metadata.namespace,
            name=pod.metadata.name,
            uid=pod.metadata.uid,
            windows=True,
            to_address=True,
        )
        session = await self._sessions.open(pod.spec.node_name, start)
        try:
            connection = PodConnection(self._sessions, session)
        except BaseException:
            self._sessions.close(session)
            raise
        try:
            await session.to_agent.put(Frame(channel=_CHANNEL, start_port=port))
            await connection.begin()
        except BaseException:
            connection.abandon()
            raise
        return connection


class PodConnection:
    """`socket` is the caller's, who closes it; `await close()` then ends the rest. When the other end has closed without a word,
    `problem` says why (in Go's words), if there is a reason."""

    def __init__(self, sessions: Sessions, session: Session) -> None:
        self.socket, self._far = socket.socketpair()
        for each in (self.socket, self._far):
            each.setblocking(False)
        self.problem = ""
        self._sessions, self._session = sessions, session
        self._window, self._credit = Window(), Credit()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._writer: asyncio.StreamWriter | None = None  # to the far end, which is its own from then on

    def abandon(self) -> None:
        """Of one that has not begun: nobody else knows of it, so both ends are ours to close."""
        self._sessions.close(self._session)
        self.socket.close()
        self._far.close()

    async def begin(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._far, limit=_PIECE_BYTES)
        self._writer = writer
        loop = asyncio.get_running_loop()
        self._tasks = (
            loop.create_task(self._down(writer), name="pod-port-down"),
            loop.create_task(self._up(reader), name="pod-port-up"),
        )

    async def close(self) -> None:
        self._sessions.close(self._session)
        if self._writer is not None:
            self._writer.close()  # a task that is cancelled before it has run does not get to that
        await stop(*self._tasks)

    async def _down(self, writer: asyncio.StreamWriter) -> None:
        """What the pod says."""
        try:
            async for frame in self._session.to_client:
                which = frame.WhichOneof("frame")
                if which == "data":
                    writer.write(frame.data)
                    await writer.drain()
                    if credit := self._credit.taken(len(frame.data)):
                        await self._session.to_agent.put(Frame(channel=_CHANNEL, credit=credit))
                elif which == "credit":
                    self._window.give(frame.credit)
                elif which == "channel_closed":
                    writer.write_eof()
                elif which == "channel_error":
                    self.problem = frame.channel_error
                    return
                elif which == "result":
                    self.problem = frame.result.message
                    return
        except APIError as error:
            self.problem = error.message
        except OSError:
            pass  # the caller has hung up
        finally:
            writer.close()

    async def _up(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(_PIECE_BYTES):
                while data:
                    size = await self._window.take(len(data))
                    if not await self._session.to_agent.put(Frame(channel=_CHANNEL, data=data[:size])):
                        return
                    data = data[size:]
            await self._session.to_agent.put(Frame(channel=_CHANNEL, channel_closed=True))
        except OSError:
            pass
