"""WorkQueue: one worker per key, no lost adds, back-off. Virtual time."""

from __future__ import annotations

import asyncio
import random

import pytest

from wherry.client.workqueue import ShutDown, WorkQueue


async def test_a_key_added_many_times_is_handed_out_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_in_work_is_handed_out_again_only_after_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    assert len(queue) == 0
    queue.check_invariants()
    queue.done(key)
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_get_waits_for_an_add() -> None:
    queue: WorkQueue[str] = WorkQueue()
    asyncio.get_running_loop().call_later(5, queue.add, "late")
    assert await queue.get() == "late"


async def test_a_cancelled_getter_does_not_swallow_a_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first = asyncio.create_task(queue.get())
    second = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()  # woken, but cancelled before it could take the key
    assert await second == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_backoff_doubles_up_to_the_limit_and_forget_resets_it() -> None:
    queue: WorkQueue[str] = WorkQueue()
    delays = [queue.add_rate_limited("a") for _ in range(20)]
    assert delays[:4] == [0.005, 0.01, 0.02, 0.04]
    assert delays[-1] == 1000.0
    assert queue.retries("a") == 20
    queue.forget("a")
    assert queue.add_rate_limited("a") == 0.005


async def test_of_two_delays_of_a_key_the_shorter_one_counts_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    loop = asyncio.get_running_loop()
    start = loop.time()
    queue.add_after("a", 10)
    queue.add_after("a", 3)
    queue.add_after("a", 7)
    assert await queue.get() == "a"
    assert loop.time() - start == pytest.approx(3)
    queue.done("a")
    await asyncio.sleep(20)
    assert len(queue) == 0


async def test_shut_down_hands_out_the_rest_and_then_refuses() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    waiting = asyncio.create_task(queue.get())
    await waiting
    idle = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.shut_down()
    with pytest.raises(ShutDown):
        await idle
    queue.add("b")
    assert len(queue) == 0


@pytest.mark.parametrize("seed", range(5))
async def test_random_use_keeps_the_invariants_and_loses_nothing(seed: int) -> None:
    rng = random.Random(seed)
    queue: WorkQueue[int] = WorkQueue()
    wanted: dict[int, int] = {}  # key -> number of the last add
    seen: dict[int, int] = {}  # key -> number of the last add when its work began
    active: set[int] = set()

    async def worker() -> None:
        while True:
            try:
                key = await queue.get()
            except ShutDown:
                return
            assert key not in active
            active.add(key)
            seen[key] = wanted[key]
            await asyncio.sleep(rng.random())
            active.remove(key)
            queue.done(key)
            queue.check_invariants()

    workers = [asyncio.create_task(worker()) for _ in range(4)]
    for number in range(300):
        key = rng.randrange(12)
        wanted[key] = number
        queue.add(key)
        queue.check_invariants()
        await asyncio.sleep(rng.random() / 8)
    queue.shut_down()
    await asyncio.gather(*workers)
    assert seen == wanted
