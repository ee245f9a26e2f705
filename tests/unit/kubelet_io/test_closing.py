"""Ending a session whose other side takes no more of what it is sent: a process that has ended, a server that never reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kubelet.runtime import spdy
from kubelet.runtime.exec_stream import ExecSession
from kubelet.runtime.ports import PortStream

# More than the kernel keeps for a connection.
MUCH = bytes(24 << 20)
STATUS = {"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}


@asynccontextmanager
async def deaf(says: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to somebody who says this, reads nothing and hangs up never."""
    theirs: list[asyncio.StreamWriter] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs.append(writer)
        writer.write(says)
        writer.transport.pause_reading()  # type: ignore[attr-defined]

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    finally:
        for writer in theirs:
            writer.transport.abort()
        server.close()
        await server.wait_closed()


async def test_a_command_that_has_ended_is_not_waited_for_because_of_its_input() -> None:
    # The streams are error, stdin and stdout: 1, 3, 5.
    ends = spdy.data(1, json.dumps(STATUS).encode(), fin=True) + spdy.data(5, b"", fin=True)
    async with asyncio.timeout(60), deaf(ends) as (reader, writer):
        session = ExecSession(reader, writer)
        await session.start(stdin=True, stdout=True, stderr=False, resize=False)
        sending = asyncio.ensure_future(session.send(MUCH))
        assert [piece async for piece in session.output()] == []
        assert await session.wait() == 3
        sending.cancel()
        await asyncio.wait((sending,))
        await session.close()
        assert writer.transport.is_closing()


async def test_a_port_that_reads_nothing_can_be_closed(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(PortStream, "_linger_s", 0.1)
    async with asyncio.timeout(60), deaf(b"hello") as (reader, writer):
        port = PortStream(reader, writer)
        sending = asyncio.ensure_future(port.send(MUCH))
        assert await anext(port.output()) == (1, b"hello")
        sending.cancel()
        await asyncio.wait((sending,))
        await port.close()
        assert writer.transport.get_write_buffer_size() == 0


async def test_a_close_that_is_cancelled_leaves_no_socket() -> None:
    async with asyncio.timeout(60), deaf(b"hello") as (reader, writer):
        port = PortStream(reader, writer)
        sending = asyncio.ensure_future(port.send(MUCH))
        assert await anext(port.output()) == (1, b"hello")
        sending.cancel()
        closing = asyncio.ensure_future(port.close())
        await asyncio.wait((sending,))
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait((closing,))
        assert writer.transport.get_write_buffer_size() == 0
