"""The `docker` runtime: `kubelet.runtime.base.Runtime` on a Docker daemon.

A pod is a container of the pause image whose namespaces the pod's containers join. Its network is made by the node's CNI
configuration, as with containerd, or by Docker's own bridge, which needs no root: the one that every daemon has, or one made for
this node, where a container holds the node's own namespace (`docker_node`) and leads to Services. Calls go through
`docker_engine`, translated by `docker_messages`; sessions, events and logs run over `docker_streams`. Made by `wherry agent`.
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
from kubelet.network.cni import bandwidth
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
from kubelet.runtime.docker_engine import Engine
from kubelet.runtime.docker_files import Resolvers, write_resolver
from kubelet.runtime.docker_logs import LogCopies
from kubelet.runtime.docker_node import NodeContainer
from kubelet.runtime.signals import number_of
from wherry.api.context import Env

log = logging.getLogger(__name__)

DEFAULT_SOCKET = "/var/run/docker.sock"
MAX_EXEC_OUTPUT_BYTES = 16 << 20
LAST_LINES_S = 5.0
POLL_S = 0.05
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
    ) -> None:
        self._env = env
        self.socket = socket.removeprefix("unix://")
        self._node = node
        self._cni = cni
        self._engine = Engine(self.socket)
        self.node_container = NodeContainer(self._engine, bridge) if bridge else None
        self._resolvers = Resolvers(files) if bridge and files is not None else None
        self._logs = LogCopies(self.socket)
        self._pause_known = False
        self._image_ids: dict[str, str] = {}
        # A pull -> its layers -> (fetched, expected) bytes. Written by the threads that pull, each its own entry.
        self._pulls: dict[object, dict[str, tuple[int, int]]] = {}

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
        return self._cni.ready() if self._cni is not None else ""

    async def close(self) -> None:
        await self._logs.close()
        await self._engine.close()

    # -- sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        reason = "CreatePodSandboxError"
        await self._ensure_pause()
        network, host = "none" if self._cni else "bridge", "host"
        if self.node_container is not None:
            network, host = self.node_container.network, f"container:{await self.node_container.ensure()}"
        body = messages.sandbox_body(config, archives.PAUSE_IMAGE, self._node, network, host)
        name = messages.container_name("POD", config.name, config.namespace, config.uid, str(config.attempt))
        sandbox_id = await self._create(body, name, reason)
        try:
            await self._engine.call("start", sandbox_id, reason=reason)
            if self._cni is not None and not config.security.host_network:
                document = await self._inspect(sandbox_id)
                await self._join_network(self._cni, document, config)
            if self.node_container is not None and config.port_mappings:
                await self._level_ports()
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
            document = await self._inspect(sandbox_id)
        except RuntimeNotFound:
            return
        inside = await self._documents({messages.SANDBOX: document["Id"]})
        await asyncio.gather(*(self._kill(item) for item in inside))
        if self._cni is not None:
            netns = _netns(document)
            try:
                await asyncio.to_thread(self._cni.delete, document["Id"], netns)
            except NetworkError as error:
                raise RuntimeFailure(str(error), reason="KillPodSandboxError") from error
        await self._kill(document)
        if self.node_container is not None and document["HostConfig"].get("PortBindings"):
            with contextlib.suppress(RuntimeFailure):  # the pod has ended all the same; `list_sandboxes` does it again
                await self._level_ports()

    async def remove_sandbox(self, sandbox_id: str) -> None:
        try:
            document = await self._inspect(sandbox_id)
        except RuntimeNotFound:
            return
        await self.stop_sandbox(sandbox_id)
        for item in await self._documents({messages.SANDBOX: document["Id"]}):
            await self.remove_container(item["Id"])
        await self._remove(document["Id"])
        if self._resolvers is not None:
            await asyncio.to_thread(self._resolvers.forget, messages.pod_uid(document))

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        document = await self._inspect(sandbox_id)
        if not messages.is_sandbox(document):
            raise RuntimeNotFound(f"{sandbox_id} is no sandbox")
        return self._sandbox_status(document)

    async def list_sandboxes(self) -> Sequence[SandboxStatus]:
        documents = await self._documents({messages.TYPE: "sandbox"})
        with contextlib.suppress(RuntimeFailure):  # `ready` tells what is wrong
            await self._level_ports(documents)
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
        return await self._create(body, name, "CreateContainerError")

    async def start_container(self, container_id: str) -> None:
        await self._engine.call("start", container_id, reason="RunContainerError")
        document = await self._inspect(container_id)
        self._copy_log(document)

    async def stop_container(self, container_id: str, timeout_s: float, stop_signal: str = "") -> None:
        try:
            document = await self._inspect(container_id)
        except RuntimeNotFound:
            return
        if timeout_s > 0:
            chosen = stop_signal if number_of(stop_signal) else ""
            wanted = chosen or document["Config"].get("StopSignal") or "SIGTERM"
            await self._signal(document["Id"], wanted)
            if await self._ends(document["Id"], timeout_s):
                await self._logs.finish(document["Id"], LAST_LINES_S)
                return
        await self._kill(document)

    async def remove_container(self, container_id: str) -> None:
        try:
            document = await self._inspect(container_id)
        except RuntimeNotFound:
            return
        await self._kill(document)
        await self._logs.drop(document["Id"])
        await self._remove(document["Id"])

    async def container_status(self, container_id: str) -> ContainerStatus:
        document = await self._inspect(container_id)
        if messages.is_sandbox(document):
            raise RuntimeNotFound(f"{container_id} is a sandbox")
        return messages.container_status(document, await self._image_id(document))

    async def list_containers(self) -> Sequence[ContainerStatus]:
        documents = await self._documents({messages.TYPE: "container"})
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
        document = await self._inspect(container_id)
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
        document = await self._inspect(sandbox_id)
        if not document["State"].get("Running"):
            raise RuntimeFailure(f"sandbox {sandbox_id} is not running, so nothing listens on port {port}")
        if messages.on_host_network(document):
            if self.node_container is not None:
                return await ports.connect_to("", (await self.node_container.bridge()).address, port)
            return await ports.connect("", port)
        if os.geteuid() == 0:
            return await ports.connect(_netns(document), port)
        # Another's namespace is not ours to enter: by the pod's address then, where servers on its localhost are not heard.
        (address,) = self._ips(document)[:1] or ("",)
        return await ports.connect_to("", address, port)

    # -- images

    async def image_status(self, reference: str) -> Image | None:
        try:
            return messages.image(await self._engine.call("inspect_image", reference, reason="ImageInspectError"))
        except RuntimeNotFound:
            return None

    async def pulling_bytes(self) -> tuple[int, int]:
        layers = [layer for pull in list(self._pulls.values()) for layer in list(pull.values())]
        return sum(fetched for fetched, _ in layers), sum(expected for _, expected in layers)

    async def pull_image(self, reference: str, auth: RegistryAuth | None, sandbox: SandboxConfig | None = None) -> str:
        login = {"username": auth.username, "password": auth.password} if auth is not None else None
        if auth is not None and auth.identity_token:
            login = {"identitytoken": auth.identity_token}

        layers: dict[str, tuple[int, int]] = {}
        this = object()

        def pull(client: Any) -> None:
            by_digest = "@" in reference
            tagged = by_digest or ":" in reference.rpartition("/")[2]
            options = {} if tagged else {"tag": "latest"}
            for step in client.pull(reference, stream=True, decode=True, auth_config=login, **options):
                if "error" in step:
                    raise RuntimeFailure(str(step["error"]), reason="ErrImagePull")
                detail = step.get("progressDetail") or {}
                if step.get("status") == "Downloading" and detail.get("total"):
                    layers[step["id"]] = int(detail.get("current", 0)), int(detail["total"])
                elif step.get("status") == "Download complete" and step.get("id") in layers:
                    layers[step["id"]] = layers[step["id"]][1], layers[step["id"]][1]

        self._pulls[this] = layers
        try:
            await self._engine.pull(pull)
        except RuntimeNotFound as error:
            raise RuntimeFailure(error.message, reason="ErrImagePull") from error
        except RuntimeFailure as error:
            if error.retryable:
                raise
            # What Docker refuses as a bad request is the reference itself.
            message = f'image "{reference}" is not a valid reference: {error.message}'
            raise RuntimeFailure(message, reason="InvalidImageName", retryable=False) from error
        finally:
            del self._pulls[this]
        image = await self.image_status(reference)
        if image is None:
            raise RuntimeFailure(f'image "{reference}" is gone right after it was pulled', reason="ErrImagePull")
        return image.id

    async def list_images(self) -> Sequence[Image]:
        found = []
        for item in await self._engine.call("images"):
            if document := await self.image_status(item["Id"]):
                found.append(document)
        return found

    async def remove_image(self, reference: str) -> None:
        with contextlib.suppress(RuntimeNotFound):
            await self._engine.call("remove_image", reference, force=True)

    async def image_fs_bytes(self) -> tuple[str, int]:
        # Layers that images share count for each: `df` tells better, but measures every container of the daemon, for minutes.
        info, images = await asyncio.gather(self._engine.call("info"), self._engine.call("images"))
        return str(info["DockerRootDir"]), sum(int(item.get("Size") or 0) for item in images)

    async def load_image(self, archive: bytes) -> None:
        """From a docker-archive."""
        await self._engine.pull(lambda client: list(client.load_image(archive)))

    # -- what happens

    async def stats(self) -> Sequence[ContainerStats]:
        running = [item for item in await self._documents({messages.TYPE: "container"}) if item["State"].get("Running")]

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

    async def _inspect(self, container_id: str) -> Any:
        document = await self._engine.call("inspect_container", container_id)
        if messages.labels_of(document).get(messages.NODE) != self._node:
            raise RuntimeNotFound(f"container {container_id} is none of this node's")
        return document

    async def _documents(self, labels: Mapping[str, str]) -> list[Any]:
        wanted = {messages.NODE: self._node, **labels}
        filters = {"label": [f"{name}={value}" for name, value in sorted(wanted.items())]}
        listed = await self._engine.call("containers", all=True, filters=filters)

        async def one(item: Mapping[str, Any]) -> Any:
            with contextlib.suppress(RuntimeNotFound):
                return await self._inspect(item["Id"])

        found = await asyncio.gather(*(one(item) for item in listed))
        return [document for document in found if document is not None]

    async def _create(self, body: dict[str, Any], name: str, reason: str) -> str:
        for _ in range(2):
            try:
                made = await self._engine.call("create_container_from_config", body, name, reason=reason)
                return str(made["Id"])
            except RuntimeFailure as error:
                if "is already in use by container" not in error.message:
                    raise
                # Of an earlier try whose answer we never got.
                await self._remove(name)
        raise RuntimeFailure(f"the container name {name} is taken", reason=reason)

    async def _ensure_pause(self) -> None:
        if self._pause_known:
            return
        if await self.image_status(archives.PAUSE_IMAGE) is None:
            await self.load_image(archives.pause_archive())
        self._pause_known = True

    async def _join_network(self, cni: Plugins, document: Mapping[str, Any], config: SandboxConfig) -> None:
        arguments = {
            "IgnoreUnknown": "1", "K8S_POD_NAMESPACE": config.namespace, "K8S_POD_NAME": config.name,
            "K8S_POD_INFRA_CONTAINER_ID": document["Id"], "K8S_POD_UID": config.uid,
        }  # fmt: skip
        mappings = [
            {
                "hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol.lower(),
                "hostIP": port.host_ip,
            }
            for port in config.port_mappings
        ]  # fmt: skip
        try:
            bounds = bandwidth(config.annotations)
        except ValueError as error:
            raise NetworkError(str(error)) from error
        wanted = {"portMappings": mappings, "bandwidth": bounds}
        capabilities = {name: value for name, value in wanted.items() if value}
        await asyncio.to_thread(cni.add, document["Id"], _netns(document), arguments, capabilities)
        if config.dns is not None and document.get("ResolvConfPath"):
            # Docker writes this file once, when the container starts; the pod's containers share it.
            await asyncio.to_thread(write_resolver, str(document["ResolvConfPath"]), config.dns)

    def _ips(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        if messages.on_host_network(document):
            return ()
        if self._cni is not None:
            return self._cni.addresses(document["Id"])
        networks = (document.get("NetworkSettings") or {}).get("Networks") or {}
        return tuple(str(item["IPAddress"]) for _, item in sorted(networks.items()) if item.get("IPAddress"))

    def _sandbox_status(self, document: Mapping[str, Any]) -> SandboxStatus:
        told = messages.sandbox_status(document, self._ips(document))
        mode = document["HostConfig"]["NetworkMode"]
        node = self.node_container.id if self.node_container is not None else ""
        if node and mode.startswith("container:") and mode != f"container:{node}":
            return replace(told, state=SandboxState.NOT_READY)  # the node has another namespace now
        return told

    async def _level_ports(self, documents: Sequence[Mapping[str, Any]] | None = None) -> None:
        """The node's own address has the pods' host ports too."""
        if self.node_container is None:
            return
        if documents is None:
            documents = await self._documents({messages.TYPE: "sandbox"})
        running = [document for document in documents if document["State"].get("Running")]
        await self.node_container.hold_ports(
            (port, address)
            for document in running
            for address in self._ips(document)[:1]
            for port in messages.host_ports(document)
        )

    async def _image_id(self, document: Mapping[str, Any]) -> str:
        """The repository's digest where there is one."""
        image_id = str(document.get("Image", ""))
        if image_id not in self._image_ids:
            image = await self.image_status(image_id)
            if len(self._image_ids) > 1000:
                self._image_ids.clear()
            self._image_ids[image_id] = image.digests[0] if image is not None and image.digests else image_id
        return self._image_ids[image_id]

    def _copy_log(self, document: Mapping[str, Any]) -> None:
        if document["State"].get("Running") or document["State"].get("Status") == "exited":
            self._logs.start(document["Id"], messages.log_path(document), tty=bool(document["Config"].get("Tty")))

    async def _signal(self, container_id: str, name: str) -> None:
        try:
            await self._engine.call("kill", container_id, name)
        except RuntimeNotFound:
            pass
        except RuntimeFailure as error:
            if "is not running" not in error.message:
                raise

    async def _kill(self, document: Mapping[str, Any]) -> None:
        """Returns when it does not run."""
        if document["State"].get("Running"):
            await self._signal(document["Id"], "SIGKILL")
            if not await self._ends(document["Id"], KILL_TIMEOUT_S):
                raise RuntimeFailure(f"container {document['Id'][:12]} does not end", reason="KillContainerError")
        await self._logs.finish(document["Id"], LAST_LINES_S)

    async def _ends(self, container_id: str, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            try:
                document = await self._inspect(container_id)
            except RuntimeNotFound:
                return True
            if not document["State"].get("Running"):
                return True
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(POLL_S)

    async def _remove(self, container_id: str) -> None:
        with contextlib.suppress(RuntimeNotFound):
            await self._engine.call("remove_container", container_id, v=True, force=True)

    async def _make_exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> str:
        document = await self._inspect(container_id)
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


def _netns(document: Mapping[str, Any]) -> str:
    """Of a running container; "" of one that has ended."""
    pid = int(document["State"].get("Pid") or 0)
    return f"/proc/{pid}/ns/net" if pid else ""
