"""Sessions with a terminal, as each protocol of Kubernetes' clients carries them: what is typed and the sizes arrive in the order
in which they were sent, output and exit status come back.

The front is real; in place of the node's agent there is a recorder of what it would be told.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from controlplane.fronts.call import Call
from kubelet.runtime.exec_stream import ExecSession
from kubelet.streams.sessions import exit_status
from wherry.pb import pods_pb2
from wherry.testing.https import Https

PATH = "/api/v1/namespaces/default/pods/p/exec?command=sh&stdin=true&stdout=true&tty=true"
SIZES = [(80, 24), (132, 43), (1, 1), (65535, 65535)]
STDIN, STDOUT, ERROR, RESIZE, CLOSE = 0, 1, 3, 4, 255


class Recorder:
    """The Pods service: writes down what comes, sends back what is typed; ends with code 7 at the end of input, or after "q"."""

    def __init__(self) -> None:
        self.start: pods_pb2.StreamStart | None = None
        self.heard: list[bytes | tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._exec  # the service has other methods, which nobody calls here

    async def _exec(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        async for frame in requests:
            which = frame.WhichOneof("frame")
            if which == "start":
                self.start = frame.start
                if call.opened is not None:
                    call.opened.set()
            elif which == "resize":
                self.heard.append((frame.resize.width, frame.resize.height))
            elif which == "stdin":
                self.heard.append(frame.stdin)
                yield pods_pb2.StreamFrame(stdout=frame.stdin)
            if which == "stdin_closed" or frame.stdin == b"q":
                yield pods_pb2.StreamFrame(result=exit_status(7))
                return


@pytest.fixture
def recorder(front: Https) -> Recorder:
    made = Recorder()
    front.plane.services.add("wherry.v1.Pods", made)
    return made


def check(recorder: Recorder, *more: bytes) -> None:
    assert recorder.start is not None
    assert (recorder.start.tty, recorder.start.stdin, list(recorder.start.command)) == (True, True, ["sh"])
    assert recorder.heard == [SIZES[0], b"ab", *SIZES[1:], b"cd", *more]


def size(width: int, height: int) -> bytes:
    return json.dumps({"Width": width, "Height": height}).encode()


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_over_a_websocket(front: Https, recorder: Recorder, protocol: str) -> None:
    seen = b""
    async with (
        front.caller() as admin,
        asyncio.timeout(60),
        admin.session.ws_connect(f"{admin.base}{PATH}", protocols=(protocol,)) as socket,
    ):
        assert socket.protocol == protocol
        await socket.send_bytes(bytes((RESIZE,)) + size(*SIZES[0]))
        await socket.send_bytes(bytes((RESIZE,)) + b"not a size")
        await socket.send_bytes(bytes((STDIN,)) + b"ab")
        for each in SIZES[1:]:
            await socket.send_bytes(bytes((RESIZE,)) + size(*each))
        await socket.send_bytes(bytes((STDIN,)) + b"cd")
        status = None
        while status is None:
            message = await socket.receive()
            assert message.type is aiohttp.WSMsgType.BINARY, message
            if message.data[0] == STDOUT:
                seen += message.data[1:]
                if seen == b"abcd":
                    # Only the newer protocol can say that nothing more comes.
                    await socket.send_bytes(
                        bytes((CLOSE, STDIN)) if protocol.startswith("v5") else bytes((STDIN,)) + b"q"
                    )
            elif message.data[0] == ERROR:
                status = json.loads(message.data[1:])
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    check(recorder, *([] if protocol.startswith("v5") else [b"q"]))


async def test_over_spdy(front: Https, recorder: Recorder) -> None:
    """With the client that the agent has for container runtimes, which speak the same protocol."""
    host, _, port = front.address.rpartition(":")
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=front.context("admin"))
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: {front.address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            "X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        session = ExecSession(reader, writer)
        try:
            await session.start(stdin=True, stdout=True, stderr=False, resize=True)
            # Each kind of frame has a stream of its own, and one connection, so that the order is that of sending.
            await session.resize(*SIZES[0])
            await session.send(b"ab")
            for each in SIZES[1:]:
                await session.resize(*each)
            await session.send(b"cd")
            await session.send_eof()
            seen = b"".join([data async for _, data in session.output()])
            assert (seen, await session.wait()) == (b"abcd", 7)
        finally:
            await session.close()
    check(recorder)
