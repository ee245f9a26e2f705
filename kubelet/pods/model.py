"""The values that go into and out of `plan`: what was observed, what the agent remembers, the actions.

All plain data. `PodMemory` is written by the worker only (results of its own actions); `plan` and `report` read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kubelet.pods.states import Role, Stage
from kubelet.runtime.base import ContainerState, ContainerStatus, Image, SandboxState, SandboxStatus
from wherry.pb import core_v1_pb2

# Annotations that the agent puts on sandboxes and containers, so that a restarted agent knows what it would otherwise have
# forgotten.
NODE = "wherry.dev/node"  # on sandboxes: a runtime may hold those of another agent, or of a kubelet
RUNTIME_HANDLER = "wherry.dev/runtime-handler"  # on sandboxes: of the pod's RuntimeClass, or ""
SPEC_HASH = "wherry.dev/container-hash"
RESTART_BACKOFF = "wherry.dev/restart-backoff-seconds"  # how long to wait once this one has exited
GRACE_PERIOD = "wherry.dev/grace-period-seconds"
PRE_STOP = "wherry.dev/pre-stop"  # the hook, base64 of the message: orphans are stopped without their pod object
STOP_SIGNAL = "wherry.dev/stop-signal"
TERMINATION_MESSAGE = "wherry.dev/termination-message-host-path"
TERMINATION_POLICY = "wherry.dev/termination-message-policy"

CRASH_BACKOFF_FIRST_S = 10.0
CRASH_BACKOFF_MAX_S = 300.0
CRASH_BACKOFF_RESET_S = 600.0  # a container that ran this long starts afresh
PULL_BACKOFF_FIRST_S = 10.0
PULL_BACKOFF_MAX_S = 300.0
RETRY_FIRST_S = (
    1.0  # sandbox, volumes, configuration: often a matter of moments, so sooner than the kubelet's ten seconds
)
RETRY_MAX_S = 15.0


@dataclass(frozen=True, slots=True)
class Failure:
    """The last of `count` failures in a row of one step."""

    reason: str
    message: str
    at: float
    count: int = 1
    retryable: bool = True

    def retry_at(self, first_s: float = RETRY_FIRST_S, cap_s: float = RETRY_MAX_S) -> float:
        return self.at + min(first_s * float(1 << min(self.count - 1, 16)), cap_s)


@dataclass(frozen=True, slots=True)
class ProbeState:
    """Results for one container id. None: not known yet."""

    started: bool | None = None  # startup probe
    ready: bool | None = None
    liveness_failed: str = ""  # the kind of probe that asks for the kill: "liveness" or "startup"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What plan and report need to know of the node."""

    name: str
    ips: tuple[str, ...] = ()
    runtime: str = "containerd"  # prefix of container ids in status


@dataclass(frozen=True, slots=True)
class Observed:
    """What the runtime has of one pod: all sandboxes and containers with its uid."""

    sandboxes: tuple[SandboxStatus, ...] = ()
    containers: tuple[ContainerStatus, ...] = ()

    @property
    def current(self) -> SandboxStatus | None:
        """The newest sandbox, if it is ready."""
        newest = max(self.sandboxes, key=lambda s: (s.attempt, s.created_at, s.id), default=None)
        return newest if newest is not None and newest.state is SandboxState.READY else None

    def alive(self) -> list[ContainerStatus]:
        return [c for c in self.containers if c.state in (ContainerState.RUNNING, ContainerState.UNKNOWN)]


@dataclass(slots=True)
class PodMemory:
    """What the agent knows of a pod beyond spec and runtime."""

    seen_at: float
    status: core_v1_pb2.PodStatus | None = None  # as last reported, or as the API had it when we first saw the pod
    images: dict[str, Image] = field(default_factory=dict)  # by reference; forgotten when a container is made of it
    pull_failures: dict[str, Failure] = field(default_factory=dict)  # by reference
    create_failures: dict[str, Failure] = field(default_factory=dict)  # by container name
    start_failures: dict[str, Failure] = field(default_factory=dict)  # by container id
    sandbox_failure: Failure | None = None
    stopped_sandboxes: set[str] = field(default_factory=set)
    volumes_ready: bool = False
    volume_failure: Failure | None = None
    probes: dict[str, ProbeState] = field(default_factory=dict)  # by container id
    hooks_pending: set[str] = field(default_factory=set)  # ids whose postStart hook is running
    hooks_failed: set[str] = field(default_factory=set)  # ids to be killed for it
    termination_messages: dict[str, str] = field(default_factory=dict)  # by container id
    allocated: dict[str, core_v1_pb2.ResourceRequirements] = field(default_factory=dict)  # by container name
    applied: dict[str, core_v1_pb2.ResourceRequirements] = field(default_factory=dict)  # by container id
    resize_pending: tuple[str, str] | None = None  # reason and message: what is wanted is not allocated
    resize_failure: Failure | None = None
    resize_kills: set[str] = field(default_factory=set)  # ids that end only to begin anew with other resources
    ended: tuple[str, str] | None = None  # reason and message: evicted, deadline
    grace_s: float | None = None  # overrides the pod's when it was evicted or deleted by force
    kill_by: float | None = None  # when the grace period of a pod that is being stopped is over
    drained: bool = True  # nobody leads new connections to it, as far as anybody can tell; False until then
    removed: bool = False  # no longer this node's: no deletionTimestamp, no report
    cleaned: bool = False  # volumes and cgroup are gone
    purged: bool = False  # ... and directories and logs


@dataclass(frozen=True, slots=True)
class PrepareVolumes:
    key: str = "volumes"


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    attempt: int
    key: str = "sandbox"


@dataclass(frozen=True, slots=True)
class EnsureImage:
    container: str
    role: Role
    image: str
    policy: str

    @property
    def key(self) -> str:
        return f"image/{self.image}"


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Create and start. `backoff_s` goes into RESTART_BACKOFF."""

    container: str
    role: Role
    attempt: int
    sandbox_id: str
    image: Image
    backoff_s: float

    @property
    def key(self) -> str:
        return f"start/{self.container}"


@dataclass(frozen=True, slots=True)
class StartCreated:
    """The agent died between create and start."""

    container: str
    role: Role
    container_id: str

    @property
    def key(self) -> str:
        return f"start/{self.container}"


@dataclass(frozen=True, slots=True)
class Drain:
    """Wait until no node leads new connections to the pod."""

    key: str = "drain"


@dataclass(frozen=True, slots=True)
class KillContainer:
    """preStop hook, stop signal, SIGKILL at `deadline` (Unix time). A second one with an earlier deadline replaces it."""

    container: str
    container_id: str
    deadline: float
    message: str
    hook: bool = True

    @property
    def key(self) -> str:
        return f"kill/{self.container_id}"


@dataclass(frozen=True, slots=True)
class ResizeContainers:
    """Give these running containers, and the pod, what is allocated."""

    container_ids: tuple[str, ...]
    key: str = "resize"


@dataclass(frozen=True, slots=True)
class StopSandbox:
    sandbox_id: str

    @property
    def key(self) -> str:
        return f"stop/{self.sandbox_id}"


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    """Also removes the containers in it."""

    sandbox_id: str

    @property
    def key(self) -> str:
        return f"remove/{self.sandbox_id}"


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    container_id: str
    log_path: str

    @property
    def key(self) -> str:
        return f"remove/{self.container_id}"


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Unmount volumes and remove the pod's cgroup; with `everything` also its directories and logs."""

    everything: bool
    key: str = "cleanup"


Action = (
    PrepareVolumes
    | CreateSandbox
    | EnsureImage
    | StartContainer
    | StartCreated
    | Drain
    | KillContainer
    | ResizeContainers
    | StopSandbox
    | RemoveSandbox
    | RemoveContainer
    | Cleanup
)


@dataclass(frozen=True, slots=True)
class PlanEvent:
    """An event that the plan itself gives rise to; the worker emits each `once` key a single time."""

    once: str
    type: str
    reason: str
    message: str
    field_path: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container is not running."""

    reason: str
    message: str = ""


@dataclass(slots=True)
class Plan:
    stage: Stage
    actions: list[Action]
    status: core_v1_pb2.PodStatus
    wake_at: float | None
    events: list[PlanEvent]
    ended: tuple[str, str] | None
    kill_by: float | None


def containers_of(spec: core_v1_pb2.PodSpec) -> Iterator[tuple[core_v1_pb2.Container, Role]]:
    """Every container with its role, in the order in which they start. Ephemeral ones come as plain containers."""
    for container in spec.init_containers:
        yield container, Role.SIDECAR if container.restart_policy == "Always" else Role.INIT
    for container in spec.containers:
        yield container, Role.APP
    for ephemeral in spec.ephemeral_containers:
        yield as_container(ephemeral), Role.EPHEMERAL


def as_container(ephemeral: core_v1_pb2.EphemeralContainer) -> core_v1_pb2.Container:
    """An ephemeral container's common part has the fields and numbers of Container."""
    return core_v1_pb2.Container.FromString(ephemeral.ephemeral_container_common.SerializeToString())
