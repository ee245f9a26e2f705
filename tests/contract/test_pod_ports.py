"""A connection to a pod's port over the node link, with the agent's real forwarding at the other end and TCP servers for pods."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.nodelink.podports import PodConnection, PodPorts
from controlplane.nodelink.sessions import Sessions
from kubelet.runtime import ports
from kubelet.streams.ports import Forwarding
from wherry.api.context import Env
from wherry.client.windows import WINDOW_BYTES
from wherry.pb import core_v1_pb2, nodelink_pb2, pods_pb2

MANY = 8 * WINDOW_BYTES


class Runtime:
    async def port_forward(self, sandbox_id: str, port: int, address: str = "") -> Any:
        return await ports.connect_to("", address, port)


class Leg:
    """The agent's end of the session."""

    def __init__(self, frames: AsyncIterator[Any], answers: asyncio.Queue[Any]) -> None:
        self._frames, self._answers = frames, answers

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._frames

    async def send(self, message: Any) -> None:
        await self._answers.put(message)


class Node:
    def __init__(self) -> None:
        self.sessions = Sessions(Env(), self._send)
        self.starts: list[pods_pb2.StreamStart] = []
        self.agents: list[asyncio.Task[None]] = []

    def _send(self, node: str, message: nodelink_pb2.ControlMessage) -> bool:
        if message.HasField("open_session"):
            self.starts.append(message.open_session.start)
            self.agents.append(asyncio.ensure_future(self._serve(message.open_session.session_id)))
        return True

    async def _serve(self, session_id: str) -> None:
        answers: asyncio.Queue[Any] = asyncio.Queue(4)

        async def said() -> AsyncIterator[Any]:
            while (frame := await answers.get()) is not None:
                yield frame

        leg: Any = Leg(self.sessions.serve_agent("n", session_id, said()), answers)
        runtime: Any = Runtime()
        await Forwarding(leg, runtime, "sandbox", windows=True, address="127.0.0.1").run()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield made
    done, pending = await asyncio.wait(made.agents, timeout=20)
    assert not pending, "the agent's end has not ended"
    for task in done:
        task.result()


def pod() -> core_v1_pb2.Pod:
    made = core_v1_pb2.Pod()
    made.metadata.name, made.metadata.namespace, made.metadata.uid, made.spec.node_name = "p", "default", "u", "n"
    return made


async def opened(node: Node, port: int) -> tuple[PodConnection, asyncio.StreamReader, asyncio.StreamWriter]:
    connection = await PodPorts(node.sessions).connect(pod(), port)
    return connection, *await asyncio.open_connection(sock=connection.socket)


async def test_more_than_a_window_goes_both_ways(node: Node) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(MANY)
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        connection, reader, writer = await opened(node, server.sockets[0].getsockname()[1])
        assert (node.starts[0].name, node.starts[0].uid, node.starts[0].to_address) == ("p", "u", True)
        sent = bytes(range(256)) * (MANY // 256)
        writer.write(sent)
        await writer.drain()
        assert await reader.read(-1) == sent
        writer.close()
        await connection.close()
    assert connection.problem == ""


async def test_a_pod_that_refuses_says_why(node: Node) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    connection, reader, writer = await opened(node, port)
    assert await reader.read() == b""
    assert connection.problem == f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    writer.close()
    await connection.close()


async def test_who_hangs_up_ends_the_session(node: Node) -> None:
    gone = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        connection, _, writer = await opened(node, server.sockets[0].getsockname()[1])
        writer.write(b"x")
        await writer.drain()
        writer.close()
        await connection.close()
        await asyncio.wait_for(gone.wait(), 20)


class Stuck:
    """A session whose agent takes nothing (or breaks at once)."""

    def __init__(self, error: Exception | None = None) -> None:
        self.to_agent = self.to_client = self
        self.error = error
        self.asked = asyncio.Event()
        self.closed = False

    async def open(self, node: str, start: pods_pb2.StreamStart) -> Stuck:
        return self

    def close(self, session: Stuck) -> None:
        self.closed = True

    async def put(self, frame: pods_pb2.StreamFrame) -> bool:
        self.asked.set()
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        return False


@pytest.fixture
async def pairs(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Every end of a socket pair that was made (but for the loop's own)."""
    made: list[socket.socket] = []
    real = socket.socketpair

    def make(*args: Any) -> tuple[socket.socket, socket.socket]:
        pair = real(*args)
        made.extend(pair)
        return pair

    monkeypatch.setattr(socket, "socketpair", make)
    return made


@pytest.mark.parametrize("what", ["cancelled", "refused", "not begun"])
async def test_a_connection_that_does_not_come_about_leaves_nothing_open(
    what: str, pairs: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck: Any = Stuck(OSError("gone") if what == "refused" else None)
    if what == "not begun":

        async def put(frame: pods_pb2.StreamFrame) -> bool:
            return True

        async def fail(*args: Any, **kwargs: Any) -> Any:
            stuck.asked.set()
            raise OSError("too many open files")

        stuck.put = put
        monkeypatch.setattr(asyncio, "open_connection", fail)
    connecting = asyncio.ensure_future(PodPorts(stuck).connect(pod(), 80))
    await stuck.asked.wait()
    if what == "cancelled":
        connecting.cancel()
    await asyncio.wait((connecting,))
    assert connecting.cancelled() or isinstance(connecting.exception(), OSError)
    assert [end.fileno() for end in pairs] == [-1, -1]
    assert stuck.closed


async def test_a_connection_that_ends_at_once_leaves_nothing_open(pairs: list[socket.socket]) -> None:
    stuck: Any = Stuck()

    async def put(frame: pods_pb2.StreamFrame) -> bool:
        return True

    stuck.put = put
    connection = await PodPorts(stuck).connect(pod(), 80)
    connection.socket.close()
    await connection.close()  # before its tasks have run
    await asyncio.sleep(0)
    assert [end.fileno() for end in pairs] == [-1, -1]
