"""One probe of one container: when to ask, what to make of the answers. `worker` starts a `Prober` per probe and container id.

The counting is pure (`Tally`); reaching the container is `services.probes` or an exec in the runtime. Reads and writes
nothing else: the result goes to the worker, and from there into `plan`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kubelet.pods.hooks import port_number
from kubelet.pods.services import PodServices
from kubelet.runtime.base import ContainerStatus, RuntimeFailure
from wherry.pb import core_v1_pb2

KINDS = ("startup", "readiness", "liveness")
OUTPUT_LIMIT = 10 * 1024


@dataclass(slots=True)
class Tally:
    """Consecutive equal answers. `add` returns True or False once enough of them came in a row, else None."""

    success_threshold: int
    failure_threshold: int
    last: bool | None = None
    run: int = 0

    def add(self, success: bool) -> bool | None:
        self.run = self.run + 1 if success == self.last else 1
        self.last = success
        needed = self.success_threshold if success else self.failure_threshold
        return success if self.run >= needed else None


def probe_of(container: core_v1_pb2.Container, kind: str) -> core_v1_pb2.Probe | None:
    name = f"{kind}_probe"
    probe: core_v1_pb2.Probe = getattr(container, name)
    return probe if container.HasField(name) else None  # type: ignore[arg-type]  # name is one of three literals


def needs_address(probe: core_v1_pb2.Probe | None) -> bool:
    """Whether it asks over the network, at no host of its own."""
    if probe is None or probe.handler.HasField("exec"):
        return False
    return not (probe.handler.http_get.host or probe.handler.tcp_socket.host)


class Prober:
    """Runs until it is cancelled, or until the probe has nothing more to say (a startup probe that passed, any probe that asks
    for the container's end). `report(result)` is called whenever the verdict is known, also if it did not change."""

    def __init__(
        self,
        services: PodServices,
        pod: Callable[[], core_v1_pb2.Pod],
        container: core_v1_pb2.Container,
        status: ContainerStatus,
        kind: str,
        pod_ip: str,
        report: Callable[[bool], None],
        *,
        adopted: bool,
    ) -> None:
        self._services, self._pod, self._container, self._status = services, pod, container, status
        self._kind, self._ip, self._report, self._adopted = kind, pod_ip, report, adopted
        probe = probe_of(container, kind)
        assert probe is not None
        self._probe = probe

    async def run(self) -> None:
        probe, env = self._probe, self._services.env
        period_s = float(max(probe.period_seconds or 10, 1))
        tally = Tally(max(probe.success_threshold, 1), max(probe.failure_threshold or 3, 1))
        if self._adopted:
            # A restarted agent does not ask all containers at the same moment.
            await asyncio.sleep(env.rng.random() * period_s)
        age_s = env.now() - self._status.started_at
        if age_s < probe.initial_delay_seconds:
            await asyncio.sleep(probe.initial_delay_seconds - age_s)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            success, seen = await self._ask(float(max(probe.timeout_seconds, 1)))
            if not success:
                self._services.events.emit(
                    self._pod(), "Warning", "Unhealthy", f"{self._kind.capitalize()} probe failed: {seen}",
                    f"spec.containers{{{self._container.name}}}",
                )  # fmt: skip
            verdict = tally.add(success)
            if verdict is not None:
                self._report(verdict)
                if self._kind == "startup" or (self._kind == "liveness" and not verdict):
                    return
            await asyncio.sleep(max(period_s - (loop.time() - began), 0.0))

    async def _ask(self, timeout_s: float) -> tuple[bool, str]:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._once(timeout_s)
        except TimeoutError:
            return False, self._timed_out(timeout_s)
        except RuntimeFailure as error:
            return False, error.message

    def _timed_out(self, timeout_s: float) -> str:
        handler = self._probe.handler
        if handler.HasField("exec"):
            return f'command timed out: "{" ".join(handler.exec.command)}" timed out after {timeout_s:g}s'
        if handler.HasField("grpc"):
            return f'timeout: failed to connect service "{self._ip}:{handler.grpc.port}" within {timeout_s:g}s'
        return "context deadline exceeded"

    async def _once(self, timeout_s: float) -> tuple[bool, str]:
        handler, reach, container_id = self._probe.handler, self._services.probes, self._status.id
        if handler.HasField("exec"):
            command = list(handler.exec.command)
            result = await self._services.runtime.exec_sync(container_id, command, timeout_s)
            output = (result.stdout + result.stderr)[:OUTPUT_LIMIT].decode("utf-8", "replace")
            return result.exit_code == 0, output
        if handler.HasField("http_get"):
            action = handler.http_get
            port = port_number(action.port, self._container)
            if not port:
                return False, f"httpGet.port: the container has no port named {action.port.str_val}"
            return await reach.http(container_id, action, action.host or self._ip, port, timeout_s)
        if handler.HasField("tcp_socket"):
            port = port_number(handler.tcp_socket.port, self._container)
            if not port:
                return False, f"tcpSocket.port: the container has no port named {handler.tcp_socket.port.str_val}"
            return await reach.tcp(container_id, handler.tcp_socket.host or self._ip, port, timeout_s)
        if handler.HasField("grpc"):
            return await reach.grpc(container_id, self._ip, handler.grpc.port, handler.grpc.service, timeout_s)
        return False, "the probe has no handler"
