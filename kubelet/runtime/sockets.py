"""What byte streams over a socket have in common: sending, the end of sending, closing. Used by `ports`, `docker_streams` and
`exec_stream`.
"""

from __future__ import annotations

import asyncio

from kubelet.runtime.base import RuntimeFailure

LINGER_S = 5.0


async def end(writer: asyncio.StreamWriter, linger_s: float) -> None:
    """Closes it. What was written still has so long to go out: a process that has ended, or never reads, takes no more of it,
    and closing would wait for it for ever."""
    writer.close()
    try:
        async with asyncio.timeout(linger_s):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()
    except OSError:
        pass
    except BaseException:
        writer.transport.abort()  # nobody comes back for it
        raise


class SocketStream:
    """The sending half of a `kubelet.runtime.base.ByteStream`. The reading half sets `_ended`."""

    _name = "the connection"
    _linger_s = LINGER_S

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
        await end(self._writer, self._linger_s)

    def _broke(self, error: OSError) -> RuntimeFailure:
        return RuntimeFailure(f"{self._name} broke: {error}")
