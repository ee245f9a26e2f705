"""The virtual-time loop: time jumps, nothing waits, the order is always the same."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wherry.api.context import Env
from wherry.testing.loop import EPOCH, Deadlock, Livelock, TimeLimit, VirtualLoop, run_virtual, virtual_loop

ROOT = Path(__file__).parents[2]


async def test_a_day_passes_at_once(env: Env) -> None:
    real, wall = time.monotonic(), env.now()
    loop = asyncio.get_running_loop()
    started = loop.time()
    await asyncio.sleep(86_400)
    assert loop.time() - started == 86_400
    assert env.now() - wall == pytest.approx(86_400)
    assert time.monotonic() - real < 5


async def test_timers_fire_in_order_of_time(env: Env) -> None:
    fired: list[float] = []

    async def at(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        fired.append(delay_s)

    delays = [env.rng.uniform(0, 100) for _ in range(200)]
    await asyncio.gather(*(at(delay_s) for delay_s in delays))
    assert fired == sorted(delays)


async def test_a_timeout_takes_its_time_and_no_longer() -> None:
    started = virtual_loop().time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(7.5):
            await asyncio.Event().wait()
    assert virtual_loop().time() - started == 7.5


async def test_an_executor_runs_inline() -> None:
    assert await asyncio.to_thread(threading.get_ident) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await asyncio.get_running_loop().run_in_executor(None, lambda: 1 / 0)


def test_the_wall_clock_starts_at_the_epoch_and_the_seed_decides_the_dice() -> None:
    async def main(env: Env) -> tuple[float, str]:
        return env.now(), env.uuid()

    first = run_virtual(main, seed=1)
    assert first[0] == EPOCH
    assert run_virtual(main, seed=1) == first
    assert run_virtual(main, seed=2) != first


def test_a_deadlock_names_the_task_and_its_line() -> None:
    async def stuck_in_the_mud() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"test_loop\.py:\d+ stuck_in_the_mud > locks\.py:\d+ wait"):
        run_virtual(stuck_in_the_mud())


def test_a_livelock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherry.testing.loop.LIVELOCK_STEPS", 100)

    async def spin() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match="spin"):
        run_virtual(spin())


def test_the_limit_is_in_virtual_seconds() -> None:
    async def for_ever() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(10)

    with pytest.raises(TimeLimit, match=r"3600\.000 s"):
        run_virtual(for_ever(), limit_s=3_605)


def test_leftover_tasks_are_cancelled_oldest_first_and_may_clean_up() -> None:
    ended: list[int] = []

    async def worker(number: int) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(1)
            ended.append(number)

    async def main() -> None:
        tasks = [asyncio.create_task(worker(number)) for number in range(20)]
        await asyncio.sleep(1)
        assert virtual_loop().tasks()[1:] == tasks

    run_virtual(main())
    assert ended == list(range(20))


def test_a_thread_is_refused() -> None:
    loop = VirtualLoop()
    refused: list[BaseException] = []

    def intrude() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            refused.append(error)

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    loop.close()
    assert len(refused) == 1


def test_the_collector_is_on_again_afterwards() -> None:
    async def main() -> bool:
        return gc.isenabled()

    assert not run_virtual(main())
    assert gc.isenabled()


SCRIPT = """
import asyncio, sys
{extra}
from wherry.testing.loop import run_virtual, virtual_loop

async def main(env):
    out = []
    async def walk(name):
        for _ in range(20):
            await asyncio.sleep(env.rng.choice([0, 0, 0.5, 1]))
            out.append((name, round(env.now(), 3), env.uuid()[:4]))
    await asyncio.gather(*(walk(f"w{{n}}") for n in range(20)))
    return [task.get_name() for task in virtual_loop().tasks()], out

print(run_virtual(main, seed=7))
"""


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    def run(hash_seed: str, extra: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", SCRIPT.format(extra=extra)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    first = run("1", "")
    assert len(first) > 1_000
    assert run("2", "import decimal, xml.dom.minidom, unittest.mock") == first
