"""What every runtime promises (`kubelet.runtime.base`): the same suite on `hollow`, on `cri` with a real containerd and on
`docker` with a real daemon. Here: sandboxes and containers. Beside it: what processes find (`test_runtime_kernel`),
sessions, images, and an agent on each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubelet.runtime.base import (
    CONTAINER_NAME,
    ContainerState,
    Runtime,
    RuntimeNotFound,
    SandboxState,
)
from wherry.testing.eventually import eventually
from wherry.testing.runtimes import FAILS, IGNORES_TERM, RUNS, SUCCEEDS, TRAP_S, Behaviour, Maker


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


async def test_stats_name_running_containers(runtime: Runtime, make: Maker) -> None:
    sandbox = await make.sandbox()
    container = await make.container(sandbox, RUNS)

    async def measured() -> list[Any]:
        return [item for item in await runtime.stats() if item.container_id == container]

    (stats,) = await eventually(measured)
    assert stats.sandbox_id == sandbox[0]
    assert stats.memory_working_set_bytes >= 0
