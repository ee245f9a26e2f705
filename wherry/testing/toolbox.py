"""Pods of the compose cluster that have what the nodes' image has (curl, Python, haproxy, Wherry), and what tests run in them.
For tests/compose.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wherry.testing.compose import NODES, ComposeCluster
from wherry.testing.load import BEGAN, Report, report
from wherry.testing.local import IMAGE

CURL = "/usr/bin/curl -sf -m 5"
# Prints how often each pod has answered; each time on a connection of its own.
COUNT = """
import collections, json, socket, sys
counts = collections.Counter()
for _ in range(int(sys.argv[2])):
    with socket.create_connection((sys.argv[1], 80), timeout=30) as sock:
        sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        said = b"".join(iter(lambda: sock.recv(4096), b""))
    counts[said.split()[-1].decode()] += 1
print(json.dumps(counts))
"""
# Prints those addresses to which a connection can be made.
REACH = """
import concurrent.futures, socket, sys
def reaches(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    print(" ".join(address for address, yes in zip(sys.argv[1:], pool.map(reaches, sys.argv[1:])) if yes))
"""

# Host path -> place in the pod. The demo image has none of them but /usr.
_PATHS = {"/usr": "/usr", "/opt": "/opt", "/usr/lib": "/lib", "/usr/lib64": "/lib64"}


def tool_spec(script: str) -> dict[str, Any]:
    """Of a pod with one container that runs the script."""
    container = {
        "name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", script],
        "env": [{"name": "PYTHONPATH", "value": "/opt/wherry"}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}],
        "volumeMounts": [
            {"name": f"v{number}", "mountPath": place, "readOnly": True} for number, place in enumerate(_PATHS.values())
        ],
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
    }  # fmt: skip
    volumes = [
        {"name": f"v{number}", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
        for number, path in enumerate(_PATHS)
    ]
    return {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes}


def toolbox(name: str, script: str) -> str:
    """A pod on each node (NAME-NODE, labelled app=NAME) that runs the script."""
    pods = [
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-{node}", "labels": {"app": name}},
            "spec": {**tool_spec(script), "nodeName": node},
        }
        for node in NODES
    ]  # fmt: skip
    return "\n---\n".join(json.dumps(pod) for pod in pods)


def shell(cluster: ComposeCluster, pod: Mapping[str, Mapping[str, str]], *commands: str) -> list[str]:
    """What each command has said, on a line; "failed" when it was not successful."""
    script = "; ".join(f'said=$({command}) && echo "$said" || echo failed' for command in commands)
    return cluster.wherry("exec", pod["metadata"]["name"], "--", "sh", "-c", script, check=False).splitlines()


class Load:
    """Requests at a constant rate from each of these pods, from now until `results`."""

    def __init__(
        self, cluster: ComposeCluster, pods: Iterable[Mapping[str, Mapping[str, str]]], host: str, *, per_s: float,
        port: int = 80, kept: float = 0.0, site: str = "",
    ) -> None:  # fmt: skip
        """The options are those of `wherry.testing.load`."""
        self._cluster = cluster
        self._pods = [pod["metadata"]["name"] for pod in pods]
        self._pool = ThreadPoolExecutor(len(self._pods))
        # Several may run in one pod. Bounded: 10 minutes, should nobody ask for the results.
        self._pid = f"/tmp/load-{host}-{port}.pid"
        words = f"{host} {port} {per_s} --seconds 600 --kept {kept} --site={site}"
        command = f"echo $$ > {self._pid}; exec /usr/bin/python3 -m wherry.testing.load {words}"
        self._running = [
            self._pool.submit(cluster.wherry, "exec", pod, "--", "sh", "-c", command, timeout_s=700)
            for pod in self._pods
        ]

    def results(self) -> Report:
        for pod in self._pods:
            self._cluster.wherry("exec", pod, "--", "sh", "-c", f"kill -TERM $(cat {self._pid})")
        found = Report()
        for running in self._running:
            found.add(report(running.result()))
        self._pool.shutdown()
        print(found)  # what the machine allowed, for who asks (-rP)
        return found


class HostLoad:
    """Requests at a constant rate from "the host" to a node's port, from now until `results`; it needs no control plane."""

    def __init__(self, cluster: ComposeCluster, node: str, port: int, *, per_s: float) -> None:
        command = [
            *cluster.dockerd.inside, sys.executable, "-m", "wherry.testing.load", cluster.address(node), str(port), str(per_s),
            "--seconds", "600",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def began(self) -> None:
        """Returns when it has."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == BEGAN

    def results(self) -> Report:
        self._process.terminate()
        told, _ = self._process.communicate(timeout=60)
        found = report(told)
        print(found)
        return found

    def stop(self) -> None:
        """Whatever it has done."""
        self._process.kill()
        self._process.communicate(timeout=60)
