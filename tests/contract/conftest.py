"""A control plane with its HTTPS front, and an administrator who calls it; modules that want another one make their own. And the
three runtimes, of which `endpoint` chooses one: a containerd and a Docker daemon serve all the suites."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from kubelet.network.cni_exec import Plugins
from kubelet.runtime import cleanup
from kubelet.runtime.base import Runtime
from kubelet.runtime.containerd import CNI_BIN_DIRS
from kubelet.runtime.cri import CriRuntime
from kubelet.runtime.docker import DockerRuntime
from kubelet.runtime.hollow import HollowRuntime
from wherry.api.context import Env
from wherry.cli.cluster.images import DEMO_IMAGE, demo_archive
from wherry.testing.dockerd import Dockerd
from wherry.testing.https import Caller, Https, https
from wherry.testing.realnode import RealNode, running_node
from wherry.testing.require import require_containerd
from wherry.testing.runtimes import REAL, Maker, Registries


@pytest.fixture
async def front() -> AsyncIterator[Https]:
    async with https(Env()) as found:
        yield found


@pytest.fixture
async def admin(front: Https) -> AsyncIterator[Caller]:
    async with front.caller() as caller:
        yield caller


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    require_containerd()
    tmp = tmp_path_factory.mktemp("node")
    with running_node(tmp, registries=tmp / "certs.d") as node:
        yield node


@pytest.fixture(scope="session")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registries]:
    made = Registries(tmp_path_factory.mktemp("registries"))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def dockerd(registries: Registries) -> Iterator[Dockerd]:
    made = Dockerd("--registry-mirror", f"http://{registries.open.host}", network=False)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(params=["hollow", *REAL])
def endpoint(request: pytest.FixtureRequest) -> str:
    """Of containerd or Docker; "" for the hollow runtime. Not a coroutine, since a node is made with loops of its own."""
    if request.param == "hollow":
        return ""
    node = request.getfixturevalue("node")  # whose network Docker's pods have, too
    if request.param == "docker":
        return f"docker:{request.getfixturevalue('dockerd').socket}:{node.layout.cni_conf_dir}"
    return f"unix://{node.layout.socket}"


@pytest.fixture
def connect(endpoint: str, tmp_path: Path) -> Callable[[], Runtime]:
    """Makes what an agent that starts anew has."""
    if endpoint.startswith("docker:"):
        _, socket, conf_dir = endpoint.split(":")
        plugins = Plugins(Path(conf_dir), CNI_BIN_DIRS, tmp_path / "cni")
        return lambda: DockerRuntime(Env(), socket, "contract", cni=plugins)
    if endpoint:
        return lambda: CriRuntime(endpoint)
    hollow = HollowRuntime(Env(), write_logs=True)  # which is the runtime itself
    hollow.load_image(DEMO_IMAGE)
    return lambda: hollow


@pytest.fixture
async def runtime(connect: Callable[[], Runtime], endpoint: str) -> AsyncIterator[Runtime]:
    made = connect()
    if isinstance(made, DockerRuntime) and await made.image_status(DEMO_IMAGE) is None:
        await made.load_image(demo_archive())
    yield made
    if isinstance(made, HollowRuntime):
        made.check_invariants()
    await made.close()
    if isinstance(made, CriRuntime):
        await cleanup.remove_all_sandboxes(endpoint)
    if isinstance(made, DockerRuntime):
        last = connect()
        await asyncio.gather(*(last.remove_sandbox(sandbox.id) for sandbox in await last.list_sandboxes()))
        await last.close()


@pytest.fixture
async def registry(registries: Registries, node: RealNode, dockerd: Dockerd, make: Maker) -> Registries:
    """For real runtimes."""
    assert node.registries is not None
    await make.sandbox()  # the first one makes the bridge, and so an address that is not loopback's
    gateway = str(next(ipaddress.IPv4Network(node.pod_cidr).hosts()))
    await asyncio.to_thread(registries.start, gateway, node.registries, dockerd.certificates)
    return registries


@pytest.fixture
def make(runtime: Runtime, tmp_path: Path) -> Maker:
    return Maker(runtime, tmp_path / "logs")
