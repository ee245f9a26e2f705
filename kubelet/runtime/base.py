"""The runtime interface: what the agent asks of a container runtime, in CRI's terms (k8s.io/cri-api, runtime v1).

Implementations: `cri` (containerd over its gRPC socket), `docker`, `hollow` (in memory, virtual time). One contract suite,
tests/contract/test_runtime.py, runs on each. Callers: `kubelet.pods.worker` (actions), `kubelet.streams` (sessions) and the
agent's relist. Every call is idempotent where CRI says so: stopping what is stopped and removing what is gone succeed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

# Labels by which the agent finds its own pods and containers again after a restart (the names that the kubelet uses).
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"


class RuntimeFailure(Exception):
    """A call failed. `reason` is one of the kubelet's words where it has one (ErrImagePull, CreateContainerError,
    RunContainerError, ...), else "". `retryable` is false when the same call can't ever succeed."""

    def __init__(self, message: str, *, reason: str = "", retryable: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.retryable = retryable


class RuntimeNotFound(RuntimeFailure):
    """No such sandbox, container or image."""


class SandboxState(Enum):
    READY = "ready"
    NOT_READY = "not ready"


class ContainerState(Enum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PortMapping:
    container_port: int
    host_port: int
    protocol: str = "TCP"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class DNSConfig:
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """The effective security context of one container (or, in a sandbox, of the pod), after pod-level defaults."""

    run_as_user: int | None = None
    run_as_username: str = ""
    run_as_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    privileged: bool = False
    readonly_rootfs: bool = False
    allow_privilege_escalation: bool = True
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    seccomp_profile: str = "runtime/default"  # "runtime/default", "unconfined", "localhost/PATH"
    apparmor_profile: str = ""  # "", "runtime/default", "unconfined", "localhost/NAME"
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    share_process_namespace: bool = False
    processes_of: str = ""  # id of a container whose process namespace this one shares
    masked_paths_off: bool = False  # procMount: Unmasked


@dataclass(frozen=True, slots=True)
class Resources:
    """As cgroup values; 0 means "not set". CPU quota and period in microseconds."""

    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    memory_limit_bytes: int = 0
    oom_score_adj: int = 0
    oom_group: bool = False  # cgroup v2: out of memory, all processes of the container die, not one of them


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    namespace: str
    name: str
    uid: str
    attempt: int
    hostname: str
    log_directory: str
    cgroup_parent: str = ""
    dns: DNSConfig | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    security: SecurityContext = SecurityContext()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()  # the whole pod's limits
    overhead: Resources = Resources()
    runtime_handler: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    host_path: str
    container_path: str
    readonly: bool = False
    propagation: str = "private"  # "private", "host-to-container", "bidirectional"


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    name: str
    attempt: int  # the restart count
    image: str  # the resolved reference or id from `image_status`
    user_image: str  # as the manifest writes it
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    log_path: str = ""  # relative to the sandbox's log_directory; CRI log format
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    resources: Resources = Resources()
    security: SecurityContext = SecurityContext()


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    id: str
    namespace: str
    name: str
    uid: str
    attempt: int
    state: SandboxState
    created_at: float  # Unix seconds
    ips: tuple[str, ...]  # empty for host network
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ContainerUser:
    """Whom its first process began as."""

    uid: int
    gid: int
    supplemental_groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    id: str
    sandbox_id: str
    name: str
    attempt: int
    state: ContainerState
    created_at: float
    started_at: float
    finished_at: float
    exit_code: int
    reason: str  # "Completed", "Error", "OOMKilled", "StartError"...
    message: str
    image: str
    image_id: str  # repo digest where there is one, as in ContainerStatus.imageID
    log_path: str  # absolute
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    user: ContainerUser | None = None  # where the runtime tells (containerd from 2.0 on)


@dataclass(frozen=True, slots=True)
class Image:
    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size_bytes: int
    user: str = ""  # numeric uid or name from the image's config, for runAsNonRoot
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    username: str = ""
    password: str = ""
    identity_token: str = ""


@dataclass(frozen=True, slots=True)
class ExecResult:
    stdout: bytes
    stderr: bytes
    exit_code: int


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """A hint that something changed; the receiver looks at the state. kind: "started", "exited", "oom", "deleted",
    "created"; container_id may be a sandbox's."""

    kind: str
    container_id: str
    sandbox_id: str = ""


@dataclass(frozen=True, slots=True)
class ContainerStats:
    container_id: str
    name: str
    sandbox_id: str
    cpu_usage_core_ns: int  # cumulative
    memory_working_set_bytes: int
    memory_usage_bytes: int
    writable_layer_bytes: int
    timestamp: float


class ByteStream(Protocol):
    """One duplex session (exec, attach, or one port). `send_eof` half-closes."""

    async def send(self, data: bytes) -> None: ...
    async def send_eof(self) -> None: ...
    async def resize(self, width: int, height: int) -> None: ...
    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(1, stdout) and (2, stderr) pieces until the other side is done; a port yields only 1."""
        ...

    async def wait(self) -> int:
        """Exit code (0 for attach and ports), once `output` has been read to its end. Raises RuntimeFailure when the session
        broke or was closed first, or the program could not be started."""
        ...

    async def close(self) -> None: ...


class Runtime(Protocol):
    name: str

    async def version(self) -> tuple[str, str]:
        """(runtime name, version), e.g. ("containerd", "1.6.20")."""
        ...

    async def ready(self) -> str:
        """Empty when runtime and network are ready, else why not, for the node's Ready condition."""
        ...

    async def run_sandbox(self, config: SandboxConfig) -> str: ...
    async def stop_sandbox(self, sandbox_id: str) -> None: ...
    async def remove_sandbox(self, sandbox_id: str) -> None: ...
    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus: ...
    async def list_sandboxes(self) -> Sequence[SandboxStatus]:
        """All of them; `ips` may be empty here (CRI's list has none): ask sandbox_status."""
        ...

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str: ...
    async def start_container(self, container_id: str) -> None: ...
    async def stop_container(self, container_id: str, timeout_s: float, stop_signal: str = "") -> None:
        """Stop signal ("": the image's, else SIGTERM), then SIGKILL after timeout_s. Returns when it has exited."""
        ...

    async def remove_container(self, container_id: str) -> None: ...
    async def container_status(self, container_id: str) -> ContainerStatus: ...
    async def list_containers(self) -> Sequence[ContainerStatus]:
        """All of them, exited ones included; exit details may be missing here: ask container_status."""
        ...

    async def update_resources(self, container_id: str, resources: Resources) -> None: ...
    async def reopen_log(self, container_id: str) -> None:
        """After the agent renamed the log file (rotation)."""
        ...

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout_s: float) -> ExecResult:
        """Raises TimeoutError after timeout_s; output is cut at 16 MiB."""
        ...

    async def exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> ByteStream: ...
    async def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> ByteStream: ...
    async def port_forward(self, sandbox_id: str, port: int, address: str = "") -> ByteStream:
        """To the pod's localhost, from within its network; or to its `address`, from the node's."""
        ...

    async def image_status(self, reference: str) -> Image | None: ...
    async def pull_image(self, reference: str, auth: RegistryAuth | None, sandbox: SandboxConfig | None = None) -> str:
        """The image's id. Raises RuntimeFailure with reason ErrImagePull (or InvalidImageName, not retryable)."""
        ...

    async def pulling_bytes(self) -> tuple[int, int]:
        """(fetched, expected) of all images that are being pulled at this moment; zeros when nobody can tell."""
        ...

    async def list_images(self) -> Sequence[Image]: ...
    async def remove_image(self, reference: str) -> None: ...
    async def image_fs_bytes(self) -> tuple[str, int]:
        """(mount point, bytes used by images and layers)."""
        ...

    async def stats(self) -> Sequence[ContainerStats]: ...
    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Until closed; raises RuntimeFailure when the connection breaks (the caller relists and asks again)."""
        ...

    async def close(self) -> None: ...
