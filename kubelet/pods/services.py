"""What all pod workers of a node share, as small interfaces with the null versions that a hollow node uses.

Made by `kubelet.agent`; used by `worker`, `images`, `hooks` and `probes`. Start slots bound how many sandboxes and
containers are being started at the same time: containers go before sandboxes, so that pods already begun come up before
others begin.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from kubelet.pods.model import NodeFacts
from kubelet.runtime.base import DNSConfig, Mount, Resources, Runtime
from wherry.api.context import Env
from wherry.pb import core_v1_pb2

M = TypeVar("M", bound=Message)


class ConfigError(Exception):
    """What the spec asks for cannot be had now; shown as the container's waiting reason, and retried."""

    def __init__(self, message: str, reason: str = "CreateContainerConfigError") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class VolumeError(Exception):
    """A volume cannot be prepared now; retried."""

    def __init__(self, message: str, reason: str = "FailedMount") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class Objects(Protocol):
    """ConfigMaps and Secrets that pods refer to. Raises APIError (NotFound when there is none)."""

    async def get(self, cls: type[M], namespace: str, name: str) -> M: ...


class Tokens(Protocol):
    """Service account tokens, bound to their pod. Raises APIError."""

    async def get(self, pod: core_v1_pb2.Pod, audience: str, seconds: int) -> str: ...
    def forget(self, pod_uid: str) -> None: ...


class Volumes(Protocol):
    async def prepare(self, pod: core_v1_pb2.Pod) -> None:
        """Idempotent; also brings the contents up to date. Raises VolumeError."""
        ...

    def mounts(
        self, pod: core_v1_pb2.Pod, container: core_v1_pb2.Container, env: Sequence[tuple[str, str]]
    ) -> list[Mount]:
        """Raises ConfigError."""
        ...

    async def teardown(self, pod_uid: str) -> None:
        """Idempotent; needs no pod object."""
        ...


class Files(Protocol):
    """The agent's own files for a pod: /etc/hosts, termination messages, logs."""

    def log_directory(self, pod: core_v1_pb2.Pod) -> str: ...
    def hosts_mount(self, pod: core_v1_pb2.Pod, ips: Sequence[str], names: Sequence[str]) -> Mount | None: ...
    def termination_file(self, pod: core_v1_pb2.Pod, container: str, attempt: int) -> str:
        """A fresh empty file on the host, or "" where there are no files."""
        ...

    def read_termination(self, path: str, log_path: str) -> str:
        """`log_path` "" unless the log is to stand in for a missing message."""
        ...

    def remove_log(self, log_path: str) -> None: ...
    def remove_pod(self, pod: core_v1_pb2.Pod) -> None: ...


class Cgroups(Protocol):
    def parent_of(self, pod: core_v1_pb2.Pod) -> str: ...
    def create(self, pod: core_v1_pb2.Pod, limits: Resources) -> None: ...
    def remove(self, pod: core_v1_pb2.Pod) -> None: ...


class Events(Protocol):
    def emit(self, pod: core_v1_pb2.Pod, type: str, reason: str, message: str, field_path: str = "") -> None:
        """Never waits, never fails."""
        ...


class Statuses(Protocol):
    def put(self, pod: core_v1_pb2.Pod, status: core_v1_pb2.PodStatus, *, terminated: bool) -> None: ...


class Drains(Protocol):
    async def drained(self, uid: str) -> None:
        """Returns when no node leads new connections to the pod, or after a bounded time."""
        ...


class ProbeTransport(Protocol):
    """How network probes and hooks reach a pod. Each returns (success, what was seen)."""

    async def http(
        self, container_id: str, action: core_v1_pb2.HTTPGetAction, host: str, port: int, timeout_s: float
    ) -> tuple[bool, str]: ...
    async def tcp(self, container_id: str, host: str, port: int, timeout_s: float) -> tuple[bool, str]: ...
    async def grpc(
        self, container_id: str, host: str, port: int, service: str, timeout_s: float
    ) -> tuple[bool, str]: ...


class StartSlots:
    """At most `limit` holders; a released slot goes to the longest waiting container, then to the longest waiting sandbox.

    Invariant: nobody waits while a slot is free.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit: {limit} simultaneous starts; it must be at least 1")
        self._free = limit
        self._waiting: tuple[deque[asyncio.Future[None]], deque[asyncio.Future[None]]] = (deque(), deque())

    @asynccontextmanager
    async def container(self) -> AsyncIterator[None]:
        await self._acquire(0)
        try:
            yield
        finally:
            self._release()

    @asynccontextmanager
    async def sandbox(self) -> AsyncIterator[None]:
        await self._acquire(1)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, rank: int) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[rank].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # it was handed to us in the very moment
            else:
                self._waiting[rank].remove(turn)
            raise

    def _release(self) -> None:
        for queue in self._waiting:
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1

    def check_invariants(self) -> None:
        assert self._free == 0 or not any(not turn.done() for queue in self._waiting for turn in queue)


@dataclass(slots=True)
class NodeSettings:
    """Facts and settings of this node; the control plane fills in the DNS part."""

    facts: NodeFacts
    memory_bytes: int = 1 << 33
    allocatable: dict[str, str] = field(default_factory=dict)  # for resourceFieldRef without a limit
    cluster_dns: str = ""
    cluster_domain: str = "cluster.local"
    host_dns: DNSConfig = field(default_factory=DNSConfig)
    unified_cgroups: bool = False  # version 2


def no_service_env(pod: core_v1_pb2.Pod) -> Mapping[str, str]:
    """Where this agent does not route Services."""
    return {}


@dataclass(slots=True)
class PodServices:
    env: Env
    runtime: Runtime
    node: NodeSettings
    objects: Objects
    volumes: Volumes
    files: Files
    cgroups: Cgroups
    events: Events
    statuses: Statuses
    probes: ProbeTransport
    starts: StartSlots
    pulls: asyncio.Semaphore
    # The variables that tell a pod of Services; raises ConfigError while these are not known.
    service_env: Callable[[core_v1_pb2.Pod], Mapping[str, str]] = no_service_env
    out_of_memory: Callable[[str], bool] = lambda container_id: False  # whether the kernel killed a container for that
    # Called with a pod's addresses before its first container starts: returns when network policies are in force.
    isolate: Callable[[core_v1_pb2.Pod, Sequence[str]], Awaitable[None]] | None = None
    drain: Drains | None = None  # where somebody else routes Services, nobody can tell


class NoVolumes:
    async def prepare(self, pod: core_v1_pb2.Pod) -> None: ...

    def mounts(
        self, pod: core_v1_pb2.Pod, container: core_v1_pb2.Container, env: Sequence[tuple[str, str]]
    ) -> list[Mount]:
        return []

    async def teardown(self, pod_uid: str) -> None: ...


class NoFiles:
    def log_directory(self, pod: core_v1_pb2.Pod) -> str:
        return "/nowhere"

    def hosts_mount(self, pod: core_v1_pb2.Pod, ips: Sequence[str], names: Sequence[str]) -> Mount | None:
        return None

    def termination_file(self, pod: core_v1_pb2.Pod, container: str, attempt: int) -> str:
        return ""

    def read_termination(self, path: str, log_path: str) -> str:
        return ""

    def remove_log(self, log_path: str) -> None: ...
    def remove_pod(self, pod: core_v1_pb2.Pod) -> None: ...


class NoCgroups:
    def parent_of(self, pod: core_v1_pb2.Pod) -> str:
        return ""

    def create(self, pod: core_v1_pb2.Pod, limits: Resources) -> None: ...
    def remove(self, pod: core_v1_pb2.Pod) -> None: ...
