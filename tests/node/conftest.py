"""Fixtures: one real containerd for the whole run, and pods on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kubelet.runtime import cleanup
from kubelet.runtime.containerd import HOST_PORTS_HANDLER
from kubelet.runtime.cri import CriRuntime
from wherry.testing.realnode import Pods, RealNode, running_node
from wherry.testing.require import require_containerd


@pytest.fixture(scope="session")
def real_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    require_containerd()
    with running_node(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
async def runtime(real_node: RealNode) -> AsyncIterator[CriRuntime]:
    runtime = CriRuntime(f"unix://{real_node.layout.socket}", host_ports_handler=HOST_PORTS_HANDLER)
    yield runtime
    await runtime.close()
    await cleanup.remove_all_sandboxes(f"unix://{real_node.layout.socket}")


@pytest.fixture
def pods(runtime: CriRuntime, tmp_path: Path) -> Pods:
    return Pods(runtime, tmp_path / "logs")
