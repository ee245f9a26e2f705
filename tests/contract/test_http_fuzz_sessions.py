"""What is no session: garbage on connections that were upgraded for exec, attach and port-forward, as WebSocket frames and as
SPDY. Each ends or goes on as if nothing had been said; the server answers others, and nothing of it stays in memory.

The front is real, in this process; in place of the node's agent there is one that sends back what it hears.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.fronts.call import Call
from controlplane.fronts.http.spdy import DICTIONARY
from wherry.pb import pods_pb2
from wherry.testing.eventually import eventually
from wherry.testing.https import Caller, Https

POD = "/api/v1/namespaces/default/pods/p"
EXEC = f"{POD}/exec?command=cat&stdin=true&stdout=true&stderr=true"
FORWARD = f"{POD}/portforward?ports=80"
V5, V4, TUNNEL = "v5.channel.k8s.io", "v4.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"
SOCKETS = [(EXEC, V5), (EXEC, V4), (FORWARD, V4), (FORWARD, TUNNEL)]
SPDYS = [(EXEC, V4), (FORWARD, "portforward.k8s.io")]


class Echo:
    """The Pods service, which ends with its client."""

    def __init__(self) -> None:
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._session  # the service has other methods, which nobody calls here

    async def _session(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        self.open += 1
        try:
            async for frame in requests:
                which = frame.WhichOneof("frame")
                if which == "start" and call.opened is not None:
                    call.opened.set()
                if which == "stdin":
                    yield pods_pb2.StreamFrame(stdout=frame.stdin)
                if which == "stdin_closed":
                    return
        finally:
            self.open -= 1


@pytest.fixture
def echo(front: Https) -> Echo:
    made = Echo()
    front.plane.services.add("wherry.v1.Pods", made)
    return made


def frame(
    op: int, data: bytes, *, masked: bool = True, last: bool = True, reserved: int = 0, length: int | None = None
) -> bytes:
    """Of a WebSocket. `length`: a lie."""
    size = len(data) if length is None else length
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if last else 0) | reserved << 4 | op])
    if size < 126:
        head += bytes([mask | size])
    else:
        head += (
            bytes([mask | 126]) + struct.pack(">H", size)
            if size < 65536
            else bytes([mask | 127]) + struct.pack(">Q", size)
        )
    return head + (b"\0\0\0\0" if masked else b"") + data


def control(kind: int, data: bytes, *, length: int | None = None, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, kind, len(data) if length is None else length) + data


def opened(stream: int, headers: bytes) -> bytes:
    """A SYN_STREAM."""
    return control(1, struct.pack(">IIBB", stream, 0, 0, 0) + headers)


def packed(*streams: dict[str, str]) -> list[bytes]:
    """Header blocks, one after another on one connection."""
    deflate = zlib.compressobj(zdict=DICTIONARY)
    blocks = []
    for headers in streams:
        words = b"".join(struct.pack(">I", len(text)) + text.encode() for pair in headers.items() for text in pair)
        blocks.append(deflate.compress(struct.pack(">I", len(headers)) + words) + deflate.flush(zlib.Z_SYNC_FLUSH))
    return blocks


def bomb() -> bytes:
    deflate = zlib.compressobj(9, zdict=DICTIONARY)
    head = struct.pack(">II", 1, 5) + b"hello" + struct.pack(">I", 50 << 20)
    return deflate.compress(head + b"\0" * (50 << 20)) + deflate.flush(zlib.Z_SYNC_FLUSH)


RANDOM = random.Random(3).randbytes(1000)
FRAMES = [
    RANDOM, frame(2, b"\0hi", masked=False), frame(2, b"\0hi", reserved=7), frame(2, b"\0hi", length=2**62),
    frame(2, b"\0hi", length=64 << 20), frame(5, b"\0hi"), frame(9, b"x", last=False), frame(9, b"x" * 200), frame(0, b"x"),
    frame(8, b"x"), frame(8, b"\0\1zz"), frame(1, b"\xff\xfe"), frame(2, b""), frame(2, b"\1abc"), frame(2, b"\x63abc"),
    frame(2, b"\xff"), frame(2, b"\xff\x09"), frame(2, b"\xff\0") * 2, frame(2, b"\4{bad"), frame(2, b"\4[]"),
    frame(2, b'\4{"Width":-1,"Height":99999999999}'), frame(2, b'\4{"Width":1e400,"Height":1}'), frame(2, b"\4" + b"[" * 100_000),
    frame(2, b"\0", last=False) + frame(0, b"x", last=False) * 1000 + frame(0, b"x"),
]  # fmt: skip
STREAM = {"streamtype": "data", "port": "80", "requestid": "1"}
SPDY = [
    RANDOM, control(4, b"\xff" * 11), control(1, b"\0\0"), opened(1, RANDOM[:100]), control(1, b"", length=0xFFFFFF),
    opened(2, b""), struct.pack(">II", 7, 5) + b"hello", struct.pack(">II", 7, 0xFFFFFF) + b"hello",
    control(3, b"\0\0\0\x09\0\0\0\1"),
    control(3, b""), control(9, b"\0\0\0\x09\x7f\xff\xff\xff"), control(7, b"\0" * 8), control(6, b"\0\0\0\1") * 10_000,
    control(77, b"abc"), control(1, b"abc", version=9), opened(1, bomb()),
    *(opened(1, block) for port in ("²", "0", "65536", "9" * 5000) for block in packed({**STREAM, "port": port})),
    b"".join(opened(2 * n + 1, block) for n, block in enumerate(packed(*({"streamtype": f"s{n}"} for n in range(5000))))),
    b"".join(opened(2 * n + 1, block) for n, block in enumerate(packed(*({"streamtype": "stdin"} for _ in range(5000))))),
]  # fmt: skip


async def tell(front: Https, head: str, sent: bytes) -> None:
    """Upgrades, says all of this and a farewell, and waits for the end."""
    host, _, port = front.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=front.context("admin"))
    try:
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        writer.write(sent)
        writer.write_eof() if writer.can_write_eof() else None
        try:
            async with asyncio.timeout(0.05):  # what is not refused at once is waited for on
                await reader.read()
        except (TimeoutError, ConnectionError):
            pass
    finally:
        writer.transport.abort()


@pytest.mark.timeout(300)
async def test_garbage(front: Https, echo: Echo, admin: Caller, caplog: pytest.LogCaptureFixture) -> None:
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol"
    with caplog.at_level(logging.WARNING):
        for path, protocol in SOCKETS:
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}: {protocol}\r\n\r\n"
            said = [*FRAMES, *(frame(2, part[:60_000]) for part in SPDY)] if protocol == TUNNEL else FRAMES
            await asyncio.gather(*(tell(front, head, each) for each in [*said, os.urandom(500)]))
            assert (await admin.ask("GET", "/livez")).text == "ok"
        for path, protocol in SPDYS:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
                f"X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
            )
            await asyncio.gather(*(tell(front, head, each) for each in [*SPDY, os.urandom(500)]))
            assert (await admin.ask("GET", "/livez")).text == "ok"

        async def over() -> bool:
            return not echo.open

        await eventually(over, 60)  # each session ends with its connection
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text[-3000:]


async def test_ports_that_are_none(front: Https, echo: Echo, admin: Caller) -> None:
    for port in ("%C2%B2", "0", "65536", "9" * 5000, "a"):
        with pytest.raises(Exception, match="400"):
            await admin.session.ws_connect(f"{admin.base}{POD}/portforward?ports={port}", protocols=(V4,))
    assert not echo.open


@pytest.mark.timeout(120)
@pytest.mark.parametrize("names", [["nope"], ["stdin", "stdin"]], ids=["unknown", "twice"])
async def test_an_exec_has_the_streams_that_it_has(front: Https, echo: Echo, names: list[str]) -> None:
    """And no end of others, of which each would be remembered."""
    host, _, port = front.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=front.context("admin"))
    writer.write(
        f"POST {EXEC} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        f"X-Stream-Protocol-Version: {V4}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    for number, block in enumerate(packed(*({"streamtype": name} for name in names))):
        writer.write(opened(2 * number + 1, block))
    while await reader.read(1000):
        pass  # the server ends it
    writer.transport.abort()
