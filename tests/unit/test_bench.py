"""The benchmarks, which nothing else runs: each can be loaded and says what it takes, and the load generator reads answers."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from typing import cast

import pytest

import bench
from bench import __main__ as command
from bench._https import Connection, request

MODULES = sorted(module.name for module in pkgutil.iter_modules(bench.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_each_can_be_loaded(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"bench.{name}")
    if name in command.names():
        with pytest.raises(SystemExit) as ended:
            module.run(["--help"])
        assert ended.value.code == 0
        assert name in capsys.readouterr().out


class Sent:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_answers_arrive_in_any_pieces(size: int) -> None:
    connection, sent = Connection(), Sent()
    connection.connection_made(cast(asyncio.BaseTransport, sent))
    for body in (b"{}", b"x" * 3000):
        waiting = connection.ask(request("GET", "/a"))
        answer = b"HTTP/1.1 201 Created\r\nA: b\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for start in range(0, len(answer), size):
            connection.data_received(answer[start : start + size])
        assert await waiting == (201, body)
    assert sent.data.count(b"GET /a HTTP/1.1\r\n") == 2
