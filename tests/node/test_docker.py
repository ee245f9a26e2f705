"""Agents that drive Docker: one with the pod network of its node, one with Docker's bridge, on one daemon of the tests' own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wherry.cli.cluster.images import DEMO_IMAGE, demo_archive
from wherry.testing.dockerd import ROOT, Dockerd
from wherry.testing.local import MAIN, containers, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

MODES = ("cni", "bridge")


class DockerCluster:
    """A server, and an agent for each way to make a network, on the daemon's "host"."""

    def __init__(self, dockerd: Dockerd, folder: Path) -> None:
        self.dockerd = dockerd
        self.folder = folder
        self.environment = {"PYTHONPATH": str(ROOT), "WHERRY_CONFIG": str(folder / "server" / "admin.conf")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *argv: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["nsenter", f"--net={self.dockerd.netns}", "--", *MAIN, *argv],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.dockerd.environment | self.environment,
            )  # fmt: skip

    def start_agent(self, mode: str) -> None:
        self.start(
            mode, "agent", "--runtime", "docker", "--docker-network", mode, "--server", "127.0.0.1:6440", "--token",
            self.wherry("token", "create").strip(), "--node-name", mode, "--node-ip", self.address, *self.options(mode),
        )  # fmt: skip

    def options(self, mode: str) -> list[str]:
        return [
            "--data-dir", str(self.folder / mode), "--run-dir", str(self.folder / f"{mode}-run"),
            "--cgroup-parent", self.dockerd.cgroup, "--network", f"{self.dockerd.name}-{mode}",
        ]  # fmt: skip

    @property
    def address(self) -> str:
        told = self.dockerd.host("ip", "-j", "-4", "addr", "show", "docker0").stdout
        return str(json.loads(told)[0]["addr_info"][0]["local"])

    def wherry(self, *words: str, stdin: str | None = None) -> str:
        return self.dockerd.host(*MAIN, *words, env=self.environment, stdin=stdin).stdout

    def tries(self, *words: str) -> str:
        return self.dockerd.host(*MAIN, *words, env=self.environment, check=False).stdout

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.wherry("get", "pod", name, "-o", "json"))
        return found

    def ready(self, name: str) -> bool:
        conditions = self.pod(name)["status"].get("conditions", [])
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerCluster]:
    folder = tmp_path_factory.mktemp("docker")
    dockerd = Dockerd()
    made = DockerCluster(dockerd, folder)
    try:
        dockerd.start()
        archive = folder / "demo.tar"
        archive.write_bytes(demo_archive())
        dockerd.docker("load", "--input", str(archive))
        made.start(
            "server",
            "server",
            "--data-dir",
            str(folder / "server"),
            "--http-listen",
            "",
            "--default-not-ready-toleration-seconds",
            "600",
        )
        until(lambda: (folder / "server" / "admin.conf").exists() and made.tries("get", "namespaces"))
        for mode in MODES:
            made.start_agent(mode)
        for mode in MODES:
            until(lambda mode=mode: "Ready" in made.tries("get", "node", mode).split()[-4:])  # type: ignore[misc]
        yield made
    finally:
        made.stop()
        dockerd.stop()


def pod(mode: str) -> str:
    script = "echo started; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"
    probe = {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 1}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"web-{mode}", "annotations": {"kubernetes.io/egress-bandwidth": "16M"}},
            "spec": {
                "nodeName": mode,
                "terminationGracePeriodSeconds": 1,
                "volumes": [{"name": "work", "emptyDir": {}}],
                "containers": [
                    {
                        "name": "c", "image": DEMO_IMAGE, "command": ["/bin/sh", "-c", script], "readinessProbe": probe,
                        "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
                        "volumeMounts": [{"name": "work", "mountPath": "/scratch"}],
                    },
                    {
                        "name": "beside", "image": DEMO_IMAGE, "stdin": True,
                        "command": ["/bin/sh", "-c", "while read -r line; do echo got $line; done"],
                        "volumeMounts": [{"name": "work", "mountPath": "/scratch"}],
                    },
                ],
            },
        }
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_pod_lives_on_docker(cluster: DockerCluster, mode: str) -> None:
    name = f"web-{mode}"
    cluster.wherry("apply", "-f", "-", stdin=pod(mode))
    until(lambda: cluster.ready(name), 90)  # by its probe, so the agent reaches it
    assert "started" in until(lambda: cluster.wherry("logs", name, "-c", "c"))
    assert cluster.wherry("exec", name, "-c", "c", "--", "hostname").strip() == name
    # One network and the same volumes for both containers; the limit is the kernel's.
    cluster.wherry("exec", name, "-c", "c", "--", "sh", "-c", "echo hello > /scratch/x")
    assert cluster.wherry("exec", name, "-c", "beside", "--", "cat", "/scratch/x") == "hello\n"
    fetch = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 127.0.0.1 8080 | tail -n 1"
    assert cluster.wherry("exec", name, "-c", "beside", "--", "sh", "-c", fetch).strip() == name
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert cluster.wherry("exec", name, "-c", "c", "--", "sh", "-c", limit + "; true").strip() == str(64 << 20)
    address = cluster.pod(name)["status"]["podIP"]
    page = cluster.dockerd.host("curl", "-sf", "-m", "5", f"http://{address}:8080/").stdout
    assert page.strip() == name


@pytest.mark.parametrize("mode", MODES)
def test_what_is_typed_is_heard_by_whoever_is_attached(cluster: DockerCluster, mode: str) -> None:
    name = f"web-{mode}"
    typed = subprocess.Popen(
        ["nsenter", f"--net={cluster.dockerd.netns}", "--", *MAIN, "attach", "-i", name, "-c", "beside"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=cluster.dockerd.environment | cluster.environment,
    )  # fmt: skip
    assert typed.stdin is not None
    assert typed.stdout is not None
    try:
        typed.stdin.write("a line\n")
        typed.stdin.close()
        # The end of what one of them types is not the end of what the container says.
        assert typed.stdout.readline() == "got a line\n"
        assert typed.poll() is None
    finally:
        typed.kill()
        typed.wait()
        typed.stdout.close()
    until(lambda: "got a line" in cluster.wherry("logs", name, "-c", "beside"))


def test_a_pods_bandwidth_is_bounded_or_it_is_told(cluster: DockerCluster) -> None:
    assert "rate 16Mbit" in cluster.dockerd.host("tc", "qdisc", "show").stdout

    def said(mode: str) -> str:
        return cluster.wherry("get", "events", "--field-selector", f"involvedObject.name=web-{mode}")

    until(lambda: "UndeterminedShaper" in said("bridge"))
    assert "UndeterminedShaper" not in said("cni")


@pytest.mark.parametrize("mode", MODES)
def test_a_new_agent_takes_over_what_runs(cluster: DockerCluster, mode: str) -> None:
    before = containers([cluster.pod(f"web-{mode}")])
    cluster.processes[mode].kill()
    cluster.processes[mode].wait()
    cluster.start_agent(mode)
    until(lambda: cluster.tries("exec", f"web-{mode}", "-c", "c", "--", "hostname").strip() == f"web-{mode}")
    assert cluster.ready(f"web-{mode}")
    assert containers([cluster.pod(f"web-{mode}")]) == before
    assert cluster.wherry("logs", f"web-{mode}", "-c", "c").count("started") == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_node_is_taken_away_whole(cluster: DockerCluster, mode: str) -> None:
    label = f"label=wherry.dev/node={mode}"
    assert cluster.dockerd.docker("ps", "--quiet", "--filter", label).stdout
    cluster.wherry("delete", "pod", f"web-{mode}")
    until(lambda: not cluster.dockerd.docker("ps", "--all", "--quiet", "--filter", label).stdout)
    cluster.processes[mode].terminate()
    cluster.processes[mode].wait()
    cluster.dockerd.host(
        *MAIN, "agent", "--remove", "--runtime", "docker", "--docker-network", mode, "--node-name", mode,
        *cluster.options(mode), env=cluster.environment,
    )  # fmt: skip
    links = cluster.dockerd.host("ip", "-o", "link").stdout
    assert "wherry0" not in links or mode == "bridge"
    assert not (cluster.folder / mode).exists()
