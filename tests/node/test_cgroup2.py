"""Pod cgroups in a real hierarchy of version 2, as far as this kernel gives it controllers: made, enabled, read, removed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet.cgroups import CONTROLLERS, PodCgroups
from kubelet.pods.resources import pod_resources
from kubelet.stats import Usage
from wherry.testing.builders import make_pod
from wherry.testing.require import require_root


@pytest.fixture
def hierarchy(tmp_path: Path) -> Iterator[Path]:
    require_root()
    root = tmp_path / "cgroup2"
    root.mkdir()
    done = subprocess.run(["mount", "-t", "cgroup2", "none", str(root)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no hierarchy of version 2 can be mounted here: {done.stderr.strip()}")
    yield root
    subprocess.run(["umount", str(root)], check=True)


def test_a_pods_cgroup_in_the_second_version(hierarchy: Path, tmp_path: Path) -> None:
    parent = f"wherry-test-{tmp_path.parent.name}"
    cgroups = PodCgroups(parent, hierarchy)
    assert cgroups.unified
    pod = make_pod("p").cpu("250m").limit("cpu", "500m").memory("16Mi").limit("memory", "32Mi").build()
    place = hierarchy / cgroups.parent_of(pod).strip("/")
    try:
        cgroups.create(pod, pod_resources(pod))
        cgroups.create(pod, pod_resources(pod))
        cgroups.weigh([pod])
        there = set((hierarchy / "cgroup.controllers").read_text().split()) & set(CONTROLLERS)
        assert set((place / "cgroup.controllers").read_text().split()) >= there
        if "cpu" in there:
            assert (place / "cpu.max").read_text() == "50000 100000\n"
        if "memory" in there:
            assert (place / "memory.max").read_text() == f"{32 << 20}\n"
        usage = cgroups.read(1.0)
        assert isinstance(usage, Usage)
        cgroups.remove(pod)
        assert not place.exists()
    finally:
        for path in sorted((hierarchy / parent).rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        (hierarchy / parent).rmdir()
