"""Work in slices: others run between them, and it ends when whoever wants it is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from wherry.api.turns import Slices, at_once, in_turns


def count(to: int, ended: list[int] | None = None) -> Slices[int]:
    done = 0
    try:
        for _ in range(to):
            done += 1
            yield
    finally:
        if ended is not None:
            ended.append(done)
    return done


async def test_others_run_between_slices() -> None:
    order: list[str] = []

    async def other() -> None:
        for _ in range(3):
            order.append("other")
            await asyncio.sleep(0)

    def work() -> Slices[str]:
        for _ in range(3):
            order.append("work")
            yield
        return "result"

    task = asyncio.create_task(other())
    assert await in_turns(work()) == "result"
    await task
    assert order == ["work", "other"] * 3


@pytest.mark.parametrize("slices", [0, 1, 5])
async def test_the_result_is_the_same_at_once(slices: int) -> None:
    assert at_once(count(slices)) == await in_turns(count(slices)) == slices


async def test_a_failure_comes_out() -> None:
    def work() -> Slices[None]:
        yield
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await in_turns(work())


async def test_cancelled_work_is_ended() -> None:
    ended: list[int] = []
    task = asyncio.create_task(in_turns(count(1000, ended)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [2]
