"""A pod's status as Kubernetes writes it, from the runtime's state and what `plan` found. Pure; used by `plan` only."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kubelet.pods import model as m
from kubelet.pods.details import add_details
from kubelet.pods.policy import should_restart
from kubelet.pods.resizing import IN_PROGRESS, PENDING, same
from kubelet.pods.states import Phase, Role, phase_after
from kubelet.runtime.base import ContainerState, ContainerStatus
from wherry.pb import core_v1_pb2, meta_v1_pb2

OWN_CONDITIONS = (
    "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", PENDING, IN_PROGRESS
)  # fmt: skip
LOST_MESSAGE = "The container could not be located when the pod was terminated"


def started(container: core_v1_pb2.Container, status: ContainerStatus, memory: m.PodMemory) -> bool:
    """Running, its postStart hook is through, and its startup probe, if any, has succeeded."""
    if status.state is not ContainerState.RUNNING or status.id in memory.hooks_pending:
        return False
    if not container.HasField("startup_probe"):
        return True
    probes = memory.probes.get(status.id)
    return probes is not None and probes.started is True


def ready(container: core_v1_pb2.Container, status: ContainerStatus, memory: m.PodMemory) -> bool:
    if not started(container, status, memory):
        return False
    if not container.HasField("readiness_probe"):
        return True
    probes = memory.probes.get(status.id)
    return probes is not None and probes.ready is True


def timestamp(at: float) -> meta_v1_pb2.Time:
    return meta_v1_pb2.Time(seconds=int(at))


class Reporter:
    """Newest container per name, and the status made of it. `waiting` is filled in by the planner."""

    def __init__(
        self, pod: core_v1_pb2.Pod, observed: m.Observed, memory: m.PodMemory, node: m.NodeFacts, now: float
    ) -> None:
        self.pod, self.observed, self.memory, self.node, self.now = pod, observed, memory, node, now
        self.before = memory.status if memory.status is not None else pod.status
        self.waiting: dict[str, m.Waiting] = {}
        self.containers = list(m.containers_of(pod.spec))
        self.histories = self._histories()
        self.latest = {name: history[0] for name, history in self.histories.items() if history}

    def start_time(self) -> float:
        if self.before.HasField("start_time"):
            return float(self.before.start_time.seconds)
        return self.memory.seen_at

    def _histories(self) -> dict[str, list[ContainerStatus]]:
        """Containers per name, newest first. One that the runtime has lost is filled in from the last status."""
        histories: dict[str, list[ContainerStatus]] = {}
        for container in self.observed.containers:
            histories.setdefault(container.name, []).append(container)
        for history in histories.values():
            history.sort(key=lambda c: (c.attempt, c.created_at, c.id), reverse=True)
        for status in self._statuses_before():
            if status.name not in histories and status.container_id:
                histories[status.name] = [lost(status, self.now)]
        return histories

    def _statuses_before(self) -> Iterable[core_v1_pb2.ContainerStatus]:
        yield from self.before.init_container_statuses
        yield from self.before.container_statuses
        yield from self.before.ephemeral_container_statuses

    def restart_count(self, name: str, role: Role) -> int:
        counted = [status.restart_count for status in self._statuses_before() if status.name == name]
        newest = self.latest.get(name)
        if newest is not None:
            counted.append(newest.attempt)
        return max(counted, default=0)

    def initialised(self) -> bool:
        """All ordinary init containers are through and all sidecars started; or app containers run already, so they were."""
        current = self.observed.current
        apps = {container.name for container, role in self.containers if role is Role.APP}
        inits = [(c, role) for c, role in self.containers if role in (Role.INIT, Role.SIDECAR)]
        if not inits:
            return True
        if current is None:
            # Nothing can be started now: what counts is whether the app ever ran.
            return any(name in apps for name in self.latest)
        if any(c.name in apps and c.sandbox_id == current.id for c in self.observed.containers):
            return True
        for container, role in inits:
            status = self.latest.get(container.name)
            if status is None or status.sandbox_id != current.id:
                return False
            if role is Role.INIT and not (status.state is ContainerState.EXITED and status.exit_code == 0):
                return False
            if role is Role.SIDECAR and not started(container, status, self.memory):
                return False
        return True

    # -- the whole

    def status(self, ended: tuple[str, str] | None, over: bool) -> core_v1_pb2.PodStatus:
        status = core_v1_pb2.PodStatus()
        status.observed_generation = self.pod.metadata.generation
        status.start_time.CopyFrom(timestamp(self.start_time()))
        status.qos_class = self.before.qos_class or self.pod.status.qos_class
        status.nominated_node_name = self.pod.status.nominated_node_name
        self._addresses(status)
        initialised = self.initialised()
        for container, role in self.containers:
            entry = self._container_status(container, role, initialised)
            if role in (Role.INIT, Role.SIDECAR):
                status.init_container_statuses.append(entry)
            elif role is Role.APP:
                status.container_statuses.append(entry)
            else:
                status.ephemeral_container_statuses.append(entry)
        again = {entry.name for entry in status.container_statuses if entry.last_state.HasField("terminated")}
        phase = phase_after(self.before.phase, self._phase(ended, over, initialised, again))
        status.phase = phase.value
        if phase is Phase.FAILED and not self.latest:
            # Refused, or over before anything began: there is no state of a container to tell of.
            del status.init_container_statuses[:], status.container_statuses[:]
        if ended is not None:
            status.reason, status.message = ended
        elif self.before.reason and phase.terminal:
            status.reason, status.message = self.before.reason, self.before.message
        self._conditions(status, phase, initialised, ended)
        return status

    def _addresses(self, status: core_v1_pb2.PodStatus) -> None:
        if self.node.ips:
            status.host_ip = self.node.ips[0]
            for ip in self.node.ips:
                status.host_ips.add(ip=ip)
        current = self.observed.current
        if self.pod.spec.host_network:
            ips: tuple[str, ...] = self.node.ips if current is not None or self.before.pod_ip else ()
        elif current is not None:
            ips = current.ips
        else:
            # A finished pod keeps its address in the status, as in Kubernetes; a new sandbox replaces it.
            ips = tuple(entry.ip for entry in self.before.pod_ips)
        if ips:
            status.pod_ip = ips[0]
            for ip in ips:
                status.pod_ips.add(ip=ip)

    # -- containers

    def _container_status(
        self, container: core_v1_pb2.Container, role: Role, initialised: bool
    ) -> core_v1_pb2.ContainerStatus:
        history = self.histories.get(container.name, [])
        newest = history[0] if history else None
        entry = core_v1_pb2.ContainerStatus(name=container.name, image=container.image)
        entry.restart_count = newest.attempt if newest is not None else self.restart_count(container.name, role)
        entry.started = False
        if newest is not None and (chosen := newest.annotations.get(m.STOP_SIGNAL)):
            entry.stop_signal = chosen
        if newest is not None:
            entry.image = newest.image or container.image
            entry.image_id = newest.image_id
            entry.container_id = self._container_id(newest)
        applied = self.memory.applied.get(newest.id) if newest is not None else None
        add_details(entry, container, role, newest, applied)
        previous = history[1:]
        waiting = self.waiting.get(container.name)
        if newest is None or newest.state is ContainerState.CREATED:
            entry.state.waiting.CopyFrom(self._waiting(waiting, role, initialised))
            if newest is not None:
                entry.container_id = ""
        elif newest.state is ContainerState.RUNNING:
            if newest.id in self.memory.hooks_pending:
                entry.state.waiting.reason = "ContainerCreating"
            else:
                entry.state.running.started_at.CopyFrom(timestamp(newest.started_at or newest.created_at))
            entry.started = started(container, newest, self.memory)
            entry.ready = role is not Role.INIT and ready(container, newest, self.memory)
        elif waiting is not None:
            entry.state.waiting.reason, entry.state.waiting.message = waiting.reason, waiting.message
            previous = history
        else:
            entry.state.terminated.CopyFrom(self._terminated(newest))
            entry.ready = role is Role.INIT and newest.exit_code == 0
        for old in previous[:1]:
            if old.state is ContainerState.EXITED:
                entry.last_state.terminated.CopyFrom(self._terminated(old))
        if not entry.HasField("last_state"):
            self._keep_last_state(entry)
        return entry

    def _keep_last_state(self, entry: core_v1_pb2.ContainerStatus) -> None:
        """The runtime no longer has the container before; the last status does."""
        for status in self._statuses_before():
            same = status.name == entry.name and status.restart_count == entry.restart_count
            if same and status.last_state.HasField("terminated"):
                entry.last_state.CopyFrom(status.last_state)

    def _waiting(self, waiting: m.Waiting | None, role: Role, initialised: bool) -> core_v1_pb2.ContainerStateWaiting:
        if waiting is not None:
            return core_v1_pb2.ContainerStateWaiting(reason=waiting.reason, message=waiting.message)
        has_init = any(r in (Role.INIT, Role.SIDECAR) for _, r in self.containers)
        if has_init and role is not Role.EPHEMERAL and not initialised:
            return core_v1_pb2.ContainerStateWaiting(reason="PodInitializing")
        return core_v1_pb2.ContainerStateWaiting(reason="ContainerCreating")

    def _container_id(self, status: ContainerStatus) -> str:
        if not status.id or "://" in status.id:
            return status.id
        return f"{self.node.runtime}://{status.id}"

    def _terminated(self, status: ContainerStatus) -> core_v1_pb2.ContainerStateTerminated:
        state = core_v1_pb2.ContainerStateTerminated(
            exit_code=status.exit_code,
            reason=status.reason or ("Completed" if status.exit_code == 0 else "Error"),
            message=self.memory.termination_messages.get(status.id, "") or status.message,
            container_id=self._container_id(status),
        )
        if status.state is ContainerState.UNKNOWN:
            state.exit_code, state.reason, state.message = 137, "ContainerStatusUnknown", LOST_MESSAGE
        if status.started_at:
            state.started_at.CopyFrom(timestamp(status.started_at))
        if status.finished_at:
            state.finished_at.CopyFrom(timestamp(status.finished_at))
        return state

    # -- phase and conditions

    def _phase(self, ended: tuple[str, str] | None, over: bool, initialised: bool, again: Collection[str]) -> Phase:
        """`again`: the containers that have run before; what waits to do so again makes no pod Pending."""
        alive = bool(self.observed.alive())
        if ended is not None and not alive:
            return Phase.FAILED
        running = waiting = stopped = succeeded = restarting = 0
        for container, role in self.containers:
            status = self.latest.get(container.name)
            dead = status is not None and status.state is ContainerState.EXITED
            if role in (Role.INIT, Role.SIDECAR):
                if status is None or role is Role.SIDECAR or initialised or alive or not dead:
                    continue
                if status.exit_code != 0 and (over or not should_restart(self.pod, container, role, status)):
                    return Phase.FAILED
                continue
            if role is not Role.APP:
                continue
            if status is None or status.state is ContainerState.CREATED:
                waiting += container.name not in again
                stopped += container.name in again
                restarting += container.name in again
            elif not dead:
                running += 1
            else:
                stopped += 1
                succeeded += status.exit_code == 0
        if over:
            return Phase.SUCCEEDED if stopped and succeeded == stopped and not waiting else Phase.FAILED
        if not initialised or waiting:
            # As the kubelet: waiting for the first time means Pending, also when another container runs already.
            return Phase.PENDING
        if running or alive or restarting:
            return Phase.RUNNING
        for container, role in self.containers:
            status = self.latest.get(container.name)
            if role is Role.APP and status is not None and should_restart(self.pod, container, role, status):
                return Phase.RUNNING
        return Phase.SUCCEEDED if succeeded == stopped else Phase.FAILED

    def _conditions(
        self, status: core_v1_pb2.PodStatus, phase: Phase, initialised: bool, ended: tuple[str, str] | None
    ) -> None:
        current = self.observed.current
        self._condition(status, "PodReadyToStartContainers", current is not None)
        if phase is Phase.SUCCEEDED:
            self._condition(status, "Initialized", True, "PodCompleted")
            self._condition(status, "Ready", False, "PodCompleted")
            self._condition(status, "ContainersReady", False, "PodCompleted")
        else:
            incomplete = [] if initialised else self._incomplete_init(status)
            if incomplete:
                message = f"containers with incomplete status: [{' '.join(incomplete)}]"
                self._condition(status, "Initialized", False, "ContainersNotInitialized", message)
            else:
                self._condition(status, "Initialized", True)
            if phase is Phase.FAILED:
                self._condition(status, "Ready", False, "PodFailed")
                self._condition(status, "ContainersReady", False, "PodFailed")
            else:
                self._readiness(status)
        self._condition(status, "PodScheduled", True)
        if phase is Phase.RUNNING or phase is Phase.PENDING:
            self._resize_conditions(status)
        for condition in self.pod.status.conditions:
            if condition.type not in OWN_CONDITIONS and condition.type != "DisruptionTarget":
                status.conditions.append(condition)
        if ended is not None and ended[0] == "Evicted":
            self._condition(status, "DisruptionTarget", True, "TerminationByKubelet", ended[1])
        else:
            status.conditions.extend(c for c in self.pod.status.conditions if c.type == "DisruptionTarget")

    def to_resize(self) -> list[tuple[core_v1_pb2.Container, ContainerStatus]]:
        """Running containers that have something else than what they are allocated."""
        found = []
        for container, role in self.containers:
            newest = self.latest.get(container.name)
            if role not in (Role.APP, Role.SIDECAR) or newest is None or newest.state is not ContainerState.RUNNING:
                continue
            applied = self.memory.applied.get(newest.id)
            if applied is not None and not same(applied, container.resources):
                found.append((container, newest))
        return found

    def _resize_conditions(self, status: core_v1_pb2.PodStatus) -> None:
        if self.memory.resize_pending is not None:
            self._condition(status, PENDING, True, *self.memory.resize_pending)
        if self.to_resize():
            failure = self.memory.resize_failure
            reason, message = ("Error", failure.message) if failure is not None else ("", "")
            self._condition(status, IN_PROGRESS, True, reason, message)

    def _incomplete_init(self, status: core_v1_pb2.PodStatus) -> list[str]:
        sidecars = {container.name for container, role in self.containers if role is Role.SIDECAR}
        return [
            entry.name
            for entry in status.init_container_statuses
            if not (entry.started if entry.name in sidecars else entry.ready)
        ]

    def _readiness(self, status: core_v1_pb2.PodStatus) -> None:
        sidecars = {container.name for container, role in self.containers if role is Role.SIDECAR}
        unready = [e.name for e in status.init_container_statuses if e.name in sidecars and not e.ready]
        unready += [e.name for e in status.container_statuses if not e.ready]
        if unready:
            message = f"containers with unready status: [{' '.join(unready)}]"
            self._condition(status, "Ready", False, "ContainersNotReady", message)
            self._condition(status, "ContainersReady", False, "ContainersNotReady", message)
            return
        gates = []
        conditions = {c.type: c.status for c in self.pod.status.conditions}
        for gate in self.pod.spec.readiness_gates:
            value = conditions.get(gate.condition_type)
            if value is None:
                gates.append(f'corresponding condition of pod readiness gate "{gate.condition_type}" does not exist.')
            elif value != "True":
                gates.append(f'the status of pod readiness gate "{gate.condition_type}" is not "True", but {value}')
        if gates:
            self._condition(status, "Ready", False, "ReadinessGatesNotReady", ", ".join(gates))
        else:
            self._condition(status, "Ready", True)
        self._condition(status, "ContainersReady", True)

    def _condition(
        self, status: core_v1_pb2.PodStatus, type_: str, value: bool, reason: str = "", message: str = ""
    ) -> None:
        text = "True" if value else "False"
        condition = status.conditions.add(type=type_, status=text, reason=reason, message=message)
        condition.observed_generation = self.pod.metadata.generation
        condition.last_transition_time.CopyFrom(timestamp(self.now))
        for source in (self.before.conditions, self.pod.status.conditions):
            for old in source:
                if old.type == type_ and old.status == text and old.HasField("last_transition_time"):
                    condition.last_transition_time.CopyFrom(old.last_transition_time)
                    return


def lost(status: core_v1_pb2.ContainerStatus, now: float) -> ContainerStatus:
    """A container known from the last status only: as it ended, or as one that got lost while it ran."""
    terminated = status.state.terminated
    if status.state.HasField("waiting") and status.last_state.HasField("terminated"):
        terminated = status.last_state.terminated
    known = terminated.HasField("finished_at")
    return ContainerStatus(
        id=status.container_id,
        sandbox_id="",
        name=status.name,
        attempt=status.restart_count,
        state=ContainerState.EXITED,
        created_at=float(terminated.started_at.seconds),
        started_at=float(terminated.started_at.seconds),
        finished_at=float(terminated.finished_at.seconds) if known else now,
        exit_code=terminated.exit_code if known else 137,
        reason=terminated.reason if known else "ContainerStatusUnknown",
        message=terminated.message if known else LOST_MESSAGE,
        image=status.image,
        image_id=status.image_id,
        log_path="",
        labels={},
        annotations={},
    )
