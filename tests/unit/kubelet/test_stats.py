"""What nodes and containers use: rates from samples, on virtual time; the cgroup files of both versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubelet.cgroups import PodCgroups
from kubelet.runtime.base import ContainerState, ContainerStats
from kubelet.stats import Container, MachineUsage, Sample, StatsKeeper, Usage, figures
from wherry.api.context import Env

GIB = 1 << 30


def container(cpu_s: float, at: float, *, started: float = 0.0) -> Container:
    return Container("default", "web", "uid", "c", started, Usage(at, int(cpu_s * 1e9), 100, 200), 7)


def test_a_rate_is_what_lies_between_two_samples() -> None:
    old = Sample(0, Usage(100.0, 10**9, 1, 2, 3), {"a": container(1.0, 100.0)})
    new = Sample(4, Usage(104.0, 3 * 10**9, 10, 20, 30), {"a": container(2.0, 104.0)})
    found = figures(new, old)
    assert (found.node.cpu_nano_cores, found.node.window_s) == (500_000_000, 4.0)
    assert (found.node.memory_working_set_bytes, found.node.memory_available_bytes) == (10, 30)
    (one,) = found.containers
    assert (one.namespace, one.pod, one.name, one.writable_layer_bytes) == ("default", "web", "c", 7)
    assert (one.figures.cpu_nano_cores, one.figures.cpu_usage_core_ns) == (250_000_000, 2 * 10**9)


def test_a_new_container_is_judged_from_its_start() -> None:
    old = Sample(0, None, {})
    found = figures(Sample(4, None, {"a": container(1.0, 104.0, started=102.0)}), old)
    assert found.containers[0].figures.cpu_nano_cores == 500_000_000
    assert found.node.cpu_nano_cores == 500_000_000  # a hollow node uses what its containers do
    assert found.node.memory_working_set_bytes == 100


def test_a_counter_that_went_back_says_nothing() -> None:
    old = Sample(0, None, {"a": container(9.0, 100.0)})
    found = figures(Sample(4, None, {"a": container(1.0, 104.0)}), old)
    assert found.containers[0].figures.cpu_nano_cores == 0


class Worker:
    def __init__(self) -> None:
        from wherry.testing.builders import make_pod

        self.pod = make_pod("web").build()
        self.observed = self
        self.containers = [self]
        self.id, self.name, self.state, self.started_at = "a", "app", ContainerState.RUNNING, 0.0


class Runtime:
    """Whose one container uses half a core."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.asked = 0
        self.began = env.now()

    async def stats(self) -> list[ContainerStats]:
        self.asked += 1
        now = self.env.now()
        return [ContainerStats("a", "app", "s", int((now - self.began) * 5e8), 10, 20, 0, now)]


async def test_samples_are_taken_when_somebody_asks(env: Env) -> None:
    import asyncio

    runtime: Any = Runtime(env)
    worker: Any = Worker()
    keeper = StatsKeeper(env, runtime, lambda: [worker], None, None)
    assert runtime.asked == 0
    first = await asyncio.gather(*(keeper.collect() for _ in range(5)))
    assert runtime.asked == 2  # a second apart, for all five
    assert {round(item.containers[0].figures.window_s) for item in first} == {1}
    assert first[0].containers[0].figures.cpu_nano_cores == pytest.approx(5e8, rel=0.01)
    await asyncio.sleep(15)
    later = await keeper.collect()
    assert runtime.asked == 3
    assert round(later.containers[0].figures.window_s) == 16
    await asyncio.sleep(600)
    much_later = await keeper.collect()
    assert runtime.asked == 5
    assert round(much_later.containers[0].figures.window_s) == 1


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_cgroups_of_both_versions(tmp_path: Path) -> None:
    one = tmp_path / "one"
    write(one / "cpuacct/local/kubepods/cpuacct.usage", "5000000000\n")
    write(one / "memory/local/kubepods/memory.usage_in_bytes", "1000\n")
    write(one / "memory/local/kubepods/memory.stat", "cache 5\ntotal_inactive_file 300\n")
    assert PodCgroups("local", one).read(1.0) == Usage(1.0, 5 * 10**9, 700, 1000)
    two = tmp_path / "two"
    write(two / "cgroup.controllers", "cpu memory\n")
    write(two / "local/kubepods/cpu.stat", "usage_usec 5000000\nuser_usec 1\n")
    write(two / "local/kubepods/memory.current", "1000\n")
    write(two / "local/kubepods/memory.stat", "anon 5\ninactive_file 300\n")
    assert PodCgroups("local", two).read(1.0) == Usage(1.0, 5 * 10**9, 700, 1000)
    assert PodCgroups("other", two).read(1.0) == Usage(1.0, 0, 0, 0)  # no pod was here yet
    write(two / "local/kubepods/cpu.stat", "nonsense\n")
    assert PodCgroups("local", two).read(1.0) is None


def test_a_whole_machine(tmp_path: Path) -> None:
    write(tmp_path / "stat", "cpu  100 0 100 800 50 0 0 0 0 0\ncpu0 1\n")
    write(tmp_path / "meminfo", "MemTotal: 2097152 kB\nMemFree: 524288 kB\nMemAvailable: 1048576 kB\n")
    usage = MachineUsage(tmp_path).read(3.0)
    assert usage == Usage(3.0, 2 * 10**9, GIB, GIB + GIB // 2, GIB)
    assert MachineUsage(tmp_path / "none").read(3.0) is None
