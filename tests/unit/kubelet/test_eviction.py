"""Who is evicted, and which images go: tables."""

from __future__ import annotations

import pytest

from kubelet import imagegc
from kubelet.eviction import Candidate, Signals, choose, rank_for_disk, rank_for_memory
from kubelet.runtime.base import Image
from wherry.testing.builders import PodBuilder, make_pod

MIB = 1 << 20
SHORT = Signals(memory_available_bytes=50 * MIB, nodefs_available_bytes=50 << 30, nodefs_capacity_bytes=100 << 30)


def using(pod: PodBuilder, memory_mib: int, disk_mib: int = 0) -> Candidate:
    return Candidate(pod.build(), memory_mib * MIB, disk_mib * MIB)


MEMORY = {
    "over its request first": (
        [using(make_pod("in").memory("200Mi"), 150), using(make_pod("over").memory("10Mi"), 20)], ["over", "in"],
    ),
    "lower priority first": (
        [using(make_pod("high").priority(10), 50), using(make_pod("low").priority(1), 20)], ["low", "high"],
    ),
    "then who exceeds most": ([using(make_pod("some"), 20), using(make_pod("most"), 90)], ["most", "some"]),
    "priority does not save who exceeds": (
        [using(make_pod("vip").priority(100), 90), using(make_pod("ok").memory("99Mi"), 50)], ["vip", "ok"],
    ),
    "critical pods stay": ([using(make_pod("critical").priority(2_000_000_000), 900), using(make_pod("p"), 1)], ["p"]),
    "what is on its way out stays": ([using(make_pod("going").deleting(), 900), using(make_pod("p"), 1)], ["p"]),
    "finished pods hold nothing": ([using(make_pod("done").phase("Succeeded"), 900)], []),
}  # fmt: skip


@pytest.mark.parametrize(("candidates", "order"), MEMORY.values(), ids=MEMORY)
def test_rank_for_memory(candidates: list[Candidate], order: list[str]) -> None:
    assert [candidate.pod.metadata.name for candidate in rank_for_memory(candidates)] == order
    assert [candidate.pod.metadata.name for candidate in rank_for_memory(candidates[::-1])] == order


def test_rank_for_disk() -> None:
    ranked = rank_for_disk(
        [using(make_pod("a").request("ephemeral-storage", "1Gi"), 0, 500), using(make_pod("b"), 0, 100)]
    )
    assert [candidate.pod.metadata.name for candidate in ranked] == ["b", "a"]


def test_message_and_choice() -> None:
    chosen = choose(SHORT, [Candidate(make_pod("p").build(), MIB, 0, "Container c was using 1Mi, request is 0")])
    assert chosen is not None
    assert chosen[1] == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        "Container c was using 1Mi, request is 0. "
    )


@pytest.mark.parametrize(
    ("signals", "short"),
    [
        (Signals(), (False, False)),
        (Signals(100 * MIB, 10, 100), (False, False)),
        (Signals(100 * MIB - 1, 10, 100), (True, False)),
        (Signals(None, 9, 100), (False, True)),
    ],
)
def test_thresholds(signals: Signals, short: tuple[bool, bool]) -> None:
    assert (signals.memory_short, signals.disk_short) == short
    assert (choose(signals, [using(make_pod("p"), 1)]) is not None) is any(short)


def image(name: str, size: int = 10, *, pinned: bool = False) -> Image:
    return Image(name, (name,), (), size, pinned=pinned)


def test_images_go_longest_unused_first_until_enough_is_free() -> None:
    images = [image("new"), image("old"), image("used"), image("older"), image("pause", pinned=True), image("fresh")]
    last = {"new": 500.0, "old": 100.0, "used": 1.0, "older": 50.0, "pause": 1.0, "fresh": 990.0}
    free = imagegc.unused(images, {"used"}, last, 1000.0)
    assert [i.id for i in free] == ["older", "old", "new"]
    assert [i.id for i in imagegc.choose(free, 15)] == ["older", "old"]
    assert imagegc.choose(free, 0) == []


@pytest.mark.parametrize(("available", "wanted"), [(50, 0), (16, 0), (15, 5), (0, 20)])
def test_image_thresholds(available: int, wanted: int) -> None:
    assert imagegc.bytes_to_free(100, available) == wanted
