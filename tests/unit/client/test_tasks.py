"""TaskGroup: order of start and cancellation, and the errors of asyncio.TaskGroup."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wherry.api.tasks import TaskGroup, stop


async def fail(error: BaseException) -> None:
    raise error


async def test_children_start_and_are_cancelled_in_order_of_creation() -> None:
    log: list[str] = []

    async def child(number: int) -> None:
        log.append(f"start {number}")
        try:
            await asyncio.Event().wait()
        finally:
            log.append(f"end {number}")

    async def body() -> None:
        async with TaskGroup() as group:
            for number in range(50):
                group.create_task(child(number), name=f"child-{number}")
            await asyncio.sleep(0)
            raise ValueError("body")

    with pytest.raises(BaseExceptionGroup) as caught:
        await body()
    assert [str(error) for error in caught.value.exceptions] == ["body"]
    assert log == [f"start {n}" for n in range(50)] + [f"end {n}" for n in range(50)]


async def test_a_failing_child_breaks_off_the_body_and_its_siblings() -> None:
    cancelled: list[str] = []

    async def sibling() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("sibling")
            raise

    async def body() -> None:
        async with TaskGroup() as group:
            group.create_task(sibling())
            group.create_task(fail(KeyError("x")))
            await asyncio.Event().wait()

    with pytest.raises(BaseExceptionGroup) as caught:
        await body()
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert cancelled == ["sibling"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_cancellation_from_outside_is_passed_on_after_the_children_ended() -> None:
    ended = asyncio.Event()

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    async def parent() -> None:
        async with TaskGroup() as group:
            group.create_task(child())

    task = asyncio.create_task(parent())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_error_of_a_child_wins_over_cancellation_from_outside() -> None:
    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while ending")

    async def parent() -> None:
        async with TaskGroup() as group:
            group.create_task(child())

    task = asyncio.create_task(parent())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(BaseExceptionGroup):
        await task


async def test_results_and_children_of_children() -> None:
    async def child(group: TaskGroup, depth: int) -> int:
        if depth:
            group.create_task(child(group, depth - 1))
        return depth

    async with TaskGroup() as group:
        first = group.create_task(child(group, 3))
    assert first.result() == 3


@pytest.mark.parametrize("when", ["before entering", "after leaving"])
async def test_a_closed_group_takes_no_child(when: str) -> None:
    group = TaskGroup()
    if when == "after leaving":
        async with group:
            pass
    with pytest.raises(RuntimeError, match="not open"):
        group.create_task(asyncio.sleep(0))


async def test_it_raises_what_the_standard_group_raises() -> None:
    async def scenario(cls: Any) -> list[str]:
        try:
            async with cls() as group:
                group.create_task(fail(ValueError("a")))
                group.create_task(fail(ValueError("b")))
                await asyncio.sleep(0)
                raise KeyError("body")
        except BaseExceptionGroup as error:
            return sorted(repr(part) for part in error.exceptions)
        return []

    assert await scenario(TaskGroup) == await scenario(asyncio.TaskGroup) != []


async def test_what_a_stopped_task_ended_with_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("a defect")

    async def hang() -> None:
        await asyncio.Event().wait()

    failing, hanging = asyncio.ensure_future(fail()), asyncio.ensure_future(hang())
    await asyncio.sleep(0)
    await stop(failing, hanging)
    assert hanging.cancelled()
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [failing.exception()]
    await stop()
