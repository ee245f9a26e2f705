"""The `cri` runtime: `kubelet.runtime.base.Runtime` spoken to containerd (or any CRI v1 runtime) over its gRPC socket.

Owns the channel and the calls; what they carry is translated in `kubelet.runtime.cri_messages`, containerd's events are read in
`kubelet.runtime.cri_events`, exec and attach run over `kubelet.runtime.exec_stream`, ports over `kubelet.runtime.ports`. Made by
the agent (`CriRuntime(socket)`); containerd itself is started by `kubelet.runtime.containerd`, or by somebody else.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from kubelet.network import shaping
from kubelet.network.cni import BANDWIDTH, BRIDGE
from kubelet.runtime import cri_messages as messages
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
    SandboxStatus,
)
from wherry.pb import (
    containerd_content_pb2,
    containerd_content_pb2_grpc,
    containerd_events_pb2_grpc,
    cri_runtime_pb2_grpc,
)
from wherry.pb import cri_runtime_pb2 as pb

# containerd answers 16 MiB at most unless told otherwise; ours asks for more (an exec's output is up to twice 16 MiB).
MAX_MESSAGE_BYTES = 64 << 20
MAX_EXEC_OUTPUT_BYTES = 16 << 20
CONTAINERD_NAMESPACE = (("containerd-namespace", messages.NAMESPACE),)
CALL_TIMEOUT_S = 30.0
# A sandbox waits for CNI and, at the first one, for the pause image; stopping one waits for CNI again.
SANDBOX_TIMEOUT_S = 120.0
PULL_TIMEOUT_S = 1800.0

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Without it the authority is the socket's escaped path, which Go's HTTP/2 server refuses.
    ("grpc.default_authority", "localhost"),
    # containerd may be restarted under us: try again soon, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Every runtime has a channel of its own: a shared subchannel would outlive a closed one, back-off and all.
    ("grpc.use_local_subchannel_pool", 1),
)

DEFAULT_HANDLER = "runc"  # what a sandbox gets that names none


class CriRuntime:
    """One per agent. `endpoint` is a socket's path, with or without `unix://`. `netns` names the network namespace that the
    runtime lives in, when it is not ours; `host_ports_handler` the runtime handler of sandboxes with host ports or a bounded
    bandwidth, when they need one; behind a handler other than the default one it is a suffix. Call `close` when done; calls may
    run concurrently."""

    name = "cri"

    def __init__(self, endpoint: str, *, netns: str = "", host_ports_handler: str = "") -> None:
        self.socket = endpoint.removeprefix("unix://")
        self._netns = netns
        self._host_ports_handler = host_ports_handler
        # Sandbox by container, of those that we made or have listed: CRI's status does not name it, only its verbose form,
        # which carries the whole OCI specification.
        self._sandboxes: dict[str, str] = {}
        self._channel = grpc.aio.insecure_channel(f"unix://{self.socket}", options=_CHANNEL_OPTIONS)
        self._runtime: Any = cri_runtime_pb2_grpc.RuntimeServiceStub(self._channel)
        self._images: Any = cri_runtime_pb2_grpc.ImageServiceStub(self._channel)
        self._events: Any = containerd_events_pb2_grpc.EventsStub(self._channel)
        self._content: Any = containerd_content_pb2_grpc.ContentStub(self._channel)

    # -- the runtime itself

    async def version(self) -> tuple[str, str]:
        answer = await _call(self._runtime.Version(pb.VersionRequest(version="v1"), timeout=CALL_TIMEOUT_S))
        return answer.runtime_name, answer.runtime_version

    async def ready(self) -> str:
        try:
            answer = await _call(self._runtime.Status(pb.StatusRequest(), timeout=CALL_TIMEOUT_S))
        except RuntimeFailure as error:
            return f"container runtime is not reachable at {self.socket}: {error.message}"
        bad = [condition for condition in answer.status.conditions if not condition.status]
        return "; ".join(f"{condition.type} is false: {condition.message or condition.reason}" for condition in bad)

    async def close(self) -> None:
        await self._channel.close(None)

    # -- sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        bounded = any(name in config.annotations for name in BANDWIDTH)
        extras = config.port_mappings or bounded
        handler = config.runtime_handler
        if extras and self._host_ports_handler:
            plain = handler in ("", DEFAULT_HANDLER)
            handler = self._host_ports_handler if plain else f"{handler}-{self._host_ports_handler}"
        request = pb.RunPodSandboxRequest(config=messages.sandbox_config(config), runtime_handler=handler)
        answer = await _call(
            self._runtime.RunPodSandbox(request, timeout=SANDBOX_TIMEOUT_S), reason="CreatePodSandboxError"
        )
        if bounded and self._host_ports_handler:
            await asyncio.to_thread(shaping.tighten, BRIDGE)
        return str(answer.pod_sandbox_id)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await _gone_is_fine(
            self._runtime.StopPodSandbox(request, timeout=SANDBOX_TIMEOUT_S), reason="KillPodSandboxError"
        )

    async def remove_sandbox(self, sandbox_id: str) -> None:
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await _gone_is_fine(
            self._runtime.RemovePodSandbox(request, timeout=SANDBOX_TIMEOUT_S), reason="KillPodSandboxError"
        )

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        answer = await _call(self._runtime.PodSandboxStatus(request, timeout=CALL_TIMEOUT_S))
        return messages.sandbox_status(answer.status)

    async def list_sandboxes(self) -> Sequence[SandboxStatus]:
        answer = await _call(self._runtime.ListPodSandbox(pb.ListPodSandboxRequest(), timeout=CALL_TIMEOUT_S))
        return [messages.listed_sandbox(item) for item in answer.items]

    # -- containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox_id,
            config=messages.container_config(config),
            sandbox_config=messages.sandbox_config(sandbox),
        )
        answer = await _call(
            self._runtime.CreateContainer(request, timeout=SANDBOX_TIMEOUT_S), reason="CreateContainerError"
        )
        self._sandboxes[answer.container_id] = sandbox_id
        return str(answer.container_id)

    async def start_container(self, container_id: str) -> None:
        request = pb.StartContainerRequest(container_id=container_id)
        await _call(self._runtime.StartContainer(request, timeout=SANDBOX_TIMEOUT_S), reason="RunContainerError")

    async def stop_container(self, container_id: str, timeout_s: float, stop_signal: str = "") -> None:
        if stop_signal and timeout_s > 0:
            from kubelet.runtime import signals

            number = signals.number_of(stop_signal)
            pid = await self._pid(container_id)
            if pid and number:
                began = asyncio.get_running_loop().time()

                async def still() -> bool:
                    return await self._pid(container_id) == pid

                ended = await signals.ends_by(pid, number, timeout_s, still)
                # Ended or out of time: what is left is for StopContainer to wait for, without a signal of its own.
                timeout_s -= asyncio.get_running_loop().time() - began
                timeout_s = max(timeout_s, 1.0) if ended else 0.0
        request = pb.StopContainerRequest(container_id=container_id, timeout=math.ceil(timeout_s))
        await _gone_is_fine(
            self._runtime.StopContainer(request, timeout=timeout_s + SANDBOX_TIMEOUT_S), reason="KillContainerError"
        )

    async def _pid(self, container_id: str) -> int:
        """Of the container's first process; 0 when it does not run or the runtime does not say."""
        request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
        try:
            answer = await _call(self._runtime.ContainerStatus(request, timeout=CALL_TIMEOUT_S))
        except RuntimeNotFound:
            return 0
        if answer.status.state != pb.CONTAINER_RUNNING:
            return 0
        return int(_info(answer.info).get("pid") or 0)

    async def remove_container(self, container_id: str) -> None:
        request = pb.RemoveContainerRequest(container_id=container_id)
        await _gone_is_fine(self._runtime.RemoveContainer(request, timeout=SANDBOX_TIMEOUT_S))

    async def container_status(self, container_id: str) -> ContainerStatus:
        sandbox_id = self._sandboxes.get(container_id, "")
        request = pb.ContainerStatusRequest(container_id=container_id, verbose=not sandbox_id)
        answer = await _call(self._runtime.ContainerStatus(request, timeout=CALL_TIMEOUT_S))
        sandbox_id = sandbox_id or str(_info(answer.info).get("sandboxID", ""))
        return messages.container_status(answer.status, sandbox_id)

    async def list_containers(self) -> Sequence[ContainerStatus]:
        answer = await _call(self._runtime.ListContainers(pb.ListContainersRequest(), timeout=CALL_TIMEOUT_S))
        # All there are: those that are gone, with their sandboxes or otherwise, leave the table here.
        self._sandboxes = {item.id: item.pod_sandbox_id for item in answer.containers}
        return [messages.listed_container(item) for item in answer.containers]

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        request = pb.UpdateContainerResourcesRequest(container_id=container_id, linux=messages.resources(resources))
        await _call(self._runtime.UpdateContainerResources(request, timeout=CALL_TIMEOUT_S))

    async def reopen_log(self, container_id: str) -> None:
        request = pb.ReopenContainerLogRequest(container_id=container_id)
        await _call(self._runtime.ReopenContainerLog(request, timeout=CALL_TIMEOUT_S))

    # -- sessions

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout_s: float) -> ExecResult:
        # The RPC's own deadline is the exact one (CRI counts whole seconds); when it passes containerd kills the process.
        request = pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=math.ceil(timeout_s))
        try:
            answer = await self._runtime.ExecSync(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError(f"command {list(command)} did not end within {timeout_s:g} s") from error
            raise messages.failure(error) from error
        return ExecResult(
            answer.stdout[:MAX_EXEC_OUTPUT_BYTES], answer.stderr[:MAX_EXEC_OUTPUT_BYTES], answer.exit_code
        )

    async def exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> ByteStream:
        from kubelet.runtime import exec_stream

        # CRI refuses a terminal with a stderr of its own.
        stderr = stderr and not tty
        request = pb.ExecRequest(
            container_id=container_id, cmd=command, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr
        )
        answer = await _call(self._runtime.Exec(request, timeout=CALL_TIMEOUT_S))
        return await exec_stream.open_session(
            answer.url, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty, netns=self._netns
        )

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> ByteStream:
        from kubelet.runtime import exec_stream

        stderr = stderr and not tty
        request = pb.AttachRequest(container_id=container_id, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr)
        answer = await _call(self._runtime.Attach(request, timeout=CALL_TIMEOUT_S))
        return await exec_stream.open_session(
            answer.url, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty, netns=self._netns
        )

    async def port_forward(self, sandbox_id: str, port: int, address: str = "") -> ByteStream:
        from kubelet.runtime import ports

        if address:
            return await ports.connect_to(self._netns, address, port)
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
        answer = await _call(self._runtime.PodSandboxStatus(request, timeout=CALL_TIMEOUT_S))
        if answer.status.state != pb.SANDBOX_READY:
            raise RuntimeFailure(f"sandbox {sandbox_id} is not running, so nothing listens on port {port}")
        return await ports.connect(_sandbox_netns(_info(answer.info)) or self._netns, port)

    # -- images

    async def image_status(self, reference: str) -> Image | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=reference))
        try:
            answer = await _call(self._images.ImageStatus(request, timeout=CALL_TIMEOUT_S), reason="ImageInspectError")
        except RuntimeNotFound:
            return None
        return messages.image(answer.image) if answer.HasField("image") else None

    async def pull_image(self, reference: str, auth: RegistryAuth | None, sandbox: SandboxConfig | None = None) -> str:
        request = pb.PullImageRequest(
            image=pb.ImageSpec(image=reference),
            auth=messages.auth(auth) if auth else None,
            sandbox_config=messages.sandbox_config(sandbox) if sandbox else None,
        )
        try:
            answer = await self._images.PullImage(request, timeout=PULL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise messages.pull_failure(reference, error) from error
        return str(answer.image_ref)

    async def pulling_bytes(self) -> tuple[int, int]:
        request = containerd_content_pb2.ListStatusesRequest()
        try:
            answer = await self._content.ListStatuses(request, metadata=CONTAINERD_NAMESPACE, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return 0, 0  # another runtime than containerd
            raise messages.failure(error) from error
        return sum(item.offset for item in answer.statuses), sum(item.total for item in answer.statuses)

    async def list_images(self) -> Sequence[Image]:
        answer = await _call(self._images.ListImages(pb.ListImagesRequest(), timeout=CALL_TIMEOUT_S))
        return [messages.image(item) for item in answer.images]

    async def remove_image(self, reference: str) -> None:
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=reference))
        await _gone_is_fine(self._images.RemoveImage(request, timeout=SANDBOX_TIMEOUT_S))

    async def image_fs_bytes(self) -> tuple[str, int]:
        answer = await _call(self._images.ImageFsInfo(pb.ImageFsInfoRequest(), timeout=CALL_TIMEOUT_S))
        systems = answer.image_filesystems
        mount = systems[0].fs_id.mountpoint if systems else ""
        return mount, sum(system.used_bytes.value for system in systems)

    # -- what happens

    async def stats(self) -> Sequence[ContainerStats]:
        answer, listed = await asyncio.gather(
            _call(self._runtime.ListContainerStats(pb.ListContainerStatsRequest(), timeout=CALL_TIMEOUT_S)),
            _call(self._runtime.ListContainers(pb.ListContainersRequest(), timeout=CALL_TIMEOUT_S)),
        )
        sandboxes = {item.id: item.pod_sandbox_id for item in listed.containers}
        return [messages.stats(item, sandboxes.get(item.attributes.id, "")) for item in answer.stats]

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        from kubelet.runtime import cri_events

        stream = cri_events.subscribe(self._events, self._has_settled)
        try:
            async for event in stream:
                yield event
        finally:
            await stream.aclose()

    async def _has_settled(self, container_id: str) -> bool:
        """Whether CRI, too, knows that this container or sandbox is not running (containerd's exit event comes first)."""
        request = pb.ContainerStatusRequest(container_id=container_id)
        try:
            container = await _call(self._runtime.ContainerStatus(request, timeout=CALL_TIMEOUT_S))
            return bool(container.status.state != pb.CONTAINER_RUNNING)
        except RuntimeNotFound:
            pass
        sandbox_request = pb.PodSandboxStatusRequest(pod_sandbox_id=container_id)
        try:
            sandbox = await _call(self._runtime.PodSandboxStatus(sandbox_request, timeout=CALL_TIMEOUT_S))
            return bool(sandbox.status.state != pb.SANDBOX_READY)
        except RuntimeNotFound:
            return True


async def _call(call: Any, *, reason: str = "") -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise messages.failure(error, reason=reason) from error


async def _gone_is_fine(call: Any, *, reason: str = "") -> None:
    try:
        await _call(call, reason=reason)
    except RuntimeNotFound:
        pass


def _info(info: Any) -> dict[str, Any]:
    """The runtime's verbose answer: for containerd one JSON document under "info", whose shape it does not promise."""
    try:
        document = json.loads(info.get("info", "") or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _sandbox_netns(info: dict[str, Any]) -> str:
    """The path of the sandbox's network namespace; empty when it shares the node's."""
    spec = info.get("runtimeSpec") or {}
    for namespace in (spec.get("linux") or {}).get("namespaces") or ():
        if namespace.get("type") == "network":
            path = str(namespace.get("path") or "")
            return path or (f"/proc/{info['pid']}/ns/net" if info.get("pid") else "")
    return ""
