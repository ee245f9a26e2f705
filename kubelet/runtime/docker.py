"""The `docker` runtime: `kubelet.runtime.base.Runtime` on a Docker daemon.

A pod is a container of the pause image whose namespaces the pod's containers join. Its network is made by the node's CNI
configuration, as with containerd, or by Docker's own bridge, which needs no root: the one that every daemon has, or one made for
this node, where a container holds the node's own namespace (`docker_node`) and leads to Services. The parts: `docker_containers`,
`docker_images`, `docker_network`. Calls go through `docker_engine`, translated by `docker_messages`; sessions, events and logs
run over `docker_streams`. Made by `wherry agent`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal as signals
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubelet.network import NetworkError
from kubelet.network.cni_exec import Plugins
from kubelet.runtime import archives, docker_streams, ports
from kubelet.runtime import docker_messages as messages
from kubelet.runtime.base import (
    ByteStream,
    ContainerConfig,
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
from kubelet.runtime.docker_containers import Containers
from kubelet.runtime.docker_engine import Engine
from kubelet.runtime.docker_files import Resolvers
from kubelet.runtime.docker_images import Images
from kubelet.runtime.docker_logs import LogCopies
from kubelet.runtime.docker_network import SandboxNetwork, netns
from kubelet.runtime.docker_node import NodeContainer
from kubelet.runtime.signals import number_of
from wherry.api.context import Env

log = logging.getLogger(__name__)

DEFAULT_SOCKET = "/var/run/docker.sock"
MAX_EXEC_OUTPUT_BYTES = 16 << 20
LAST_LINES_S = 5.0
KILL_TIMEOUT_S = 30.0
EVENTS = {"create": "created", "start": "started", "die": "exited", "oom": "oom", "destroy": "deleted"}


class DockerRuntime:
    """One per agent. `node` keeps the pods of several agents on one daemon apart; `bridge` names the Docker network that is this
    node's own, with `files` a directory of ours. Call `close` when done; calls may run concurrently."""

    name = "docker"

    def __init__(
        self,
        env: Env,
        socket: str,
        node: str,
        *,
        cni: Plugins | None = None,
        bridge: str = "",
        files: Path | None = None,
        engine: Engine | None = None,
    ) -> None:
        self._env = env
        self.socket = socket.removeprefix("unix://")
        self._node = node
        self._engine = engine or Engine(self.socket)
        self.node_container = NodeContainer(self._engine, bridge) if bridge else None
        self._containers = Containers(self._engine, node)
        self._images = Images(self._engine, node)
        self._network = SandboxNetwork(self._containers, cni, self.node_container)
        self._resolvers = Resolvers(files) if bridge and files is not None else None
        self._logs = LogCopies(self.socket)

    # -- the runtime itself

    async def version(self) -> tuple[str, str]:
        answer = await self._engine.call("version")
        return "docker", str(answer["Version"])

    async def ready(self) -> str:
        try:
            await self._engine.call("ping")
        except RuntimeFailure as error:
            return f"container runtime is not reachable at {self.socket}: {error.message}"
        try:
            if self.node_container is not None:
                await self.node_container.ensure()
        except RuntimeFailure as error:
            return f"NetworkReady is false: {error.message}"
        return self._network.ready()

    async def close(self) -> None:
        await self._logs.close()
        await self._engine.close()

    # -- sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        reason = "CreatePodSandboxError"
        await self._images.ensure_pause()
        network, host = await self._network.modes()
        body = messages.sandbox_body(config, archives.PAUSE_IMAGE, self._node, network, host)
        body = await self._network.body(body, config)
        name = messages.container_name("POD", config.name, config.namespace, config.uid, str(config.attempt))
        sandbox_id = await self._containers.create(body, name, reason)
        try:
            await self._engine.call("start", sandbox_id, reason=reason)
            await self._network.join(sandbox_id, config)
        except (RuntimeFailure, NetworkError, asyncio.CancelledError) as error:
            for undo in (self.stop_sandbox, self.remove_sandbox):
                with contextlib.suppress(RuntimeFailure):
                    await undo(sandbox_id)
            if isinstance(error, NetworkError):
                raise RuntimeFailure(str(error), reason=reason) from error
            raise
        return sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        try:
            document = await self._containers.inspect(sandbox_id)
        except RuntimeNotFound:
            return
        inside = await self._containers.documents({messages.SANDBOX: document["Id"]})
        await asyncio.gather(*(self._kill(item) for item in inside))
        try:
            await self._network.leave(document)
        except NetworkError as error:
            raise RuntimeFailure(str(error), reason="KillPodSandboxError") from error
        await self._kill(document)
        if self.node_container is not None and document["HostConfig"].get("PortBindings"):
            with contextlib.suppress(RuntimeFailure):  # the pod has ended all the same; `list_sandboxes` does it again
                await self._network.level_ports()

    async def remove_sandbox(self, sandbox_id: str) -> None:
        try:
            document = await self._containers.inspect(sandbox_id)
        except RuntimeNotFound:
            return
        await self.stop_sandbox(sandbox_id)
        for item in await self._containers.documents({messages.SANDBOX: document["Id"]}):
            await self.remove_container(item["Id"])
        await self._containers.remove(document["Id"])
        if self._resolvers is not None:
            await asyncio.to_thread(self._resolvers.forget, messages.pod_uid(document))

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        document = await self._containers.inspect(sandbox_id)
        if not messages.is_sandbox(document):
            raise RuntimeNotFound(f"{sandbox_id} is no sandbox")
        return self._sandbox_status(document)

    async def list_sandboxes(self) -> Sequence[SandboxStatus]:
        try:
            documents = await self._network.level_ports()
        except RuntimeFailure:  # of the node's container: `ready` tells what is wrong
            documents = await self._containers.documents({messages.TYPE: "sandbox"})
        return [self._sandbox_status(document) for document in documents]

    # -- containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        if self._resolvers is not None and sandbox.dns is not None:
            mount = await asyncio.to_thread(self._resolvers.mount, sandbox.uid, sandbox.dns)
            if all(given.container_path != mount.container_path for given in config.mounts):
                config = replace(config, mounts=(*config.mounts, mount))
        body = messages.container_body(
            sandbox_id, config, sandbox, self._node, own_host=self.node_container is not None
        )
        name = messages.container_name(config.name, sandbox.name, sandbox.namespace, sandbox.uid, str(config.attempt))
        return await self._containers.create(body, name, "CreateContainerError")

    async def start_container(self, container_id: str) -> None:
        await self._engine.call("start", container_id, reason="RunContainerError")
        document = await self._containers.inspect(container_id)
        self._copy_log(document)

    async def stop_container(self, container_id: str, timeout_s: float, stop_signal: str = "") -> None:
        try:
            document = await self._containers.inspect(container_id)
        except RuntimeNotFound:
            return
        if timeout_s > 0:
            chosen = stop_signal if number_of(stop_signal) else ""
            wanted = chosen or document["Config"].get("StopSignal") or "SIGTERM"
            await self._containers.signal(document["Id"], wanted)
            if await self._containers.ends(document["Id"], timeout_s):
                await self._logs.finish(document["Id"], LAST_LINES_S)
                return
        await self._kill(document)

    async def remove_container(self, container_id: str) -> None:
        try:
            document = await self._containers.inspect(container_id)
        except RuntimeNotFound:
            return
        await self._kill(document)
        await self._logs.drop(document["Id"])
        await self._containers.remove(document["Id"])

    async def container_status(self, container_id: str) -> ContainerStatus:
        document = await self._containers.inspect(container_id)
        if messages.is_sandbox(document):
            raise RuntimeNotFound(f"{container_id} is a sandbox")
        return messages.container_status(document, await self._images.id_of(document))

    async def list_containers(self) -> Sequence[ContainerStatus]:
        documents = await self._containers.documents({messages.TYPE: "container"})
        for document in documents:
            self._copy_log(document)  # after a start of the agent: those that run already
        return [messages.container_status(document, str(document.get("Image", ""))) for document in documents]

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        wanted = messages.resources(resources)
        await self._engine.call(
            "update_container", container_id, cpu_shares=wanted["CpuShares"] or None, cpu_quota=wanted["CpuQuota"] or None,
            cpu_period=wanted["CpuPeriod"] or None, mem_limit=wanted["Memory"] or None,
            memswap_limit=wanted["MemorySwap"] or None,
        )  # fmt: skip

    async def reopen_log(self, container_id: str) -> None:
        self._logs.reopen(container_id)

    # -- sessions

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout_s: float) -> ExecResult:
        exec_id = ""
        out = {1: bytearray(), 2: bytearray()}
        try:
            async with asyncio.timeout(timeout_s):
                exec_id = await self._make_exec(container_id, command, stdin=False, stdout=True, stderr=True, tty=False)
                session = await docker_streams.start_exec(self._engine, exec_id, tty=False)
                try:
                    async for number, piece in session.output():
                        room = MAX_EXEC_OUTPUT_BYTES - len(out[number])
                        out[number] += piece[: max(room, 0)]
                    code = await session.wait()
                finally:
                    await session.close()
        except TimeoutError as error:
            if exec_id:
                await self._kill_exec(exec_id)
            raise TimeoutError(f"command {list(command)} did not end within {timeout_s:g} s") from error
        return ExecResult(bytes(out[1]), bytes(out[2]), code)

    async def exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> ByteStream:
        exec_id = await self._make_exec(
            container_id, command, stdin=stdin, stdout=stdout, stderr=stderr and not tty, tty=tty
        )
        return await docker_streams.start_exec(self._engine, exec_id, tty=tty)

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> ByteStream:
        document = await self._containers.inspect(container_id)
        if not document["State"].get("Running"):
            raise RuntimeFailure(f"container {container_id} is not running")
        tty = bool(document["Config"].get("Tty"))
        query = "&".join(
            f"{name}=1" for name, wanted in (("stream", True), ("stdin", stdin), ("stdout", stdout), ("stderr", stderr)) if wanted
        )  # fmt: skip
        reader, writer = await docker_streams.hijack(self.socket, f"/containers/{document['Id']}/attach?{query}")

        async def resize(width: int, height: int) -> None:
            await self._engine.call("resize", document["Id"], height, width)

        async def exit_code() -> int:
            return 0

        # Docker would end the session with its input, unless that is the container's only one.
        keeps_stdin = not document["Config"].get("StdinOnce")
        return docker_streams.DockerSession(
            reader, writer, tty=tty, resize=resize, exit_code=exit_code, keeps_stdin=keeps_stdin
        )

    async def port_forward(self, sandbox_id: str, port: int, address: str = "") -> ByteStream:
        if address:
            return await ports.connect_to("", address, port)
        document = await self._containers.inspect(sandbox_id)
        if not document["State"].get("Running"):
            raise RuntimeFailure(f"sandbox {sandbox_id} is not running, so nothing listens on port {port}")
        if messages.on_host_network(document):
            if self.node_container is not None:
                return await ports.connect_to("", (await self.node_container.bridge()).address, port)
            return await ports.connect("", port)
        if os.geteuid() == 0:
            return await ports.connect(netns(document), port)
        # Another's namespace is not ours to enter: by the pod's address then, where servers on its localhost are not heard.
        (address,) = self._network.ips(document)[:1] or ("",)
        return await ports.connect_to("", address, port)

    # -- images

    async def image_status(self, reference: str) -> Image | None:
        return await self._images.status(reference)

    async def pulling_bytes(self) -> tuple[int, int]:
        return self._images.pulling_bytes()

    async def pull_image(self, reference: str, auth: RegistryAuth | None, sandbox: SandboxConfig | None = None) -> str:
        return await self._images.pull(reference, auth)

    async def list_images(self) -> Sequence[Image]:
        return await self._images.all()

    async def remove_image(self, reference: str) -> None:
        await self._images.remove(reference)

    async def image_fs_bytes(self) -> tuple[str, int]:
        return await self._images.disk()

    async def has_image_of(self, archive: Path) -> bool:
        return await self._images.has(archive)

    async def load_image(self, archive: bytes) -> None:
        """From a docker-archive."""
        await self._images.load(archive)

    # -- what happens

    async def stats(self) -> Sequence[ContainerStats]:
        documents = await self._containers.documents({messages.TYPE: "container"})
        running = [item for item in documents if item["State"].get("Running")]

        async def one(item: Mapping[str, Any]) -> ContainerStats | None:
            try:
                told = await self._engine.call("stats", item["Id"], stream=False, one_shot=True)
            except RuntimeFailure:
                return None  # it has ended meanwhile
            return messages.stats(told, item, self._env.now())

        return [told for told in await asyncio.gather(*(one(item) for item in running)) if told is not None]

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        filters = {"type": ["container"], "label": [f"{messages.NODE}={self._node}"]}
        stream = docker_streams.events(self.socket, filters)
        try:
            async for event in stream:
                kind = EVENTS.get(event.get("Action", ""))
                actor = event.get("Actor") or {}
                if kind:
                    sandbox = (actor.get("Attributes") or {}).get(messages.SANDBOX, "")
                    yield RuntimeEvent(kind, str(actor.get("ID", "")), sandbox)
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    # -- parts

    def _sandbox_status(self, document: Mapping[str, Any]) -> SandboxStatus:
        told = messages.sandbox_status(document, self._network.ips(document))
        if not self._network.still_joined(document):
            return replace(told, state=SandboxState.NOT_READY)
        return told

    def _copy_log(self, document: Mapping[str, Any]) -> None:
        if document["State"].get("Running") or document["State"].get("Status") == "exited":
            self._logs.start(document["Id"], messages.log_path(document), tty=bool(document["Config"].get("Tty")))

    async def _kill(self, document: Mapping[str, Any]) -> None:
        """Returns when it does not run."""
        if document["State"].get("Running"):
            await self._containers.signal(document["Id"], "SIGKILL")
            if not await self._containers.ends(document["Id"], KILL_TIMEOUT_S):
                raise RuntimeFailure(f"container {document['Id'][:12]} does not end", reason="KillContainerError")
        await self._logs.finish(document["Id"], LAST_LINES_S)

    async def _make_exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> str:
        document = await self._containers.inspect(container_id)
        made = await self._engine.call(
            "exec_create", document["Id"], list(command), stdin=stdin, stdout=stdout, stderr=stderr, tty=tty
        )
        return str(made["Id"])

    async def _kill_exec(self, exec_id: str) -> None:
        """Docker has no call for it; we may if the process is ours to signal."""
        with contextlib.suppress(RuntimeFailure, OSError):
            told = await self._engine.call("exec_inspect", exec_id)
            if told["Running"] and told["Pid"]:
                os.kill(int(told["Pid"]), signals.SIGKILL)
