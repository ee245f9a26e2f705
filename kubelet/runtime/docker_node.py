"""The container that holds a node's network namespace on a Docker network of the node's own, and what is run in it.

`wherry up --runtime docker` makes the network (`docker_bridge` tells how it is laid out). Services are led on by the same
nftables table as on any node (`kubelet.network.services`), and pods held to NetworkPolicies by that of `kubelet.network.policy`,
both written by `nft` inside the container. Pods with the host's network share its namespace. So nothing of this machine's own
network is touched, and no root is needed.

Used by `kubelet.runtime.docker` and `docker_network` (sandboxes), and by `docker_ground`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kubelet.runtime import docker_streams
from kubelet.runtime.base import PortMapping, RuntimeFailure, RuntimeNotFound
from kubelet.runtime.docker_bridge import (
    NODE_IMAGE,
    Bridge,
    Names,
    check_swept,
    describe,
    node_body,
    routes,
    rules,
    sweeper_body,
)
from kubelet.runtime.docker_engine import Engine

log = logging.getLogger(__name__)

RUN_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 2 * RUN_TIMEOUT_S + 5.0  # the container is made, and something is run in it
MAX_OUTPUT_BYTES = 1 << 20


class NodeContainer:
    """One per agent; `network` is the Docker network's name. A container that has stopped is replaced: its namespace is gone,
    and the new one's id tells so."""

    def __init__(self, engine: Engine, network: str) -> None:
        self.network = network
        self.id = ""
        self._engine = engine
        self._bridge: Bridge | None = None
        self._names: Names | None = None
        self._ports: tuple[tuple[PortMapping, str], ...] = ()
        self._written = ""  # the rules that the container has
        self.replaced: dict[str, Callable[[], None]] = {}  # called when another container has taken the place
        self._one = asyncio.Lock()

    @property
    def name(self) -> str:
        return f"{self.network}-node"

    async def bridge(self) -> Bridge:
        """Raises RuntimeFailure when there is no such network."""
        if self._bridge is None:
            try:
                self._bridge = describe(await self._engine.call("inspect_network", self.network))
            except RuntimeNotFound as error:
                raise RuntimeFailure(f'there is no Docker network "{self.network}"; `wherry up` makes it') from error
        return self._bridge

    async def ensure(self) -> str:
        """The id of the container, which runs. Raises RuntimeFailure."""
        async with self._one:
            found = await self._running()
            if not found:
                found = await self._make()
            if found != self.id:
                self.id, self._written = found, ""
                for tell in list(self.replaced.values()):  # before anything can fail: the next time it is no other one
                    tell()
            if not self._written:
                await self._write(await self.bridge())
            return found

    async def _running(self) -> str:
        try:
            document = await self._engine.call("inspect_container", self.name)
        except RuntimeNotFound:
            return ""
        if document["State"].get("Running"):
            return str(document["Id"])
        await self._engine.call("remove_container", self.name, v=True, force=True)
        return ""

    async def _make(self) -> str:
        bridge = await self.bridge()
        try:
            made = await self._engine.call("create_container_from_config", node_body(bridge), self.name)
        except RuntimeNotFound as error:
            raise RuntimeFailure(
                f"the image {NODE_IMAGE} is not there; `wherry up` builds it: {error.message}"
            ) from error
        await self._engine.call("start", made["Id"])
        log.info("the node's container is %s, at %s", self.name, bridge.address)
        return str(made["Id"])

    async def hold_names(self, names: Names) -> None:
        """From now on the cluster's DNS address leads there. Raises RuntimeFailure."""
        self._names = names
        await self._level()

    async def hold_ports(self, ports: Iterable[tuple[PortMapping, str]]) -> None:
        """Exactly these ports of the node lead to pods. Raises RuntimeFailure."""
        self._ports = tuple(ports)
        await self._level()

    async def _level(self) -> None:
        await self.ensure()
        async with self._one:
            await self._write(await self.bridge())

    async def _write(self, bridge: Bridge) -> None:
        """Unless they are there."""
        wanted = rules(bridge, self._names, self._ports)
        if wanted == self._written:
            return
        code, said = await self._run(["nft", "-f", "-"], wanted)
        if code:
            raise RuntimeFailure(f"the node's network rules were refused: {said}")
        self._written = wanted

    async def sweep(self, directory: Path) -> None:
        """Empties it, whoever the files belong to. Raises RuntimeFailure."""
        made = await self._engine.call("create_container_from_config", sweeper_body(directory, self.network))
        try:
            await self._engine.call("start", made["Id"])
            check_swept(directory, await self._engine.call("wait", made["Id"]))
        finally:
            await asyncio.shield(self._engine.call("remove_container", made["Id"], v=True, force=True))

    async def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str]:
        """Exit code and output of a program inside, for which it is made if need be. Raises RuntimeFailure."""
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                await self.ensure()
        except TimeoutError as error:
            raise RuntimeFailure(f"{self.name} did not come up within {RUN_TIMEOUT_S:g} s") from error
        return await self._run(argv, stdin)

    async def route(self, sandbox_id: str) -> None:
        """Returns when a sandbox's pod sends everything by way of the node. Raises RuntimeFailure."""
        code, said = await self._run(["/bin/sh", "-c", routes(await self.bridge())], "", sandbox_id)
        if code:
            raise RuntimeFailure(f"the pod's routes by way of {self.name} could not be set: {said}")

    async def _run(self, argv: Sequence[str], stdin: str, container: str = "") -> tuple[int, str]:
        output = bytearray()
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                made = await self._engine.call(
                    "exec_create",
                    container or self.id,
                    list(argv),
                    stdin=bool(stdin),
                    stdout=True,
                    stderr=True,
                    tty=False,
                )
                session = await docker_streams.start_exec(self._engine, str(made["Id"]), tty=False)
                try:
                    if stdin:
                        await session.send(stdin.encode())
                        await session.send_eof()
                    async for _, piece in session.output():
                        output += piece[: max(MAX_OUTPUT_BYTES - len(output), 0)]
                    code = await session.wait()
                finally:
                    await session.close()
        except TimeoutError as error:
            raise RuntimeFailure(f"{argv[0]} did not end within {RUN_TIMEOUT_S:g} s in {self.name}") from error
        return code, output.decode(errors="replace").strip()
