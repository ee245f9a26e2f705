"""`wherry up --runtime docker` as a user without root, on a Docker daemon of the tests' own that lets this user in."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wherry.cli.cluster.images import DEMO_IMAGE, Layer, docker_archive
from wherry.testing import asuser
from wherry.testing.dockerd import ROOT, Dockerd
from wherry.testing.local import MAIN, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

UID = 31234
NAME = "lap"
FETCH = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {} {} | tail -n 1"
PROMPT = "while read -r line; do echo got $line; done"


class Laptop:
    """One user of one daemon."""

    def __init__(self, dockerd: Dockerd, home: Path) -> None:
        self.dockerd = dockerd
        self.home = home
        self.environment = {
            "HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "DOCKER_HOST": dockerd.url,
        }  # fmt: skip

    def run(self, *words: str, stdin: str | None = None, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            asuser.command(UID, *MAIN, *words, netns=self.dockerd.netns), input=stdin, env=self.environment, cwd="/tmp",
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def wherry(self, *words: str, stdin: str | None = None) -> str:
        done = self.run(*words, stdin=stdin)
        if done.returncode:
            raise AssertionError(f"wherry {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, *documents: dict[str, Any]) -> None:
        self.wherry("apply", "-f", "-", stdin="\n---\n".join(json.dumps(document) for document in documents))

    def inside(self, pod: str, script: str) -> str:
        return self.run("exec", pod, "--", "sh", "-c", script).stdout

    def from_host(self, url: str, *headers: str) -> str:
        options = [word for header in headers for word in ("-H", header)]
        return self.dockerd.host("curl", "-s", "-m", "5", "--noproxy", "*", *options, url, check=False).stdout

    def ready(self, *pods: str) -> bool:
        listed = self.run("get", "pods").stdout.splitlines()
        return all(any(line.split()[:3] == [pod, "1/1", "Running"] for line in listed) for pod in pods)


@pytest.fixture(scope="module")
def laptop() -> Iterator[Laptop]:
    dockerd = Dockerd("--group", str(UID))
    try:
        dockerd.start()
        dockerd.directory.chmod(0o711)
        home = dockerd.directory / "home"
        home.mkdir()
        os.chown(home, UID, UID)
        made = Laptop(dockerd, home)
        assert "The cluster is up" in made.wherry("up", "--runtime", "docker", "--name", NAME)
        yield made
        made.run("down", "--name", NAME)
    finally:
        dockerd.stop()


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": DEMO_IMAGE, "command": ["sh", "-c", script], **spec.pop("container", {})}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }  # fmt: skip


def container_of(laptop: Laptop, pod: str) -> str:
    status = json.loads(laptop.wherry("get", "pod", pod, "-o", "json"))["status"]
    return str(status["containerStatuses"][0]["containerID"])


@pytest.mark.full
def test_what_is_killed_comes_back(laptop: Laptop) -> None:
    laptop.apply(
        pod("asks", "exec sleep 1000000"),
        pod("near", "echo near > /www/index.html; exec httpd -f -p 7575 -h /www", hostNetwork=True),
    )
    until(lambda: laptop.ready("asks", "near"), 90)
    before = container_of(laptop, "asks")
    page = FETCH.format("hello", 80)
    until(lambda: "Served by" in laptop.inside("asks", page))

    # The node's container: another takes its place, and its network's pods and rules come back to it.
    docker = laptop.dockerd.docker
    docker("kill", "wherry-lap-node")
    until(lambda: "Served by" in laptop.inside("asks", page), 90)
    until(lambda: laptop.inside("asks", FETCH.format("10.78.1.1", 7575)).strip() == "near", 90)

    # The agent: `up` starts it again, and it takes over what runs.
    agent = laptop.wherry("status", "--name", NAME, "-o", "json")
    os.kill(json.loads(agent)[0]["nodes"][0]["agent"]["pid"], 9)
    assert "✓ agent, with Docker" in laptop.wherry("up", "--name", NAME)
    until(lambda: "Served by" in laptop.inside("asks", page), 90)
    assert container_of(laptop, "asks") == before

    # All of it, as by a reboot.
    (found,) = json.loads(laptop.wherry("status", "--name", NAME, "-o", "json"))
    for process in (found["process"], found["nodes"][0]["agent"]):
        os.kill(process["pid"], 9)
    docker("kill", *docker("ps", "--quiet").stdout.split())
    assert "The cluster is up" in laptop.wherry("up", "--name", NAME)
    until(lambda: "Served by" in laptop.inside("asks", page), 90)
    assert container_of(laptop, "asks") != before
    laptop.wherry("delete", "pod", "asks", "near")


@pytest.mark.full
def test_a_cluster_whose_description_is_lost_goes_all_the_same(laptop: Laptop) -> None:
    laptop.wherry("up", "--runtime", "docker", "--name", "lost")
    (laptop.home / ".local" / "share" / "wherry" / "lost.json").unlink()
    assert "remove Docker network wherry-lost" in laptop.wherry("down", "--name", "lost")
    listed = laptop.dockerd.docker("network", "ls").stdout + laptop.dockerd.docker("ps", "--all").stdout
    assert "wherry-lost" not in listed
    assert "wherry-lap" in listed
    assert "wherry.local/demo" in laptop.dockerd.docker("images").stdout, "the other cluster needs it"
    done = laptop.run("down", "--name", "lost")
    assert 'this user has no cluster "lost" here' in done.stderr


@pytest.mark.full
def test_volumes_belong_to_the_pod_whoever_it_runs_as(laptop: Laptop) -> None:
    laptop.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"word": "open sesame"}},
        pod(
            "nobody", "cat /s/word && echo && echo mine > /e/x && echo fine > /m/x && exec sleep 1000000",
            container={
                "volumeMounts": [
                    {"name": "s", "mountPath": "/s"}, {"name": "e", "mountPath": "/e"}, {"name": "m", "mountPath": "/m"}
                ]
            },
            securityContext={"runAsUser": 4711, "runAsGroup": 4712, "fsGroup": 4713},
            volumes=[
                {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}}, {"name": "e", "emptyDir": {}},
                {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
        ),
    )  # fmt: skip
    until(lambda: laptop.ready("nobody"), 90)
    until(lambda: "open sesame" in laptop.wherry("logs", "nobody"))
    assert laptop.inside("nobody", "cat /e/x /m/x").split() == ["mine", "fine"]
    assert "tmpfs" in laptop.inside("nobody", "grep ' /m ' /proc/mounts")
    (memory,) = Path("/dev/shm").glob("wherry-*/*/m")
    assert (memory / "x").exists()
    laptop.wherry("delete", "pod", "nobody")
    assert not memory.parent.exists()


@pytest.mark.full
def test_an_image_is_loaded_from_a_file(laptop: Laptop) -> None:
    archive = laptop.home / "mine.tar"
    archive.write_bytes(docker_archive("wherry.local/mine:1", Layer(files={"x": (b"x", 0o644)})))
    archive.chmod(0o644)
    assert "wherry.local/mine:1" in laptop.wherry("image", "load", str(archive), "--name", NAME)
    assert "wherry.local/mine" in laptop.dockerd.docker("images").stdout
    laptop.dockerd.docker("rmi", "wherry.local/mine:1")
    archive.write_bytes(b"no image")
    done = laptop.run("image", "load", str(archive), "--name", NAME)
    assert done.returncode == 1
    assert "error: node-1:" in done.stderr
    archive.unlink()


def test_a_laptops_cluster_from_up_to_down(laptop: Laptop) -> None:
    assert "nothing was changed" in laptop.wherry("up", "--name", NAME)
    assert "node-1: Ready" in laptop.wherry("status", "--name", NAME)

    serve = "echo {0} > /www/index.html; exec httpd -f -p {1} -h /www"
    port = {"ports": [{"containerPort": 8081, "hostPort": 7272}], "volumeMounts": [{"name": "work", "mountPath": "/w"}]}
    volumes = [{"name": "work", "emptyDir": {}}]
    laptop.apply(
        pod("cli", "exec sleep 1000000"),
        pod("prompt", PROMPT, container={"stdin": True, "stdinOnce": True}, restartPolicy="Never"),
        # What it leaves in its volume is root's.
        pod("web", "mkdir -m 700 /w/mine; touch /w/mine/x; " + serve.format("web", 8081), container=port, volumes=volumes),
        pod("host", serve.format("host", 7070), hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"),
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {
                "type": "NodePort", "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": 8081, "nodePort": 30080}],
            },
        },
    )  # fmt: skip
    until(lambda: laptop.ready("cli", "prompt", "web", "host"), 90)
    node = json.loads(laptop.wherry("get", "pod", "host", "-o", "json"))["status"]["podIP"]

    # From pods: by name, through themselves, by the node's port, its host port and its own servers; and the API.
    until(lambda: laptop.inside("cli", FETCH.format("web", 80)).strip() == "web")
    assert laptop.inside("web", FETCH.format("web.default.svc.cluster.local", 80)).strip() == "web"
    assert laptop.inside("host", FETCH.format("web", 80)).strip() == "web"
    script = ";".join(FETCH.format(node, number) for number in (30080, 7272, 7070))
    assert laptop.inside("cli", script).split() == ["web", "web", "host"]
    assert "OK" in laptop.inside("cli", "nc -w 5 kubernetes 443 </dev/null && echo OK")
    # From the machine.
    assert laptop.from_host(f"http://{node}:30080/").strip() == "web"
    assert laptop.from_host("http://127.0.0.1:7272/").strip() == "web"

    # Pods are held to policies, also by way of a Service, which leaves them their addresses; this machine is not.
    laptop.apply(
        {
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "web"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "web"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "cli"}}}]}],
            },
        }
    )  # fmt: skip
    address = json.loads(laptop.wherry("get", "pod", "web", "-o", "json"))["status"]["podIP"]
    until(lambda: "no" in laptop.inside("prompt", f"nc -w 1 {address} 8081 </dev/null || echo no"))
    assert "no" in laptop.inside("prompt", "nc -w 1 web 80 </dev/null || echo no")
    assert laptop.inside("cli", FETCH.format("web", 80)).strip() == "web"
    assert laptop.inside("cli", FETCH.format(address, 8081)).strip() == "web"
    assert laptop.from_host(f"http://{node}:30080/").strip() == "web"

    # And by the node's port 80 an Ingress, from this machine and from pods.
    path = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}
    laptop.apply(
        {
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web"},
            "spec": {"rules": [{"host": "web.test", "http": {"paths": [path]}}]},
        }
    )  # fmt: skip
    until(lambda: laptop.from_host(f"http://{node}/", "Host: web.test").strip() == "web")
    asked = f"printf 'GET / HTTP/1.0\\r\\nHost: web.test\\r\\n\\r\\n' | nc -w 5 {node} 80 | tail -n 1"
    assert laptop.inside("prompt", asked).strip() == "web"
    until(lambda: node in laptop.wherry("get", "ingress", "web"))

    assert "got hello" in laptop.run("attach", "prompt", "-i", stdin="hello\n", timeout_s=60).stdout
    laptop.wherry("delete", "pod", "web")

    laptop.wherry("down", "--name", NAME)
    docker = laptop.dockerd.docker
    assert docker("ps", "--all", "--quiet").stdout == ""
    assert "wherry" not in docker("network", "ls").stdout + docker("images").stdout
    assert [path for path in laptop.home.rglob("*") if path.is_file()] == []
    assert not (laptop.home / ".local" / "share" / "wherry").exists()
