"""One pod's task: observe, plan, act, again. All I/O of a pod is here and in the helpers it calls.

Between `kubelet.agent` (which hands in the desired pod and hints from the runtime) and `kubelet.runtime`. The loop is
level-triggered: whatever happens only sets `_wake`; the next round plans from what is there. Actions run as tasks, one per
key, as many at once as the plan names; a failure is kept in memory with its time, and the plan decides when to try again.
Killed between any two awaits, a successor finds everything it needs in the runtime's labels and annotations.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Sequence
from dataclasses import replace

from kubelet.pods import model as m
from kubelet.pods.config import container_config, find_container, hostname_of, sandbox_config, target_of
from kubelet.pods.env import Found, environment, references
from kubelet.pods.hooks import POST_START_LIMIT_S, run_hook
from kubelet.pods.images import ensure_image
from kubelet.pods.plan import plan
from kubelet.pods.probing import Probing
from kubelet.pods.resources import pod_resources
from kubelet.pods.services import ConfigError, PodServices, VolumeError
from kubelet.pods.states import STAGE_MOVES, Role, Stage, container_may_move
from kubelet.runtime.base import (
    ContainerState,
    ContainerStatus,
    RuntimeFailure,
    RuntimeNotFound,
    SandboxConfig,
    SandboxState,
    SandboxStatus,
)
from wherry.api.errors import APIError, NotFound
from wherry.api.tasks import TaskGroup
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

RETRY_S = 1.0  # of actions whose failure the plan does not remember
MINIMUM_STOP_S = 2.0  # what is left for the stop signal after a long preStop hook, as in the kubelet


class PodWorker:
    """Invariants: at most one task per action key; a container id moves only along `states.CONTAINER_MOVES`."""

    def __init__(
        self, services: PodServices, pod: core_v1_pb2.Pod, observed: m.Observed | None = None, *, adopted: bool = False
    ) -> None:
        """`observed`: what the runtime already has of it. `adopted`: found running by a restarted agent."""
        self._services = services
        self.pod = pod
        self.adopted = adopted
        before = core_v1_pb2.PodStatus()
        before.CopyFrom(pod.status)
        self.memory = m.PodMemory(seen_at=services.env.now(), status=before, drained=services.drain is None)
        observed = observed or m.Observed()
        self._sandboxes: dict[str, SandboxStatus] = {s.id: s for s in observed.sandboxes}
        self._containers: dict[str, ContainerStatus] = {c.id: c for c in observed.containers}
        self._found_running = {c.id for c in observed.containers if c.state is ContainerState.RUNNING}
        self._dirty: dict[str, None] = dict.fromkeys([*self._sandboxes, *self._containers])
        self._wake = asyncio.Event()
        self._running: dict[str, tuple[m.Action, asyncio.Task[None]]] = {}
        self._hooks: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._said: dict[str, None] = {}
        self._stage = Stage.SYNCING
        self._sent = b""
        self._group: TaskGroup | None = None
        self._probing = Probing(services, self.memory, self._wake, self._found_running if adopted else set())
        self._adopt_probe_results()

    # -- from the agent; none of these wait

    def update(self, pod: core_v1_pb2.Pod) -> None:
        if pod.metadata.resource_version != self.pod.metadata.resource_version or pod.spec != self.pod.spec:
            self.pod = pod
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
            self._emit("Warning", "Evicted", message)
            self.end("Evicted", message, grace_s)

    def touch(self, runtime_id: str) -> None:
        """The runtime says that something happened to it."""
        if runtime_id in self._containers or runtime_id in self._sandboxes:
            self._dirty[runtime_id] = None
            self._wake.set()

    def refresh_volumes(self) -> None:
        """Contents of ConfigMaps and so on may have changed."""
        if self._stage is Stage.SYNCING and self.memory.volumes_ready and "refresh" not in self._hooks and self._group:
            self._hooks["refresh"] = self._group.create_task(self._refresh_volumes())

    def relist(self, sandboxes: Sequence[SandboxStatus], containers: Sequence[ContainerStatus]) -> None:
        """All that the runtime has of this pod: the safety net under its events. Ids that we do not know are taken up unless
        an action of ours is about to make them known."""
        creating = any(key == "sandbox" or key.startswith("start/") for key in self._running)
        for old, new in ((self._sandboxes, sandboxes), (self._containers, containers)):
            listed: dict[str, SandboxState | ContainerState] = {entry.id: entry.state for entry in new}
            for known, entry in old.items():
                if listed.get(known) != entry.state:
                    self._dirty[known] = None
        if not creating:
            for sandbox in sandboxes:
                if sandbox.id not in self._sandboxes:
                    self._sandboxes[sandbox.id] = sandbox
                    self._dirty[sandbox.id] = None
            for container in containers:
                if container.id not in self._containers:
                    self._containers[container.id] = container
                    self._dirty[container.id] = None
        if self._dirty:
            self._wake.set()

    @property
    def stage(self) -> Stage:
        return self._stage

    @property
    def observed(self) -> m.Observed:
        return m.Observed(tuple(self._sandboxes.values()), tuple(self._containers.values()))

    def sandbox_id(self) -> str:
        """Of the living sandbox, or ""."""
        current = self.observed.current
        return current.id if current is not None else ""

    def container(self, name: str, *, previous: bool = False) -> ContainerStatus | None:
        """The newest of that name, or the one before it."""
        history = sorted(
            (c for c in self._containers.values() if c.name == name),
            key=lambda c: (c.attempt, c.created_at),
            reverse=True,
        )
        index = 1 if previous else 0
        return history[index] if len(history) > index else None

    def check_invariants(self) -> None:
        for key, (action, task) in self._running.items():
            assert action.key == key
            assert not task.done() or self._wake.is_set(), f"{key} is over and still listed"
        for container in self._containers.values():
            assert container.name, "a container without a name"

    # -- the loop

    async def run(self) -> None:
        """Until nothing of the pod is left on the node. Cancelled, it leaves everything as it runs."""
        try:
            async with TaskGroup() as self._group:
                while await self._round():
                    pass
                for task in [*self._hooks.values(), *self._probing.tasks()]:
                    task.cancel()
        finally:
            self._group = None

    async def _round(self) -> bool:
        self._wake.clear()
        await self._observe()
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
        self._probing.watch(self.pod, self.container, self._containers, self._stage, self._group, self._ip())
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
                self._emit(event.type, event.reason, event.message, event.field_path)
        # What the plan no longer says may be said anew later.
        self._said = dict.fromkeys(event.once for event in events)

    def _emit(self, type_: str, reason: str, message: str, field_path: str = "") -> None:
        self._services.events.emit(self.pod, type_, reason, message, field_path)

    # -- observing

    async def _observe(self) -> None:
        for runtime_id in list(self._dirty):
            self._dirty.pop(runtime_id, None)
            try:
                if runtime_id in self._containers:
                    self._record(await self._services.runtime.container_status(runtime_id))
                elif runtime_id in self._sandboxes:
                    self._sandboxes[runtime_id] = await self._services.runtime.sandbox_status(runtime_id)
            except RuntimeNotFound:
                self._containers.pop(runtime_id, None)
                self._sandboxes.pop(runtime_id, None)
            except RuntimeFailure as error:
                log.warning("%s: cannot look at %s: %s", self.pod.metadata.name, runtime_id[:13], error.message)
                asyncio.get_running_loop().call_later(RETRY_S, self.touch, runtime_id)

    def _record(self, status: ContainerStatus) -> None:
        old = self._containers.get(status.id)
        if old is not None and not container_may_move(old.state, status.state):
            return  # an answer that was overtaken
        self._containers[status.id] = status
        if status.state is ContainerState.EXITED and status.id not in self.memory.termination_messages:
            self._read_termination(status)

    def _read_termination(self, status: ContainerStatus) -> None:
        path = status.annotations.get(m.TERMINATION_MESSAGE, "")
        if not path:
            return
        fallback = status.annotations.get(m.TERMINATION_POLICY) == "FallbackToLogsOnError" and status.exit_code != 0
        text = self._services.files.read_termination(path, status.log_path if fallback else "")
        self.memory.termination_messages[status.id] = text

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
        for task in self._hooks.values():
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
                await self._create_and_start(action)
            case m.StartCreated():
                found = find_container(self.pod, action.container)
                if found is not None:
                    async with self._services.starts.container():
                        await self._start(found[0], found[1], action.container_id)
            case m.Drain():
                if self._services.drain is not None:
                    await self._services.drain.drained(self.pod.metadata.uid)
                self.memory.drained = True
            case m.KillContainer():
                await self._kill(action)
            case m.StopSandbox():
                await self._stop_sandbox(action.sandbox_id)
            case m.RemoveSandbox():
                await self._services.runtime.remove_sandbox(action.sandbox_id)
                self._sandboxes.pop(action.sandbox_id, None)
                for container in [c for c in self._containers.values() if c.sandbox_id == action.sandbox_id]:
                    self._containers.pop(container.id, None)
            case m.RemoveContainer():
                await self._services.runtime.remove_container(action.container_id)
                self._services.files.remove_log(action.log_path)
                self._containers.pop(action.container_id, None)
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
                self._emit("Warning", memory.volume_failure.reason, message)
            case m.CreateSandbox():
                memory.sandbox_failure = after(memory.sandbox_failure, "FailedCreatePodSandBox")
                self._emit("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {message}")
            case m.EnsureImage():
                failure = after(memory.pull_failures.get(action.image), "ErrImagePull")
                memory.pull_failures[action.image] = failure
                path = f"spec.{action.role.field}{{{action.container}}}"
                if failure.reason != "ErrImageNeverPull":
                    self._emit("Warning", "Failed", f'Failed to pull image "{action.image}": {message}', path)
                self._emit("Warning", "Failed", f"Error: {failure.reason}", path)
            case m.StartContainer():
                failure = after(memory.create_failures.get(action.container), "CreateContainerError")
                memory.create_failures[action.container] = failure
                self._emit("Warning", "Failed", f"Error: {message}", f"spec.{action.role.field}{{{action.container}}}")
            case _:
                log.warning("%s: %s: %s", self.pod.metadata.name, action.key, message)
                self._not_before[action.key] = now + RETRY_S

    # -- sandbox

    def _sandbox_config(self, attempt: int) -> SandboxConfig:
        services = self._services
        return sandbox_config(
            self.pod,
            attempt,
            services.node,
            log_directory=services.files.log_directory(self.pod),
            cgroup_parent=services.cgroups.parent_of(self.pod),
        )

    async def _create_sandbox(self, action: m.CreateSandbox) -> None:
        services = self._services
        async with services.starts.sandbox():
            if self._stopping():
                return
            services.cgroups.create(self.pod, pod_resources(self.pod))
            sandbox_id = await services.runtime.run_sandbox(self._sandbox_config(action.attempt))
            self._sandboxes[sandbox_id] = await services.runtime.sandbox_status(sandbox_id)
        self.memory.sandbox_failure = None

    async def _stop_sandbox(self, sandbox_id: str) -> None:
        try:
            await self._services.runtime.stop_sandbox(sandbox_id)
        except RuntimeNotFound:
            self._sandboxes.pop(sandbox_id, None)
            return
        self.memory.stopped_sandboxes.add(sandbox_id)
        if sandbox_id in self._sandboxes:
            self._sandboxes[sandbox_id] = replace(self._sandboxes[sandbox_id], state=SandboxState.NOT_READY)
        for container in self._containers.values():
            if container.sandbox_id == sandbox_id and container.state is not ContainerState.EXITED:
                self._dirty[container.id] = None

    def _stopping(self) -> bool:
        """The pod is to end: decided before the next round has planned for it."""
        return self.memory.removed or self.memory.ended is not None or self.pod.metadata.HasField("deletion_timestamp")

    # -- containers

    async def _create_and_start(self, action: m.StartContainer) -> None:
        services, pod, memory = self._services, self.pod, self.memory
        found = find_container(pod, action.container)
        sandbox = self._sandboxes.get(action.sandbox_id)
        if found is None or sandbox is None:
            return
        container, role = found
        objects = await self._look_up(container)
        env = environment(
            pod, container, objects,
            ips=sandbox.ips or services.node.facts.ips, host_ips=services.node.facts.ips,
            allocatable=services.node.allocatable, services=services.service_env(pod),
        )  # fmt: skip
        mounts = services.volumes.mounts(pod, container, env)
        hosts = services.files.hosts_mount(pod, sandbox.ips, hostname_of(pod, services.node))
        if hosts is not None and all(mount.container_path != "/etc/hosts" for mount in mounts):
            mounts.append(hosts)
        async with services.starts.container():
            if self._stopping():
                return
            termination_file = services.files.termination_file(pod, container.name, action.attempt)
            target = target_of(pod, container.name, self._running_ids()) if role is Role.EPHEMERAL else ""
            config = container_config(
                pod, container, action, services.node, env=env, mounts=mounts, termination_file=termination_file,
                processes_of=target,
            )  # fmt: skip
            created = await services.runtime.create_container(
                action.sandbox_id, config, self._sandbox_config(sandbox.attempt)
            )
            self._containers[created] = ContainerStatus(
                id=created, sandbox_id=action.sandbox_id, name=container.name, attempt=action.attempt,
                state=ContainerState.CREATED, created_at=services.env.now(), started_at=0.0, finished_at=0.0,
                exit_code=0, reason="", message="", image=container.image, image_id="", log_path="",
                labels=config.labels, annotations=config.annotations,
            )  # fmt: skip
            memory.create_failures.pop(container.name, None)
            memory.images.pop(container.image, None)
            self._emit("Normal", "Created", f"Container created: {container.name}", _path(role, container))
            await self._start(container, role, created)

    def _running_ids(self) -> dict[str, str]:
        """By container name."""
        return {
            found.name: found.id for found in self._containers.values() if found.state is ContainerState.RUNNING
        }  # fmt: skip

    async def _start(self, container: core_v1_pb2.Container, role: Role, container_id: str) -> None:
        """Failing to start counts as an exit: the runtime says so too, and the crash back-off applies."""
        runtime, memory = self._services.runtime, self.memory
        hook = container.lifecycle.HasField("post_start")
        if hook:
            memory.hooks_pending.add(container_id)
        try:
            await runtime.start_container(container_id)
        except RuntimeFailure as error:
            memory.hooks_pending.discard(container_id)
            now = self._services.env.now()
            memory.start_failures[container_id] = m.Failure(error.reason or "RunContainerError", error.message, now)
            self._emit("Warning", "Failed", f"Error: {error.message}", _path(role, container))
            await self._look_at(container_id)
            status = self._containers.get(container_id)
            if status is not None and status.state is ContainerState.CREATED:
                # It never ran and never will: a corpse with the kubelet's exit code, so that the back-off counts it.
                self._containers[container_id] = replace(
                    status, state=ContainerState.EXITED, exit_code=128, reason="StartError", message=error.message,
                    finished_at=now,
                )  # fmt: skip
            return
        await self._look_at(container_id)
        self._emit("Normal", "Started", f"Container started: {container.name}", _path(role, container))
        if hook and self._group is not None:
            self._hooks[container_id] = self._group.create_task(self._post_start(container, role, container_id))

    async def _look_at(self, container_id: str) -> None:
        try:
            self._record(await self._services.runtime.container_status(container_id))
        except RuntimeNotFound:
            self._containers.pop(container_id, None)

    async def _post_start(self, container: core_v1_pb2.Container, role: Role, container_id: str) -> None:
        handler = container.lifecycle.post_start
        try:
            problem = await run_hook(self._services, container, container_id, handler, self._ip(), POST_START_LIMIT_S)
            if problem:
                self._emit("Warning", "FailedPostStartHook", f"PostStartHook failed: {problem}", _path(role, container))
                self.memory.hooks_failed.add(container_id)
        finally:
            self.memory.hooks_pending.discard(container_id)
            self._hooks.pop(container_id, None)
            self._wake.set()

    async def _kill(self, action: m.KillContainer) -> None:
        services = self._services
        env = services.env
        found = find_container(self.pod, action.container)
        path = _path(found[1], found[0]) if found else ""
        if action.message == "FailedPostStartHook":
            self._emit("Normal", "Killing", "FailedPostStartHook", path)
        else:
            self._emit("Normal", "Killing", action.message, path)
        given_s = max(action.deadline - env.now(), 0.0)
        container, hook = self._pre_stop(action)
        if action.hook and given_s > 0 and hook is not None:
            problem = await run_hook(services, container, action.container_id, hook, self._ip(), given_s)
            if problem:
                self._emit("Warning", "FailedPreStopHook", f"PreStopHook failed: {problem}", path)
        left_s = max(action.deadline - env.now(), min(MINIMUM_STOP_S, given_s))
        try:
            # From when it was made: it is gone from the spec of an orphan, and an adopted one keeps what it began with.
            status = self._containers.get(action.container_id)
            chosen = status.annotations.get(m.STOP_SIGNAL, "") if status is not None else ""
            await services.runtime.stop_container(action.container_id, left_s, chosen)
        finally:
            self._dirty[action.container_id] = None

    def _pre_stop(self, action: m.KillContainer) -> tuple[core_v1_pb2.Container, core_v1_pb2.LifecycleHandler | None]:
        """From the spec; of an orphan, whose spec is gone, from the container's annotations."""
        found = find_container(self.pod, action.container)
        if found is not None:
            lifecycle = found[0].lifecycle
            return found[0], lifecycle.pre_stop if lifecycle.HasField("pre_stop") else None
        status = self._containers.get(action.container_id)
        encoded = status.annotations.get(m.PRE_STOP, "") if status is not None else ""
        handler = core_v1_pb2.LifecycleHandler.FromString(base64.b64decode(encoded)) if encoded else None
        return core_v1_pb2.Container(name=action.container), handler

    async def _look_up(self, container: core_v1_pb2.Container) -> Found:
        found = Found()
        for kind, name in references(container):
            namespace = self.pod.metadata.namespace
            try:
                if kind == "ConfigMap":
                    found.config_maps[name] = await self._services.objects.get(core_v1_pb2.ConfigMap, namespace, name)
                else:
                    found.secrets[name] = await self._services.objects.get(core_v1_pb2.Secret, namespace, name)
            except NotFound:
                continue
            except APIError as error:
                raise ConfigError(f"cannot read {kind.lower()} {namespace}/{name}: {error.message}") from error
        return found

    def _ip(self) -> str:
        current = self.observed.current
        if current is not None and current.ips:
            return current.ips[0]
        ips = self._services.node.facts.ips
        return ips[0] if ips else "127.0.0.1"

    async def _refresh_volumes(self) -> None:
        try:
            await self._services.volumes.prepare(self.pod)
        except (VolumeError, APIError) as error:
            log.info("%s: volumes not refreshed: %s", self.pod.metadata.name, error)
        finally:
            self._hooks.pop("refresh", None)


def _path(role: Role, container: core_v1_pb2.Container) -> str:
    return f"spec.{role.field}{{{container.name}}}"
