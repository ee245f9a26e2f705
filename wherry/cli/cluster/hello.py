"""The first workload: manifests/hello.yaml, applied the way a user would, waited for, and looked at. Called by `wherry up`."""

from __future__ import annotations

import asyncio
import subprocess
import urllib.request
from pathlib import Path

import wherry
from wherry.cli.cluster import api, launch
from wherry.cli.cluster.layout import Cluster, ClusterError
from wherry.cli.cluster.progress import Progress
from wherry.client.base import ClientAPI, Selection

SELECTION = Selection(namespace="default", label_selector="app=hello")
PORT = 8080
RUNNING_TIMEOUT_S = 90.0
APPLY_TIMEOUT_S = 60.0
FETCH_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0
_POLL_S = 0.1
_RETRY_S = 0.5
_MANIFEST = "hello.yaml"


def manifest() -> Path | None:
    """In a source tree beside our package, in an installed one inside of it."""
    package = Path(wherry.__file__).parent
    places = (package.parent / "manifests" / _MANIFEST, package / "manifests" / _MANIFEST)
    return next((place for place in places if place.exists()), None)


async def ensure(cluster: Cluster, connected: ClientAPI, progress: Progress) -> None:
    """Applies the manifest and waits until its pods run. Raises ClusterError that says what a pod waits for."""
    path = manifest()
    if path is None:
        progress.say("manifests/hello.yaml is not part of this installation: no first workload")
        return
    with progress.step(f"apply manifests/{_MANIFEST}") as step:
        lines = await asyncio.to_thread(_apply, cluster, path)
        if all(line.endswith("unchanged") for line in lines):
            step.unchanged("unchanged")
        else:
            step.done(", ".join(lines))
    with progress.step("its pods Running") as step:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RUNNING_TIMEOUT_S
        waited = False
        while True:
            rows = [row for row in await api.pods(connected, SELECTION) if row.status != "Terminating"]
            wanted = await _replicas(connected)
            running = [row for row in rows if row.running and row.ip]
            if rows and len(running) == len(rows) >= wanted:
                break
            waited = True
            step.update(f"{len(running)} of {wanted}")
            if loop.time() > deadline:
                waiting = "; ".join(f"{row.name}: {row.status}" for row in rows if not row.running)
                raise ClusterError(
                    f"not all pods run after {RUNNING_TIMEOUT_S:g} s: {waiting or 'there are none'}. "
                    "`wherry describe pod` and `wherry events` tell more"
                )
            await asyncio.sleep(_POLL_S)
        if not waited:
            step.unchanged("all are")


async def show(cluster: Cluster, connected: ClientAPI, progress: Progress) -> None:
    """The tables, and the page that one of the pods serves."""
    progress.say()
    progress.table(
        "Nodes",
        ["NAME", "STATUS", "ADDRESS", "PODS", "CPU", "MEMORY", "RUNTIME"],
        [
            [
                row.name,
                "Ready" if row.ready else "NotReady",
                row.address,
                row.pod_cidr,
                row.cpu,
                row.memory,
                row.runtime,
            ]
            for row in await api.nodes(connected)
        ],
    )
    rows = await api.pods(connected, SELECTION)
    if not rows:
        return
    progress.say()
    progress.table(
        "Pods",
        ["NAME", "READY", "STATUS", "RESTARTS", "IP", "NODE"],
        [[row.name, row.ready, row.status, str(row.restarts), row.ip, row.node] for row in rows],
    )
    progress.say()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ANSWER_TIMEOUT_S
    while True:
        chosen = next((row for row in rows if row.running and row.ip), None)
        if chosen is None:
            progress.say("no pod of app=hello runs at the moment")
            return
        url = f"http://{chosen.ip}:{PORT}/"
        try:
            page = await asyncio.to_thread(fetch, url)
            break
        except OSError as error:
            # After a reboot it is what the last agent has said that is known, until the new one has looked around.
            if loop.time() > deadline:
                raise ClusterError(f"{url} (pod {chosen.name}) does not answer: {error}") from error
        await asyncio.sleep(_RETRY_S)
        rows = await api.pods(connected, SELECTION)
    progress.say(f"{url} says:")
    for line in page.splitlines():
        progress.say(f"  {line}")


def fetch(url: str) -> str:
    # Past any proxy: a pod's address means something on this machine only.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=FETCH_TIMEOUT_S) as answer:
        content: bytes = answer.read(64 << 10)
    return content.decode("utf-8", "replace")


async def _replicas(connected: ClientAPI) -> int:
    from wherry.pb import apps_v1_pb2

    page = await connected.list(apps_v1_pb2.Deployment, SELECTION)
    return sum(item.spec.replicas for item in page.items)


def _apply(cluster: Cluster, path: Path) -> list[str]:
    argv = launch.wherry_argv("--config", str(cluster.server_data / "admin.conf"), "apply", "-f", str(path))
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=APPLY_TIMEOUT_S,
        check=False,
        env=launch.environment() | {"WHERRY_CONFIG": ""},
    )
    if done.returncode != 0:
        raise ClusterError(f"applying {path}:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout.splitlines()
