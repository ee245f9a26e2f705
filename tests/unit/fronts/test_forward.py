"""Port-forward in the HTTP front: one connection that the pod does not read, and others beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.fronts.http.forward import HELD_S, PIPE_BYTES, Frame, Ports, ports_of
from wherry.api.errors import BadRequest
from wherry.client.windows import WINDOW_BYTES

PIECE = b"x" * (32 << 10)


class Wire:
    """The client: `says` is a queue of frames; what it is told is kept."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[Any] = asyncio.Queue(1)
        self.data_of: dict[int, bytes] = {}
        self.ended: dict[int, str] = {}

    async def events(self) -> AsyncIterator[Any]:
        while (frame := await self.says.get()) is not None:
            yield frame

    async def data(self, channel: int, data: bytes) -> None:
        self.data_of[channel] = self.data_of.get(channel, b"") + data

    async def end(self, channel: int, problem: str) -> None:
        self.ended[channel] = problem


class Agent:
    """Takes what the front says; gives credit on all channels but the stuck ones, and sends the bytes back."""

    def __init__(self, *stuck: int) -> None:
        self.stuck = stuck
        self.got: dict[int, int] = {}
        self.told: list[Any] = []
        self.ports: Ports | None = None

    async def say(self, frame: Any) -> None:
        assert self.ports is not None
        if frame.WhichOneof("frame") != "data":
            self.told.append(frame)
            return
        self.got[frame.channel] = self.got.get(frame.channel, 0) + len(frame.data)
        if frame.channel not in self.stuck:
            await self.ports.write(Frame(channel=frame.channel, credit=len(frame.data)))
            await self.ports.write(Frame(channel=frame.channel, data=frame.data))


@pytest.fixture
def wire() -> Wire:
    return Wire()


async def start(wire: Wire, agent: Agent, *channels: int) -> asyncio.Task[None]:
    agent.ports = Ports(wire, agent.say)
    task = asyncio.create_task(agent.ports.read())
    for channel in channels:
        await wire.says.put(Frame(channel=channel, start_port=80))
    return task


async def end(task: asyncio.Task[None], agent: Agent, wire: Wire) -> None:
    await wire.says.put(None)
    await task
    assert agent.ports is not None
    await agent.ports.close()


async def test_a_stuck_connection_is_kept_to_its_window_and_the_others_go_on(wire: Wire) -> None:
    agent = Agent(1)
    task = await start(wire, agent, 1, 3)
    for _ in range((WINDOW_BYTES + PIPE_BYTES) // len(PIECE)):
        await wire.says.put(Frame(channel=1, data=PIECE))
    for _ in range(100):
        await wire.says.put(Frame(channel=3, data=PIECE))
    await asyncio.sleep(0.1)
    assert agent.got == {1: WINDOW_BYTES, 3: 100 * len(PIECE)}
    assert len(wire.data_of[3]) == 100 * len(PIECE)
    assert not wire.ended
    await end(task, agent, wire)


async def test_a_stuck_connection_that_holds_up_others_is_broken_off(wire: Wire) -> None:
    agent = Agent(1)
    task = await start(wire, agent, 1, 3)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(2 * (WINDOW_BYTES + PIPE_BYTES) // len(PIECE)):
        await wire.says.put(Frame(channel=1, data=PIECE))
    await wire.says.put(Frame(channel=3, data=b"through"))
    await asyncio.sleep(0.1)
    assert HELD_S <= loop.time() - began < 2 * HELD_S
    assert wire.ended == {1: ""}
    assert wire.data_of == {3: b"through"}
    assert [frame.channel_error != "" for frame in agent.told if frame.channel == 1][-1]
    await end(task, agent, wire)


async def test_a_connection_alone_waits_for_as_long_as_it_takes(wire: Wire) -> None:
    agent = Agent(1)
    task = await start(wire, agent, 1)
    sending = asyncio.create_task(flood(wire, 2 * (WINDOW_BYTES + PIPE_BYTES) // len(PIECE)))
    await asyncio.sleep(10 * HELD_S)
    assert not sending.done()
    assert not wire.ended
    assert agent.ports is not None
    for _ in range(20):
        await agent.ports.write(Frame(channel=1, credit=WINDOW_BYTES))
    await sending
    await asyncio.sleep(0.1)
    assert agent.got[1] == 2 * (WINDOW_BYTES + PIPE_BYTES)
    await end(task, agent, wire)


async def flood(wire: Wire, pieces: int) -> None:
    for _ in range(pieces):
        await wire.says.put(Frame(channel=1, data=PIECE))


async def test_both_ends_of_a_connection(wire: Wire) -> None:
    agent = Agent()
    task = await start(wire, agent, 1, 3)
    await wire.says.put(Frame(channel=1, data=b"last words"))
    await wire.says.put(Frame(channel=1, channel_closed=True))
    await asyncio.sleep(0.1)
    assert [frame.channel for frame in agent.told if frame.channel_closed] == [1]
    assert agent.ports is not None
    await agent.ports.write(Frame(channel=1, channel_closed=True))
    await agent.ports.write(Frame(channel=3, channel_error="refused"))
    assert wire.ended == {1: "", 3: "refused"}
    await end(task, agent, wire)


def test_ports_with_commas_and_without() -> None:
    assert ports_of(["80,90", "100"]) == [80, 90, 100]
    with pytest.raises(BadRequest):
        ports_of(["80,"])
