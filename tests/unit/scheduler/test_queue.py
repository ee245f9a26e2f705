"""The queue's states and times, as kube-scheduler has them."""

from __future__ import annotations

import pytest

from controlplane.scheduler.cluster import PodInfo
from controlplane.scheduler.needs import NeedsCache
from controlplane.scheduler.queue import FLUSH_AFTER_S, Entry, SchedulingQueue, State
from wherry.testing.builders import PodBuilder, make_pod

CACHE = NeedsCache()
NODE_ADD = frozenset({"NodeAdd"})


def info(pod: PodBuilder) -> PodInfo:
    return PodInfo.of(pod.build(), CACHE)


class Driven:
    """A queue that checks its invariants after every step."""

    def __init__(self, *pods: PodBuilder, now: float = 0.0) -> None:
        self.queue = SchedulingQueue()
        for number, pod in enumerate(pods):
            self.queue.put(info(pod), now + number)

    def pop(self, limit: int = 10) -> list[str]:
        names = [entry.info.pod.metadata.name for entry in self.entries(limit)]
        self.queue.check_invariants()
        return names

    def entries(self, limit: int = 10) -> list[Entry]:
        return self.queue.pop(limit)

    def fail(self, name: str, now: float, wakes_on: frozenset[str] = NODE_ADD) -> None:
        entry = self.queue.get(f"default/{name}")
        assert entry is not None
        self.queue.unschedulable(entry, wakes_on, now)
        self.queue.check_invariants()

    def state(self, name: str) -> State | None:
        self.queue.check_invariants()
        entry = self.queue.get(f"default/{name}")
        return entry.state if entry is not None else None


def test_priority_first_then_time() -> None:
    driven = Driven(make_pod("a"), make_pod("b").priority(5), make_pod("c"), make_pod("d").priority(5))
    assert driven.pop(3) == ["b", "d", "a"]
    assert driven.pop() == ["c"]


@pytest.mark.parametrize(
    ("attempts", "backoff_s"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (50, 10)], ids=lambda value: str(value)
)
def test_back_off_grows_to_ten_seconds(attempts: int, backoff_s: float) -> None:
    driven = Driven(make_pod("a"))
    now = 0.0
    for attempt in range(attempts):
        assert driven.pop() == ["a"]
        driven.fail("a", now)
        driven.queue.move(NODE_ADD, now)  # at once: it still has to back off
        assert driven.state("a") is State.BACKOFF
        if attempt < attempts - 1:
            now = driven.queue.next_time() or 0.0
            driven.queue.advance(now)
    assert driven.queue.next_time() == now + backoff_s
    driven.queue.advance(now + backoff_s - 0.001)
    assert driven.state("a") is State.BACKOFF
    driven.queue.advance(now + backoff_s)
    assert driven.state("a") is State.ACTIVE


def test_moved_by_events_that_may_help_only() -> None:
    driven = Driven(make_pod("a"))
    driven.pop()
    driven.fail("a", 0.0, frozenset({"PodGone"}))
    driven.queue.move(NODE_ADD, 100.0)
    assert driven.state("a") is State.UNSCHEDULABLE
    driven.queue.move(frozenset({"PodGone", "NodeLabel"}), 100.0)
    assert driven.state("a") is State.ACTIVE


def test_flushed_after_five_minutes() -> None:
    driven = Driven(make_pod("a"))
    driven.pop()
    driven.fail("a", 10.0)
    assert driven.queue.next_time() == 10.0 + FLUSH_AFTER_S
    driven.queue.advance(10.0 + FLUSH_AFTER_S - 1)
    assert driven.state("a") is State.UNSCHEDULABLE
    driven.queue.advance(10.0 + FLUSH_AFTER_S)
    assert driven.state("a") is State.ACTIVE


def test_gates() -> None:
    driven = Driven(make_pod("a").gate("x"))
    assert driven.pop() == []
    driven.queue.move(NODE_ADD, 1.0)
    assert driven.state("a") is State.GATED
    driven.queue.put(info(make_pod("a")), 2.0)
    assert driven.pop() == ["a"]


def test_a_changed_need_wakes_and_another_change_does_not() -> None:
    driven = Driven(make_pod("a"))
    driven.pop()
    driven.fail("a", 0.0)
    driven.queue.put(info(make_pod("a").condition("PodScheduled", "False")), 20.0)
    assert driven.state("a") is State.UNSCHEDULABLE
    driven.queue.put(info(make_pod("a").tolerate()), 20.0)
    assert driven.state("a") is State.ACTIVE


def test_deleted_in_every_state() -> None:
    names = ("active", "flying", "waiting", "backing")
    driven = Driven(*(make_pod(name) for name in names), make_pod("gated").gate("x"))
    entries = {entry.info.pod.metadata.name: entry for entry in driven.entries()}
    driven.fail("waiting", 0.0)
    driven.queue.back_off(entries["backing"], 0.0)
    driven.queue.back_off(entries["active"], 0.0)
    driven.queue.advance(1.0)
    driven.queue.put(info(make_pod("late")), 1.0)
    for name in (*names, "gated"):
        driven.queue.delete(f"default/{name}")
        assert driven.state(name) is None
    driven.queue.unschedulable(entries["flying"], NODE_ADD, 2.0)  # its binding comes back too late
    driven.queue.back_off(entries["flying"], 2.0)
    assert driven.state("flying") is None
    driven.queue.advance(1000.0)
    assert driven.pop() == ["late"]


def test_made_anew_under_the_same_name() -> None:
    driven = Driven(make_pod("a"))
    [old] = driven.entries()
    driven.queue.put(info(make_pod("a").uid("other")), 1.0)
    driven.queue.back_off(old, 1.0)
    assert [entry.info.uid for entry in driven.entries()] == ["other"]


def test_deleted_pods_do_not_pile_up() -> None:
    driven = Driven()
    for number in range(1000):
        driven.queue.put(info(make_pod(f"p{number}")), float(number))
        driven.queue.delete(f"default/p{number}")
    assert len(driven.queue._active) < 200
    driven.queue.check_invariants()
