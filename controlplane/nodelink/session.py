"""One session between a client and an agent: two bounded channels. Made by `sessions`; fed by the legs on either side, or by
`relays`."""

from __future__ import annotations

import asyncio

from controlplane.nodelink.channel import Channel
from wherry.api.errors import APIError

FRAMES_IN_FLIGHT = 16


class Session:
    """`to_agent` and `to_client` are the two directions. Invariant: once either leg is gone both channels are closed."""

    def __init__(self, session_id: str, node: str) -> None:
        self.id = session_id
        self.node = node
        self.to_agent = Channel(FRAMES_IN_FLIGHT)
        self.to_client = Channel(FRAMES_IN_FLIGHT)
        self.dialled = asyncio.Event()

    def end(self, error: APIError | None = None) -> None:
        """Frames that were taken already still arrive; then each leg sees the end."""
        self.to_agent.close(error)
        self.to_client.close(error)
