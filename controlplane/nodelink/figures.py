"""Asks the agents what their nodes and containers use. Called by `metrics`, and by the node proxy of the fronts.

Nothing is kept here: each question goes to the agents, over a session of its own as for a log, so the control streams carry no
figures. An agent answers questions that come close together with the same figures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from controlplane.nodelink.sessions import Sessions
from wherry.api.errors import APIError, ServiceUnavailable
from wherry.client.status import from_status
from wherry.pb import nodelink_pb2, pods_pb2

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 8.0
MAX_BYTES = 4 << 20
AT_ONCE = 200  # nodes asked side by side; each takes a second when nobody has asked lately


class FiguresReader:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def of_node(self, node: str) -> nodelink_pb2.NodeFigures:
        """Raises ServiceUnavailable, Timeout."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._ask(node)
        except TimeoutError as error:
            message = f'the agent of node "{node}" did not tell its figures within {ANSWER_TIMEOUT_S:g} s'
            raise ServiceUnavailable(message, retry_after_s=1) from error

    async def of_nodes(self, nodes: Iterable[str]) -> dict[str, nodelink_pb2.NodeFigures]:
        """Those that answer."""
        wanted = sorted(set(nodes))
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(node: str) -> nodelink_pb2.NodeFigures | None:
            async with slots:
                try:
                    return await self.of_node(node)
                except APIError as error:
                    log.info("no figures of node %s: %s", node, error)
                    return None

        answers = await asyncio.gather(*(one(node) for node in wanted))
        return {node: answer for node, answer in zip(wanted, answers, strict=True) if answer is not None}

    async def _ask(self, node: str) -> nodelink_pb2.NodeFigures:
        session = await self._sessions.open(node, pods_pb2.StreamStart(kind=pods_pb2.StreamStart.STATS))
        document = bytearray()
        try:
            async for frame in session.to_client:
                which = frame.WhichOneof("frame")
                if which == "stdout":
                    document += frame.stdout
                    if len(document) > MAX_BYTES:
                        raise ServiceUnavailable(f'the figures of node "{node}" are over {MAX_BYTES} bytes')
                elif which == "result":
                    if frame.result.status == "Failure":
                        raise from_status(frame.result)
                    return nodelink_pb2.NodeFigures.FromString(bytes(document))
        finally:
            self._sessions.close(session)
        raise ServiceUnavailable(f'the agent of node "{node}" broke off')
