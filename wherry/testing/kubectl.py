"""The real kubectl, in whichever versions this machine has, against a real server with a hollow node, or with containers. For
tests/kubectl.

The binaries are looked for beside the `kubectl` of the PATH (`kubectl.1.27` and so on). Without any, tests
skip, and fail where nothing may be missing (`require_kubectl`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from wherry.cli.commands.kubeconfig import for_kubectl
from wherry.client.config import load_config, write_config
from wherry.testing.local import LocalCluster
from wherry.testing.require import missing
from wherry.testing.server import MAIN, Server, free_port
from wherry.testing.terminal import Terminal, on_terminal

_VERSIONED = re.compile(r"kubectl[.-]v?(\d+)\.(\d+)$")
TIMEOUT_S = 60


def binaries() -> dict[str, Path]:
    """By version (`1.27`), oldest first; a plain `kubectl` alone counts as "default"."""
    found: dict[tuple[int, int], Path] = {}
    plain = shutil.which("kubectl")
    folders = [Path(folder) for folder in os.get_exec_path()]
    if plain is not None:
        folders.append(Path(plain).resolve().parent)
    for folder in folders:
        for path in sorted(folder.glob("kubectl*")) if folder.is_dir() else ():
            match = _VERSIONED.match(path.name)
            if match and os.access(path, os.X_OK):
                found.setdefault((int(match[1]), int(match[2])), path)
    if not found and plain is not None:
        return {"default": Path(plain)}
    return {f"{major}.{minor}": found[major, minor] for major, minor in sorted(found)}


BINARIES = binaries()
NEWEST = list(BINARIES)[-1:]
OLDEST = list(BINARIES)[:1]
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web:1
        ports: [{name: http, containerPort: 80}]
        env: [{name: A, value: "1"}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red}
"""


def versions(*always: list[str], since: int = 0) -> pytest.MarkDecorator:
    """The versions that a test runs with: these, and under `-m full` all, from 1.`since` on. Without any it is there once, to say
    so."""
    chosen = [version for group in always for version in group]
    params = [
        pytest.param(version, marks=() if version in chosen else pytest.mark.full)
        for version in BINARIES
        if int(version.partition(".")[2] or since) >= since
    ]
    return pytest.mark.parametrize("kubectl", params or ["none"], indirect=True)


def require_kubectl() -> None:
    """Skips the test, or fails it where nothing may be missing, on a machine that has no kubectl."""
    if not BINARIES:
        missing("needs kubectl, as kubectl or kubectl.1.27 and so on in the PATH")


class Kubectl:
    """One version, one namespace; "": the one that each command and manifest says."""

    def __init__(self, binary: Path, kubeconfig: Path, home: Path, namespace: str, node: str = "") -> None:
        """`node`: one of the cluster's, for the commands that are about nodes."""
        self.binary = binary
        self.namespace = namespace
        self.node = node
        self.environment = {
            **os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(home), "KUBECTL_EXTERNAL_DIFF": "diff -u",
        }  # fmt: skip

    def command(self, *words: str) -> list[str]:
        return [str(self.binary), *(("--namespace", self.namespace) if self.namespace else ()), *words]

    def run(
        self, *words: str, stdin: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=timeout_s, env=self.environment,
            check=False,
        )  # fmt: skip

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """Standard output; fails the test when the command fails."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def fails(self, *words: str, stdin: str | None = None) -> str:
        """Standard error; fails the test when the command succeeds."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode != 0, f"kubectl {' '.join(words)}: succeeded\n{done.stdout}"
        return done.stderr

    @contextmanager
    def going(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on until the end of the block."""
        with subprocess.Popen(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            env=self.environment,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def on_terminal(self, *words: str) -> AbstractContextManager[Terminal]:
        """Run by a person who sits before it."""
        return on_terminal(self.command(*words), self.environment)


class KubectlCluster(Protocol):
    """`start` may be called once, and `stop` whatever has become of that."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kubectl(self, binary: Path, namespace: str) -> Kubectl: ...

    def wherry(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Our own command line."""
        ...


class HollowCluster:
    """A server and a hollow node, each a process of its own."""

    NODE = "hollow"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.http = f"127.0.0.1:{free_port()}"
        self.server = Server(directory / "server", "--http-listen", self.http)
        self.kubeconfig = directory / "kubeconfig"
        self._agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.server.start()
        settings = for_kubectl(load_config(self.server.config), self.http)
        write_config(replace(settings, context="test"), self.kubeconfig)
        token = self.server.run("token", "create").stdout.strip()
        with (self.directory / "agent.log").open("wb") as log:
            self._agent = subprocess.Popen(
                [
                    *MAIN, "agent", "--runtime", "hollow", "--server", self.server.address, "--token", token,
                    "--ca", str(self.server.data_dir / "ca.crt"), "--node-name", self.NODE,
                    "--data-dir", str(self.directory / "agent"), "--run-dir", str(self.directory / "run"),
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def stop(self) -> None:
        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait(15)
        self.server.stop()

    def kubectl(self, binary: Path, namespace: str) -> Kubectl:
        return Kubectl(binary, self.kubeconfig, self.directory / "home", namespace, self.NODE)

    def wherry(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.server.run(*words)


class ContainersCluster:
    """The same with containers: one node, and the images that the tests name. A container of these says again whatever port 80
    hears, as a hollow one does."""

    IMAGES = ("a:1", "app:1", "web:1", "web:2", "web:3")
    COMMAND = ("sh", "-c", "trap 'exit 0' TERM; nc -ll -p 80 -e cat & wait")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.local = LocalCluster(1, prefix="k")
        self.kubeconfig = directory / "kubeconfig"

    def start(self) -> None:
        self.local.up()
        self.local.load(self.COMMAND, *self.IMAGES)
        self.local.ok("kubeconfig", "-o", str(self.kubeconfig))

    def stop(self) -> None:
        self.local.down()

    def kubectl(self, binary: Path, namespace: str) -> Kubectl:
        return Kubectl(binary, self.kubeconfig, self.directory / "home", namespace, "node-1")

    def wherry(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.local.wherry(*words)
