"""A container runtime in memory, on the loop's clock: for tests and for simulating thousands of nodes.

How a container behaves is said by the pod's annotation `hollow.wherry.dev/CONTAINER` (or `hollow.wherry.dev/all`), or by
an argument that starts with "hollow:", as comma-separated words:

    exit-after=5, exit-code=1   ends by itself after 5 s (0: at once) with that code
    oom-after=5                 is killed by the kernel after 5 s
    start-error                 cannot be started
    ignore-term                 ends only when killed
    stop-after=2                takes 2 s to end once asked to
    never-ready, ready-after=3  what probes of every kind say
    unhealthy-after=60          probes fail from then on

Images exist unless `missing_images` has them; `pull_s` and `images` say how long a pull takes. Everything else is like
containerd: states, ids, events, exit codes.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kubelet.runtime.base import (
    ByteStream,
    ContainerConfig,
    ContainerState,
    ContainerStats,
    ContainerStatus,
    ExecResult,
    Image,
    RegistryAuth,
    Resources,
    RuntimeEvent,
    RuntimeFailure,
    RuntimeNotFound,
    SandboxConfig,
    SandboxState,
    SandboxStatus,
)
from kubelet.runtime.hollow_sessions import HollowShell, HollowStream, simulate
from wherry.api.context import Env
from wherry.api.times import format_seconds

IMAGE_BYTES = 1 << 20
BEHAVIOUR = "hollow.wherry.dev/"
EVENT_QUEUE = 4096  # a reader that falls this far behind is dropped and relists


@dataclass(slots=True)
class Latency:
    """Seconds. The defaults are about a third of containerd's on the test machines."""

    sandbox_s: float = 0.1
    create_s: float = 0.02
    start_s: float = 0.03
    stop_s: float = 0.01
    remove_s: float = 0.0
    pull_s: float = 1.0


@dataclass(slots=True)
class _Container:
    status: ContainerStatus
    config: ContainerConfig
    behaviour: Mapping[str, str]
    timer: asyncio.TimerHandle | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Sandbox:
    status: SandboxStatus
    config: SandboxConfig


def parse_behaviour(text: str) -> dict[str, str]:
    words = (word.strip().partition("=") for word in text.split(",") if word.strip())
    return {name: value for name, _, value in words}


class HollowRuntime:
    """`Runtime` in memory. Invariant: every container's sandbox exists; an exited container has no timer."""

    name = "hollow"

    def __init__(
        self,
        env: Env,
        *,
        latency: Latency | None = None,
        images: Mapping[str, float] | None = None,
        missing_images: Sequence[str] = (),
        subnet: str = "10.244.0",
        write_logs: bool = False,
    ) -> None:
        """`images`: seconds that pulling one takes, where it is not `latency.pull_s`. `subnet`: the first three numbers
        of the addresses of pods."""
        self._env = env
        self.latency = latency or Latency()
        self._pull_times = dict(images or {})
        self._pulling: dict[object, tuple[float, float]] = {}  # a pull -> when it began, how long it takes
        self.missing_images = set(missing_images)
        self._subnet = subnet
        self._write_logs = write_logs
        self._present: dict[str, Image] = {}
        self._sandboxes: dict[str, _Sandbox] = {}
        self._containers: dict[str, _Container] = {}
        self._ids = itertools.count(1)
        self._free_addresses: list[int] = []
        self._addresses = itertools.count(2)
        self._readers: list[asyncio.Queue[RuntimeEvent | None]] = []
        self.not_ready_message = ""

    # -- the runtime as a whole

    async def version(self) -> tuple[str, str]:
        return "hollow", "1.0"

    async def ready(self) -> str:
        return self.not_ready_message

    async def close(self) -> None:
        for container in self._containers.values():
            self._cancel(container)
        for reader in self._readers:
            self._offer(reader, None)

    def check_invariants(self) -> None:
        for container in self._containers.values():
            assert container.status.sandbox_id in self._sandboxes, f"{container.status.name} has lost its sandbox"
            ended = container.status.state is ContainerState.EXITED
            assert container.exited.is_set() == ended, f"{container.status.name} is {container.status.state}"
            assert not (ended and container.timer), f"{container.status.name} has exited and would exit again"

    # -- sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        await asyncio.sleep(self.latency.sandbox_s)
        sandbox_id = self._new_id()
        ips: tuple[str, ...] = () if config.security.host_network else (self._take_address(),)
        status = SandboxStatus(
            id=sandbox_id, namespace=config.namespace, name=config.name, uid=config.uid, attempt=config.attempt,
            state=SandboxState.READY, created_at=self._env.now(), ips=ips, labels=config.labels,
            annotations=config.annotations,
        )  # fmt: skip
        self._sandboxes[sandbox_id] = _Sandbox(status, config)
        self._emit("started", sandbox_id, sandbox_id)
        return sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await asyncio.sleep(self.latency.stop_s)
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        for container in self._of(sandbox_id):
            self._exit(container, 137)
        if sandbox.status.state is SandboxState.READY:
            self._give_back(sandbox.status.ips)
            sandbox.status = replace(sandbox.status, state=SandboxState.NOT_READY, ips=())
            self._emit("exited", sandbox_id, sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        if sandbox_id not in self._sandboxes:
            return
        await self.stop_sandbox(sandbox_id)
        await asyncio.sleep(self.latency.remove_s)
        for container in self._of(sandbox_id):
            self._containers.pop(container.status.id, None)
        if self._sandboxes.pop(sandbox_id, None) is not None:
            self._emit("deleted", sandbox_id, sandbox_id)

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            raise RuntimeNotFound(f'no sandbox "{sandbox_id}"')
        return sandbox.status

    async def list_sandboxes(self) -> Sequence[SandboxStatus]:
        return [sandbox.status for sandbox in self._sandboxes.values()]

    # -- containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        await asyncio.sleep(self.latency.create_s)
        owner = self._sandboxes.get(sandbox_id)
        if owner is None:
            raise RuntimeNotFound(f'no sandbox "{sandbox_id}"')
        if owner.status.state is not SandboxState.READY:
            raise RuntimeFailure(f'sandbox "{sandbox_id}" is not running', reason="CreateContainerError")
        image = self._find_image(config.image)
        if image is None:
            raise RuntimeFailure(f'no image "{config.image}"', reason="CreateContainerError")
        container_id = self._new_id()
        log_path = str(Path(owner.config.log_directory) / config.log_path) if config.log_path else ""
        status = ContainerStatus(
            id=container_id, sandbox_id=sandbox_id, name=config.name, attempt=config.attempt,
            state=ContainerState.CREATED, created_at=self._env.now(), started_at=0.0, finished_at=0.0, exit_code=0,
            reason="", message="", image=config.user_image, image_id=image.digests[0], log_path=log_path,
            labels=config.labels, annotations=config.annotations,
        )  # fmt: skip
        behaviour = self._behaviour(config, owner.config)
        self._containers[container_id] = _Container(status, config, behaviour)
        self._emit("created", container_id, sandbox_id)
        return container_id

    async def start_container(self, container_id: str) -> None:
        container = self._get(container_id)
        if container.status.state is not ContainerState.CREATED:
            raise RuntimeFailure(
                f"container is {container.status.state.value}, not created", reason="RunContainerError"
            )
        await asyncio.sleep(self.latency.start_s)
        if container.status.state is not ContainerState.CREATED:
            raise RuntimeFailure("container ended while it was started", reason="RunContainerError")
        behaviour = container.behaviour
        if "start-error" in behaviour:
            self._exit(container, 128, "StartError", "hollow: start-error")
            raise RuntimeFailure("hollow: start-error", reason="RunContainerError")
        container.status = replace(container.status, state=ContainerState.RUNNING, started_at=self._env.now())
        self._write_log(container, "stdout", f"started {container.config.name}")
        self._emit("started", container_id, container.status.sandbox_id)
        loop = asyncio.get_running_loop()
        if "oom-after" in behaviour:
            container.timer = loop.call_later(float(behaviour["oom-after"]), self._oom, container)
        elif "exit-after" in behaviour:
            code = int(behaviour.get("exit-code", "0"))
            container.timer = loop.call_later(float(behaviour["exit-after"]), self._exit, container, code)

    async def stop_container(self, container_id: str, timeout_s: float, stop_signal: str = "") -> None:
        container = self._containers.get(container_id)
        if container is None or container.status.state is ContainerState.EXITED:
            return
        if "ignore-term" in container.behaviour:
            delay_s, code = timeout_s, 137
        else:
            wanted_s = float(container.behaviour.get("stop-after", self.latency.stop_s))
            delay_s, code = min(wanted_s, timeout_s), 137 if wanted_s > timeout_s else 143
        if delay_s > 0:
            try:
                await asyncio.wait_for(container.exited.wait(), delay_s)
            except TimeoutError:
                pass
        self._exit(container, code)

    async def remove_container(self, container_id: str) -> None:
        container = self._containers.get(container_id)
        if container is None:
            return
        await asyncio.sleep(self.latency.remove_s)
        self._exit(container, 137)
        if self._containers.pop(container_id, None) is not None:
            self._emit("deleted", container_id, container.status.sandbox_id)

    async def container_status(self, container_id: str) -> ContainerStatus:
        return self._get(container_id).status

    async def list_containers(self) -> Sequence[ContainerStatus]:
        return [container.status for container in self._containers.values()]

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        container = self._get(container_id)
        container.config = replace(container.config, resources=resources)

    async def reopen_log(self, container_id: str) -> None:
        container = self._get(container_id)
        if container.status.state is not ContainerState.RUNNING:
            raise RuntimeFailure("container is not running")
        self._write_log(container, "stdout", "log reopened")

    # -- sessions

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout_s: float) -> ExecResult:
        container = self._get(container_id)
        if container.status.state is not ContainerState.RUNNING:
            raise RuntimeFailure("container is not running")
        if list(command[:1]) == ["sleep"]:
            seconds = float(command[1])
            await asyncio.sleep(min(seconds, timeout_s) if timeout_s else seconds)
            if timeout_s and seconds > timeout_s:
                raise TimeoutError(f"command {command} did not end within {timeout_s} s")
            return ExecResult(b"", b"", 0)
        if not self.healthy(container_id):
            return ExecResult(b"", b"hollow: not ready", 1)
        stdout, code = simulate(command)
        return ExecResult(stdout, b"", code)

    async def exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> ByteStream:
        if self._get(container_id).status.state is not ContainerState.RUNNING:
            raise RuntimeFailure("container is not running")
        if stdin and list(command) == ["sh"]:
            return HollowShell(tty=tty)
        output, code = simulate(command)
        return HollowStream(echo=stdin and list(command) == ["cat"], first=output if stdout else b"", exit_code=code)

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> ByteStream:
        if self._get(container_id).status.state is not ContainerState.RUNNING:
            raise RuntimeFailure("container is not running")
        return HollowStream(echo=True, first=b"", exit_code=0)

    async def port_forward(self, sandbox_id: str, port: int, address: str = "") -> ByteStream:
        await self.sandbox_status(sandbox_id)
        return HollowStream(echo=True, first=b"", exit_code=0)

    # -- images

    async def image_status(self, reference: str) -> Image | None:
        return self._find_image(reference)

    async def pulling_bytes(self) -> tuple[int, int]:
        now = asyncio.get_running_loop().time()
        parts = [min(1.0, (now - began) / took_s) for began, took_s in self._pulling.values()]
        return int(sum(parts) * IMAGE_BYTES), len(parts) * IMAGE_BYTES

    async def pull_image(self, reference: str, auth: RegistryAuth | None, sandbox: SandboxConfig | None = None) -> str:
        took_s = self._pull_times.get(reference, self.latency.pull_s)
        pull = object()
        self._pulling[pull] = asyncio.get_running_loop().time(), took_s
        try:
            await asyncio.sleep(took_s)
        finally:
            del self._pulling[pull]
        if reference in self.missing_images:
            raise RuntimeFailure(
                f'failed to pull and unpack image "{reference}": failed to resolve reference "{reference}": not found',
                reason="ErrImagePull",
            )
        return self.load_image(reference).id

    def load_image(self, reference: str, *, user: str = "", size_bytes: int = IMAGE_BYTES) -> Image:
        """An image that is there without a pull."""
        if reference not in self._present:
            digest = f"sha256:{reference.encode().hex()[:64]:0<64}"
            self._present[reference] = Image(digest, (reference,), (f"{reference}@{digest}",), size_bytes, user)
        return self._present[reference]

    async def list_images(self) -> Sequence[Image]:
        return list(self._present.values())

    async def remove_image(self, reference: str) -> None:
        image = self._find_image(reference)
        if image is not None:
            self._present.pop(image.tags[0], None)

    async def image_fs_bytes(self) -> tuple[str, int]:
        return "/", sum(image.size_bytes for image in self._present.values())

    async def stats(self) -> Sequence[ContainerStats]:
        now = self._env.now()
        return [
            ContainerStats(c.status.id, c.status.name, c.status.sandbox_id, 0, 1 << 20, 1 << 20, 0, now)
            for c in self._containers.values()
            if c.status.state is ContainerState.RUNNING
        ]

    # -- events

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        reader: asyncio.Queue[RuntimeEvent | None] = asyncio.Queue(EVENT_QUEUE)
        self._readers.append(reader)
        try:
            while True:
                event = await reader.get()
                if event is None:
                    raise RuntimeFailure("the event stream was closed")
                yield event
        finally:
            if reader in self._readers:
                self._readers.remove(reader)

    def _emit(self, kind: str, container_id: str, sandbox_id: str) -> None:
        event = RuntimeEvent(kind, container_id, sandbox_id)
        for reader in list(self._readers):
            self._offer(reader, event)

    def _offer(self, reader: asyncio.Queue[RuntimeEvent | None], event: RuntimeEvent | None) -> None:
        if event is None or reader.full():
            while not reader.empty():
                reader.get_nowait()
            event = None
            if reader in self._readers:
                self._readers.remove(reader)
        reader.put_nowait(event)

    # -- for tests and simulations

    def kill_process(self, container_id: str, exit_code: int = 137) -> None:
        """What `kill -9` on the node does."""
        self._exit(self._get(container_id), exit_code)

    def kill_sandbox(self, sandbox_id: str) -> None:
        """The sandbox's process dies, and with it its containers."""
        sandbox = self._sandboxes[sandbox_id]
        for container in self._of(sandbox_id):
            self._exit(container, 137)
        self._give_back(sandbox.status.ips)
        sandbox.status = replace(sandbox.status, state=SandboxState.NOT_READY, ips=())
        self._emit("exited", sandbox_id, sandbox_id)

    def healthy(self, container_id: str) -> bool:
        """What probes of this container say now."""
        container = self._get(container_id)
        behaviour = container.behaviour
        age_s = self._env.now() - container.status.started_at
        if container.status.state is not ContainerState.RUNNING or "never-ready" in behaviour:
            return False
        if "unhealthy-after" in behaviour and age_s >= float(behaviour["unhealthy-after"]):
            return False
        return age_s >= float(behaviour.get("ready-after", "0"))

    # -- inside

    def _new_id(self) -> str:
        return f"{next(self._ids):064x}"

    def _take_address(self) -> str:
        number = self._free_addresses.pop(0) if self._free_addresses else next(self._addresses)
        first, second, third = (int(part) for part in self._subnet.split("."))
        return f"{first}.{second}.{(third + number // 256) % 256}.{number % 256}"

    def _give_back(self, ips: Sequence[str]) -> None:
        third = int(self._subnet.split(".")[2])
        for ip in ips:
            parts = ip.split(".")
            self._free_addresses.append((int(parts[2]) - third) % 256 * 256 + int(parts[3]))

    def _get(self, container_id: str) -> _Container:
        container = self._containers.get(container_id)
        if container is None:
            raise RuntimeNotFound(f'no container "{container_id}"')
        return container

    def _of(self, sandbox_id: str) -> list[_Container]:
        return [c for c in self._containers.values() if c.status.sandbox_id == sandbox_id]

    def _find_image(self, reference: str) -> Image | None:
        found = self._present.get(reference)
        if found is not None:
            return found
        return next((i for i in self._present.values() if i.id == reference or reference in i.digests), None)

    def _behaviour(self, config: ContainerConfig, sandbox: SandboxConfig) -> dict[str, str]:
        text = sandbox.annotations.get(BEHAVIOUR + config.name) or sandbox.annotations.get(BEHAVIOUR + "all", "")
        for argument in config.args:
            if argument.startswith("hollow:"):
                text = argument.removeprefix("hollow:")
        return parse_behaviour(text)

    def _oom(self, container: _Container) -> None:
        self._exit(container, 137, "OOMKilled")

    def _cancel(self, container: _Container) -> None:
        if container.timer is not None:
            container.timer.cancel()
            container.timer = None

    def _exit(self, container: _Container, code: int, reason: str = "", message: str = "") -> None:
        self._cancel(container)
        if container.status.state is ContainerState.EXITED:
            return
        container.status = replace(
            container.status, state=ContainerState.EXITED, exit_code=code, finished_at=self._env.now(),
            reason=reason or ("Completed" if code == 0 else "Error"), message=message,
        )  # fmt: skip
        container.exited.set()
        if reason == "OOMKilled":
            self._emit("oom", container.status.id, container.status.sandbox_id)
        self._emit("exited", container.status.id, container.status.sandbox_id)

    def _write_log(self, container: _Container, stream: str, line: str) -> None:
        if not self._write_logs or not container.status.log_path:
            return
        path = Path(container.status.log_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        stamp = format_seconds(int(self._env.now())).replace("Z", ".000000000Z")
        with path.open("a") as log:
            log.write(f"{stamp} {stream} F {line}\n")
