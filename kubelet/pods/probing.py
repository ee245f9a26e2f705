"""Which probes of a pod are being asked now: one `Prober` task per probe and living container. Part of the pod's worker.

Writes the results into `PodMemory.probes` and wakes the worker up; what follows from them is `plan`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace

from kubelet.pods import model as m
from kubelet.pods.probes import KINDS, Prober, needs_address, probe_of
from kubelet.pods.services import PodServices
from kubelet.pods.states import Role, Stage
from kubelet.runtime.base import ContainerState, ContainerStatus
from wherry.api.tasks import TaskGroup
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)


class Probing:
    """Invariant after `watch`: exactly the probes that are due have a task."""

    def __init__(
        self, services: PodServices, memory: m.PodMemory, wake: asyncio.Event, adopted_ids: Collection[str]
    ) -> None:
        """`adopted_ids`: containers that ran before this agent did."""
        self._services, self._memory, self._wake, self._adopted = services, memory, wake, adopted_ids
        self._probers: dict[tuple[str, str], asyncio.Task[None]] = {}

    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._probers.values())

    def watch(
        self,
        pod: core_v1_pb2.Pod,
        newest: Callable[[str], ContainerStatus | None],
        known_ids: Collection[str],
        stage: Stage,
        group: TaskGroup | None,
        pod_ip: str,
    ) -> None:
        """Called once per round: starts and ends tasks. `newest`: the newest container of a name."""
        wanted: dict[tuple[str, str], tuple[core_v1_pb2.Container, ContainerStatus]] = {}
        for container, role in m.containers_of(pod.spec):
            if role in (Role.INIT, Role.EPHEMERAL) or not any(probe_of(container, kind) for kind in KINDS):
                continue
            status = newest(container.name)
            if status is None or status.state is not ContainerState.RUNNING:
                continue
            for kind in self._due(container, status, stage):
                # Without an address nobody is asked, least of all the node; a later round has one.
                if pod_ip or (status.id, kind) in self._probers or not needs_address(probe_of(container, kind)):
                    wanted[(status.id, kind)] = (container, status)
        for key in [key for key in self._probers if key not in wanted]:
            self._probers.pop(key).cancel()
        for key, (container, status) in wanted.items():
            if key not in self._probers and group is not None:
                self._probers[key] = group.create_task(self._probe(pod, container, status, key[1], pod_ip))
        for gone in [runtime_id for runtime_id in self._memory.probes if runtime_id not in known_ids]:
            del self._memory.probes[gone]

    def _due(self, container: core_v1_pb2.Container, status: ContainerStatus, stage: Stage) -> list[str]:
        state = self._memory.probes.get(status.id, m.ProbeState())
        if status.id in self._memory.hooks_pending or state.liveness_failed:
            return []
        due = [kind for kind in KINDS if probe_of(container, kind) is not None]
        if stage is not Stage.SYNCING:
            # A pod that ends may still be taken out of traffic, but nothing restarts it.
            return [kind for kind in due if kind == "readiness"]
        if "startup" in due:
            # Until it has succeeded, the others are not asked.
            return ["startup"] if state.started is not True else [kind for kind in due if kind != "startup"]
        return due

    async def _probe(
        self, pod: core_v1_pb2.Pod, container: core_v1_pb2.Container, status: ContainerStatus, kind: str, pod_ip: str
    ) -> None:
        prober = Prober(
            self._services, lambda: pod, container, status, kind, pod_ip,
            lambda verdict: self._verdict(status.id, kind, verdict), adopted=status.id in self._adopted,
        )  # fmt: skip
        try:
            await prober.run()
        except Exception:
            # One broken probe must not end the pod's task. It counts as no answer.
            log.exception("%s: %s probe of %s", pod.metadata.name, kind, container.name)

    def _verdict(self, container_id: str, kind: str, verdict: bool) -> None:
        old = self._memory.probes.get(container_id, m.ProbeState())
        if kind == "readiness":
            new = replace(old, ready=verdict)
        elif kind == "startup" and verdict:
            new = replace(old, started=True)
        elif not verdict:
            new = replace(old, liveness_failed=kind)
        else:
            return
        if new != old:
            self._memory.probes[container_id] = new
            self._wake.set()
