"""What the benchmarks with real containers share: a cluster of one node, its pods followed through the typed client, and the
same specs sent straight to the same containerd.

The floor's requests are not written by hand: they are those that the agent sent for a pod that runs, as containerd keeps them,
with names, uids and cgroups of their own, so that image, network, limits, labels and mounts are the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format

from kubelet.cgroups import ROOT as CGROUPS
from wherry.api import codec
from wherry.api.errors import NotFound
from wherry.cli.cluster import layout
from wherry.client.base import DeleteOptions, Selection
from wherry.client.client import Client
from wherry.pb import apps_v1_pb2, core_v1_pb2, cri_runtime_pb2_grpc
from wherry.pb import cri_runtime_pb2 as cri
from wherry.testing.local import IMAGE, LocalCluster

IN_FLIGHT = (1, 4, 8, 16)
NAMESPACE = "default"
NODE_LABEL = "wherry.dev/node"
TIMEOUT_S = 120.0
# Ends at once when it is told to, as a well-behaved program does.
SCRIPT = "trap 'exit 0' TERM; sleep 1000000 & wait"


@contextmanager
def one_node(name: str) -> Iterator[LocalCluster]:
    """A cluster of one node, taken down at the end; with `name` one that runs, which is left alone."""
    cluster = LocalCluster(1, "b")
    if name:
        cluster.name = name
        cluster.config = layout.Cluster(**_description(name)).server_data / "admin.conf"
        yield cluster
        return
    try:
        cluster.up()
        cluster.ok("delete", "-f", "manifests/hello.yaml")
        yield cluster
    finally:
        cluster.down()


def _description(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(layout.state_file(name).read_text())
    del document["format"]
    return document


def parser(name: str, documentation: str | None) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog=f"python -m bench {name}", description=(documentation or "").split("\n")[0])
    result.add_argument("--runs", type=int, default=3, help="of each measurement; the median counts")
    result.add_argument("--cluster", default="", metavar="NAME", help="a local cluster that runs, instead of a new one")
    return result


def deployment(name: str, replicas: int) -> apps_v1_pb2.Deployment:
    """Of the demo image, with requests and limits."""
    document = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", SCRIPT],
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"},
                    },
                }]},
            },
        },
    }  # fmt: skip
    return codec.from_dict(document, apps_v1_pb2.Deployment)


# -- our side


async def apply(client: Client, wanted: apps_v1_pb2.Deployment) -> None:
    """What `wherry apply` does for an object that is not there yet."""
    try:
        await client.get(apps_v1_pb2.Deployment, wanted.metadata.name, NAMESPACE)
    except NotFound:
        await client.create(wanted)
        return
    raise AssertionError(f"deployment {wanted.metadata.name} exists already")


class Pods:
    """The pods with one label, followed by a watch: `until` returns the moment at which a condition came true."""

    def __init__(self, client: Client, app: str) -> None:
        self.now: dict[str, core_v1_pb2.Pod] = {}
        self._client = client
        self._selection = Selection(NAMESPACE, f"app={app}")
        self._watch: Any = None

    async def __aenter__(self) -> Pods:
        page = await self._client.list(core_v1_pb2.Pod, self._selection)
        self.now = {pod.metadata.name: pod for pod in page.items}
        self._watch = self._client.watch(core_v1_pb2.Pod, self._selection, resource_version=page.resource_version)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watch.aclose()

    async def until(self, true: Callable[[Mapping[str, core_v1_pb2.Pod]], bool]) -> float:
        async with asyncio.timeout(TIMEOUT_S):
            while not true(self.now):
                batch = await anext(self._watch)
                for event in batch.events:
                    if event.type == "DELETED":
                        self.now.pop(event.object.metadata.name, None)
                    else:
                        self.now[event.object.metadata.name] = event.object
        return time.perf_counter()


def running(count: int) -> Callable[[Mapping[str, core_v1_pb2.Pod]], bool]:
    return lambda pods: sum(pod.status.phase == "Running" for pod in pods.values()) >= count


def gone(pods: Mapping[str, core_v1_pb2.Pod]) -> bool:
    return not pods


async def remove(client: Client, name: str, pods: Pods) -> None:
    """The Deployment and, before it returns, its pods."""
    await client.delete(apps_v1_pb2.Deployment, name, NAMESPACE, DeleteOptions(propagation_policy="Background"))
    await pods.until(gone)


# -- the floor


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():  # the account's token
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy(source, target)


@dataclass(frozen=True, slots=True)
class Specs:
    """The requests of one pod with one container."""

    sandbox: cri.PodSandboxConfig
    container: cri.ContainerConfig


class Containerd:
    """The node's own containerd, spoken to as the agent does."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix://{socket}", options=(("grpc.default_authority", "localhost"),)
        )
        self.stub: Any = cri_runtime_pb2_grpc.RuntimeServiceStub(self._channel)
        self._folder = Path(tempfile.mkdtemp(prefix="wherry-bench-"))
        self._cgroups: list[str] = []

    async def close(self) -> None:
        await self._channel.close(None)
        shutil.rmtree(self._folder, ignore_errors=True)
        for parent in sorted(set(self._cgroups)):
            for directory in [*sorted(CGROUPS.glob(f"*{parent}")), CGROUPS / parent.strip("/")]:
                for path, _, _ in os.walk(directory, topdown=False):
                    os.rmdir(path)

    async def containers(self, app: str) -> list[tuple[str, str]]:
        """(sandbox id, container id) of the running ones of one Deployment."""
        answer = await self.stub.ListPodSandbox(
            cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(label_selector={"app": app}))
        )
        sandboxes = {item.id for item in answer.items}
        listed = await self.stub.ListContainers(
            cri.ListContainersRequest(
                filter=cri.ContainerFilter(state=cri.ContainerStateValue(state=cri.CONTAINER_RUNNING))
            )
        )
        return [(item.pod_sandbox_id, item.id) for item in listed.containers if item.pod_sandbox_id in sandboxes]

    async def info(self, sandbox_id: str, container_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """containerd's verbose answers."""
        sandbox = await self.stub.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True))
        container = await self.stub.ContainerStatus(cri.ContainerStatusRequest(container_id=container_id, verbose=True))
        return json.loads(sandbox.info["info"]), json.loads(container.info["info"])

    async def specs(self, app: str) -> Specs:
        """What the agent sent for one of its pods."""
        sandbox_info, container_info = await self.info(*(await self.containers(app))[0])
        sandbox, container = cri.PodSandboxConfig(), cri.ContainerConfig()
        json_format.ParseDict(sandbox_info["config"], sandbox)
        json_format.ParseDict(container_info["config"], container)
        for number, mount in enumerate(container.mounts):
            # The agent removes its files with the pod.
            copy = self._folder / str(number)
            if not copy.exists():
                _copy(Path(mount.host_path), copy)
            mount.host_path = str(copy)
        return Specs(sandbox, container)

    def fresh(self, specs: Specs) -> Specs:
        """Another pod of the same kind, which the agent takes for somebody else's."""
        sandbox, container = cri.PodSandboxConfig(), cri.ContainerConfig()
        sandbox.CopyFrom(specs.sandbox)
        container.CopyFrom(specs.container)
        uid = secrets.token_hex(16)
        uid = f"{uid[:8]}-{uid[8:12]}-{uid[12:16]}-{uid[16:20]}-{uid[20:]}"
        sandbox.metadata.uid = uid
        sandbox.metadata.name = sandbox.hostname = f"floor-{uid[-12:]}"
        sandbox.annotations[NODE_LABEL] = "bench"
        sandbox.labels["app"] = container.labels["app"] = "floor"
        sandbox.log_directory = str(self._folder / uid)
        sandbox.linux.cgroup_parent = str(Path(specs.sandbox.linux.cgroup_parent).parent / f"pod{uid}")
        self._cgroups.append(sandbox.linux.cgroup_parent)
        return Specs(sandbox, container)

    async def run_sandbox(self, specs: Specs) -> str:
        answer = await self.stub.RunPodSandbox(cri.RunPodSandboxRequest(config=specs.sandbox))
        return str(answer.pod_sandbox_id)

    async def start(self, sandbox_id: str, specs: Specs) -> str:
        created = await self.stub.CreateContainer(
            cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=specs.container, sandbox_config=specs.sandbox)
        )
        await self.stub.StartContainer(cri.StartContainerRequest(container_id=created.container_id))
        return str(created.container_id)

    async def run(self, specs: Specs) -> tuple[str, str]:
        sandbox_id = await self.run_sandbox(specs)
        return sandbox_id, await self.start(sandbox_id, specs)

    async def stop(self, sandbox_id: str, container_id: str) -> None:
        await self.stub.StopContainer(cri.StopContainerRequest(container_id=container_id, timeout=30))
        await self.stub.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))

    async def remove(self, sandbox_id: str) -> None:
        await self.stub.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
        await self.stub.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))


@asynccontextmanager
async def containerd(cluster: LocalCluster) -> AsyncIterator[Containerd]:
    made = Containerd(cluster.description.node(1).containerd.socket)
    try:
        yield made
    finally:
        await made.close()


async def lanes(works: list[Callable[[], Awaitable[Any]]], in_flight: int) -> tuple[float, list[Any]]:
    """Seconds for all of them, `in_flight` at a time, and their results."""
    waiting = list(reversed(works))
    results: list[Any] = []

    async def lane() -> None:
        while waiting:
            results.append(await waiting.pop()())

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(min(in_flight, len(works)))))
    return time.perf_counter() - started, results
