"""The compose cluster (deploy/compose.yaml) on a daemon of the tests' own. For tests/compose and the benchmarks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from wherry.testing.dockerd import ROOT, Dockerd
from wherry.testing.local import until
from wherry.testing.require import require_binary

MAIN = [sys.executable, "-m", "wherry.cli.main"]
NODES = ("node-1", "node-2", "node-3")
# Docker keeps its chains, and makes some of them with the first network.
RULE_OF_A_NETWORK = re.compile(r'"br-|addr [1-9][0-9.]+[0-9](?!/8)\b|wherry')
CONTROL_PLANES = ("control-plane", "control-plane-2", "control-plane-3")


class ComposeCluster:
    """`up` does what `make compose-up` does; `down` what `make compose-down` does. Commands run on the daemon's "host"."""

    def __init__(
        self,
        dockerd: Dockerd,
        directory: Path,
        *,
        replicas: int = 1,
        image: str = "wherry:dev",
        extra: str = "",
        compose: str = "",
    ) -> None:
        """`extra`: a compose file that changes what the first says. `compose`: the command; that which is installed."""
        self.dockerd = dockerd
        self.project = f"wherry{replicas}"
        self.directory = directory
        self._extra = extra
        self._environment = {
            "COMPOSE_PROJECT_NAME": self.project, "WHERRY_COMPOSE_DIR": str(directory), "WHERRY_IMAGE": image,
            "REPLICAS": str(replicas), "PYTHONPATH": str(ROOT), "WHERRY": str(directory / "wherry"),
            "COMPOSE": compose,
        }  # fmt: skip

    def up(self) -> str:
        """Returns when all nodes are Ready."""
        self._prepare()
        return self._script("up")

    def containers_up(self) -> None:
        """No more than that its containers run."""
        self._prepare()
        files = [str(ROOT / "deploy" / "compose.yaml"), self._environment["WHERRY_COMPOSE_EXTRA"]]
        words = [word for file in files for word in ("-f", file)]
        self.dockerd.host("docker-compose", *words, "-p", self.project, "up", "-d", env=self._environment)

    def _prepare(self) -> None:
        require_binary("docker-compose", "docker-compose")
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._extra:
            extra = self.directory / "extra.yaml"
            extra.write_text(self._extra)
            self._environment["WHERRY_COMPOSE_EXTRA"] = str(extra)
        command = self.directory / "wherry"  # this checkout's, wherever the virtual environment is
        command.write_text(f'#!/bin/sh\nexec {" ".join(MAIN)} "$@"\n')
        command.chmod(0o755)

    def down(self) -> None:
        self._script("down")

    def left(self) -> dict[str, list[str]]:
        """What there still is of it after `down`, on Docker's side and on the host's."""
        of_project = ("--filter", f"label=com.docker.compose.project={self.project}", "--quiet")
        found = {
            "containers": self.dockerd.docker("ps", "--all", *of_project).stdout.split(),
            "volumes": self.dockerd.docker("volume", "ls", *of_project).stdout.split(),
            "networks": self.dockerd.docker("network", "ls", *of_project).stdout.split(),
            "routes": self.dockerd.host("ip", "-4", "route").stdout.splitlines(),
            "rules": [rule for rule in self.dockerd.rules() if RULE_OF_A_NETWORK.search(rule)],
            "flows": [flow for flow in self.dockerd.flows() if "dst=127.0.0.1 " not in flow],
            "links": [name for name in self.dockerd.links() if name.startswith(("br-", "veth"))],
            "mounts": [
                place
                for place in self.dockerd.mounts()
                if any(part in place for part in ("/overlay2/", "/volumes/", "/netns/"))
                and not place.endswith("/default")
            ],
            "processes": self.dockerd.container_processes(),
        }
        return {what: names for what, names in found.items() if names}

    def _script(self, word: str) -> str:
        path = str(ROOT / "deploy" / "compose-up")
        return self.dockerd.host(path, word, env=self._environment, timeout_s=400).stdout

    # -- the host's tools

    def wherry(self, *words: str, check: bool = True, stdin: str | None = None, timeout_s: float = 180) -> str:
        config = str(self.directory / "admin.conf")
        done = self.dockerd.host(
            *MAIN, "--config", config, *words, check=check, stdin=stdin, timeout_s=timeout_s, env=self._environment
        )
        return done.stdout

    def tries(self, *words: str, stdin: str | None = None, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        config = str(self.directory / "admin.conf")
        return self.dockerd.host(
            *MAIN, "--config", config, *words, check=False, stdin=stdin, timeout_s=timeout_s, env=self._environment
        )

    def events(self, name: str, since_s: float) -> dict[str, str]:
        """Of the object of this name, since then: reason -> the newest message."""
        found = [item for item in self.json("events")["items"] if item["involvedObject"]["name"] == name]
        found = [
            item
            for item in found
            if (item.get("lastTimestamp") or "") and seconds(item["lastTimestamp"]) >= int(since_s)
        ]
        found.sort(key=lambda item: str(item["lastTimestamp"]))
        return {item["reason"]: item["message"] for item in found}

    def python(self, *words: str) -> str:
        """A program of the test's own, on the host."""
        return self.dockerd.host(sys.executable, *words, env=self._environment).stdout

    def kubectl(self, *words: str) -> str:
        config = str(self.directory / "kubeconfig")
        return self.dockerd.host("kubectl", *words, env={"KUBECONFIG": config}).stdout

    def apply(self, manifest: str) -> None:
        self.wherry("apply", "-f", "-", stdin=manifest)

    def json(self, *words: str) -> Any:
        return json.loads(self.wherry("get", *words, "-o", "json"))

    def pods(self, selector: str) -> list[dict[str, Any]]:
        items = self.json("pods", "-l", selector)["items"]
        return [item for item in items if "deletionTimestamp" not in item["metadata"]]

    def running(self, selector: str, count: int, timeout_s: float = 120) -> list[dict[str, Any]]:
        """Waits until so many pods are Ready."""

        def ready() -> list[dict[str, Any]]:
            found = [pod for pod in self.pods(selector) if _condition(pod) == "True"]
            return found if len(found) == count else []

        return until(ready, timeout_s)

    def node_ready(self, name: str) -> str:
        return _condition(self.json("node", name))

    # -- its containers

    def container(self, service: str) -> str:
        """By its labels: the two generations of compose name containers differently."""
        done = self.dockerd.docker(
            "ps", "--all", "--quiet",
            "--filter", f"label=com.docker.compose.project={self.project}",
            "--filter", f"label=com.docker.compose.service={service}",
        )  # fmt: skip
        return done.stdout.strip()

    def docker(self, word: str, service: str, *more: str) -> str:
        return self.dockerd.docker(word, *more, self.container(service)).stdout

    def inside(self, service: str, script: str, *, check: bool = True) -> str:
        """A script in a service's container."""
        return self.dockerd.docker("exec", self.container(service), "sh", "-c", script, check=check).stdout

    def address(self, service: str) -> str:
        form = "{{range $name, $net := .NetworkSettings.Networks}}{{$name}}={{$net.IPAddress}} {{end}}"
        said = self.dockerd.docker("inspect", "--format", form, self.container(service)).stdout.split()
        return next(part.split("=")[1] for part in said if part.startswith(f"{self.project}_default="))

    def logs(self, service: str) -> str:
        done = self.dockerd.docker("logs", "--tail", "60", self.container(service), check=False)
        return done.stdout + done.stderr


def seconds(timestamp: str) -> float:
    """Of what Kubernetes calls a time."""
    return datetime.fromisoformat(timestamp).timestamp()


def _condition(item: dict[str, Any]) -> str:
    conditions = item.get("status", {}).get("conditions", [])
    return next((str(found["status"]) for found in conditions if found["type"] == "Ready"), "")
