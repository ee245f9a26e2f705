"""The network in memory: what a client sees when the server dies, the cable is pulled, or messages are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from google.protobuf.message import Message

from wherry.api.context import Env
from wherry.api.errors import ServiceUnavailable, Timeout
from wherry.client.base import BidiStream
from wherry.pb import resources_pb2
from wherry.testing.loop import virtual_loop
from wherry.testing.network import KEEPALIVE_S, Link, Server


class Echo:
    """A transport whose server counts: unary answers after a second, streams tick once a second."""

    def __init__(self) -> None:
        self.done = 0
        self.sent: list[Message] = []

    async def unary(self, method: str, request: Message, *, timeout_s: float | None = None) -> Any:
        await asyncio.sleep(1)
        self.done += 1
        return self.done

    async def server_stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        for number in range(100):
            await asyncio.sleep(1)
            yield number

    def bidi(self, method: str, *, metadata: Mapping[str, str] | None = None) -> BidiStream:
        return EchoStream(self)

    async def close(self) -> None: ...


class EchoStream:
    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._queue: asyncio.Queue[Message] = asyncio.Queue()

    async def send(self, message: Message) -> None:
        self._echo.sent.append(message)
        await self._queue.put(message)

    async def done_sending(self) -> None: ...

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            yield await self._queue.get()

    async def cancel(self) -> None: ...


REQUEST = resources_pb2.GetRequest(name="x")


class Net:
    def __init__(self, env: Env) -> None:
        self.echo = Echo()
        self.server: Server | None = Server(lambda identity: self.echo)
        self.link = Link(lambda: self.server, "me", env)

    async def kill(self) -> None:
        assert self.server is not None
        server, self.server = self.server, None
        await server.kill()


@pytest.fixture
def net(env: Env) -> Net:
    return Net(env)


async def test_calls_get_through(net: Net) -> None:
    assert await net.link.unary("m", REQUEST) == 1
    stream = net.link.server_stream("m", REQUEST)
    assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
    await stream.aclose()  # type: ignore[attr-defined]
    both = net.link.bidi("m")
    await both.send(REQUEST)
    assert await anext(aiter(both)) == REQUEST
    await both.cancel()


async def test_a_killed_server_resets_what_is_under_way(net: Net) -> None:
    call = asyncio.create_task(net.link.unary("m", REQUEST))
    stream = net.link.server_stream("m", REQUEST)
    await anext(stream)
    both = net.link.bidi("m")
    reading = asyncio.create_task(anext(aiter(both)))  # type: ignore[arg-type]
    call = asyncio.create_task(net.link.unary("m", REQUEST))
    await asyncio.sleep(0.5)
    await net.kill()
    for waiting in (call, anext(stream), reading):
        with pytest.raises(ServiceUnavailable):
            await waiting
    with pytest.raises(ServiceUnavailable, match="refused"):
        await net.link.unary("m", REQUEST)
    with pytest.raises(ServiceUnavailable):
        await both.send(REQUEST)
    assert net.echo.done == 1  # the call of the first line only


async def test_the_next_life_serves_again(net: Net) -> None:
    await net.kill()
    net.server = Server(lambda identity: net.echo)
    assert await net.link.unary("m", REQUEST) == 1


async def test_a_cut_link_gives_no_sign(net: Net) -> None:
    stream = net.link.server_stream("m", REQUEST)
    await anext(stream)
    net.link.cut()
    began = virtual_loop().time()
    with pytest.raises(Timeout):
        await net.link.unary("m", REQUEST, timeout_s=4)
    assert virtual_loop().time() - began == 4
    with pytest.raises(ServiceUnavailable, match="keepalive"):
        await anext(stream)
    assert virtual_loop().time() - began <= KEEPALIVE_S + 2


async def test_a_short_cut_delays_a_stream(net: Net) -> None:
    stream = net.link.server_stream("m", REQUEST)
    await anext(stream)
    net.link.cut()
    virtual_loop().call_later(5, net.link.heal)
    assert await anext(stream) == 1
    await stream.aclose()  # type: ignore[attr-defined]


async def test_what_is_sent_into_a_cut_breaks_the_stream(net: Net) -> None:
    both = net.link.bidi("m")
    await both.send(REQUEST)
    net.link.cut()
    await both.send(REQUEST)
    net.link.heal()
    with pytest.raises(ServiceUnavailable):
        await anext(aiter(both))
    assert len(net.echo.sent) == 1
    await both.cancel()


async def test_a_lost_answer_is_not_a_lost_write(net: Net, env: Env) -> None:
    net.link.faults.loss = 0.5
    lost = 0
    for _ in range(40):
        try:
            await net.link.unary("m", REQUEST, timeout_s=2)
        except Timeout:
            lost += 1
    assert 20 < lost < 38
    assert 40 - lost < net.echo.done < 40
