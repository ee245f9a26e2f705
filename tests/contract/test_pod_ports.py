"""A connection to a pod's port over the node link, with the agent's real forwarding at the other end and TCP servers for pods."""

from __future__ import annotations

import asyncio
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
