"""The kernel's log as the witness of containers that ran out of memory."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kubelet import outofmemory
from kubelet.outofmemory import OutOfMemory, victims

KILL = (
    "6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=a31,mems_allowed=0,"
    "oom_memcg=/wherry/c/node-1/kubepods/burstable/pod0d18,task_memcg=/{},task=tail,pid=23713,uid=0\n"
)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (KILL.format("wherry/c/node-1/kubepods/burstable/pod0d18/a31f"), ["a31f"]),
        (KILL.format("kubepods.slice/kubepods-pod0d18.slice/cri-containerd-a31f.scope"), ["a31f"]),
        ("6,1,2,-;Memory cgroup out of memory: Killed process 23713 (tail) total-vm:99936kB\n", []),
        ("6,1,2,-;wherry0: port 30(vethc86c7480) entered blocking state\n", []),
    ],
    ids=["cgroupfs", "systemd", "the line after it", "something else"],
)
def test_the_victims_of_records(record: str, name: list[str]) -> None:
    assert victims(record.encode()) == name


async def test_what_was_there_and_what_comes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outofmemory, "LIMIT", 2)
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # so that the reader never sees an end
    kernel = OutOfMemory(path)
    task = asyncio.create_task(kernel.run())
    try:
        for name in ("one", "two", "three"):
            os.write(writer, KILL.format(f"p/{name}").encode())
            for _ in range(1000):
                if kernel.killed(name):
                    break
                await asyncio.sleep(0.01)
            assert kernel.killed(name)
        assert not kernel.killed("one"), "it grows without bound"
    finally:
        task.cancel()
        await asyncio.wait([task])
        os.close(writer)


async def test_without_the_log_nobody_is_a_victim(tmp_path: Path) -> None:
    kernel = OutOfMemory(tmp_path / "none")
    task = asyncio.create_task(kernel.run())
    await asyncio.sleep(0)
    assert not task.done()
    assert not kernel.killed("one")
    task.cancel()
    await asyncio.wait([task])
