"""The contract of `kubelet.runtime.base.Runtime`, on every runtime: hollow always, containerd where it can run.

Real time, real calls: the hollow runtime gets latencies of a millisecond. A fixture yields a `Bed`: the runtime, an image with a
shell that is there, and where logs may go.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from kubelet.runtime.base import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ContainerConfig,
    ContainerState,
    Resources,
    Runtime,
    RuntimeEvent,
    RuntimeFailure,
    RuntimeNotFound,
    SandboxConfig,
    SandboxState,
)
from kubelet.runtime.hollow import BEHAVIOUR, HollowRuntime, Latency
from wherry.api.context import Env

WAIT_S = 20.0
SLEEP = "trap 'exit 143' TERM; while true; do sleep 0.1; done"


@dataclass(frozen=True, slots=True)
class Bed:
    runtime: Runtime
    image: str
    logs: Path
    hollow: bool
    tag: str  # keeps apart what several runs make on one containerd


@asynccontextmanager
async def hollow_bed(tmp: Path) -> AsyncIterator[Bed]:
    latency = Latency(*(0.001,) * 6)
    runtime = HollowRuntime(Env(), latency=latency, missing_images=["example.com/missing:1"], write_logs=True)
    runtime.load_image("wherry.local/demo:1")
    yield Bed(runtime, "wherry.local/demo:1", tmp, True, "hollow")
    runtime.check_invariants()
    await runtime.close()


@asynccontextmanager
async def cri_bed(tmp: Path) -> AsyncIterator[Bed]:
    """Over the containerd that WHERRY_TEST_CRI names (with the demo image loaded); tests/node makes one of its own."""
    endpoint = os.environ.get("WHERRY_TEST_CRI", "")
    if not endpoint:
        pytest.skip("WHERRY_TEST_CRI names no containerd socket")
    from kubelet.runtime.cri import CriRuntime

    runtime = CriRuntime(endpoint)
    bed = Bed(runtime, "wherry.local/demo:1", tmp, False, f"contract-{os.getpid()}")
    try:
        yield bed
    finally:
        for sandbox in await runtime.list_sandboxes():
            if sandbox.namespace == bed.tag:
                await runtime.remove_sandbox(sandbox.id)
        await runtime.close()


@pytest_asyncio.fixture(params=["hollow", pytest.param("cri", marks=pytest.mark.containerd)])
async def bed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bed]:
    makers = {"hollow": hollow_bed, "cri": cri_bed}
    async with makers[request.param](tmp_path) as made:
        yield made


def sandbox_config(bed: Bed, name: str = "p", behaviour: str = "") -> SandboxConfig:
    uid = f"uid-{bed.tag}-{name}"
    return SandboxConfig(
        namespace=bed.tag, name=name, uid=uid, attempt=0, hostname=name, log_directory=str(bed.logs / name),
        labels={POD_NAME: name, POD_NAMESPACE: bed.tag, POD_UID: uid, "app": "x"},
        annotations={"note": "kept", BEHAVIOUR + "c": behaviour},
    )  # fmt: skip


def container_config(bed: Bed, script: str = SLEEP, attempt: int = 0) -> ContainerConfig:
    return ContainerConfig(
        name="c", attempt=attempt, image=bed.image, user_image=bed.image, command=("sh", "-c", script),
        labels={CONTAINER_NAME: "c"}, annotations={"hash": "abc"}, log_path=f"c/{attempt}.log",
        resources=Resources(cpu_shares=10, memory_limit_bytes=64 << 20),
    )  # fmt: skip


async def started(bed: Bed, script: str = SLEEP, behaviour: str = "") -> tuple[str, str]:
    """(sandbox id, container id)."""
    config = sandbox_config(bed, behaviour=behaviour)
    sandbox = await bed.runtime.run_sandbox(config)
    image = await bed.runtime.image_status(bed.image)
    assert image is not None
    wanted = replace(container_config(bed, script), image=image.id)
    container = await bed.runtime.create_container(sandbox, wanted, config)
    await bed.runtime.start_container(container)
    return sandbox, container


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await check():  # noqa: ASYNC110  there is nothing to be told by
            await asyncio.sleep(0.02)


async def exited(bed: Bed, container: str) -> bool:
    return (await bed.runtime.container_status(container)).state is ContainerState.EXITED


async def test_version_and_readiness(bed: Bed) -> None:
    name, version = await bed.runtime.version()
    assert name
    assert version
    assert await bed.runtime.ready() == ""


async def test_a_sandbox_from_start_to_end(bed: Bed) -> None:
    sandbox = await bed.runtime.run_sandbox(sandbox_config(bed))
    status = await bed.runtime.sandbox_status(sandbox)
    assert (status.state, status.name, status.namespace, status.attempt) == (SandboxState.READY, "p", bed.tag, 0)
    assert len(status.ips) == 1
    assert status.labels["app"] == "x"
    assert status.annotations["note"] == "kept"
    assert sandbox in [s.id for s in await bed.runtime.list_sandboxes()]
    await bed.runtime.stop_sandbox(sandbox)
    assert (await bed.runtime.sandbox_status(sandbox)).state is SandboxState.NOT_READY
    await bed.runtime.stop_sandbox(sandbox)
    await bed.runtime.remove_sandbox(sandbox)
    await bed.runtime.remove_sandbox(sandbox)
    with pytest.raises(RuntimeNotFound):
        await bed.runtime.sandbox_status(sandbox)


async def test_a_container_from_created_to_removed(bed: Bed) -> None:
    config = sandbox_config(bed)
    sandbox = await bed.runtime.run_sandbox(config)
    container = await bed.runtime.create_container(sandbox, container_config(bed), config)
    status = await bed.runtime.container_status(container)
    assert (status.state, status.name, status.attempt, status.sandbox_id) == (ContainerState.CREATED, "c", 0, sandbox)
    assert status.annotations["hash"] == "abc"
    await bed.runtime.start_container(container)
    running = await bed.runtime.container_status(container)
    assert running.state is ContainerState.RUNNING
    assert running.started_at >= running.created_at > 1_600_000_000
    assert running.log_path == f"{config.log_directory}/c/0.log"
    await bed.runtime.stop_container(container, 5)
    ended = await bed.runtime.container_status(container)
    assert (ended.state, ended.exit_code) == (ContainerState.EXITED, 143)
    assert ended.finished_at >= ended.started_at
    await bed.runtime.stop_container(container, 5)
    await bed.runtime.remove_container(container)
    await bed.runtime.remove_container(container)
    with pytest.raises(RuntimeNotFound):
        await bed.runtime.container_status(container)


async def test_exit_codes_and_reasons(bed: Bed) -> None:
    _, container = await started(bed, "exit 3", "exit-after=0.01,exit-code=3")
    await until(lambda: exited(bed, container))
    status = await bed.runtime.container_status(container)
    assert (status.exit_code, status.reason) == (3, "Error")


async def test_a_clean_end_is_completed(bed: Bed) -> None:
    _, container = await started(bed, "exit 0", "exit-after=0.01")
    await until(lambda: exited(bed, container))
    assert (await bed.runtime.container_status(container)).reason == "Completed"


async def test_what_ignores_the_signal_is_killed(bed: Bed) -> None:
    _, container = await started(bed, "trap '' TERM; while true; do sleep 0.1; done", "ignore-term")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await bed.runtime.stop_container(container, 1)
    assert loop.time() - began >= 0.9
    assert (await bed.runtime.container_status(container)).exit_code == 137


async def test_stopping_the_sandbox_stops_its_containers(bed: Bed) -> None:
    sandbox, container = await started(bed)
    await bed.runtime.stop_sandbox(sandbox)
    await until(lambda: exited(bed, container))
    await bed.runtime.remove_sandbox(sandbox)
    with pytest.raises(RuntimeNotFound):
        await bed.runtime.container_status(container)


async def test_lists_show_what_there_is(bed: Bed) -> None:
    sandbox, container = await started(bed)
    listed = {c.id: c for c in await bed.runtime.list_containers()}
    assert listed[container].state is ContainerState.RUNNING
    assert listed[container].sandbox_id == sandbox
    assert listed[container].annotations["hash"] == "abc"


async def test_unknown_ids(bed: Bed) -> None:
    for call in (bed.runtime.container_status, bed.runtime.sandbox_status, bed.runtime.start_container):
        with pytest.raises(RuntimeFailure):
            await call("0" * 64)
    await bed.runtime.stop_container("0" * 64, 1)
    await bed.runtime.remove_container("0" * 64)


async def test_exec_sync(bed: Bed) -> None:
    _, container = await started(bed)
    result = await bed.runtime.exec_sync(container, ["echo", "hello"], 5)
    assert (result.stdout, result.exit_code) == (b"hello\n", 0)
    assert (await bed.runtime.exec_sync(container, ["sh", "-c", "exit 4"], 5)).exit_code == 4
    with pytest.raises(TimeoutError):
        await bed.runtime.exec_sync(container, ["sleep", "30"], 1)


async def test_exec_streams(bed: Bed) -> None:
    _, container = await started(bed)
    session = await bed.runtime.exec(container, ["cat"], stdin=True, stdout=True, stderr=False, tty=False)
    await session.send(b"over and back")
    await session.send_eof()
    async with asyncio.timeout(WAIT_S):
        output = b"".join([data async for _, data in session.output()])
        assert (output, await session.wait()) == (b"over and back", 0)
    await session.close()


async def test_events_tell_of_an_end(bed: Bed) -> None:
    seen: list[RuntimeEvent] = []

    async def listen() -> None:
        async for event in bed.runtime.events():
            seen.append(event)

    listener = asyncio.ensure_future(listen())
    try:
        await asyncio.sleep(0.2)
        _, container = await started(bed, "exit 1", "exit-after=0.05,exit-code=1")

        async def told() -> bool:
            return any(e.kind == "exited" and e.container_id == container for e in seen)

        await until(told)
        assert await exited(bed, container), "the state is there before the event"
    finally:
        listener.cancel()
        await asyncio.wait((listener,))


async def test_images(bed: Bed) -> None:
    image = await bed.runtime.image_status(bed.image)
    assert image is not None
    assert image.id in [i.id for i in await bed.runtime.list_images()]
    assert image.size_bytes > 0
    assert await bed.runtime.image_status("example.com/never-heard-of:1") is None
    mount_point, used = await bed.runtime.image_fs_bytes()
    assert mount_point.startswith("/")
    assert used >= 0


async def test_stats_know_the_container(bed: Bed) -> None:
    _, container = await started(bed)

    async def counted() -> bool:
        return any(s.container_id == container and s.name == "c" for s in await bed.runtime.stats())

    await until(counted)


async def test_logs_are_in_cri_format_and_can_be_reopened(bed: Bed) -> None:
    _, container = await started(bed, f"echo started c; {SLEEP}")
    path = Path((await bed.runtime.container_status(container)).log_path)

    async def written() -> bool:
        return await asyncio.to_thread(has_line, path)

    await until(written)
    await asyncio.to_thread(path.rename, path.with_name("0.log.1"))
    await bed.runtime.reopen_log(container)
    assert await asyncio.to_thread(path.exists)


def has_line(path: Path) -> bool:
    return path.exists() and " stdout F started c\n" in path.read_text()
