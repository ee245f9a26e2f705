"""Answers at the health check ports of Services whose external traffic goes to this node's own endpoints only: a load balancer in
front of the nodes asks there which of them have any. Called by `controller` after each change.

One listener per such Service; the answers are Kubernetes' own, 200 with endpoints here and 503 without.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)

REQUEST_LIMIT_S = 5.0
MAX_REQUEST_BYTES = 16 << 10
_REASONS = {200: "OK", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Health:
    namespace: str
    name: str
    local_endpoints: int


class HealthPorts:
    """Invariant: each listener's port is in `_health`. `close` when done."""

    def __init__(self, host: str = "") -> None:
        self._host = host or "0.0.0.0"
        self._health: dict[int, Health] = {}
        self._listeners: dict[int, asyncio.Server] = {}

    async def sync(self, wanted: Mapping[int, Health]) -> None:
        """Never raises for a port that somebody else has: it is tried again the next time."""
        self._health = dict(wanted)
        for port in sorted(self._listeners.keys() - wanted.keys()):
            await self._stop(port)
        for port in sorted(wanted.keys() - self._listeners.keys()):
            try:
                self._listeners[port] = await asyncio.start_server(
                    lambda reader, writer, port=port: self._serve(reader, writer, port),  # type: ignore[misc]
                    self._host,
                    port,
                    limit=MAX_REQUEST_BYTES,
                )
            except OSError as error:
                log.error("health check of Service %s/%s: %s", wanted[port].namespace, wanted[port].name, error)

    async def close(self) -> None:
        for port in sorted(self._listeners):
            await self._stop(port)

    async def _stop(self, port: int) -> None:
        listener = self._listeners.pop(port)
        listener.close()
        await listener.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                await reader.readuntil(b"\r\n\r\n")
                health = self._health.get(port)
                if health is not None:
                    writer.write(answer(health))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, or never asked
        finally:
            writer.close()


def answer(health: Health) -> bytes:
    status = 200 if health.local_endpoints else 503
    body = json.dumps(
        {
            "service": {"namespace": health.namespace, "name": health.name},
            "localEndpoints": health.local_endpoints,
            "serviceProxyHealthy": True,
        }
    ).encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
        f"X-Load-Balancing-Endpoint-Weight: {health.local_endpoints}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
