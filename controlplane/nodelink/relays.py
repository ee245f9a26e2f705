"""Log, exec, attach and port-forward sessions for nodes whose control stream another replica holds: passed on to that replica.

Called by `sessions` when a node is not connected here. The node's Lease names the replica and its address; one NodeLink.Relay
call carries the session there, on a connection of its own. One hop only: that replica has the node, or says that it has not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from controlplane.auth.deciders import API_SERVER
from controlplane.nodelink.leases import read_lease
from controlplane.nodelink.session import Session
from controlplane.registry.base import RegistryAPI, RequestContext
from wherry.api.errors import APIError, ServiceUnavailable, Timeout
from wherry.api.tasks import stop
from wherry.client.base import BidiStream, Transport
from wherry.pb import pods_pb2

log = logging.getLogger(__name__)

RELAY = "/wherry.v1.NodeLink/Relay"
NODE_KEY = "wherry-node"
# Longer than the other replica waits for the agent: its words are better than ours.
GREETING_TIMEOUT_S = 12.0

# A transport to the replica at that address, under the API server's own identity. Whoever asks for it closes it.
Dial = Callable[[str], Transport]


class Relays:
    """`close` ends what is left."""

    def __init__(self, registry: RegistryAPI, replica: str, dial: Dial) -> None:
        self._registry = registry
        self._replica = replica
        self._dial = dial
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def attach(self, session: Session, start: pods_pb2.StreamStart) -> None:
        """Returns when the node's agent has dialled the replica that holds it; from then on frames are passed on until either
        side ends. Raises ServiceUnavailable, Timeout."""
        holder = await read_lease(self._registry, RequestContext(API_SERVER, cause="relay"), session.node)
        if holder.replica in ("", self._replica) or not holder.address:
            raise ServiceUnavailable(f'node "{session.node}" is not connected: its agent holds no control stream')
        transport = self._dial(holder.address)
        try:
            stream = transport.bidi(RELAY, metadata={NODE_KEY: session.node})
            try:
                await stream.send(pods_pb2.StreamFrame(start=start))
                greeting = asyncio.ensure_future(anext(aiter(stream)))
                done, _ = await asyncio.wait((greeting,), timeout=GREETING_TIMEOUT_S)
                if not done:
                    greeting.cancel()
                    raise Timeout(f'replica "{holder.replica}", which holds node "{session.node}", did not answer')
                greeting.result()
            except StopAsyncIteration:
                raise ServiceUnavailable(f'replica "{holder.replica}" ended the session before it began') from None
            except BaseException:
                await stream.cancel()
                raise
        except BaseException:
            await transport.close()
            raise
        session.dialled.set()
        task = asyncio.get_running_loop().create_task(_bridge(session, transport, stream), name="session-relay")
        self._tasks[task] = None
        task.add_done_callback(lambda ended: self._tasks.pop(ended, None))

    async def close(self) -> None:
        await stop(*self._tasks)


async def _bridge(session: Session, transport: Transport, stream: BidiStream) -> None:
    """Until the client is gone, or the other replica has said all."""
    loop = asyncio.get_running_loop()
    tasks = (
        loop.create_task(_down(session, stream), name="relay-down"),
        loop.create_task(_up(session, stream), name="relay-up"),
        loop.create_task(session.to_client.wait_closed(), name="relay-closed"),
    )
    try:
        await asyncio.wait((tasks[1], tasks[2]), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await stop(*tasks)
        session.end(ServiceUnavailable(f'the session with node "{session.node}" was broken off'))
        await stream.cancel()
        await transport.close()


async def _down(session: Session, stream: BidiStream) -> None:
    try:
        async for frame in session.to_agent:
            await stream.send(frame)
        await stream.done_sending()
    except APIError:
        pass  # the reader learns why


async def _up(session: Session, frames: BidiStream) -> None:
    try:
        async for frame in frames:
            if not await session.to_client.put(frame):
                return
        session.to_client.close()
    except APIError as error:
        session.to_client.close(ServiceUnavailable(f"the connection to the node's replica broke: {error.message}"))
