"""Long-lived tasks go on after a defect: logged, backed off, ended by cancellation alone."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from wherry.api.supervise import FIRST_S, MAX_S, SOUND_S, keep_running
from wherry.api.tasks import TaskGroup


async def test_a_failure_is_told_and_the_work_begins_again_later_and_later(supervised: list[str]) -> None:
    loop = asyncio.get_running_loop()
    starts: list[float] = []

    async def work() -> str:
        starts.append(loop.time())
        if len(starts) < 10:
            raise ValueError(f"number {len(starts)}")
        return "done"

    assert await keep_running("loop", work) == "done"
    waits = [round(after - before, 3) for before, after in itertools.pairwise(starts)]
    assert waits[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert max(waits) == waits[-1] == MAX_S
    assert len(supervised) == 9
    assert "loop failed" in supervised[0]
    assert "ValueError: number 1" in supervised[0]
    supervised.clear()


async def test_after_a_long_sound_run_the_back_off_starts_anew(supervised: list[str]) -> None:
    loop = asyncio.get_running_loop()
    starts: list[float] = []

    async def work() -> None:
        starts.append(loop.time())
        if len(starts) == 4:
            await asyncio.sleep(SOUND_S)
        if len(starts) < 6:
            raise OSError("gone")

    await keep_running("loop", work)
    assert starts[4] - starts[3] - SOUND_S == FIRST_S
    supervised.clear()


@pytest.mark.parametrize("on_the_way_out", [False, True])
async def test_a_cancellation_ends_it_also_when_the_work_fails_on_the_way_out(
    supervised: list[str], on_the_way_out: bool
) -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            if on_the_way_out:
                raise OSError("no goodbye")

    task = asyncio.create_task(keep_running("loop", work))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait((task,), timeout=1)
    assert task.done()
    assert not supervised
    assert isinstance(task.exception(), OSError) if on_the_way_out else task.cancelled()


async def test_one_child_that_fails_leaves_the_others_of_its_group_alone(supervised: list[str]) -> None:
    beats: list[float] = []
    loop = asyncio.get_running_loop()

    async def sound() -> None:
        while True:
            await asyncio.sleep(1)
            beats.append(loop.time())

    async def bad() -> None:
        raise KeyError("x")

    async with TaskGroup() as group:
        tasks = [group.keep(sound, name="sound"), group.keep(bad, name="bad")]
        await asyncio.sleep(10.5)
        for task in tasks:
            task.cancel()
    assert len(beats) == 10
    assert supervised
    supervised.clear()
