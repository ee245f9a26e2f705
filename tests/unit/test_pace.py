"""Work in slices: what comes at once is spread over rounds of the loop, in order, and nothing is left waiting."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.fronts import pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(pace, "perf_counter", lambda: now[0])
    return now


async def test_turns_fill_a_slice_and_go_on_in_the_next_round(clock: list[float]) -> None:
    turns = pace.Turns()
    rounds: list[int] = []
    current = 0

    def next_round() -> None:
        nonlocal current
        current += 1
        asyncio.get_running_loop().call_soon(next_round)

    async def work() -> None:
        await turns.mine()
        rounds.append(current)
        clock[0] += pace.SLICE_S / 2

    next_round()
    await asyncio.gather(*(work() for _ in range(6)))
    first = rounds[0]
    assert [number - first for number in rounds] == [0, 0, 1, 1, 2, 2]


async def test_work_that_is_cancelled_before_its_turn_leaves_no_trace(clock: list[float]) -> None:
    turns = pace.Turns()
    begun = []

    async def work(name: str) -> None:
        begun.append(name)
        clock[0] += pace.SLICE_S

    tasks = [asyncio.ensure_future(turns.run(work(name))) for name in ("one", "two")]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert begun == ["one"]
    assert isinstance(results[1], asyncio.CancelledError)


async def test_a_long_piece_of_work_breathes_when_its_slice_is_over(clock: list[float]) -> None:
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    mine = pace.Pace()
    for _ in range(10):
        clock[0] += pace.SLICE_S * 0.6
        await mine.breathe()
    task.cancel()
    assert others == 5
