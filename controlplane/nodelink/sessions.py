"""Joins a client's Logs, Exec, Attach or PortForward call with the call that the agent dials for it.

Called by `fronts.pods` (the client's leg) and by `servicer` (the agent's leg). `open` sends OpenSession down the node's control
stream and waits until the agent has dialled; then frames are passed on in both directions, each through a small channel, so that
a slow reader on either side holds the other one back. Whichever leg ends first ends the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from controlplane.nodelink.channel import Channel
from controlplane.nodelink.session import Session
from wherry.api.context import Env
from wherry.api.errors import APIError, Forbidden, NotFound, ServiceUnavailable, Timeout
from wherry.api.tasks import stop
from wherry.pb import nodelink_pb2, pods_pb2

SESSION_KEY = "wherry-session"
DIAL_TIMEOUT_S = 10.0
MAX_SESSIONS_PER_NODE = 256

# Sends a message down the control stream of a node at once; False when it has none or is not keeping up.
Sender = Callable[[str, nodelink_pb2.ControlMessage], bool]


class Relay(Protocol):
    """What the sessions need of `relays`."""

    async def attach(self, session: Session, start: pods_pb2.StreamStart) -> None: ...


class Sessions:
    """Invariant: `_sessions` holds the sessions whose client's leg is there."""

    def __init__(self, env: Env, send: Sender) -> None:
        self._env = env
        self._send = send
        self._sessions: dict[str, Session] = {}
        self.relays: Relay | None = None

    async def open(self, node: str, start: pods_pb2.StreamStart, *, here: bool = False) -> Session:
        """A session whose agent has dialled, us or (unless it must be `here`) the replica that holds the node. The caller must
        `close` it. Raises ServiceUnavailable, Timeout."""
        if sum(1 for session in self._sessions.values() if session.node == node) >= MAX_SESSIONS_PER_NODE:
            raise ServiceUnavailable(
                f'node "{node}" has {MAX_SESSIONS_PER_NODE} sessions open already; try again later'
            )
        session = Session(f"{self._env.rng.getrandbits(128):032x}", node)
        self._sessions[session.id] = session
        try:
            message = nodelink_pb2.ControlMessage()
            message.open_session.session_id = session.id
            message.open_session.start.CopyFrom(start)
            if not self._send(node, message):
                if self.relays is not None and not here:
                    await self.relays.attach(session, start)
                    return session
                raise ServiceUnavailable(f'node "{node}" is not connected: its agent holds no control stream')
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    await session.dialled.wait()
            except TimeoutError as error:
                raise Timeout(f'the agent of node "{node}" did not answer within {DIAL_TIMEOUT_S:g} s') from error
        except BaseException:
            self.close(session)
            raise
        return session

    def close(self, session: Session) -> None:
        """The client's leg is over."""
        if self._sessions.pop(session.id, None) is None:
            return
        session.end()
        if not session.dialled.is_set():
            message = nodelink_pb2.ControlMessage()
            message.close_session.session_id = session.id
            self._send(session.node, message)

    def lost(self, node: str) -> None:
        """The node's control stream broke. Sessions that its agent has dialled stand on connections of their own; those that
        it was still to dial will never come."""
        for session in list(self._sessions.values()):
            if session.node == node and not session.dialled.is_set():
                session.end(ServiceUnavailable(f'node "{node}" is not connected: its control stream broke'))

    async def serve_agent(
        self, node: str, session_id: str, frames: AsyncIterator[pods_pb2.StreamFrame]
    ) -> AsyncIterator[pods_pb2.StreamFrame]:
        """The agent's leg: what the client sent. Raises NotFound for a session that is over, Forbidden for another node's."""
        session = self._sessions.get(session_id)
        if session is None:
            raise NotFound(f'session "{session_id[:32]}" is not open (any more)')
        if session.node != node:
            raise Forbidden(f'node "{node}" cannot serve a session of another node')
        if session.dialled.is_set():
            raise Forbidden(f'session "{session_id}" is being served already')
        session.dialled.set()
        pump = asyncio.get_running_loop().create_task(_pump(frames, session.to_client), name="session-from-agent")
        try:
            async for frame in session.to_agent:
                yield frame
            # The client is gone or has said all; what the agent still has to say comes through the pump.
            await session.to_client.wait_closed()
        finally:
            await stop(pump)
            session.end(ServiceUnavailable(f'the agent of node "{node}" broke the session off'))


async def _pump(frames: AsyncIterator[pods_pb2.StreamFrame], target: Channel) -> None:
    """Passes frames on until they end; the end of an agent's frames is the end of the session."""
    try:
        async for frame in frames:
            if frame.WhichOneof("frame") is None:
                continue  # the agent's greeting
            if not await target.put(frame):
                return
        target.close()
    except APIError as error:
        target.close(ServiceUnavailable(f"the connection to the agent broke: {error.message}"))
    except asyncio.CancelledError:
        target.close(ServiceUnavailable("the connection to the agent broke"))
        raise
    except Exception as error:
        target.close(ServiceUnavailable(f"the connection to the agent broke: {error}"))


async def pump_client(frames: AsyncIterator[pods_pb2.StreamFrame], session: Session, *, stdin: bool) -> None:
    """The client's frames to the agent. A client that ends its side without saying so has closed its standard input."""
    try:
        async for frame in frames:
            if not await session.to_agent.put(frame):
                return
        if stdin:
            await session.to_agent.put(pods_pb2.StreamFrame(stdin_closed=True))
    except asyncio.CancelledError:
        raise
    except Exception as error:
        session.end(ServiceUnavailable(f"the connection to the client broke: {error}"))
