"""The cri runtime against a real containerd: what the contract suite can't ask of every runtime (signals, cgroups, ports)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubelet.runtime.base import (
    ContainerState,
    PortMapping,
)
from kubelet.runtime.cri import CriRuntime
from wherry.testing.eventually import eventually
from wherry.testing.server import free_port

pytestmark = [pytest.mark.root, pytest.mark.containerd]


async def test_host_port_reaches_the_pod_until_it_goes(runtime: CriRuntime, pods: Any) -> None:
    port = free_port()
    sandbox = await pods.sandbox(port_mappings=(PortMapping(8080, port),))
    await pods.container(sandbox, "httpd -f -p 8080 -h /etc")

    async def fetch() -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return b""  # it does not listen yet
        writer.write(b"GET /group HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    assert (await eventually(fetch)).startswith(b"HTTP/1.1 200")
    plain = await pods.sandbox()
    # One network: the two may not get the same address.
    assert (await runtime.sandbox_status(plain[0])).ips != (await runtime.sandbox_status(sandbox[0])).ips
    await runtime.stop_sandbox(sandbox[0])
    assert await fetch() == b""
    rules = await asyncio.create_subprocess_exec("iptables-save", "-t", "nat", stdout=asyncio.subprocess.PIPE)
    assert f"--dport {port} ".encode() not in (await rules.communicate())[0]


async def test_events_come_when_the_state_can_be_seen(runtime: CriRuntime, pods: Any) -> None:
    events = runtime.events()
    first = asyncio.create_task(anext(events))  # type: ignore[arg-type]  # subscribes
    sandbox = await pods.sandbox()
    async with asyncio.timeout(10):
        await first
    container = await pods.container(sandbox, "exit 1")
    async with asyncio.timeout(10):
        async for event in events:
            if event.kind == "exited" and event.container_id == container:
                break
    assert (await runtime.container_status(container)).state == ContainerState.EXITED
    await events.aclose()  # type: ignore[attr-defined]


async def test_stats_and_images(runtime: CriRuntime, pods: Any) -> None:
    sandbox = await pods.sandbox()
    container = await pods.container(sandbox, "while :; do :; done")

    async def measured() -> Any:
        found = [item for item in await runtime.stats() if item.container_id == container]
        return found[0] if found and found[0].cpu_usage_core_ns > 0 else None

    stats = await eventually(measured)
    assert stats.sandbox_id == sandbox[0]
    assert stats.memory_working_set_bytes > 0
    image = await runtime.image_status("wherry.local/demo:1")
    assert image is not None
    assert image.tags == ("wherry.local/demo:1",)
    assert (await runtime.image_status("wherry.local/pause:1")).user == "65535"  # type: ignore[union-attr]
    assert await runtime.image_status("wherry.local/none:1") is None
    mount, used = await runtime.image_fs_bytes()
    assert mount.endswith("overlayfs")
    assert used >= 0
