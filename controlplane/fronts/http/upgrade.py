"""Connections that stop being HTTP: the two links that SPDY frames can travel on. Used by `sessions`.

`RawLink` is a connection that was upgraded to SPDY/3.1 itself; `SocketLink` a WebSocket whose messages carry the same bytes, as
newer clients' port-forward does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import WSMessage, WSMsgType, web

MAX_MESSAGE_BYTES = 4 << 20
_READ_BYTES = 64 << 10


class Taken(web.StreamResponse):
    """What a handler returns whose connection is no longer HTTP: nothing more is written, and the connection ends."""

    async def prepare(self, request: Any) -> None:
        self.force_close()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None

    @property
    def keep_alive(self) -> bool | None:
        return False


class _Protocol(asyncio.StreamReaderProtocol):
    """Takes the connection's bytes from aiohttp; its end is told to both, so that the request's task is cancelled."""

    def __init__(self, reader: asyncio.StreamReader, http: Any) -> None:
        super().__init__(reader)
        self._http = http

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)  # type: ignore[arg-type]
        self._http.connection_lost(exc)


class RawLink:
    def __init__(self, request: web.BaseRequest, headers: dict[str, str]) -> None:
        transport = request.transport
        assert transport is not None
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(limit=_READ_BYTES, loop=loop)
        protocol = _Protocol(self._reader, request.protocol)
        # The client waits for the answer to its upgrade before it says more: nothing is lost in between.
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)
        lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in headers.items())]
        transport.write("\r\n".join([*lines, "", ""]).encode())  # as aiohttp writes headers

    async def read(self) -> bytes:
        return await self._reader.read(_READ_BYTES)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """The session is over; what was written is still sent."""
        self._writer.close()


def content(message: WSMessage) -> bytes:
    """Of a message of either type: there are clients that send text frames. Empty for what is no data."""
    if message.type is WSMsgType.TEXT:
        text: str = message.data
        return text.encode()
    return bytes(message.data) if message.type is WSMsgType.BINARY else b""


class SocketLink:
    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        while True:
            message = await self._socket.receive()
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                if data := content(message):
                    return data
            elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                return b""

    async def write(self, data: bytes) -> None:
        await self._socket.send_bytes(data)
