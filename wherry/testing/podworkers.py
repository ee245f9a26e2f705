"""Workers of pods on the hollow runtime, on virtual time, and what they say: for the tests of `kubelet.pods.worker`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from kubelet.pods import model as m
from kubelet.pods.reach import HollowReach
from kubelet.pods.services import NoCgroups, NodeSettings, NoFiles, NoVolumes, PodServices, StartSlots
from kubelet.pods.worker import PodWorker
from kubelet.runtime.hollow import BEHAVIOUR, HollowRuntime, Latency
from wherry.api.context import Env
from wherry.api.errors import NotFound
from wherry.pb import core_v1_pb2
from wherry.testing.builders import PodBuilder, make_pod

IMAGE = "example.com/app:1"


@dataclass
class Node:
    """The shared services of a hollow node, with everything that was said kept for the test to look at."""

    env: Env
    runtime: HollowRuntime
    services: PodServices
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    workers: list[PodWorker] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    statuses: list[core_v1_pb2.PodStatus] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)
    config_maps: dict[str, core_v1_pb2.ConfigMap] = field(default_factory=dict)

    def emit(self, pod: Any, type: str, reason: str, message: str, field_path: str = "") -> None:
        self.events.append((reason, message))

    def put(self, pod: core_v1_pb2.Pod, status: core_v1_pb2.PodStatus, *, terminated: bool) -> None:
        self.statuses.append(status)
        if terminated:
            self.terminated.append(pod.metadata.name)

    async def get(self, cls: Any, namespace: str, name: str) -> Any:
        if name not in self.config_maps:
            raise NotFound(f'configmaps "{name}" not found')
        return self.config_maps[name]

    def run(self, pod: PodBuilder, observed: m.Observed | None = None, *, adopted: bool = False) -> PodWorker:
        worker = PodWorker(self.services, pod.build(), observed, adopted=adopted)
        self.workers.append(worker)
        self.tasks.append(asyncio.ensure_future(worker.run()))
        return worker

    async def dispatch(self) -> None:
        async for event in self.runtime.events():
            for worker in self.workers:
                worker.touch(event.container_id)

    @property
    def status(self) -> core_v1_pb2.PodStatus:
        return self.statuses[-1]

    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions) if self.statuses else False

    async def until(self, what: Any, limit_s: float = 1000.0) -> float:
        """Virtual seconds until `what()` holds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not what():
            await asyncio.sleep(0.01)
            assert loop.time() - began < limit_s, f"never happened; events: {self.events}, status: {self.status}"
        return loop.time() - began

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.events]


@asynccontextmanager
async def running_workers(env: Env) -> AsyncIterator[Node]:
    runtime = HollowRuntime(env, latency=Latency())
    runtime.load_image(IMAGE)
    made = Node(env, runtime, services=None)  # type: ignore[arg-type]  # filled in on the next line
    made.services = PodServices(
        env=env, runtime=runtime, node=NodeSettings(m.NodeFacts("n1", ("192.0.2.1",), "hollow")), objects=made,
        volumes=NoVolumes(), files=NoFiles(), cgroups=NoCgroups(), events=made, statuses=made, probes=HollowReach(runtime),
        starts=StartSlots(8), pulls=asyncio.Semaphore(4),
    )  # fmt: skip
    made.tasks.append(asyncio.ensure_future(made.dispatch()))
    yield made
    runtime.check_invariants()
    made.services.starts.check_invariants()
    for worker in made.workers:
        worker.check_invariants()
    for task in made.tasks:
        task.cancel()
    results = await asyncio.gather(*made.tasks, return_exceptions=True)
    for result in results:
        assert result is None or isinstance(result, asyncio.CancelledError), repr(result)


def behave(words: str, name: str = "p", policy: str = "Always") -> PodBuilder:
    made = make_pod(name).on("n1").annotations({BEHAVIOUR + "c": words})
    made._pod.spec.restart_policy = policy
    made._pod.spec.termination_grace_period_seconds = 30
    return made
