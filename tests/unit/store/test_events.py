"""The ring of recent events."""

from __future__ import annotations

import asyncio
import random

import pytest

from controlplane.store.check import prefix_end
from controlplane.store.events import Cursor, EventRing
from wherry.testing.loop import run_virtual


def make_ring(events: int = 10, size: int = 1000) -> EventRing[str]:
    """Its events are their own keys, and as large as they are long."""
    return EventRing(head=1, key=str, size=len, limit_events=events, limit_bytes=size)


def test_it_is_bounded_by_events_and_bytes_and_keeps_the_last_revision_whole() -> None:
    async def main() -> None:
        ring = make_ring(events=3, size=20)
        for revision in range(2, 10):
            ring.publish([(revision, [f"k{revision}"])])
            ring.check_invariants()
        assert (ring.floor, ring.head) == (6, 9)
        assert ring.take("", 6) == (["k7", "k8", "k9"], 9)
        ring.publish([(10, ["x" * 18])])
        assert (ring.floor, ring.head) == (8, 10)
        ring.publish([(11, ["y" * 500, "z"])])
        assert ring.take("", 10) == (["y" * 500, "z"], 11)
        ring.check_invariants()

    run_virtual(main())


def test_a_revision_is_never_split() -> None:
    async def main() -> None:
        ring = make_ring(events=100)
        ring.publish([(revision, [f"{revision}/{n}" for n in range(4)]) for revision in range(2, 8)])
        position, seen = 1, []
        while position < 7:
            events, position = ring.take("", position, 3)
            assert len(events) == 4
            seen += events
        assert len(seen) == 24

    run_virtual(main())


@pytest.mark.parametrize("cancelled", [False, True], ids=["woken", "cancelled"])
def test_who_waits_is_not_overtaken_by_what_does_not_concern_him(cancelled: bool) -> None:
    async def main() -> None:
        ring = make_ring()
        cursor = Cursor("mine/", ring.head)

        async def follow() -> list[str]:
            while True:
                assert cursor.position >= ring.floor, "overtaken"
                events, cursor.position = ring.take(cursor.prefix, cursor.position)
                if events:
                    return events
                await ring.wait(cursor)

        waiting = asyncio.ensure_future(follow())
        for _ in range(50):
            await asyncio.sleep(0)
            ring.publish([(ring.head + 1, ["other"])])
        if cancelled:
            waiting.cancel()
            await asyncio.wait([waiting])
            waiting = asyncio.ensure_future(follow())
        ring.publish([(ring.head + 1, ["mine/a"])])
        assert await waiting == ["mine/a"]
        assert not ring._waiters

    run_virtual(main())


def test_progress_that_was_asked_for_reaches_who_does_not_wait_yet() -> None:
    async def main() -> None:
        ring = make_ring()
        ring.request_progress(3)
        assert ring.progress_due == 0
        ring.publish([(2, ["a"])])
        ring.publish([(3, ["a"])])
        assert ring.progress_due == 3
        ring.publish([(4, ["a"])])
        assert ring.progress_due == 3, "nobody asked, and it was told a moment ago"

    run_virtual(main())


def test_revisions_must_grow() -> None:
    async def main() -> None:
        ring = make_ring()
        ring.publish([(2, ["a"])])
        with pytest.raises(AssertionError, match="revision 2 published after 2"):
            ring.publish([(2, ["b"])])

    run_virtual(main())


def test_readers_at_any_pace_see_all_or_fall_off() -> None:
    async def main() -> None:
        rng = random.Random(7)
        ring = make_ring(events=40)
        published: list[tuple[int, str]] = []
        readers = [(Cursor(prefix, 1), list[str]()) for prefix in ("", "a", "b", "ab") for _ in range(3)]
        fell = 0
        for _ in range(300):
            for _ in range(rng.randrange(3)):
                events = [rng.choice(["a", "ab", "b", "c"]) + str(n) for n in range(rng.randrange(1, 4))]
                ring.publish([(ring.head + rng.randrange(1, 3), events)])
                published += [(ring.head, event) for event in events]
            ring.check_invariants()
            for cursor, seen in rng.sample(readers, 2):
                if cursor.position < ring.floor:
                    fell += 1
                    cursor.position = ring.head
                    seen[:] = [event for _, event in published if event.startswith(cursor.prefix)]
                while cursor.position < ring.head:
                    events, cursor.position = ring.take(cursor.prefix, cursor.position, rng.randrange(1, 5))
                    seen += events
                assert seen == [event for _, event in published if event.startswith(cursor.prefix)]
        assert fell > 0

    run_virtual(main())


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("", ""), ("a", "b"), ("/pods/", "/pods0"), ("\ud7ff", "\ue000"), ("a\U0010ffff", "b"), ("\U0010ffff", "")],
)
def test_prefix_end(prefix: str, end: str) -> None:
    assert prefix_end(prefix) == end
