"""Windows and pipes of a port-forward session."""

from __future__ import annotations

import asyncio

from wherry.client.windows import LUMP_BYTES, WINDOW_BYTES, Credit, Pipe, Window


async def test_a_window_lets_through_what_there_is_credit_for() -> None:
    window = Window()
    assert await window.take(WINDOW_BYTES - 1) == WINDOW_BYTES - 1
    assert await window.take(10) == 1
    waiting = asyncio.create_task(window.take(10))
    await asyncio.sleep(1)
    assert not waiting.done()
    window.give(4)
    assert await waiting == 4
    assert await Window(limited=False).take(10 * WINDOW_BYTES) == 10 * WINDOW_BYTES


async def test_a_pipe_is_bounded_and_keeps_the_order() -> None:
    pipe = Pipe(4)
    assert pipe.offer(b"abc")
    assert pipe.offer(b"de")  # there was room when it came
    assert not pipe.offer(b"f")
    putting = asyncio.create_task(pipe.put(b"f"))
    await asyncio.sleep(1)
    assert not putting.done()
    assert await pipe.get() == b"abc"
    await putting
    pipe.close()
    await pipe.put(b"what comes after the end is dropped")
    assert [await pipe.get(), await pipe.get(), await pipe.get()] == [b"de", b"f", b""]
    assert pipe.size == 0


async def test_who_waits_at_a_pipe_is_freed_by_its_end() -> None:
    pipe = Pipe(1)
    pipe.offer(b"a")
    putting = asyncio.create_task(pipe.put(b"b"))
    await asyncio.sleep(1)
    pipe.close()
    await putting
    assert [await pipe.get(), await pipe.get()] == [b"a", b""]


def test_credit_is_given_in_lumps_and_none_is_lost() -> None:
    credit = Credit()
    assert [credit.taken(LUMP_BYTES - 1), credit.taken(2), credit.taken(1)] == [0, LUMP_BYTES + 1, 0]
