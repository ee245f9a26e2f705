"""One pod's task: observe (`podstate`), plan, act (here and in `starting`), again.

Between `kubelet.agent` (which hands in the desired pod and hints from the runtime) and `kubelet.runtime`. The loop is
level-triggered: whatever happens only sets `_wake`; the next round plans from what is there. Actions run as tasks, one per
key, as many at once as the plan names; a failure is kept in memory with its time, and the plan decides when to try again.
Killed between any two awaits, a successor finds everything it needs in the runtime's labels and annotations.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from kubelet.pods import model as m
from kubelet.pods import resizing
from kubelet.pods.config import find_container
from kubelet.pods.images import ensure_image
from kubelet.pods.naming import dns_complaints
from kubelet.pods.plan import plan
from kubelet.pods.podstate import RETRY_S, PodState
from kubelet.pods.probing import Probing
from kubelet.pods.resources import pod_requests, pod_resources
from kubelet.pods.services import ConfigError, PodServices, VolumeError
from kubelet.pods.starting import ContainerActions
from kubelet.pods.states import STAGE_MOVES, Stage
from kubelet.runtime.base import (
    ContainerState,
    ContainerStatus,
    RuntimeFailure,
    RuntimeNotFound,
    SandboxState,
    SandboxStatus,
)
from wherry.api.errors import APIError
from wherry.api.tasks import TaskGroup
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)


class PodWorker:
    """Invariants: at most one task per action key; a container id moves only along `states.CONTAINER_MOVES`."""

    def __init__(
        self,
        services: PodServices,
        pod: core_v1_pb2.Pod,
        observed: m.Observed | None = None,
        *,
        adopted: bool = False,
        allocated: resizing.Allocation | None = None,
    ) -> None:
        """`observed`: what the runtime already has of it. `adopted`: found running by a restarted agent. `allocated`: where
        more is known of it than the status tells."""
        self._services = services
        self.adopted = adopted
        observed = observed or m.Observed()
        self._state = PodState(services, pod, observed, allocated)
        self.memory = self._state.memory
        self._acts = ContainerActions(self._state)
        self._found_running = {c.id for c in observed.containers if c.state is ContainerState.RUNNING}
        self._wake = self._state.wake
        self._running: dict[str, tuple[m.Action, asyncio.Task[None]]] = {}
        self._not_before: dict[str, float] = {}
        self._said: dict[str, None] = {}
        self._stage = Stage.SYNCING
        self._sent = b""
        self._requests: tuple[core_v1_pb2.Pod, tuple[int, int]] | None = None
        self._group: TaskGroup | None = None
        self._probing = Probing(services, self.memory, self._wake, self._found_running if adopted else set())
        self._adopt_probe_results()

    # -- from the agent; none of these wait

    def update(self, pod: core_v1_pb2.Pod) -> None:
        before = self._state.desired
        if pod.metadata.resource_version != before.metadata.resource_version or pod.spec != before.spec:
            self._state.want(pod)

    def wants_resize(self) -> bool:
        """Whether the agent is to decide on one. A wish that is taken back leaves nothing to decide."""
        if self._stage is not Stage.SYNCING or self.memory.removed or self.memory.ended is not None:
            return False
        wants = self._state.pod is not self._state.desired
        if not wants and self.memory.resize_pending is not None:
            self.memory.resize_pending = None
            self._wake.set()
        return wants

    def decide_resize(self, refused: tuple[str, str] | None) -> None:
        """The agent's answer: reason and message of one that has to wait."""
        if refused is None:
            self._state.allocate()
            self.memory.resize_pending = self.memory.resize_failure = None
            self._state.emit("Normal", "ResizeStarted", f"Pod resize started: {resizing.told(self.desired)}")
        elif refused != self.memory.resize_pending:
            reason, message = refused
            if self.memory.resize_pending is None or self.memory.resize_pending[0] != reason:
                told = resizing.told(self.desired, message)
                self._state.emit("Warning", f"Resize{reason}", f"Pod resize {reason}: {told}")
            self.memory.resize_pending = refused
            self._wake.set()

    def remove(self, grace_s: float | None = None) -> None:
        """It is no longer this node's. `grace_s`: instead of the pod's own grace period."""
        if not self.memory.removed:
            self.memory.removed = True
            if grace_s is not None:
                self.memory.grace_s = grace_s
            self._wake.set()

    def end(self, reason: str, message: str, grace_s: float | None) -> None:
        """Eviction: the pod fails with this reason and is not started again."""
        if self.memory.ended is None:
            self.memory.ended, self.memory.grace_s = (reason, message), grace_s
            self._wake.set()

    def evict(self, message: str, grace_s: float) -> None:
        if self.memory.ended is None:
            self._state.emit("Warning", "Evicted", message)
            self.end("Evicted", message, grace_s)

    def touch(self, runtime_id: str) -> None:
        """The runtime says that something happened to it."""
        self._state.touch(runtime_id)

    def relist(self, sandboxes: Sequence[SandboxStatus], containers: Sequence[ContainerStatus]) -> None:
        """All that the runtime has of this pod."""
        creating = any(key == "sandbox" or key.startswith("start/") for key in self._running)
        self._state.relist(sandboxes, containers, creating=creating)

    def refresh_volumes(self) -> None:
        """Contents of ConfigMaps and so on may have changed."""
        if (
            self._stage is Stage.SYNCING
            and self.memory.volumes_ready
            and "refresh" not in self._acts.hooks
            and self._group
        ):
            self._acts.hooks["refresh"] = self._group.create_task(self._refresh_volumes())

    @property
    def stage(self) -> Stage:
        return self._stage

    @property
    def pod(self) -> core_v1_pb2.Pod:
        return self._state.pod

    @property
    def desired(self) -> core_v1_pb2.Pod:
        """As the control plane wants it; `pod` is with the resources that it is allocated."""
        return self._state.desired

    @property
    def requests(self) -> tuple[int, int]:
        """What `resources.pod_requests` says of the pod as it is now; each new pod of the node asks all others."""
        pod = self._state.pod
        if self._requests is None or self._requests[0] is not pod:
            self._requests = pod, pod_requests(pod)
        return self._requests[1]

    @property
    def observed(self) -> m.Observed:
        return self._state.observed

    def sandbox_id(self) -> str:
        """Of the living sandbox, or ""."""
        current = self.observed.current
        return current.id if current is not None else ""

    def address(self) -> str:
        """The pod's own, or with the host's network the node's; "" while it has none."""
        return self._state.address()

    def container(self, name: str, *, previous: bool = False) -> ContainerStatus | None:
        """The newest of that name, or the one before it."""
        return self._state.container(name, previous=previous)

    def check_invariants(self) -> None:
        for key, (action, task) in self._running.items():
            assert action.key == key
            assert not task.done() or self._wake.is_set(), f"{key} is over and still listed"
        for container in self._state.containers.values():
            assert container.name, "a container without a name"

    # -- the loop

    async def run(self) -> None:
        """Until nothing of the pod is left on the node. Cancelled, it leaves everything as it runs."""
        try:
            async with TaskGroup() as self._group:
                self._acts.group = self._group
                while await self._round():
                    pass
                for task in [*self._acts.hooks.values(), *self._probing.tasks()]:
                    task.cancel()
        finally:
            self._group = self._acts.group = None

    async def _round(self) -> bool:
        self._wake.clear()
        await self._state.observe()
        now = self._services.env.now()
        decided = plan(self.pod, self.observed, self.memory, self._services.node.facts, now)
        assert self._stage is decided.stage or (self._stage, decided.stage) in STAGE_MOVES, (
            f"{self.pod.metadata.name}: {self._stage} to {decided.stage}"
        )
        self._stage = decided.stage
        self.memory.ended, self.memory.kill_by = decided.ended, decided.kill_by
        self.memory.status = decided.status
        self._emit_planned(decided.events)
        if decided.stage is Stage.GONE and not self._running:
            if not self.memory.removed:
                self._services.statuses.put(self.pod, decided.status, terminated=True)
            return False
        self._send(decided.status)
        wake_at = self._launch(decided, now)
        self._probing.watch(
            self.pod, self.container, self._state.containers, self._stage, self._group, self._state.address()
        )
        await self._wait(wake_at, now)
        return True

    async def _wait(self, wake_at: float | None, now: float) -> None:
        if self._wake.is_set():
            return
        timer = None
        if wake_at is not None:
            timer = asyncio.get_running_loop().call_later(max(wake_at - now, 0.001), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _send(self, status: core_v1_pb2.PodStatus) -> None:
        encoded = status.SerializeToString(deterministic=True)
        if encoded != self._sent and not self.memory.removed:
            self._sent = encoded
            self._services.statuses.put(self.pod, status, terminated=False)

    def _emit_planned(self, events: Sequence[m.PlanEvent]) -> None:
        for event in events:
            if event.once not in self._said:
                self._state.emit(event.type, event.reason, event.message, event.field_path)
        # What the plan no longer says may be said anew later.
        self._said = dict.fromkeys(event.once for event in events)

    def _adopt_probe_results(self) -> None:
        """A container that was ready when the last agent looked is ready until a probe says otherwise."""
        for entry in [*self.pod.status.init_container_statuses, *self.pod.status.container_statuses]:
            runtime_id = entry.container_id.rpartition("://")[2]
            if runtime_id in self._found_running:
                self.memory.probes[runtime_id] = m.ProbeState(started=entry.started or None, ready=entry.ready or None)

    # -- acting

    def _launch(self, decided: m.Plan, now: float) -> float | None:
        """Starts the tasks of new actions. Returns when to wake up at the latest."""
        wake_at = decided.wake_at
        stopping = decided.stage is not Stage.SYNCING
        if stopping:
            self._call_off()
        making = any(key == "sandbox" or key.startswith("start/") for key in self._running)
        for action in decided.actions:
            if stopping and making and not isinstance(action, m.KillContainer):
                continue  # what is being made must first be there to be removed
            if isinstance(action, m.EnsureImage) and f"start/{action.container}" in self._running:
                continue
            if not self._free_for(action):
                continue
            retry_at = self._not_before.get(action.key, 0.0)
            if now < retry_at:
                wake_at = retry_at if wake_at is None else min(wake_at, retry_at)
                continue
            assert self._group is not None
            self._running[action.key] = (action, self._group.create_task(self._perform(action)))
        return wake_at

    def _free_for(self, action: m.Action) -> bool:
        """Whether nothing runs under its key; a kill that leaves less time takes the place of a more patient one."""
        entry = self._running.get(action.key)
        if entry is None:
            return True
        running, task = entry
        both = isinstance(action, m.KillContainer) and isinstance(running, m.KillContainer)
        if both and action.deadline < running.deadline - 0.5:  # type: ignore[union-attr]  # both are KillContainer
            task.cancel()
            return True
        return False

    def _call_off(self) -> None:
        """What only serves a start is in vain now."""
        for key, (action, task) in list(self._running.items()):
            if isinstance(action, m.EnsureImage | m.PrepareVolumes):
                task.cancel()
                del self._running[key]
        for task in self._acts.hooks.values():
            task.cancel()

    async def _perform(self, action: m.Action) -> None:
        try:
            await self._dispatch(action)
            self._not_before.pop(action.key, None)
        except (RuntimeFailure, VolumeError, ConfigError, APIError) as error:
            self._failed(action, error.message, getattr(error, "reason", ""), getattr(error, "retryable", True))
        except Exception as error:
            # A defect of ours must not take down the node's other pods: it is told and tried again like a failure.
            log.exception("%s/%s: %s", self.pod.metadata.namespace, self.pod.metadata.name, action.key)
            self._failed(action, f"{type(error).__name__}: {error}", "", True)
        finally:
            entry = self._running.get(action.key)
            if entry is not None and entry[0] is action:
                del self._running[action.key]
            self._wake.set()

    async def _dispatch(self, action: m.Action) -> None:
        match action:
            case m.PrepareVolumes():
                await self._services.volumes.prepare(self.pod)
                self.memory.volumes_ready, self.memory.volume_failure = True, None
            case m.CreateSandbox():
                await self._create_sandbox(action)
            case m.EnsureImage():
                image = await ensure_image(self._services, self.pod, action)
                self.memory.images[action.image] = image
                self.memory.pull_failures.pop(action.image, None)
            case m.StartContainer():
                await self._acts.create_and_start(action)
            case m.StartCreated():
                found = find_container(self.pod, action.container)
                if found is not None:
                    async with self._services.starts.container():
                        await self._acts.start(found[0], found[1], action.container_id)
            case m.Drain():
                if self._services.drain is not None:
                    await self._services.drain.drained(self.pod.metadata.uid)
                self.memory.drained = True
            case m.KillContainer():
                await self._acts.kill(action)
            case m.ResizeContainers():
                await self._acts.resize(action)
            case m.StopSandbox():
                await self._stop_sandbox(action.sandbox_id)
            case m.RemoveSandbox():
                await self._services.runtime.remove_sandbox(action.sandbox_id)
                self._state.forget(action.sandbox_id)
                for container in [c for c in self._state.containers.values() if c.sandbox_id == action.sandbox_id]:
                    self._state.forget(container.id)
            case m.RemoveContainer():
                await self._services.runtime.remove_container(action.container_id)
                self._services.files.remove_log(action.log_path)
                self._state.forget(action.container_id)
            case m.Cleanup():
                await self._services.volumes.teardown(self.pod.metadata.uid)
                self._services.cgroups.remove(self.pod)
                if action.everything:
                    self._services.files.remove_pod(self.pod)
                    self.memory.purged = True
                self.memory.cleaned = True

    def _failed(self, action: m.Action, message: str, reason: str, retryable: bool) -> None:
        now, memory = self._services.env.now(), self.memory

        def after(before: m.Failure | None, default: str) -> m.Failure:
            return m.Failure(reason or default, message, now, before.count + 1 if before else 1, retryable)

        match action:
            case m.PrepareVolumes():
                memory.volume_failure = after(memory.volume_failure, "FailedMount")
                self._state.emit("Warning", memory.volume_failure.reason, message)
            case m.CreateSandbox():
                memory.sandbox_failure = after(memory.sandbox_failure, "FailedCreatePodSandBox")
                self._state.emit("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {message}")
            case m.EnsureImage():
                failure = after(memory.pull_failures.get(action.image), "ErrImagePull")
                memory.pull_failures[action.image] = failure
                path = f"spec.{action.role.field}{{{action.container}}}"
                if failure.reason != "ErrImageNeverPull":
                    self._state.emit("Warning", "Failed", f'Failed to pull image "{action.image}": {message}', path)
                self._state.emit("Warning", "Failed", f"Error: {failure.reason}", path)
            case m.StartContainer():
                failure = after(memory.create_failures.get(action.container), "CreateContainerError")
                memory.create_failures[action.container] = failure
                self._state.emit(
                    "Warning", "Failed", f"Error: {message}", f"spec.{action.role.field}{{{action.container}}}"
                )
            case m.ResizeContainers():
                before = memory.resize_failure
                memory.resize_failure = after(before, "Error")
                if before is None or before.message != message:
                    self._state.emit("Warning", "ResizeError", f"Pod resize error: {resizing.told(self.pod, message)}")
            case _:
                log.warning("%s: %s: %s", self.pod.metadata.name, action.key, message)
                self._not_before[action.key] = now + RETRY_S

    # -- sandbox

    async def _create_sandbox(self, action: m.CreateSandbox) -> None:
        services = self._services
        handler = await self._state.runtime_handler()
        async with services.starts.sandbox():
            if self._state.stopping():
                return
            services.cgroups.create(self.pod, pod_resources(self.pod))
            for complaint in dns_complaints(self.pod, services.node):
                self._state.emit("Warning", "DNSConfigForming", complaint)
            sandbox_id = await services.runtime.run_sandbox(self._state.sandbox_config(action.attempt, handler))
            made = await services.runtime.sandbox_status(sandbox_id)
            if services.isolate is not None:
                await services.isolate(self.pod, made.ips)
            self._state.sandboxes[sandbox_id] = made
        self.memory.sandbox_failure = None

    async def _stop_sandbox(self, sandbox_id: str) -> None:
        try:
            await self._services.runtime.stop_sandbox(sandbox_id)
        except RuntimeNotFound:
            self._state.forget(sandbox_id)
            return
        self.memory.stopped_sandboxes.add(sandbox_id)
        if sandbox_id in self._state.sandboxes:
            self._state.sandboxes[sandbox_id] = replace(self._state.sandboxes[sandbox_id], state=SandboxState.NOT_READY)
        for container in self._state.containers.values():
            if container.sandbox_id == sandbox_id and container.state is not ContainerState.EXITED:
                self._state.dirty[container.id] = None

    async def _refresh_volumes(self) -> None:
        try:
            await self._services.volumes.prepare(self.pod)
        except (VolumeError, APIError) as error:
            log.info("%s: volumes not refreshed: %s", self.pod.metadata.name, error)
        finally:
            self._acts.hooks.pop("refresh", None)
