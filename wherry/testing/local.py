"""A real local cluster (`wherry up`) for tests and benchmarks: two or more nodes, real containers, under a name of its own, so
that several can run side by side. Whoever makes one takes it down; `trace()` tells what must be the same before and after.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from wherry.cli.cluster import images, launch, layout
from wherry.cli.commands.kubeconfig import PORT_OFFSET
from wherry.client.client import Client
from wherry.client.config import ClientConfig, ConfigError, load_config
from wherry.client.grpc import connect

MAIN = [sys.executable, "-m", "wherry.cli.main"]
IMAGE = "wherry.local/demo:1"
T = TypeVar("T")
_PLAIN = ("pods", "events", "nodes", "services", "configmaps")


class LocalCluster:
    """`up` may be called again at any time: it mends what was killed."""

    def __init__(self, nodes: int = 2, prefix: str = "t", *, ingress: bool = False, flags: Sequence[str] = ()) -> None:
        self._flags = ["--ingress" if ingress else "--no-ingress", *flags]
        self.name = prefix + secrets.token_hex(3)
        self.node_count = nodes
        self._folder = tempfile.TemporaryDirectory(prefix="wherry-local-")
        self.config = Path(self._folder.name) / "config"
        self.environment = {**os.environ, "WHERRY_CONFIG": str(self.config)}
        self._context: tuple[bytes, ssl.SSLContext] | None = None

    def wherry(self, *words: str, stdin: str | None = None, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MAIN, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
            check=False,
        )

    def ok(self, *words: str, stdin: str | None = None) -> str:
        result = self.wherry(*words, stdin=stdin)
        if result.returncode:
            raise AssertionError(
                f"wherry {' '.join(words)}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result.stdout

    def up(self) -> str:
        return self.ok("up", "--name", self.name, "--nodes", str(self.node_count), *self._flags)

    def down(self) -> str:
        try:
            return self.ok("down", "--name", self.name)
        finally:
            self._folder.cleanup()

    def client(self) -> Client:
        """The typed client; the caller closes it."""
        return connect(load_config(self.config))

    def apply(self, manifest: str) -> str:
        return self.ok("apply", "-f", "-", stdin=manifest)

    def json(self, *words: str) -> Any:
        """As `wherry get ... -o json`. What is asked for again and again comes over HTTPS: a process for each question would
        take half of a small machine."""
        found = self._over_https(words)
        return found if found is not None else json.loads(self.ok("get", *words, "-o", "json"))

    def _over_https(self, words: Sequence[str]) -> Any:
        """None for what is asked in more words than a kind, a name and a selector, and when it does not succeed."""
        plural = f"{words[0].removesuffix('s')}s"
        if plural not in _PLAIN or len(words) > 3 or (len(words) == 3 and words[1] != "-l"):
            return None
        path = f"/api/v1/{plural}" if plural == "nodes" else f"/api/v1/namespaces/default/{plural}"
        if len(words) == 2:
            path += f"/{words[1]}"
        elif len(words) == 3:
            path += f"?labelSelector={quote(words[2])}"
        try:
            config = load_config(self.config)
            host, _, port = config.endpoints[0].rpartition(":")
            connection = HTTPSConnection(host, int(port) + PORT_OFFSET, timeout=30, context=self._tls(config))
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return json.loads(answer.read()) if answer.status == 200 else None
            finally:
                connection.close()
        except (OSError, ConfigError, HTTPException):
            return None

    def _tls(self, config: ClientConfig) -> ssl.SSLContext:
        if self._context is None or self._context[0] != config.certificate:
            context = ssl.create_default_context(cadata=config.ca.decode())
            file = Path(self._folder.name) / "client.pem"
            file.write_bytes(config.certificate + config.key)
            context.load_cert_chain(file)
            self._context = (config.certificate, context)
        return self._context[1]

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Those that are not being deleted, by name."""
        items = self.json("pods", "-l", selector)["items"]
        return [item for item in items if "deletionTimestamp" not in item["metadata"]]

    @property
    def description(self) -> layout.Cluster:
        found = layout.load(self.name)
        assert found is not None, "the cluster is not up"
        return found

    def server_pid(self) -> int:
        process = launch.running_server(self.description)
        assert process is not None, "no control plane runs"
        return process.pid

    def agent_pid(self, node: int) -> int:
        process = launch.running_agent(self.description.node(node))
        assert process is not None, f"no agent of node {node} runs"
        return process.pid

    def restart_server(self, *flags: str) -> None:
        """With more flags. What `up` started is ended first."""
        cluster = self.description
        launch.stop([process for process in [launch.running_server(cluster)] if process is not None])
        launch.start([*launch.server_argv(cluster), *flags], cluster.server_log, cluster.server_pid_file)
        until(lambda: self.wherry("get", "namespaces").returncode == 0)

    def restart_agent(self, node: int, *flags: str) -> None:
        """Likewise. Its containers run on."""
        place = self.description.node(node)
        launch.stop([process for process in [launch.running_agent(place)] if process is not None])
        launch.start([*launch.agent_argv(self.description, place), *flags], place.log, place.pid_file)

    def load(self, command: Sequence[str], name: str, *also: str) -> None:
        """An image of these names on every node: what the demo image has, with another command."""
        archive = Path(self._folder.name) / "image.tar"
        content = images.docker_archive(name, images.demo_layer(), cmd=command, env=["PATH=/bin"], also=also)
        archive.write_bytes(content)
        for node in self.description.nodes:
            images.load(node.containerd.socket, archive)

    def cable(self, node: int, *, connected: bool) -> None:
        """Plugs the node's only link in or out."""
        link = self.description.node(node).link
        subprocess.run(["ip", "link", "set", link, "up" if connected else "down"], check=True)


def deployment(name: str, replicas: int, script: str = "exec sleep 1000000", *, extra: str = "", spec: str = "") -> str:
    """A Deployment of the demo image. `extra` is YAML of the container, `spec` of the Deployment, each a flow mapping's
    inside, such as `readinessProbe: {...}`."""
    container = {
        "name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", script],
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
    }  # fmt: skip
    return (
        f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n"
        f"{'  ' + spec if spec else ''}\n"
        f"  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n"
        f"    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n"
        f"      - {json.dumps(container)[:-1]}{', ' + extra if extra else ''}}}\n"
    )


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def containers(pods: list[dict[str, Any]]) -> dict[str, tuple[str, int]]:
    """Pod name -> (container id, restart count) of its first container."""
    return {
        pod["metadata"]["name"]: (status["containerID"], status["restartCount"])
        for pod in pods
        for status in pod["status"].get("containerStatuses", [])[:1]
    }


def until(check: Callable[[], T], timeout_s: float = 60.0, pause_s: float = 0.1) -> T:
    """The first true answer. Raises AssertionError that tells the last one."""
    deadline = time.monotonic() + timeout_s
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {timeout_s:g} s; the last answer was {answer!r}")
        time.sleep(pause_s)
    return answer


def trace() -> dict[str, list[str]]:
    """What a cluster leaves behind if it leaves something: processes, mounts, links, namespaces, rules, cgroups, folders."""

    def lines(*command: str) -> list[str]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return sorted(done.stdout.splitlines())

    words = ("containerd", "wherry.cli.main server", "wherry.cli.main agent", "/pause")
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if any(word in command for word in words):
                processes.append(f"{entry.name} {command}")
    return {
        "processes": sorted(processes),
        "mounts": sorted(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()),
        "links": sorted(os.listdir("/sys/class/net")),
        "namespaces": sorted(os.listdir("/run/netns")) if Path("/run/netns").is_dir() else [],
        "nftables": [re.sub(r"counter packets \d+ bytes \d+", "", line) for line in lines("nft", "list", "ruleset")],
        "iptables": [line for line in lines("iptables-save") if not line.startswith(("#", ":"))],
        "cgroups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("*/wherry/*")),
        "folders": sorted(str(path) for root in ("/var/lib/wherry", "/run/wherry") for path in Path(root).glob("*")),
    }
