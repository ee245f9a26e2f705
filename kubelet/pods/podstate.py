"""What the agent knows of one pod: the desired object, what the runtime has of it, and what must be remembered between rounds.

Held by `kubelet.pods.worker` (which decides) and shared with `kubelet.pods.starting` (which acts on containers). It looks at the
runtime and changes nothing there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from kubelet.pods import model as m
from kubelet.pods import resizing
from kubelet.pods.config import sandbox_config
from kubelet.pods.services import PodServices
from kubelet.pods.states import container_may_move
from kubelet.runtime.base import (
    ContainerState,
    ContainerStatus,
    RuntimeFailure,
    RuntimeNotFound,
    SandboxConfig,
    SandboxState,
    SandboxStatus,
)
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

RETRY_S = 1.0  # of what failed and no plan remembers
SECOND_LOOK_S = 1.0
OUT_OF_MEMORY = "OOMKilled"
_KILLED = 128 + 9


class PodState:
    """Invariant: a container id moves only along `states.CONTAINER_MOVES`. `dirty`: ids to be looked at again. `wake` is set
    whenever there is a reason for another round."""

    def __init__(
        self,
        services: PodServices,
        pod: core_v1_pb2.Pod,
        observed: m.Observed,
        allocated: resizing.Allocation | None = None,
    ) -> None:
        self.services = services
        self.desired = pod  # as the control plane wants it
        before = core_v1_pb2.PodStatus()
        before.CopyFrom(pod.status)
        self.memory = m.PodMemory(seen_at=services.env.now(), status=before, drained=services.drain is None)
        self.memory.allocated = allocated = dict(allocated or resizing.allocated_before(pod))
        self.memory.applied = {
            container.id: allocated[container.name] for container in observed.containers if container.name in allocated
        } | resizing.applied_ids(pod.status)
        self.pod = resizing.with_resources(pod, self.memory.allocated)  # with what it is allocated
        self.sandboxes: dict[str, SandboxStatus] = {s.id: s for s in observed.sandboxes}
        self.containers: dict[str, ContainerStatus] = {c.id: c for c in observed.containers}
        self.dirty: dict[str, None] = dict.fromkeys([*self.sandboxes, *self.containers])
        self.wake = asyncio.Event()
        self._handler = ""  # of the pod's RuntimeClass, once it is known

    @property
    def observed(self) -> m.Observed:
        return m.Observed(tuple(self.sandboxes.values()), tuple(self.containers.values()))

    def want(self, pod: core_v1_pb2.Pod) -> None:
        self.desired = pod
        self.pod = resizing.with_resources(pod, self.memory.allocated)
        self.wake.set()

    def allocate(self) -> None:
        """What is wanted."""
        self.memory.allocated = resizing.of_spec(self.desired)
        self.pod = self.desired
        self.wake.set()

    def container(self, name: str, *, previous: bool = False) -> ContainerStatus | None:
        """The newest of that name, or the one before it."""
        history = sorted(
            (c for c in self.containers.values() if c.name == name),
            key=lambda c: (c.attempt, c.created_at),
            reverse=True,
        )
        index = 1 if previous else 0
        return history[index] if len(history) > index else None

    def touch(self, runtime_id: str) -> None:
        """The runtime says that something happened to it."""
        if runtime_id in self.containers or runtime_id in self.sandboxes:
            self.dirty[runtime_id] = None
            self.wake.set()

    def emit(self, type_: str, reason: str, message: str, field_path: str = "") -> None:
        self.services.events.emit(self.pod, type_, reason, message, field_path)

    def relist(
        self, sandboxes: Sequence[SandboxStatus], containers: Sequence[ContainerStatus], *, creating: bool
    ) -> None:
        """All that the runtime has of this pod: the safety net under its events. Ids that we do not know are taken up unless
        an action of ours is about to make them known (`creating`)."""
        for old, new in ((self.sandboxes, sandboxes), (self.containers, containers)):
            listed: dict[str, SandboxState | ContainerState] = {entry.id: entry.state for entry in new}
            for known, entry in old.items():
                if listed.get(known) != entry.state:
                    self.dirty[known] = None
        if not creating:
            for sandbox in sandboxes:
                if sandbox.id not in self.sandboxes:
                    self.sandboxes[sandbox.id] = sandbox
                    self.dirty[sandbox.id] = None
            for container in containers:
                if container.id not in self.containers:
                    self.containers[container.id] = container
                    self.dirty[container.id] = None
        if self.dirty:
            self.wake.set()

    async def observe(self) -> None:
        for runtime_id in list(self.dirty):
            self.dirty.pop(runtime_id, None)
            try:
                if runtime_id in self.containers:
                    self.record(await self.services.runtime.container_status(runtime_id))
                elif runtime_id in self.sandboxes:
                    self.sandboxes[runtime_id] = await self.services.runtime.sandbox_status(runtime_id)
            except RuntimeNotFound:
                self.forget(runtime_id)
            except RuntimeFailure as error:
                log.warning("%s: cannot look at %s: %s", self.pod.metadata.name, runtime_id[:13], error.message)
                asyncio.get_running_loop().call_later(RETRY_S, self.touch, runtime_id)

    def record(self, status: ContainerStatus) -> None:
        old = self.containers.get(status.id)
        if old is not None and not container_may_move(old.state, status.state):
            return  # an answer that was overtaken
        if _is_unexplained(status):
            # The kernel's log and what is kept of it are bounded: what was told once stays.
            told = old is not None and old.state is ContainerState.EXITED and old.reason == OUT_OF_MEMORY
            if told or self.services.out_of_memory(status.id) or _ran_out_of_memory(self.memory.status, status.id):
                status = replace(status, reason=OUT_OF_MEMORY)
            elif old is None or old.state is not ContainerState.EXITED:
                # The runtime hears of the end and of its cause from two sides, in either order.
                asyncio.get_running_loop().call_later(SECOND_LOOK_S, self.touch, status.id)
        self.containers[status.id] = status
        if status.state is ContainerState.EXITED and status.id not in self.memory.termination_messages:
            self._read_termination(status)

    def _read_termination(self, status: ContainerStatus) -> None:
        path = status.annotations.get(m.TERMINATION_MESSAGE, "")
        if not path:
            return
        fallback = status.annotations.get(m.TERMINATION_POLICY) == "FallbackToLogsOnError" and status.exit_code != 0
        text = self.services.files.read_termination(path, status.log_path if fallback else "")
        self.memory.termination_messages[status.id] = text

    async def look_at(self, container_id: str) -> None:
        try:
            self.record(await self.services.runtime.container_status(container_id))
        except RuntimeNotFound:
            self.forget(container_id)

    def forget(self, runtime_id: str) -> None:
        """It is gone, and so is all that is remembered by its id: a pod may crash and start anew for ever."""
        self.containers.pop(runtime_id, None)
        self.sandboxes.pop(runtime_id, None)
        memory = self.memory
        for of_ids in (memory.applied, memory.termination_messages, memory.start_failures):
            of_ids.pop(runtime_id, None)
        for ids in (memory.resize_kills, memory.hooks_failed, memory.stopped_sandboxes):
            ids.discard(runtime_id)

    def address(self) -> str:
        """The pod's own, or with the host's network the node's; "" while it has none. Where probes and hooks go."""
        current = self.observed.current
        if current is not None and current.ips:
            return current.ips[0]
        return self._node_ip() if self.pod.spec.host_network else ""

    def _node_ip(self) -> str:
        ips = self.services.node.facts.ips
        return ips[0] if ips else "127.0.0.1"

    def stopping(self) -> bool:
        """The pod is to end: decided before the next round has planned for it."""
        return self.memory.removed or self.memory.ended is not None or self.pod.metadata.HasField("deletion_timestamp")

    async def runtime_handler(self) -> str:
        """What a new sandbox is to run on. Raises APIError when the pod's RuntimeClass is not there (any more) or cannot be asked
        for."""
        name = self.pod.spec.runtime_class_name
        if name and not self._handler:
            from wherry.pb.node_v1_pb2 import RuntimeClass

            self._handler = (await self.services.objects.get(RuntimeClass, "", name)).handler  # which never changes
        return self._handler

    def sandbox_config(self, attempt: int, handler: str) -> SandboxConfig:
        services = self.services
        return sandbox_config(
            self.pod,
            attempt,
            services.node,
            log_directory=services.files.log_directory(self.pod),
            cgroup_parent=services.cgroups.parent_of(self.pod),
            runtime_handler=handler,
        )


def _ran_out_of_memory(reported: core_v1_pb2.PodStatus | None, container_id: str) -> bool:
    """Whether the agent before this one has told so."""
    if reported is None:
        return False
    entries = (*reported.init_container_statuses, *reported.container_statuses, *reported.ephemeral_container_statuses)
    return any(
        end.terminated.reason == OUT_OF_MEMORY and end.terminated.container_id.rpartition("://")[2] == container_id
        for entry in entries
        for end in (entry.state, entry.last_state)
    )


def _is_unexplained(status: ContainerStatus) -> bool:
    return status.state is ContainerState.EXITED and status.exit_code == _KILLED and status.reason == "Error"
