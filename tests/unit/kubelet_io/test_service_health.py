"""The health check ports of Services, asked over loopback."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from kubelet.network.services.health import Health, HealthPorts


async def ask(port: int) -> tuple[str, dict[str, object]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    told = await reader.read()
    writer.close()
    head, _, body = told.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), json.loads(body)


async def test_a_port_tells_of_endpoints_here_and_goes_with_its_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ports = HealthPorts("127.0.0.1")
    try:
        await ports.sync({port: Health("default", "web", 2)})
        service = {"namespace": "default", "name": "web"}
        assert await ask(port) == (
            "HTTP/1.1 200 OK", {"service": service, "localEndpoints": 2, "serviceProxyHealthy": True},
        )  # fmt: skip
        await ports.sync({port: Health("default", "web", 0)})
        assert (await ask(port))[0] == "HTTP/1.1 503 Service Unavailable"
        await ports.sync({})
        with pytest.raises(ConnectionRefusedError):
            await ask(port)
    finally:
        await ports.close()
