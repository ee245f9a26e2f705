"""The brain of the agent for one pod: desired, observed and remembered state in; actions, status and wake-up time out.

Pure: no clock, no await, no randomness. Called by `kubelet.pods.worker` after everything that happens to the pod. It is
level-triggered: it may name an action that is still in progress (the worker knows by the action's key), and it never
counts on having been called before, so a restarted agent simply carries on with what it finds.
"""

from __future__ import annotations

from kubelet.pods import model as m
from kubelet.pods.policy import (
    next_backoff,
    pod_label,
    pull_policy,
    restart_backoff,
    should_restart,
    spec_hash,
    valid_reference,
)
from kubelet.pods.report import Reporter, started
from kubelet.pods.resizing import needs_restart
from kubelet.pods.states import Phase, Role, Stage
from kubelet.runtime.base import ContainerState, ContainerStatus, Image
from wherry.pb import core_v1_pb2

DEFAULT_GRACE_S = 30.0
# What a forced deletion leaves (`--force --grace-period=0`): the object is gone at once, the processes nearly so.
FORCED_GRACE_S = 2.0
# The kubelet's own: a pod that is not forced away gets at least this long between signal and SIGKILL.
MINIMUM_GRACE_S = 1.0


def plan(pod: core_v1_pb2.Pod, observed: m.Observed, memory: m.PodMemory, node: m.NodeFacts, now: float) -> m.Plan:
    return _Planner(pod, observed, memory, node, now).run()


class _Planner:
    """One call of `plan`: the accumulators, and one method per stage."""

    def __init__(
        self, pod: core_v1_pb2.Pod, observed: m.Observed, memory: m.PodMemory, node: m.NodeFacts, now: float
    ) -> None:
        self.pod, self.observed, self.memory, self.now = pod, observed, memory, now
        self.reporter = Reporter(pod, observed, memory, node, now)
        self.latest = self.reporter.latest
        self.containers = list(m.containers_of(pod.spec))
        self.actions: list[m.Action] = []
        self.events: list[m.PlanEvent] = []
        self.wake_at: float | None = None
        self.ended = memory.ended
        self.kill_by = memory.kill_by

    # -- entry

    def run(self) -> m.Plan:
        if self.ended is None:
            self._check_deadline()
        deleted = self.memory.removed or self.pod.metadata.HasField("deletion_timestamp")
        if deleted:
            stage = self._terminate()
        elif self._finished():
            self._finish()
            stage = Stage.FINISHING
        else:
            self._sync()
            stage = Stage.SYNCING
        self._collect_dead()
        # A deleted pod whose containers are gone is over, whatever its restart policy would have said.
        over = deleted and not self.observed.alive()
        status = self.reporter.status(self.ended, over)
        return m.Plan(stage, self.actions, status, self.wake_at, self.events, self.ended, self.kill_by)

    def _check_deadline(self) -> None:
        spec = self.pod.spec
        if not spec.HasField("active_deadline_seconds"):
            return
        expires = self.reporter.start_time() + spec.active_deadline_seconds
        if self.now < expires:
            self._wake(expires)
        elif not self._terminal_before():
            self.ended = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
            self.events.append(m.PlanEvent("deadline", "Normal", *self.ended))

    def _terminal_before(self) -> bool:
        before = self.memory.status.phase if self.memory.status is not None else ""
        return before in (Phase.SUCCEEDED.value, Phase.FAILED.value)

    # -- stages

    def _finished(self) -> bool:
        """No container of the pod will ever be started again."""
        if self.ended is not None or self._terminal_before():
            return True
        initialised = self._initialised()
        for container, role in self.containers:
            dead = self.latest.get(container.name)
            if role is Role.INIT and not initialised:
                failed = dead is not None and dead.state is ContainerState.EXITED and dead.exit_code != 0
                if failed and dead is not None and not should_restart(self.pod, container, role, dead):
                    return True
            if role is Role.APP:
                if dead is None or dead.state is not ContainerState.EXITED:
                    return False
                if should_restart(self.pod, container, role, dead):
                    return False
        return bool(self.pod.spec.containers)

    def _finish(self) -> None:
        grace_s = self.memory.grace_s if self.memory.grace_s is not None else self._spec_grace()
        if self._stop_everything(grace_s):
            self._stop_sandboxes()
            if not self._unstopped() and not self.memory.cleaned:
                self.actions.append(m.Cleanup(everything=False))

    def _terminate(self) -> Stage:
        metadata = self.pod.metadata
        grace_s = self._spec_grace()
        if self.memory.removed:
            grace_s = self.memory.grace_s if self.memory.grace_s is not None else grace_s
        elif metadata.HasField("deletion_grace_period_seconds"):
            grace_s = float(metadata.deletion_grace_period_seconds)
        if not self.memory.drained and not self.memory.removed and self.observed.alive():
            # The grace period begins with the signal: it is for what the pod has begun, not for what still comes.
            self.actions.append(m.Drain())
            return Stage.TERMINATING
        if not self._stop_everything(max(grace_s, MINIMUM_GRACE_S)):
            return Stage.TERMINATING
        self._stop_sandboxes()
        if self._unstopped():
            return Stage.TERMINATING
        if self.observed.sandboxes or self.observed.containers:
            self.actions += [m.RemoveSandbox(s.id) for s in self.observed.sandboxes]
            known = {s.id for s in self.observed.sandboxes}
            for orphan in self.observed.containers:
                if orphan.sandbox_id not in known:
                    self.actions.append(m.RemoveContainer(orphan.id, orphan.log_path))
            return Stage.TERMINATING
        if not self.memory.purged:
            self.actions.append(m.Cleanup(everything=True))
            return Stage.TERMINATING
        return Stage.GONE

    def _sync(self) -> None:
        memory = self.memory
        if not memory.volumes_ready and self._due(memory.volume_failure):
            self.actions.append(m.PrepareVolumes())
        current = self.observed.current
        if current is None:
            self._replace_sandbox()
            if any(isinstance(action, m.CreateSandbox) for action in self.actions) or not self.observed.sandboxes:
                # Images do not need the sandbox: pull beside it.
                for container, role in self._first_to_start():
                    self._ensure_image(container, role)
            return
        for sandbox in self.observed.sandboxes:
            if sandbox.id != current.id and sandbox.id not in memory.stopped_sandboxes:
                self.actions.append(m.StopSandbox(sandbox.id))
        self._kill_strays(current.id)
        if self._run_init(current.id):
            for container, role in self.containers:
                if role is Role.APP:
                    self._run_container(container, role, current.id)
        for container, role in self.containers:
            if role is Role.EPHEMERAL:
                self._run_container(container, role, current.id)
        self._resize()

    # -- sandbox

    def _replace_sandbox(self) -> None:
        """None is ready: what is left of the old one goes first, since it holds the pod's network."""
        if self.observed.sandboxes:
            self.events.append(
                m.PlanEvent(
                    f"sandbox/{len(self.observed.sandboxes)}", "Normal", "SandboxChanged",
                    "Pod sandbox changed, it will be killed and re-created.",
                )
            )  # fmt: skip
        for container in self.observed.alive():
            self._kill(container, self.now + self._spec_grace(), f"Stopping container {container.name}")
        if self.observed.alive():
            return
        self._stop_sandboxes()
        if not self._unstopped() and self._due(self.memory.sandbox_failure):
            attempt = max((s.attempt for s in self.observed.sandboxes), default=-1) + 1
            self.actions.append(m.CreateSandbox(attempt))

    def _unstopped(self) -> list[str]:
        return [s.id for s in self.observed.sandboxes if s.id not in self.memory.stopped_sandboxes]

    def _stop_sandboxes(self) -> None:
        self.actions += [m.StopSandbox(sandbox_id) for sandbox_id in self._unstopped()]

    def _kill_strays(self, sandbox_id: str) -> None:
        """Living containers of another sandbox, second ones of a name, and names that the spec does not have."""
        names = {container.name for container, _ in self.containers}
        for container in self.observed.alive():
            newest = self.latest.get(container.name)
            if (
                container.sandbox_id != sandbox_id
                or container.name not in names
                or (newest is not None and newest.id != container.id)
            ):
                self._kill(container, self.now + self._spec_grace(), f"Stopping container {container.name}")

    # -- containers

    def _initialised(self) -> bool:
        return self.reporter.initialised()

    def _first_to_start(self) -> list[tuple[core_v1_pb2.Container, Role]]:
        """What starts in a fresh sandbox before anything else."""
        for container, role in self.containers:
            if role in (Role.INIT, Role.SIDECAR):
                return [(container, role)]
        return [(c, r) for c, r in self.containers if r is Role.APP]

    def _run_init(self, sandbox_id: str) -> bool:
        """Drives init containers and sidecars; True when the app containers may run."""
        initialised = self._initialised()
        for container, role in self.containers:
            if role not in (Role.INIT, Role.SIDECAR):
                continue
            state = self.latest.get(container.name)
            if state is not None and state.sandbox_id != sandbox_id:
                state = None  # of an older sandbox: it runs again in this one
            if role is Role.INIT:
                if initialised or (state is not None and state.state is ContainerState.EXITED and state.exit_code == 0):
                    continue
                self._run_container(container, role, sandbox_id)
                return False
            self._run_container(container, role, sandbox_id)
            if not initialised and (state is None or not started(container, state, self.memory)):
                return False
        return True

    def _run_container(self, container: core_v1_pb2.Container, role: Role, sandbox_id: str) -> None:
        newest = self.latest.get(container.name)
        if newest is None or (newest.state is ContainerState.EXITED and newest.sandbox_id != sandbox_id):
            if newest is not None and role is Role.APP and not should_restart(self.pod, container, role, newest):
                return
            if newest is not None and role is Role.EPHEMERAL:
                return
            self._start(container, role, sandbox_id, newest, backoff_s=0.0)
        elif newest.state is ContainerState.CREATED:
            self._start_created(container, role, newest, sandbox_id)
        elif newest.state is ContainerState.UNKNOWN:
            self._kill(newest, self.now + MINIMUM_GRACE_S, f"Stopping container {container.name}", hook=False)
        elif newest.state is ContainerState.RUNNING:
            if newest.sandbox_id == sandbox_id:
                self._check_running(container, newest)
        elif should_restart(self.pod, container, role, newest):
            self._restart(container, role, sandbox_id, newest)

    def _start_created(
        self, container: core_v1_pb2.Container, role: Role, created: ContainerStatus, sandbox_id: str
    ) -> None:
        if created.sandbox_id != sandbox_id or created.annotations.get(m.SPEC_HASH) != spec_hash(container):
            self.actions.append(m.RemoveContainer(created.id, created.log_path))
        else:
            self.actions.append(m.StartCreated(container.name, role, created.id))

    def _check_running(self, container: core_v1_pb2.Container, running: ContainerStatus) -> None:
        """Reasons to kill a container that runs; what follows is up to the restart policy."""
        probes = self.memory.probes.get(running.id)
        old_hash = running.annotations.get(m.SPEC_HASH)
        if old_hash is not None and old_hash != spec_hash(container):
            self._kill(
                running,
                self.now + self._spec_grace(),
                f"Container {container.name} definition changed, will be restarted",
            )
        elif probes is not None and probes.liveness_failed:
            probe = container.liveness_probe if probes.liveness_failed == "liveness" else container.startup_probe
            grace_s = self._spec_grace()
            if probe.HasField("termination_grace_period_seconds"):
                grace_s = float(probe.termination_grace_period_seconds)
            message = f"Container {container.name} failed {probes.liveness_failed} probe, will be restarted"
            self._kill(running, self.now + grace_s, message)
        elif running.id in self.memory.hooks_failed:
            self._kill(running, self.now + self._spec_grace(), "FailedPostStartHook", hook=False)

    def _resize(self) -> None:
        """Running containers that have something else than what they are allocated."""
        waiting = self.reporter.to_resize()
        restarting = [
            container for container, status in waiting if needs_restart(container, self.memory.applied[status.id])
        ]
        for container, status in waiting:
            if container in restarting:
                self.memory.resize_kills.add(status.id)
                message = f"Container {container.name} resize requires restart"
                self._kill(status, self.now + self._spec_grace(), message)
        if len(waiting) > len(restarting) and self._due(self.memory.resize_failure):
            ids = tuple(status.id for container, status in waiting if container not in restarting)
            self.actions.append(m.ResizeContainers(ids))

    def _restart(self, container: core_v1_pb2.Container, role: Role, sandbox_id: str, dead: ContainerStatus) -> None:
        delay_s = restart_backoff(dead)
        # A changed image is a new try, not the same crash again.
        if dead.annotations.get(m.SPEC_HASH, spec_hash(container)) != spec_hash(container):
            delay_s = 0.0
        if dead.id in self.memory.resize_kills:
            delay_s = 0.0
        ready_at = dead.finished_at + delay_s
        if self.now < ready_at:
            message = f"back-off {_go_duration(delay_s)} restarting failed container={container.name} pod={pod_label(self.pod)}"
            failed = self.memory.start_failures.get(dead.id)
            if failed is not None and delay_s <= m.CRASH_BACKOFF_FIRST_S:
                self.reporter.waiting[container.name] = m.Waiting(failed.reason, failed.message)
            else:
                self.reporter.waiting[container.name] = m.Waiting("CrashLoopBackOff", message)
            self.events.append(
                m.PlanEvent(
                    f"backoff/{dead.id}", "Warning", "BackOff",
                    f"Back-off restarting failed container {container.name} in pod {pod_label(self.pod)}",
                    f"spec.{role.field}{{{container.name}}}",
                )
            )  # fmt: skip
            self._wake(ready_at)
            return
        self._start(container, role, sandbox_id, dead, backoff_s=next_backoff(dead))

    def _start(
        self,
        container: core_v1_pb2.Container,
        role: Role,
        sandbox_id: str,
        before: ContainerStatus | None,
        *,
        backoff_s: float,
    ) -> None:
        image = self._ensure_image(container, role)
        failure = self.memory.create_failures.get(container.name)
        if image is None:
            return
        if failure is not None:
            self.reporter.waiting[container.name] = m.Waiting(failure.reason, failure.message)
            if not self._due(failure):
                return
        if not self.memory.volumes_ready:
            return
        attempt = self.reporter.restart_count(container.name, role) + 1 if before is not None else 0
        self.actions.append(m.StartContainer(container.name, role, attempt, sandbox_id, image, backoff_s))

    # -- images

    def _ensure_image(self, container: core_v1_pb2.Container, role: Role) -> Image | None:
        """The image when it is there; else asks for it and says why the container waits."""
        reference, policy, memory = container.image, pull_policy(container), self.memory
        if not valid_reference(reference):
            message = (
                f'Failed to apply default image tag "{reference}": '
                f'couldn\'t parse image name "{reference}": invalid reference format'
            )
            self.reporter.waiting[container.name] = m.Waiting("InvalidImageName", message)
            self.events.append(
                m.PlanEvent(
                    f"invalid/{reference}", "Warning", "InspectFailed", message, f"spec.{role.field}{{{container.name}}}"
                )
            )  # fmt: skip
            return None
        image = memory.images.get(reference)
        if image is not None:
            return image
        failure = memory.pull_failures.get(reference)
        if failure is None:
            self.actions.append(m.EnsureImage(container.name, role, reference, policy))
            return None
        if failure.reason in ("ErrImageNeverPull", "InvalidImageName") or not failure.retryable:
            self.reporter.waiting[container.name] = m.Waiting(failure.reason, failure.message)
            # Someone may load the image by hand.
            retry_at = failure.at + m.PULL_BACKOFF_FIRST_S
        else:
            retry_at = failure.retry_at(m.PULL_BACKOFF_FIRST_S, m.PULL_BACKOFF_MAX_S)
            self._image_backoff(container, role, failure)
        if self.now >= retry_at:
            self.actions.append(m.EnsureImage(container.name, role, reference, policy))
        else:
            self._wake(retry_at)
        return None

    def _image_backoff(self, container: core_v1_pb2.Container, role: Role, failure: m.Failure) -> None:
        """ErrImagePull right after a failure, then ImagePullBackOff until the next try ends."""
        shown_until = failure.at + 2.0
        if self.now < shown_until:
            self.reporter.waiting[container.name] = m.Waiting(failure.reason, failure.message)
            self._wake(shown_until)
            return
        message = f'Back-off pulling image "{container.image}": {failure.reason}: {failure.message}'
        self.reporter.waiting[container.name] = m.Waiting("ImagePullBackOff", message)
        self.events.append(
            m.PlanEvent(
                f"pull-backoff/{container.image}/{failure.count}", "Normal", "BackOff",
                f'Back-off pulling image "{container.image}"', f"spec.{role.field}{{{container.name}}}",
            )
        )  # fmt: skip

    # -- stopping

    def _stop_everything(self, grace_s: float) -> bool:
        """True when no container runs. Sidecars go last, one by one, in reverse order of their start."""
        alive = self.observed.alive()
        if not alive:
            return True
        deadline = self.now + grace_s
        self.kill_by = deadline if self.kill_by is None else min(self.kill_by, deadline)
        sidecars = [c.name for c, role in self.containers if role is Role.SIDECAR]
        rest = [c for c in alive if c.name not in sidecars]
        if not rest:
            last = max(sidecars.index(c.name) for c in alive)
            rest = [c for c in alive if c.name == sidecars[last]]
        for container in rest:
            self._kill(container, self.kill_by, f"Stopping container {container.name}")
        # Time is up for sidecars whose turn has not come.
        if self.now >= self.kill_by:
            for container in alive:
                if container not in rest:
                    self._kill(container, self.kill_by, f"Stopping container {container.name}", hook=False)
        else:
            self._wake(self.kill_by)
        return False

    def _kill(self, container: ContainerStatus, deadline: float, message: str, *, hook: bool = True) -> None:
        self.actions.append(m.KillContainer(container.name, container.id, deadline, message, hook))

    def _spec_grace(self) -> float:
        spec = self.pod.spec
        if spec.HasField("termination_grace_period_seconds"):
            return float(spec.termination_grace_period_seconds)
        return DEFAULT_GRACE_S

    # -- garbage

    def _collect_dead(self) -> None:
        """Per name the newest container stays, and the newest dead one before it (`logs --previous`)."""
        if any(isinstance(action, m.RemoveSandbox) for action in self.actions):
            return
        current = self.observed.current
        for history in self.reporter.histories.values():
            for old in history[2:]:
                if old.state is ContainerState.EXITED:
                    self.actions.append(m.RemoveContainer(old.id, old.log_path))
        in_use = {container.sandbox_id for history in self.reporter.histories.values() for container in history[:2]}
        if current is not None:
            for sandbox in self.observed.sandboxes:
                stopped = sandbox.id in self.memory.stopped_sandboxes
                if sandbox.id != current.id and stopped and sandbox.id not in in_use:
                    self.actions.append(m.RemoveSandbox(sandbox.id))

    # -- small things

    def _due(self, failure: m.Failure | None) -> bool:
        if failure is None:
            return True
        retry_at = failure.retry_at()
        if self.now >= retry_at:
            return True
        self._wake(retry_at)
        return False

    def _wake(self, at: float) -> None:
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at


def _go_duration(seconds: float) -> str:
    """10s, 1m20s, 5m0s."""
    whole = int(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
