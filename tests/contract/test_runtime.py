"""What every runtime promises (`kubelet.runtime.base`): the same suite on `hollow`, on `cri` with a real containerd and on
`docker` with a real daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kubelet.network.cni_exec import Plugins
from kubelet.runtime import cleanup
from kubelet.runtime.base import (
    CONTAINER_NAME,
    POD_UID,
    ContainerConfig,
    ContainerState,
    ContainerStatus,
    Resources,
    Runtime,
    RuntimeFailure,
    RuntimeNotFound,
    SandboxConfig,
    SandboxState,
)
from kubelet.runtime.containerd import CNI_BIN_DIRS
from kubelet.runtime.cri import CriRuntime
from kubelet.runtime.docker import DockerRuntime
from kubelet.runtime.hollow import HollowRuntime
from wherry.api.context import Env
from wherry.cli.cluster.images import DEMO_IMAGE, demo_archive
from wherry.testing.dockerd import Dockerd
from wherry.testing.eventually import eventually
from wherry.testing.realnode import CGROUP, RealNode, running_node
from wherry.testing.require import require_containerd


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    require_containerd()
    with running_node(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Dockerd]:
    made = Dockerd("--bridge", "none")
    try:
        made.start()
        yield made
    finally:
        made.stop()


REAL = [pytest.param(name, marks=[pytest.mark.root, pytest.mark.containerd]) for name in ("cri", "docker")]


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
async def runtime(endpoint: str, tmp_path: Path) -> AsyncIterator[Runtime]:
    if endpoint.startswith("docker:"):
        _, socket, conf_dir = endpoint.split(":")
        plugins = Plugins(Path(conf_dir), CNI_BIN_DIRS, tmp_path / "cni")
        docker = DockerRuntime(Env(), socket, "contract", cni=plugins)
        await docker.load_image(demo_archive())
        yield docker
        for sandbox in await docker.list_sandboxes():
            await docker.remove_sandbox(sandbox.id)
        await docker.close()
        return
    if not endpoint:
        hollow = HollowRuntime(Env(), write_logs=True)
        hollow.load_image(DEMO_IMAGE)
        yield hollow
        hollow.check_invariants()
        await hollow.close()
        return
    cri = CriRuntime(endpoint)
    yield cri
    await cri.close()
    await cleanup.remove_all_sandboxes(endpoint)


@dataclass(frozen=True)
class Behaviour:
    """The same for a real shell and for a hollow container."""

    script: str
    hollow: str = ""


# Time for a real shell to set its trap: until then the kernel keeps the signal from a namespace's first process.
TRAP_S = 0.3
RUNS = Behaviour("trap 'exit 143' TERM; while :; do sleep 0.05; done")
FAILS = Behaviour("exit 3", "exit-after=0,exit-code=3")
SUCCEEDS = Behaviour("exit 0", "exit-after=0,exit-code=0")
IGNORES_TERM = Behaviour("trap '' TERM; while :; do sleep 0.05; done", "ignore-term")


class Maker:
    def __init__(self, runtime: Runtime, logs: Path) -> None:
        self.runtime, self.logs = runtime, logs
        self._count = 0

    def sandbox_config(self, **changes: Any) -> SandboxConfig:
        self._count += 1
        fields: dict[str, Any] = {
            "namespace": "default",
            "name": f"pod-{self._count}",
            "uid": f"uid-{id(self):x}-{self._count}",
            "attempt": 0,
            "hostname": f"pod-{self._count}",
            "log_directory": str(self.logs),
            "cgroup_parent": f"/wherry/{CGROUP}/contract",
            "labels": {POD_UID: f"uid-{self._count}"},
            "annotations": {"note": "kept"},
        }
        return SandboxConfig(**(fields | changes))

    async def sandbox(self, **changes: Any) -> tuple[str, SandboxConfig]:
        config = self.sandbox_config(**changes)
        return await self.runtime.run_sandbox(config), config

    async def container(
        self, sandbox: tuple[str, SandboxConfig], does: Behaviour, *, start: bool = True, **changes: Any
    ) -> str:
        self._count += 1
        fields: dict[str, Any] = {
            "name": f"c{self._count}",
            "attempt": 0,
            "image": DEMO_IMAGE,
            "user_image": DEMO_IMAGE,
            "command": ("/bin/sh", "-c", does.script),
            "args": (f"hollow:{does.hollow}",),  # $0 to a real shell
            "labels": {CONTAINER_NAME: f"c{self._count}"},
            "log_path": f"c{self._count}.log",
        }
        config = ContainerConfig(**(fields | changes))
        container = await self.runtime.create_container(sandbox[0], config, sandbox[1])
        if start:
            await self.runtime.start_container(container)
        return container

    async def exited(self, container: str) -> ContainerStatus:
        async def check() -> ContainerStatus | None:
            status = await self.runtime.container_status(container)
            return status if status.state is ContainerState.EXITED else None

        status = await eventually(check)
        assert status is not None
        return status


@pytest.fixture
def make(runtime: Runtime, tmp_path: Path) -> Maker:
    return Maker(runtime, tmp_path / "logs")


async def test_ready_runtime_has_nothing_to_say(runtime: Runtime) -> None:
    assert await runtime.ready() == ""
    name, version = await runtime.version()
    assert name
    assert version


async def test_sandbox_keeps_what_it_was_given(runtime: Runtime, make: Maker) -> None:
    sandbox, config = await make.sandbox(attempt=2)
    status = await runtime.sandbox_status(sandbox)
    assert (status.id, status.namespace, status.name, status.uid, status.attempt) == (
        sandbox, config.namespace, config.name, config.uid, 2,
    )  # fmt: skip
    assert status.state is SandboxState.READY
    assert status.created_at > 0
    assert len(status.ips) == 1
    assert dict(status.labels) == dict(config.labels)
    assert dict(status.annotations) == dict(config.annotations)
    listed = {item.id: item for item in await runtime.list_sandboxes()}
    assert (listed[sandbox].uid, listed[sandbox].state) == (config.uid, SandboxState.READY)


async def test_two_sandboxes_have_two_addresses(runtime: Runtime, make: Maker) -> None:
    first, second = await make.sandbox(), await make.sandbox()
    assert (await runtime.sandbox_status(first[0])).ips != (await runtime.sandbox_status(second[0])).ips


async def test_stopped_sandbox_is_not_ready_and_takes_its_containers_along(runtime: Runtime, make: Maker) -> None:
    sandbox = await make.sandbox()
    container = await make.container(sandbox, RUNS)
    for _ in range(2):
        await runtime.stop_sandbox(sandbox[0])
    assert (await runtime.sandbox_status(sandbox[0])).state is SandboxState.NOT_READY
    assert (await runtime.container_status(container)).state is ContainerState.EXITED
    for _ in range(2):
        await runtime.remove_sandbox(sandbox[0])
    with pytest.raises(RuntimeNotFound):
        await runtime.sandbox_status(sandbox[0])
    with pytest.raises(RuntimeNotFound):
        await runtime.container_status(container)


async def test_container_goes_from_created_to_running_to_exited(runtime: Runtime, make: Maker) -> None:
    sandbox = await make.sandbox()
    container = await make.container(sandbox, RUNS, start=False, attempt=4)
    created = await runtime.container_status(container)
    assert (created.state, created.attempt, created.sandbox_id) == (ContainerState.CREATED, 4, sandbox[0])
    assert created.image_id
    await runtime.start_container(container)
    running = await runtime.container_status(container)
    assert running.state is ContainerState.RUNNING
    assert running.started_at >= running.created_at > 0
    assert running.log_path == str(make.logs / f"{running.name}.log")
    await asyncio.sleep(TRAP_S)
    await runtime.stop_container(container, 20)
    ended = await runtime.container_status(container)
    assert (ended.state, ended.exit_code, ended.reason) == (ContainerState.EXITED, 143, "Error")
    assert ended.finished_at >= ended.started_at
    listed = {item.id: item for item in await runtime.list_containers()}
    assert (listed[container].state, listed[container].attempt) == (ContainerState.EXITED, 4)
    assert listed[container].labels[CONTAINER_NAME] == ended.name


@pytest.mark.parametrize(
    ("does", "code", "reason"), [(FAILS, 3, "Error"), (SUCCEEDS, 0, "Completed")], ids=["fails", "succeeds"]
)
async def test_exit_code_and_reason(make: Maker, does: Behaviour, code: int, reason: str) -> None:
    status = await make.exited(await make.container(await make.sandbox(), does))
    assert (status.exit_code, status.reason) == (code, reason)


async def test_what_ignores_the_stop_signal_is_killed(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), IGNORES_TERM)
    await asyncio.sleep(TRAP_S)
    await runtime.stop_container(container, 1)
    assert (await runtime.container_status(container)).exit_code == 137


async def test_removing_and_stopping_what_is_gone_succeeds(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), RUNS)
    for _ in range(2):
        await runtime.stop_container(container, 0)
    for _ in range(2):
        await runtime.remove_container(container)
    await runtime.stop_container(container, 0)
    await runtime.stop_sandbox("no-such-sandbox")
    await runtime.remove_sandbox("no-such-sandbox")


async def test_unknown_things_are_not_found(runtime: Runtime) -> None:
    with pytest.raises(RuntimeNotFound):
        await runtime.container_status("no-such-container")
    with pytest.raises(RuntimeNotFound):
        await runtime.sandbox_status("no-such-sandbox")
    with pytest.raises(RuntimeNotFound):
        await runtime.exec_sync("no-such-container", ["true"], 5)


async def test_exec_gives_output_and_exit_code(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), RUNS)
    said = await runtime.exec_sync(container, ["echo", "hello"], 10)
    assert (said.stdout, said.exit_code) == (b"hello\n", 0)
    assert (await runtime.exec_sync(container, ["sh", "-c", "exit 4"], 10)).exit_code == 4


async def test_exec_session_echoes_until_end_of_input(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), RUNS)
    stream = await runtime.exec(container, ["cat"], stdin=True, stdout=True, stderr=True, tty=False)
    await stream.send(b"one ")
    await stream.send(b"two")
    await stream.send_eof()
    assert b"".join([piece async for number, piece in stream.output() if number == 1]) == b"one two"
    assert await stream.wait() == 0
    await stream.close()


async def test_exec_in_an_ended_container_fails(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), SUCCEEDS)
    await make.exited(container)
    with pytest.raises(RuntimeFailure):
        await runtime.exec_sync(container, ["true"], 5)


async def test_events_tell_of_a_containers_life(runtime: Runtime, make: Maker) -> None:
    events = runtime.events()
    seen: list[tuple[str, str]] = []

    async def watch() -> None:
        async for event in events:
            seen.append((event.kind, event.container_id))

    watching = asyncio.create_task(watch())
    sandbox = await make.sandbox()

    async def subscribed() -> bool:
        # Nobody says when the subscription holds: what happens before may go unseen, as the relist's duty.
        probe = await make.container(sandbox, SUCCEEDS)
        await make.exited(probe)
        return bool(seen)

    await eventually(subscribed)
    container = await make.container(sandbox, FAILS)

    async def told() -> bool:
        return {("started", container), ("exited", container)} <= set(seen)

    await eventually(told)
    assert (await runtime.container_status(container)).state is ContainerState.EXITED
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_images_are_found_by_name(runtime: Runtime) -> None:
    image = await runtime.image_status(DEMO_IMAGE)
    assert image is not None
    assert DEMO_IMAGE in image.tags
    assert image.id in {item.id for item in await runtime.list_images()}
    assert await runtime.image_status("wherry.local/none:1") is None


async def test_stats_name_running_containers(runtime: Runtime, make: Maker) -> None:
    sandbox = await make.sandbox()
    container = await make.container(sandbox, RUNS)

    async def measured() -> list[Any]:
        return [item for item in await runtime.stats() if item.container_id == container]

    (stats,) = await eventually(measured)
    assert stats.sandbox_id == sandbox[0]
    assert stats.memory_working_set_bytes >= 0


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_logs_are_lines_in_cris_format(runtime: Runtime, make: Maker) -> None:
    does = Behaviour("echo one; echo two >&2; printf three; exec sleep 1")
    status = await make.exited(await make.container(await make.sandbox(), does))

    def read() -> list[bytes]:
        return Path(status.log_path).read_bytes().splitlines()

    async def written() -> list[bytes]:
        lines = await asyncio.to_thread(read)
        return lines if len(lines) == 3 else []

    parts = [line.split(b" ", 3)[1:] for line in await eventually(written)]
    assert sorted(parts) == [[b"stderr", b"F", b"two"], [b"stdout", b"F", b"one"], [b"stdout", b"P", b"three"]]


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_a_pods_containers_share_its_network(runtime: Runtime, make: Maker) -> None:
    sandbox = await make.sandbox()
    server = await make.container(
        sandbox, Behaviour("echo hello > /tmp/index.html; exec httpd -f -p 127.0.0.1:8080 -h /tmp")
    )
    client = await make.container(sandbox, RUNS)
    (address,) = (await runtime.sandbox_status(sandbox[0])).ips
    assert address in (await runtime.exec_sync(client, ["ip", "-4", "addr"], 10)).stdout.decode()

    async def fetched() -> bool:
        get = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 127.0.0.1 8080"
        return b"hello" in (await runtime.exec_sync(client, ["sh", "-c", get], 10)).stdout

    await eventually(fetched)
    port = await runtime.port_forward(sandbox[0], 8080)
    await port.send(b"GET / HTTP/1.0\r\n\r\n")
    assert b"hello" in b"".join([piece async for _, piece in port.output()])
    await port.close()
    assert server


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_limits_reach_the_kernel(runtime: Runtime, make: Maker) -> None:
    limits = Resources(cpu_shares=512, cpu_quota=20_000, cpu_period=100_000, memory_limit_bytes=64 << 20)
    container = await make.container(await make.sandbox(), RUNS, resources=limits)
    paths = ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"]
    told = await runtime.exec_sync(container, ["sh", "-c", f"cat {' '.join(paths)} 2>/dev/null"], 10)
    assert told.stdout.strip() == b"%d" % (64 << 20)
