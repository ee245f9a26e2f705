"""A load generator that is not the bottleneck: HTTP/1.1 over TLS in one small protocol class, bytes in and bytes out.

Used by `api`. It knows as much of HTTP as the answers of our own server need (a length or chunks), and parses nothing else.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from wherry.client.config import load_config
from wherry.testing import tls

_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


def client_context(config: Path) -> ssl.SSLContext:
    """With the client certificate of a `wherry` configuration."""
    found = load_config(config)
    return tls.client_context(found.ca, found.certificate + found.key)


def request(method: str, path: str, body: bytes = b"", *, accept: str = "application/json", kind: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Accept: {accept}", "User-Agent: bench/1"]
    if body:
        lines += [f"Content-Type: {kind or 'application/json'}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection: `ask` sends a request and gives the status and the body of its answer; one at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self._parts: list[bytes] = []
        self._status = self._left = 0
        self._chunked = False

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext) -> Connection:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(cls, "127.0.0.1", port, ssl=context, server_hostname="localhost")
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's over TLS is no subclass of it

    def ask(self, data: bytes) -> asyncio.Future[tuple[int, bytes]]:
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._parts, self._status = [], 0
        self._transport.write(data)
        return self._waiter

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._status:
            self._left -= len(data)
        else:
            data = b"".join((*self._parts, data))
            end = data.find(_END)
            if end < 0:
                self._parts = [data]
                return
            head = data[:end].lower()
            self._status = int(head[9:12])
            at = head.find(b"\ncontent-length:")
            self._chunked = at < 0
            assert at >= 0 or b"\ntransfer-encoding: chunked" in head, head
            length = int(head[at + 16 :].split(b"\r", 1)[0]) if at >= 0 else 0
            self._parts = []
            data = data[end + 4 :]
            self._left = length - len(data)
        self._parts.append(data)
        if self._waiter is None or self._waiter.done():
            return
        if self._chunked:
            if b"".join(self._parts[-3:]).endswith(_LAST_CHUNK):
                self._waiter.set_result((self._status, _unchunked(b"".join(self._parts))))
        elif self._left <= 0:
            self._waiter.set_result((self._status, b"".join(self._parts)))

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionResetError("the server closed the connection"))


def _unchunked(data: bytes) -> bytes:
    parts = []
    at = 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        if not size:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size


class Watcher(asyncio.Protocol):
    """One watch: calls `seen` with what has come, and when."""

    def __init__(self, seen: Callable[[bytes, float], None]) -> None:
        self._seen = seen
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(
        cls, port: int, context: ssl.SSLContext, data: bytes, seen: Callable[[bytes, float], None]
    ) -> Watcher:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(
            lambda: cls(seen), "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        assert made._transport is not None
        made._transport.write(data)
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's over TLS is no subclass of it

    def data_received(self, data: bytes) -> None:
        self._seen(data, time.perf_counter())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def rate(
    connections: list[Connection], make: Callable[[], bytes], seconds: float, expected: int, limit: int = 0
) -> tuple[int, float]:
    """Answers, and the seconds that they took, with one request at a time in flight on each connection. `make` gives the
    requests; at most `limit` of them (0: as many as fit into the seconds)."""
    done = sent = 0
    started = time.perf_counter()
    until = started + seconds

    async def lane(connection: Connection) -> None:
        nonlocal done, sent
        while time.perf_counter() < until and (not limit or sent < limit):
            sent += 1
            status, body = await connection.ask(make())
            if status != expected:
                raise AssertionError(f"HTTP {status}: {body[:500].decode(errors='replace')}")
            done += 1

    await asyncio.gather(*(lane(connection) for connection in connections))
    return done, time.perf_counter() - started
