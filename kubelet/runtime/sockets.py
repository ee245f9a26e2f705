"""What byte streams over a socket have in common: sending, the end of sending, closing. Used by `ports` and `docker_streams`."""

from __future__ import annotations

import asyncio

from kubelet.runtime.base import RuntimeFailure


class SocketStream:
    """The sending half of a `kubelet.runtime.base.ByteStream`. The reading half sets `_ended`."""

    _name = "the connection"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ended = asyncio.Event()

    async def send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise self._broke(error) from error

    async def send_eof(self) -> None:
        try:
            if self._writer.can_write_eof() and not self._writer.is_closing():
                self._writer.write_eof()
        except OSError:
            pass  # the other side has closed first

    async def close(self) -> None:
        self._ended.set()
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass

    def _broke(self, error: OSError) -> RuntimeFailure:
        return RuntimeFailure(f"{self._name} broke: {error}")
