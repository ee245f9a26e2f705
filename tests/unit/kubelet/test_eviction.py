"""Who is evicted, and which images go: tables."""

from __future__ import annotations

import pytest

from kubelet import imagegc
from kubelet.eviction import (
    DEFAULT_HARD,
    Candidate,
    Measure,
    Threshold,
    Usage,
    choose,
    met,
    parse,
    rank,
    refusal,
)
from kubelet.runtime.base import Image
from wherry.testing.builders import PodBuilder, make_pod

MIB = 1 << 20
DEFAULTS = parse(DEFAULT_HARD)


def using(pod: PodBuilder, memory_mib: int, disk_mib: int = 0, volumes_mib: int = 0) -> Candidate:
    built = pod.build()
    name = built.spec.containers[0].name
    return Candidate(built, {name: Usage(memory_mib * MIB, disk_mib * MIB)}, volumes_mib * MIB)


MEMORY_ORDER = {
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


@pytest.mark.parametrize(("candidates", "order"), MEMORY_ORDER.values(), ids=MEMORY_ORDER)
def test_rank_for_memory(candidates: list[Candidate], order: list[str]) -> None:
    assert [candidate.pod.metadata.name for candidate in rank(candidates, "memory")] == order
    assert [candidate.pod.metadata.name for candidate in rank(candidates[::-1], "memory")] == order


def test_rank_for_disk_counts_volumes_too() -> None:
    candidates = [
        using(make_pod("a").request("ephemeral-storage", "1Gi"), 0, 500),
        using(make_pod("b"), 0, 100),
        using(make_pod("c"), 0, 50, 200),
    ]
    assert [candidate.pod.metadata.name for candidate in rank(candidates, "ephemeral-storage")] == ["c", "b", "a"]


def measured(**available: int) -> dict[str, Measure]:
    """In MiB, of 1000 MiB; names with a _ for the dot."""
    return {name.replace("_", "."): Measure(amount * MIB, 1000 * MIB) for name, amount in available.items()}


SHORT = {
    "nothing was measured": ({}, []),
    "enough": (measured(memory_available=100, nodefs_available=100, imagefs_available=150), []),
    "memory": (measured(memory_available=99, nodefs_available=100), ["memory.available"]),
    "disk": (measured(nodefs_available=99), ["nodefs.available"]),
    "images": (measured(imagefs_available=149), ["imagefs.available"]),
    "inodes": ({"nodefs.inodesFree": Measure(49, 1000)}, ["nodefs.inodesFree"]),
    "memory comes first": (measured(nodefs_available=1, memory_available=1), ["memory.available", "nodefs.available"]),
}


@pytest.mark.parametrize(("found", "signals"), SHORT.values(), ids=SHORT)
def test_thresholds(found: dict[str, Measure], signals: list[str]) -> None:
    short = met(DEFAULTS, found)
    assert [threshold.signal for threshold in short] == signals
    assert (choose(short, found, [using(make_pod("p"), 1)]) is not None) is bool(signals)


MESSAGES = {
    "memory": (
        measured(memory_available=50), using(make_pod("p"), 1),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        "Container c was using 1Mi, request is 0, has larger consumption of memory. ",
    ),
    "memory, within the request": (
        measured(memory_available=50), using(make_pod("p").memory("2Mi"), 1),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ",
    ),
    "disk": (
        measured(nodefs_available=10), using(make_pod("p").request("ephemeral-storage", "1Mi"), 0, 3),
        "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 10Mi. "
        "Container c was using 3Mi, request is 1Mi, has larger consumption of ephemeral-storage. ",
    ),
    "inodes": (
        {"nodefs.inodesFree": Measure(49, 1000)}, using(make_pod("p"), 1),
        "The node was low on resource: inodes. Threshold quantity: 50, available: 49. ",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("found", "candidate", "text"), MESSAGES.values(), ids=MESSAGES)
def test_messages(found: dict[str, Measure], candidate: Candidate, text: str) -> None:
    chosen = choose(met(DEFAULTS, found), found, [candidate])
    assert chosen is not None
    assert chosen[1] == text


def test_flags() -> None:
    assert parse("") == ()
    assert parse(" nodefs.available<5% , memory.available<1Gi ") == (
        Threshold("memory.available", 1 << 30), Threshold("nodefs.available", 0, 0.05),
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["memory.available>1Gi", "memory<1Gi", "memory.available<lots", "nodefs.available<110%", "pid.available<5%",
     "memory.available<1Gi,memory.available<2Gi", "memory.available<-1"],
)  # fmt: skip
def test_wrong_flags(text: str) -> None:
    with pytest.raises(ValueError, match=r"memory|pid|nodefs"):
        parse(text)


ADMISSION = {
    "no pressure": (make_pod("p"), [], None),
    "best effort": (make_pod("p"), ["MemoryPressure"], "The node had condition: [MemoryPressure]. "),
    "burstable": (make_pod("p").memory("1Mi"), ["MemoryPressure"], None),
    "tolerating": (make_pod("p").tolerate("node.kubernetes.io/memory-pressure", effect="NoSchedule"), ["MemoryPressure"], None),
    "disk": (make_pod("p").memory("1Mi"), ["DiskPressure"], "The node had condition: [DiskPressure]. "),
    "both": (
        make_pod("p").memory("1Mi"), ["DiskPressure", "MemoryPressure"],
        "The node had condition: [DiskPressure MemoryPressure]. ",
    ),
    "critical": (make_pod("p").priority(2_000_000_000), ["DiskPressure"], None),
}  # fmt: skip


@pytest.mark.parametrize(("pod", "conditions", "text"), ADMISSION.values(), ids=ADMISSION)
def test_new_pods_under_pressure(pod: PodBuilder, conditions: list[str], text: str | None) -> None:
    assert refusal(pod.build(), conditions) == (None if text is None else ("Evicted", text))


def image(name: str, size: int = 10, *, pinned: bool = False) -> Image:
    return Image(name, (name,), (), size, pinned=pinned)


def test_images_go_longest_unused_first_until_enough_is_free() -> None:
    images = [image("new"), image("old"), image("used"), image("older"), image("pause", pinned=True), image("fresh")]
    last = {"new": 500.0, "old": 100.0, "used": 1.0, "older": 50.0, "pause": 1.0, "fresh": 990.0}
    free = imagegc.unused(images, {"used"}, last, 1000.0, imagegc.Thresholds().min_age_s)
    assert [i.id for i in free] == ["older", "old", "new"]
    assert [i.id for i in imagegc.choose(free, 15)] == ["older", "old"]
    assert imagegc.choose(free, 0) == []


@pytest.mark.parametrize(("available", "wanted"), [(50, 0), (16, 0), (15, 5), (0, 20)])
def test_image_thresholds(available: int, wanted: int) -> None:
    assert imagegc.bytes_to_free(100, available, imagegc.Thresholds()) == wanted


def test_at_a_high_threshold_of_all_nothing_is_collected() -> None:
    assert imagegc.bytes_to_free(100, 0, imagegc.Thresholds(high=1.0, low=0.5)) == 0


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.8), (0.8, 0.8), (-0.1, 0.5), (0.5, 1.1)])
def test_image_thresholds_that_make_no_sense(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="want 0 <= low < high <= 100"):
        imagegc.Thresholds(high=high, low=low)
