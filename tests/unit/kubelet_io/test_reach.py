"""Probes over real sockets of loopback, in real time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from kubelet.pods.reach import Network
from wherry.pb import core_v1_pb2

ANSWERS = {
    "/ok": (200, ""), "/created": (201, ""), "/bad": (500, ""), "/missing": (404, ""), "/away": (302, "/ok"),
    "/loop": (302, "/loop"), "/elsewhere": (302, "http://192.0.2.7/"),
}  # fmt: skip


@asynccontextmanager
async def web(seen: list[str]) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            writer.close()
            return
        seen.append(head)
        code, location = ANSWERS[head.split(" ")[1]]
        extra = f"Location: {location}\r\n" if location else ""
        writer.write(f"HTTP/1.1 {code} X\r\n{extra}Content-Length: 4\r\n\r\nbody".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])
        # Both ends have closed; their transports let go of the sockets in the next rounds of the loop.
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("path", "ok", "seen"),
    [
        ("/ok", True, "body"), ("ok", True, "body"), ("/created", True, "body"), ("/away", True, "body"),
        ("/bad", False, "HTTP probe failed with statuscode: 500"),
        ("/missing", False, "HTTP probe failed with statuscode: 404"),
        ("/loop", False, 'Get "/loop": stopped after 10 redirects'),
        ("/elsewhere", True, "Probe terminated redirects, Response body: body"),
    ],
)  # fmt: skip
async def test_http(path: str, ok: bool, seen: str) -> None:
    async with web([]) as port:
        action = core_v1_pb2.HTTPGetAction(path=path)
        assert await Network().http("id", action, "127.0.0.1", port, 5) == (ok, seen)


async def test_http_headers_win_over_ours() -> None:
    heads: list[str] = []
    async with web(heads) as port:
        action = core_v1_pb2.HTTPGetAction(path="/ok")
        action.http_headers.add(name="host", value="example.com")
        action.http_headers.add(name="X-Probe", value="1")
        await Network().http("id", action, "127.0.0.1", port, 5)
    assert "host: example.com\r\n" in heads[0]
    assert "X-Probe: 1\r\n" in heads[0]
    assert "Host: 127" not in heads[0]


async def test_nobody_listens() -> None:
    async with web([]) as port:
        pass
    refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert await Network().tcp("id", "127.0.0.1", port, 5) == (False, refused)
    action = core_v1_pb2.HTTPGetAction(path="/x")
    assert await Network().http("id", action, "127.0.0.1", port, 5) == (
        False, f'Get "http://127.0.0.1:{port}/x": {refused}',
    )  # fmt: skip


async def test_tcp() -> None:
    async with web([]) as port:
        assert await Network().tcp("id", "127.0.0.1", port, 5) == (True, "")


async def test_grpc() -> None:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        assert (await Network().grpc("id", "127.0.0.1", port, "", 5))[0]
        await servicer.set("db", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert await Network().grpc("id", "127.0.0.1", port, "db", 5) == (
            False, 'service unhealthy (responded with "NOT_SERVING")',
        )  # fmt: skip
        ok, seen = await Network().grpc("id", "127.0.0.1", port, "unknown", 5)
        assert not ok
        assert "unknown" in seen
    finally:
        await server.stop(None)
