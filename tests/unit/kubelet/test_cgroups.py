"""Pod cgroups on version 1 and on version 2, in directories that look like the kernel's: which files get which values."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet.cgroups import PodCgroups
from kubelet.pods.resources import pod_resources
from wherry.testing.builders import PodBuilder, make_pod

V1 = ("cpu", "memory", "pids", "systemd")


def first_version(root: Path) -> Path:
    for name in V1:
        (root / name).mkdir(parents=True)
    return root


def second_version(root: Path, controllers: str = "cpuset cpu io memory hugetlb pids rdma") -> Path:
    """As recorded on a host with systemd: the root has processes of its own, and enables what its slices need."""
    root.mkdir(parents=True)
    (root / "cgroup.controllers").write_text(controllers + "\n")
    (root / "cgroup.subtree_control").write_text("")
    return root


def read(root: Path) -> dict[str, str]:
    """The values below `root`, by path."""
    return {
        str(path.relative_to(root)): path.read_text().strip()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("cgroup.")
    }


GUARANTEED = make_pod("g").cpu("500m").limit("cpu", "500m").memory("64Mi").limit("memory", "64Mi")
BURSTABLE = make_pod("b").cpu("250m").memory("32Mi")
BEST_EFFORT = make_pod("e")

CASES: dict[str, tuple[PodBuilder, str, dict[str, str], dict[str, str]]] = {
    "guaranteed": (
        GUARANTEED, "kubepods",
        {"cpu.shares": "512", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000",
         "memory.limit_in_bytes": str(64 << 20)},
        {"cpu.weight": "20", "cpu.max": "50000 100000", "memory.max": str(64 << 20)},
    ),
    "burstable": (
        BURSTABLE, "kubepods/burstable", {"cpu.shares": "256"},
        {"cpu.weight": "10", "cpu.max": "max 100000", "memory.max": "max"},
    ),
    "best effort": (
        BEST_EFFORT, "kubepods/besteffort", {"cpu.shares": "2"},
        {"cpu.weight": "1", "cpu.max": "max 100000", "memory.max": "max"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("pod", "parent", "one", "two"), CASES.values(), ids=CASES)
def test_limits_are_written_and_the_tree_goes_again(
    tmp_path: Path, pod: PodBuilder, parent: str, one: dict[str, str], two: dict[str, str]
) -> None:
    built = pod.build()
    place = f"local/{parent}/pod{built.metadata.uid}"
    first, second = first_version(tmp_path / "1"), second_version(tmp_path / "2")
    for root in (first, second):
        cgroups = PodCgroups("/local", root)
        assert cgroups.parent_of(built) == f"/{place}"
        for _ in range(2):
            cgroups.create(built, pod_resources(built))
    found = read(first)
    assert {path.rpartition("/")[2]: value for path, value in found.items()} == one
    assert all(path.startswith((f"cpu/{place}/", f"memory/{place}/")) for path in found)
    assert read(second) == {f"{place}/{name}": value for name, value in two.items()}
    for root in (first, second):
        # The kernel's files go with their directory.
        for path in [path for path in root.rglob("*") if path.is_file() and place in str(path)]:
            path.unlink()
        PodCgroups("/local", root).remove(built)
        assert not [path for path in root.rglob("*") if path.name.startswith("pod")]


class Kernel:
    """Takes writes to cgroup.subtree_control as the kernel does: each names controllers that are there, or all of it fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.enabled: dict[str, set[str]] = {}
        write = Path.write_text

        def write_text(path: Path, text: str, *arguments: object, **named: object) -> int:
            if path.name != "cgroup.subtree_control":
                return write(path, text)
            there = set((path.parent / "cgroup.controllers").read_text().split())
            asked = {word.removeprefix("+") for word in text.split()}
            if not asked <= there:
                raise FileNotFoundError(2, "No such file or directory")
            self.enabled.setdefault(str(path.parent), set()).update(asked)
            return len(text)

        monkeypatch.setattr(Path, "write_text", write_text)


def test_a_controller_that_is_missing_keeps_no_other_from_being_enabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = second_version(tmp_path / "2", "cpu memory pids")
    kernel = Kernel(monkeypatch)
    PodCgroups("", root).create(BEST_EFFORT.build(), pod_resources(BEST_EFFORT.build()))
    assert kernel.enabled[str(root)] == {"cpu", "memory", "pids"}


@pytest.mark.parametrize("version", [1, 2])
def test_classes_are_weighed_by_what_their_pods_ask_for(tmp_path: Path, version: int) -> None:
    root = first_version(tmp_path / "c") if version == 1 else second_version(tmp_path / "c")
    base = root / "cpu/kubepods" if version == 1 else root / "kubepods"
    name = "cpu.shares" if version == 1 else "cpu.weight"
    cgroups = PodCgroups("", root)
    cgroups.weigh([GUARANTEED.build(), BURSTABLE.build(), make_pod("b2").cpu("750m").build(), BEST_EFFORT.build()])
    values = {qos: (base / qos / name).read_text() for qos in ("burstable", "besteffort")}
    assert values == (
        {"burstable": "1024", "besteffort": "2"} if version == 1 else {"burstable": "39", "besteffort": "1"}
    )
    assert not (base / name).exists(), "guaranteed pods stand beside the classes"
    cgroups.weigh([])
    assert (base / "burstable" / name).read_text() == ("2" if version == 1 else "1")
