"""All pods of the cluster as policies see them: labels, address, named ports. By a stream of the node link, since a node may not
read other nodes' pods. Run by `controller` while there is a policy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from wherry.api.context import Env
from wherry.api.errors import APIError
from wherry.client.base import Transport
from wherry.pb import nodelink_pb2

log = logging.getLogger(__name__)

PEERS = "/wherry.v1.NodeLink/Peers"
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.2, 5.0


class PeerStream:
    def __init__(self, transport: Transport, env: Env) -> None:
        self._transport, self._env = transport, env

    async def follow(self, take: Callable[[nodelink_pb2.PodBatch], None], restart: Callable[[], None]) -> None:
        """Until cancelled. `restart` tells that from here on everything is named again, up to a batch that is `synced`."""
        backoff_s = BACKOFF_MIN_S
        while True:
            restart()
            stream: Any = self._transport.server_stream(PEERS, nodelink_pb2.PeersRequest())
            try:
                async for batch in stream:
                    take(batch)
                    backoff_s = BACKOFF_MIN_S
                problem = "the stream has ended"
            except APIError as error:
                problem = error.message
            finally:
                await stream.aclose()
            log.debug("pods for network policies: %s; again in %.1f s", problem, backoff_s)
            await asyncio.sleep(backoff_s * (0.5 + self._env.rng.random()))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
