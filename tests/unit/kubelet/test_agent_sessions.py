"""The agent's sessions with containers (exec, logs, port-forward), against a control plane of a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from wherry.client.windows import WINDOW_BYTES
from wherry.pb import core_v1_pb2, nodelink_pb2, pods_pb2
from wherry.testing.agents import World, pod


def open_session(world: World, number: str, **start: Any) -> None:
    message = nodelink_pb2.ControlMessage()
    message.open_session.session_id = number
    message.open_session.start.CopyFrom(pods_pb2.StreamStart(namespace="default", name="a", **start))
    world.control.links[-1].say(message)


async def finished(world: World, number: str) -> tuple[bytes, bytes, Any]:
    """(stdout, stderr, result)."""
    await world.until(lambda: number in world.control.sessions)
    stream = world.control.sessions[number]
    await world.until(lambda: any(frame.WhichOneof("frame") == "result" for frame in stream.sent))
    stream.say(None)
    return (
        b"".join(frame.stdout for frame in stream.sent),
        b"".join(frame.stderr for frame in stream.sent),
        stream.sent[-1].result,
    )


async def test_sessions(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    kind = pods_pb2.StreamStart
    open_session(world, "1", kind=kind.EXEC, command=["echo", "hi"], stdout=True)
    stdout, _, result = await finished(world, "1")
    assert (stdout, result.status) == (b"hi\n", "Success")
    open_session(world, "2", kind=kind.EXEC, command=["exit", "3"], stdout=True)
    _, _, result = await finished(world, "2")
    assert (result.reason, result.details.causes[0].reason, result.details.causes[0].message) == (
        "NonZeroExitCode", "ExitCode", "3",
    )  # fmt: skip
    open_session(world, "3", kind=kind.LOGS)
    stdout, _, result = await finished(world, "3")
    assert (stdout, result.status) == (b"started c\n", "Success")
    open_session(world, "4", kind=kind.LOGS, log_options=core_v1_pb2.PodLogOptions(previous=True))
    _, _, result = await finished(world, "4")
    assert result.message == 'previous terminated container "c" in pod "a" not found'
    open_session(world, "5", kind=kind.EXEC, command=["cat"], stdin=True, stdout=True)
    await world.until(lambda: "5" in world.control.sessions)
    world.control.sessions["5"].say(pods_pb2.StreamFrame(stdin=b"abc"))
    world.control.sessions["5"].say(pods_pb2.StreamFrame(stdin_closed=True))
    stdout, _, result = await finished(world, "5")
    assert (stdout, result.status) == (b"abc", "Success")


async def test_port_forward_keeps_connections_apart(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    open_session(world, "1", kind=pods_pb2.StreamStart.PORT_FORWARD)
    await world.until(lambda: "1" in world.control.sessions)
    stream = world.control.sessions["1"]
    for channel in (1, 2):
        stream.say(pods_pb2.StreamFrame(channel=channel, start_port=80))
        stream.say(pods_pb2.StreamFrame(channel=channel, data=b"x" * channel))
    await world.until(lambda: sum(len(frame.data) for frame in stream.sent) == 3)
    assert {(frame.channel, frame.data) for frame in stream.sent if frame.data} == {(1, b"x"), (2, b"xx")}
    stream.say(pods_pb2.StreamFrame(channel=1, channel_closed=True))
    await world.until(lambda: any(frame.channel_closed and frame.channel == 1 for frame in stream.sent))
    stream.say(None)
    await world.until(lambda: any(frame.WhichOneof("frame") == "result" for frame in stream.sent))


class Port:
    """A connection into a pod that sends for ever, and takes what it is sent only where it is not stuck."""

    def __init__(self, *, stuck: bool) -> None:
        self.stuck = stuck
        self.taken = 0

    async def send(self, data: bytes) -> None:
        if self.stuck:
            await asyncio.get_running_loop().create_future()
        self.taken += len(data)

    async def send_eof(self) -> None: ...
    async def resize(self, width: int, height: int) -> None: ...
    async def close(self) -> None: ...

    async def wait(self) -> int:
        return 0

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        while True:
            await asyncio.sleep(0.001)
            yield 1, b"y" * 10_000


async def test_one_stuck_connection_of_a_port_forward_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 is sound, 81 takes nothing, 82 takes for ever to connect; nobody reads what comes from 81."""
    ports = {80: Port(stuck=False), 81: Port(stuck=True)}

    async def port_forward(sandbox_id: str, port: int, address: str = "") -> Port:
        if port not in ports:
            await asyncio.sleep(3600)
        return ports[port]

    monkeypatch.setattr(world.runtime, "port_forward", port_forward)
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    open_session(world, "1", kind=pods_pb2.StreamStart.PORT_FORWARD, windows=True)
    await world.until(lambda: "1" in world.control.sessions)
    stream = world.control.sessions["1"]
    for channel, port in ((2, 82), (1, 81), (0, 80)):
        stream.say(pods_pb2.StreamFrame(channel=channel, start_port=port))
    for _ in range(8):
        stream.say(pods_pb2.StreamFrame(channel=1, data=b"x" * (WINDOW_BYTES // 8)))

    def took(size: int) -> bool:
        return ports[80].taken == size

    sent = 0
    for _ in range(40):  # more than a window, as the credit comes
        stream.say(pods_pb2.StreamFrame(channel=0, data=b"x" * (WINDOW_BYTES // 8)))
        stream.say(pods_pb2.StreamFrame(channel=0, credit=WINDOW_BYTES // 8))
        sent += WINDOW_BYTES // 8
        await world.until(partial(took, sent))

    def received(channel: int) -> int:
        return sum(len(frame.data) for frame in stream.sent if frame.channel == channel)

    await asyncio.sleep(60)
    assert received(0) == WINDOW_BYTES + sent
    assert received(1) == WINDOW_BYTES, "what nobody reads stays within its window"
    credit = sum(frame.credit for frame in stream.sent if frame.channel == 0)
    assert sent - WINDOW_BYTES // 4 < credit <= sent
    stream.say(pods_pb2.StreamFrame(channel=2, channel_error="not wanted any more"))
    stream.say(None)
    await world.until(lambda: any(frame.WhichOneof("frame") == "result" for frame in stream.sent))


async def test_a_broken_session_leaves_the_agent_and_other_sessions_alone(world: World) -> None:
    """A client that goes away while the pod still sends."""
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    open_session(world, "1", kind=pods_pb2.StreamStart.PORT_FORWARD)
    await world.until(lambda: "1" in world.control.sessions)
    stream = world.control.sessions["1"]
    stream.say(pods_pb2.StreamFrame(channel=1, start_port=80))
    stream.say(pods_pb2.StreamFrame(channel=1, data=b"x"))
    await world.until(lambda: any(frame.data for frame in stream.sent))
    stream.broken = True
    stream.say(pods_pb2.StreamFrame(channel=1, data=b"y"))
    await asyncio.sleep(10)
    assert world.task is not None
    assert not world.task.done(), "the agent must live on"
    world.control.put(pod("b"))
    await world.until(lambda: world.control.phase("b") == "Running")


async def test_a_client_that_leaves_ends_the_following_of_a_log(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    open_session(world, "1", kind=pods_pb2.StreamStart.LOGS, log_options=core_v1_pb2.PodLogOptions(follow=True))
    await world.until(lambda: "1" in world.control.sessions and len(world.control.sessions["1"].sent) == 2)
    await asyncio.sleep(100)
    assert world.agent.sessions._tasks
    world.control.sessions["1"].say(None)
    await asyncio.sleep(1)
    world.control.sessions["1"].say(None)
    await world.until(lambda: not world.agent.sessions._tasks)
