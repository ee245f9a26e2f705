"""The command line while the control plane is away: watches wait for it and go on, and what is said tells who did not answer."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.testing.local import deployment, until
from wherry.testing.server import MAIN, Server, free_port


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    made.start()
    yield made
    made.stop()


def config_map(name: str, value: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})


def test_watches_go_on_when_the_control_plane_is_back(server: Server, tmp_path: Path) -> None:
    assert (
        server.run("apply", "-f", "-", stdin=f"{config_map('first', '1')}\n---\n{deployment('web', 1)}").returncode == 0
    )
    env = {**os.environ, "WHERRY_CONFIG": str(server.config)}
    table, rollout = tmp_path / "table.txt", tmp_path / "rollout.txt"
    with table.open("wb") as one, rollout.open("wb") as two:
        watching = [
            subprocess.Popen([*MAIN, "get", "cm", "-w", "--no-headers"], stdout=one, stderr=one, env=env),
            subprocess.Popen([*MAIN, "rollout", "status", "deploy/web"], stdout=two, stderr=two, env=env),
        ]
        try:
            until(lambda: "first" in table.read_text() and "Waiting for" in rollout.read_text())
            server.kill()
            until(lambda: all("the watch broke off" in path.read_text() for path in (table, rollout)))
            away = server.run("get", "cm")
            server.start()
            assert server.run("apply", "-f", "-", stdin=config_map("second", "2")).returncode == 0
            assert server.run("scale", "deploy/web", "--replicas", "0").returncode == 0
            until(lambda: "second" in table.read_text())
            assert watching[1].wait(60) == 0, rollout.read_text()
        finally:
            for process in watching:
                process.kill()
                process.wait()
    names = [line.split()[0] for line in table.read_text().splitlines() if not line.startswith("Warning: ")]
    assert sorted(names) == ["first", "kube-root-ca.crt", "second"], "a gap or a repetition"
    assert rollout.read_text().endswith('deployment "web" successfully rolled out\n')
    assert away.returncode == 1
    assert away.stderr.splitlines()[0] == f"The connection to the server {server.address} failed: Connection refused"


def test_a_server_that_refuses_is_not_called_unreachable(server: Server) -> None:
    """A node without an agent: the control plane answers that it cannot serve this."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    pod |= {"spec": {"nodeName": "gone", "containers": [{"name": "c", "image": "i"}]}}
    assert server.run("apply", "-f", "-", stdin=json.dumps(pod)).returncode == 0
    done = server.run("logs", "p")
    assert done.returncode == 1
    assert "connection to the server" not in done.stderr
    assert done.stderr.startswith("Error from server")


def test_an_agent_that_finds_no_control_plane_ends_quietly(tmp_path: Path) -> None:
    token = f"abcdef.0123456789abcdef.sha256:{64 * '0'}"
    flags = [
        "--server",
        f"127.0.0.1:{free_port()}",
        "--token",
        token,
        "--data-dir",
        str(tmp_path),
        "--runtime",
        "hollow",
    ]
    with (tmp_path / "log").open("wb") as log:
        agent = subprocess.Popen([*MAIN, "agent", *flags], stdout=log, stderr=log)
    try:
        until(lambda: "cannot reach" in (tmp_path / "log").read_text())
        agent.terminate()
        assert agent.wait(60) == 0
    finally:
        agent.kill()
        agent.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
