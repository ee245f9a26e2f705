"""What a node that leaves takes away: its own sandboxes and processes, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet.inventory import Inventory
from kubelet.pods.model import NODE
from kubelet.runtime.base import RuntimeFailure, SandboxConfig
from kubelet.runtime.cleanup import is_low_level
from kubelet.runtime.hollow import HollowRuntime
from wherry.api.context import Env

RUN = Path("/run/wherry-agent")


async def sandbox(runtime: HollowRuntime, name: str, **annotations: str) -> None:
    await runtime.run_sandbox(SandboxConfig("default", name, name, 0, name, "/logs", annotations=annotations))


async def test_others_sandboxes_stay(env: Env) -> None:
    runtime = HollowRuntime(env)
    for number in range(20):
        await sandbox(runtime, f"ours-{number}", **{NODE: "n1"})
    await sandbox(runtime, "theirs", **{NODE: "n2"})
    await sandbox(runtime, "kubelets")
    await Inventory(runtime, "n1").remove_all()
    assert [left.name for left in await runtime.list_sandboxes()] == ["theirs", "kubelets"]
    await Inventory(runtime, "n1").remove_all()


class Stuck(HollowRuntime):
    async def remove_sandbox(self, sandbox_id: str) -> None:
        raise RuntimeFailure("device or resource busy")


async def test_a_sandbox_that_stays_is_told(env: Env) -> None:
    runtime = Stuck(env)
    await sandbox(runtime, "p", **{NODE: "n1"})
    with pytest.raises(RuntimeFailure, match=r"node n1 are left in the runtime \(default/p\): device or resource busy"):
        await Inventory(runtime, "n1").remove_all()


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("/usr/sbin/runc --root /run/wherry-agent/runc/k8s.io --log l create", True),
        ("/usr/bin/crun --root /run/wherry-agent/crun/k8s.io delete", True),
        ("crun --root=/run/wherry-agent/crun kill", True),
        ("runc --root /run/wherry-agent-2/runc/k8s.io create", False),
        ("runc --root /run/runc list", False),
        ("runc list --root", False),
        ("less /run/wherry-agent/runc", False),
        ("wherry agent --root-dir /run/wherry-agent/x", False),
    ],
)
def test_low_level_runtimes_are_known_by_their_directory(line: str, ours: bool) -> None:
    assert is_low_level(line.split(), RUN) is ours
