"""A private containerd's life: started, adopted, restarted under running containers, supervised, and gone without a trace."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubelet.runtime import mounts
from kubelet.runtime.base import ContainerState, RuntimeFailure, SandboxState
from kubelet.runtime.containerd import Containerd, ContainerdOptions, Layout, find_running, render_config
from kubelet.runtime.cri import CriRuntime
from kubelet.runtime.processes import ProcessRef, command_lines
from wherry.testing import realnode
from wherry.testing.eventually import eventually
from wherry.testing.require import require_containerd, strict

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def layout_in(tmp_path: Path, tag: str) -> Layout:
    return Layout(data=tmp_path / "data", run=Path("/run") / f"wt-{os.getpid()}-{tag}")


@pytest.fixture
async def containerd(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Containerd]:
    require_containerd()
    one = Containerd(ContainerdOptions(layout_in(tmp_path, "own")))
    yield one
    await one.destroy()


async def test_second_start_adopts_the_running_one(containerd: Containerd) -> None:
    await containerd.start()
    another = Containerd(containerd.options)
    await another.start()
    assert another.process == containerd.process
    # Also when the pid file is lost: by its socket.
    containerd.layout.pid_file.unlink()
    third = Containerd(containerd.options)
    await third.start()
    assert third.process == containerd.process


async def test_supervision_starts_it_again_after_kill(containerd: Containerd) -> None:
    await containerd.start()
    first = containerd.process
    assert first is not None
    supervising = asyncio.create_task(containerd.supervise())
    first.signal(signal.SIGKILL)

    async def another() -> Any:
        process = containerd.process
        return process if process is not None and process != first else None

    second = await eventually(another)
    assert second.alive()
    runtime = CriRuntime(containerd.endpoint)
    assert (await runtime.version())[0] == "containerd"
    await runtime.close()
    await containerd.stop()
    await asyncio.wait_for(supervising, 10)
    assert not second.alive()


async def test_failed_start_carries_the_end_of_its_log(containerd: Containerd) -> None:
    containerd.layout.data.mkdir(parents=True)
    # A file where the root directory should be is a failure of containerd's own.
    broken = ContainerdOptions(containerd.layout, snapshotter="no-such-snapshotter")
    with pytest.raises(RuntimeFailure, match=r"containerd did not start; the end of .*\n(.|\n)*no-such-snapshotter"):
        await Containerd(broken).start()


async def test_containers_run_on_while_containerd_is_killed_and_started_again(
    real_node: Any, runtime: CriRuntime, pods: Any
) -> None:
    sandbox = await pods.sandbox()
    container = await pods.container(sandbox, "sleep 1000")
    before = await runtime.container_status(container)
    process = find_running(real_node.layout)
    assert process is not None
    process.signal(signal.SIGKILL)
    await process.wait()
    await real_node.containerd().start()

    async def same() -> Any:
        try:
            return await runtime.container_status(container)
        except RuntimeFailure:
            return None  # the channel is connecting again

    after = await eventually(same)
    assert (after.state, after.started_at) == (ContainerState.RUNNING, before.started_at)
    assert (await runtime.sandbox_status(sandbox[0])).state == SandboxState.READY
    assert (await runtime.exec_sync(container, ["echo", "alive"], 10)).stdout == b"alive\n"


def traces(*needles: str) -> dict[str, list[str]]:
    """What a cleaned-up runtime must leave as it was: everything of the machine or, with needles, what mentions one of them
    (other people's clusters come and go on a developer's machine)."""

    def lines(*argv: str) -> list[str]:
        return sorted(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())

    def cached(path: Path) -> str:
        try:
            return f"{path.name} {path.read_text()}"
        except OSError:
            return path.name

    found = {
        "mounts": sorted(line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "links": [line.split(":")[1] for line in lines("ip", "-o", "link")],
        "routes": [line.split(" linkdown")[0].strip() for line in lines("ip", "route")],
        "rules": [re.sub(r"counter packets \d+ bytes \d+", "", line) for line in lines("nft", "list", "ruleset")],
        "processes": [" ".join(args) for args in command_lines().values() if "containerd" in args[0]],
        "shim sockets": sorted(path.name for path in Path("/run/containerd/s").glob("*")),
        "cni": sorted(cached(path) for path in Path("/var/lib/cni").rglob("*") if path.is_file()),
        "run": sorted(str(path) for path in Path("/run").glob("wt-*")),
    }
    if not needles:
        return found
    return {kind: [line for line in of if any(needle in line for needle in needles)] for kind, of in found.items()}


@pytest.mark.parametrize("how", ["orderly", "everything killed"])
async def test_destroy_leaves_no_trace(how: str, tmp_path: Path) -> None:
    require_containerd()
    run = Path("/run") / f"wt-{os.getpid()}-leak"
    tag = f"{os.getpid() % 10000}x"
    # Under CI nobody else is there, and whatever is new counts, ours by its name or not.
    needles = () if strict() else (f"wherry-{tag}", f"wt{tag}", str(run), str(tmp_path))
    before = traces(*needles)
    node = realnode.make_node(tmp_path, run, tag)
    await realnode.raise_node(node)
    runtime = CriRuntime(f"unix://{node.layout.socket}")
    pods = realnode.Pods(runtime, tmp_path / "logs")
    containers = [await pods.container(await pods.sandbox(), "sleep 1000") for _ in range(2)]
    assert all(traces(*needles)[kind] != before[kind] for kind in before if needles == () or kind != "shim sockets")
    pids = [pid for pid, args in command_lines().items() if str(node.layout.socket) in args]
    assert len(pids) >= len(containers)
    await runtime.close()
    if how == "everything killed":
        for ref in (find_running(node.layout), *(ProcessRef.of(pid) for pid in pids)):
            if ref is not None:
                ref.terminate(0)
    await realnode.lower_node(node)
    after = traces(*needles)
    assert {kind: added for kind, found in after.items() if (added := sorted(set(found) - set(before[kind])))} == {}
    assert mounts.below(tmp_path) == []
    assert not node.layout.data.exists()


def test_config_is_valid_toml_with_what_was_asked_for(tmp_path: Path) -> None:
    import tomllib

    require_containerd()
    layout = layout_in(tmp_path / 'odd "name"', "x")
    handlers = {"crun": "/usr/bin/crun", "runsc": "io.containerd.runsc.v1"}
    document = tomllib.loads(render_config(ContainerdOptions(layout, systemd_cgroup=True, handlers=handlers), "native"))
    cri = document["plugins"]["io.containerd.grpc.v1.cri"]
    assert document["root"] == str(layout.root)
    assert cri["containerd"]["snapshotter"] == "native"
    assert cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True
    runtimes = cri["containerd"]["runtimes"]
    assert sorted(runtimes) == ["crun", "crun-host-ports", "host-ports", "runc", "runsc", "runsc-host-ports"]
    assert runtimes["crun"]["options"]["BinaryName"] == "/usr/bin/crun"
    assert runtimes["crun"]["runtime_type"] == runtimes["host-ports"]["runtime_type"] == "io.containerd.runc.v2"
    assert runtimes["runsc"] == {"runtime_type": "io.containerd.runsc.v1"}
    assert runtimes["runsc-host-ports"]["cni_conf_dir"] == str(layout.host_ports_conf_dir)
    assert "io.containerd.snapshotter.v1.native" not in document["disabled_plugins"]


async def test_too_long_socket_path_is_refused(tmp_path: Path) -> None:
    require_containerd()
    layout = Layout(data=tmp_path, run=tmp_path / ("x" * 100))
    with pytest.raises(RuntimeFailure, match="use a shorter run directory"):
        await Containerd(ContainerdOptions(layout)).start()
