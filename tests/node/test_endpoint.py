"""`wherry agent --runtime-endpoint`: a node on a containerd that is somebody else's, which it neither starts nor ends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubelet.runtime.containerd import find_running
from kubelet.runtime.cri import CriRuntime
from wherry.testing.local import deployment, until
from wherry.testing.realnode import CGROUP, RealNode
from wherry.testing.server import MAIN, Server

pytestmark = [pytest.mark.root, pytest.mark.containerd]


class Agent:
    def __init__(self, server: Server, node: RealNode, folder: Path) -> None:
        self._folder = folder
        self._command = [
            *MAIN, "agent", "--server", server.address, "--ca", str(server.data_dir / "ca.crt"), "--node-name", "guest",
            "--token", server.run("token", "create").stdout.strip(),
            "--runtime-endpoint", f"unix://{node.layout.socket}", "--cgroup-parent", f"/wherry/{CGROUP}",
            "--data-dir", str(folder / "agent"), "--run-dir", str(folder / "run"),
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self, *, kill: bool = False) -> None:
        assert self.process is not None
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        self.process.wait(30)

    def remove(self) -> None:
        subprocess.run([*self._command, "--remove"], check=True, capture_output=True, timeout=120)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    made.start()
    yield made
    made.stop()


async def test_a_node_on_somebody_elses_containerd(
    real_node: RealNode, runtime: CriRuntime, server: Server, tmp_path: Path
) -> None:
    """Its pods run beside what is there already, which it leaves alone; without it they run on."""
    before = find_running(real_node.layout)
    agent = Agent(server, real_node, tmp_path)
    agent.start()

    def read(*words: str) -> Any:
        return json.loads(server.run("get", *words, "-o", "json").stdout)

    def pods() -> list[dict[str, Any]]:
        items = read("pods")["items"]
        return items if len(items) == 2 and all(item["status"].get("phase") == "Running" for item in items) else []

    def ids() -> set[str]:
        return {item["status"]["containerStatuses"][0]["containerID"] for item in pods()}

    try:
        until(lambda: "guest" in server.run("wait", "node/guest", "--for=condition=Ready", "--timeout=1s").stdout)
        done = server.run("apply", "-f", "-", stdin=deployment("web", 2, "echo hello; exec sleep 1000000"))
        assert done.returncode == 0, done.stderr
        until(pods)
        first = ids()
        name = pods()[0]["metadata"]["name"]
        until(lambda: server.run("logs", name).stdout == "hello\n")
        assert server.run("exec", name, "--", "echo", "hi").stdout == "hi\n"
        assert read("node", "guest")["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
        agent.stop(kill=True)
        agent.start()
        until(lambda: "guest" in server.run("wait", "node/guest", "--for=condition=Ready", "--timeout=1s").stdout)
        assert until(ids) == first, "the next agent has started them again"
        server.run("delete", "deployment", "web")
        until(lambda: not read("pods")["items"])
        assert [s for s in await runtime.list_sandboxes() if s.name.startswith("web-")] == []
        server.run("apply", "-f", "-", stdin=deployment("left", 2))
        until(pods)
    finally:
        agent.stop()
    agent.remove()
    assert [s for s in await runtime.list_sandboxes() if s.name.startswith("left-")] == []
    assert not (tmp_path / "agent").exists()
    now = find_running(real_node.layout)
    assert before is not None
    assert now is not None
    assert now.pid == before.pid, "containerd is not ours to end"
