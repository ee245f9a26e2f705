"""A node on a Docker network of its own: the container that holds the node's network namespace, and what is run in it.

`wherry up --runtime docker` makes the network: pods have the addresses of one part of its subnet, Services those of another, all
on one bridge. The node's container claims the Services' part for itself, so that what pods (and this machine) send to a Service
arrives there, and leads it on by the same nftables table as on any node (`kubelet.network.services`), written by `nft` inside
the container. What it leads on has its own address, else the answer would go past it on the bridge. Pods with the host's
network share its namespace. So nothing of this machine's own network is touched, and no root is needed.

Used by `kubelet.runtime.docker` (sandboxes) and, as `BridgeGround`, by `kubelet.network.traffic`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubelet.network import NetworkError
from kubelet.network.dns.server import PORT as DNS_PORT
from kubelet.network.dns.server import NameServer
from kubelet.network.services.ruleset import TABLE
from kubelet.runtime import docker_messages as messages
from kubelet.runtime import docker_streams
from kubelet.runtime.base import PortMapping, RuntimeFailure, RuntimeNotFound
from kubelet.runtime.docker_engine import Engine
from wherry.api.tasks import TaskGroup

log = logging.getLogger(__name__)

NODE_IMAGE = "wherry.local/node:1"
# Labels of the network.
ADDRESS, SERVICES, NODE_NAME = "wherry.dev/node-address", "wherry.dev/services", "wherry.dev/node-name"
NODE_TABLE = "wherry-node"
RUN_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 2 * RUN_TIMEOUT_S + 5.0  # the container is made, and something is run in it
MAX_OUTPUT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bridge:
    """A node's Docker network, as its labels describe it."""

    name: str
    gateway: str  # this machine's own address on it
    address: str  # the node's
    services: str
    node_name: str


@dataclass(frozen=True, slots=True)
class Names:
    """The cluster's DNS address, and where its name server really listens."""

    address: str
    server: str
    port: int


def describe(document: Mapping[str, Any]) -> Bridge:
    """From Docker's description. Raises RuntimeFailure for a network that is no node's."""
    labels = document.get("Labels") or {}
    configs = (document.get("IPAM") or {}).get("Config") or [{}]
    name = str(document.get("Name", ""))
    if any(not labels.get(label) for label in (ADDRESS, SERVICES, NODE_NAME)):
        raise RuntimeFailure(
            f'the Docker network "{name}" is no node\'s: `wherry up --runtime docker` makes one that is'
        )
    return Bridge(name, str(configs[0].get("Gateway", "")), labels[ADDRESS], labels[SERVICES], labels[NODE_NAME])


def node_body(bridge: Bridge) -> dict[str, Any]:
    """The body of /containers/create. The route makes every address of the Services the container's own, so it answers for
    them on the bridge."""
    return {
        "Image": NODE_IMAGE,
        "Hostname": bridge.node_name,
        "Cmd": ["/bin/sh", "-c", f"ip route add local {bridge.services} dev lo && exec sleep 2147483647"],
        "StopSignal": "SIGKILL",
        "Labels": {messages.NODE: bridge.name, messages.TYPE: "node"},
        "HostConfig": {
            "NetworkMode": bridge.name,
            "IpcMode": "private",
            "CapDrop": ["ALL"],
            "CapAdd": ["NET_ADMIN"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Sysctls": {"net.ipv4.ip_forward": "1"},
            "LogConfig": {"Type": "none"},
        },
        "NetworkingConfig": {"EndpointsConfig": {bridge.name: {"IPAMConfig": {"IPv4Address": bridge.address}}}},
    }


def sweeper_body(directory: Path, network: str) -> dict[str, Any]:
    """A container that empties a directory of this machine, as root: what containers have written there as somebody else, an
    agent without root can't remove. By its labels `down` finds one whose maker was killed."""
    return {
        "Image": NODE_IMAGE,
        "Cmd": ["/bin/sh", "-c", "rm -rf /swept/* /swept/.[!.]* /swept/..?*"],
        "User": "0:0",
        "Labels": {messages.NODE: network, messages.TYPE: "sweeper"},
        "HostConfig": {
            "Mounts": [{"Type": "bind", "Source": str(directory), "Target": "/swept"}],
            "NetworkMode": "none",
            "LogConfig": {"Type": "none"},
        },
    }


def check_swept(directory: Path, ended: Mapping[str, Any]) -> None:
    """`ended`: Docker's answer about the sweeper. Raises RuntimeFailure when it could not remove everything."""
    if code := int(ended.get("StatusCode") or 0):
        raise RuntimeFailure(f"emptying {directory}: rm ended with exit code {code}")


def rules(bridge: Bridge, names: Names | None, ports: Iterable[tuple[PortMapping, str]]) -> str:
    """The table of what is led on besides Services: the questions for names, and the ports of the node that pods have (hostPort),
    each with the address of its pod. Two pods that want one port never get that far: Docker publishes it once."""
    lines = []
    if names is not None:
        for kind in ("tcp", "udp"):
            lines.append(f"ip daddr {names.address} {kind} dport {DNS_PORT} dnat to {names.server}:{names.port}")
    for port, address in sorted(ports, key=lambda item: (item[0].protocol, item[0].host_port, item[1])):
        kind, to = port.protocol.lower(), f"{address}:{port.container_port}"
        if kind in ("tcp", "udp") and port.host_ip in ("", "0.0.0.0"):
            lines.append(f"ip daddr {bridge.address} {kind} dport {port.host_port} dnat to {to}")
    body = "\n    ".join(lines)
    return f"""add table ip {NODE_TABLE}
delete table ip {NODE_TABLE}
table ip {NODE_TABLE} {{
  chain lead {{
    {body}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat - 5; policy accept;
    jump lead
  }}
  chain output {{
    type nat hook output priority -105; policy accept;
    jump lead
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat masquerade
  }}
}}
"""


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
        self.replaced: Callable[[], None] = lambda: None  # called when another container has taken the place
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
                self.replaced()  # before anything can fail: the next time it is no other one
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

    async def _run(self, argv: Sequence[str], stdin: str) -> tuple[int, str]:
        output = bytearray()
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                made = await self._engine.call(
                    "exec_create", self.id, list(argv), stdin=bool(stdin), stdout=True, stderr=True, tty=False
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


class BridgeKernel:
    """The node's table of Services, in its container: `kubelet.network.services.controller.Kernel`. Blocking, called in threads;
    the calls run on the loop that it was made on."""

    def __init__(self, node: NodeContainer) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()

    def prepare(self) -> bool:
        return True  # whatever comes back passes the node, which has put its own address on it

    def has(self, state: str) -> bool:
        return self._call(["nft", "list", "chain", "ip", TABLE, state])[0] == 0

    def sets(self) -> str:
        code, said = self._call(["nft", "-j", "list", "sets", "table", "ip", TABLE])
        return said if code == 0 else ""

    def apply(self, transaction: str) -> None:
        code, said = self._call(["nft", "-f", "-"], transaction)
        if code:
            raise NetworkError(f"nft -f -: {said}")

    def forget_udp(self, flows: Iterable[tuple[str, int, str]]) -> None:
        lines = []
        for address, port, endpoint in list(flows)[:64]:
            words = [f"--orig-port-dst {port}"]
            words += [f"--orig-dst {address}"] if address else []
            words += [f"--dst-nat {endpoint}"] if endpoint else []
            lines.append(f"conntrack -D -p udp {' '.join(words)}")
        # It fails, too, where there was nothing to forget.
        self._call(["/bin/sh", "-c", "\n".join([*lines, "true"])])

    def _call(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str]:
        """Raises NetworkError."""
        done = asyncio.run_coroutine_threadsafe(self._node.run(argv, stdin), self._loop)
        try:
            return done.result(CALL_TIMEOUT_S)
        except TimeoutError as error:
            done.cancel()  # what comes after it must not find it still at work
            raise NetworkError(f"{argv[0]} in {self._node.name}: no answer within {CALL_TIMEOUT_S:g} s") from error
        except RuntimeFailure as error:
            raise NetworkError(f"{argv[0]} in {self._node.name}: {error}") from error


class BridgeGround:
    """What `kubelet.network.traffic` stands on here, and `kubelet.volumes` (`sweep`)."""

    def __init__(self, node: NodeContainer) -> None:
        self.kernel = BridgeKernel(node)
        self._node = node
        self.sweep = node.sweep

    def on_replaced(self, tell: Callable[[], None]) -> None:
        self._node.replaced = tell

    async def serve_names(self, server: NameServer, address: str) -> None:
        """At this machine's end of the bridge, on any port, to which the node leads what is sent to the cluster's address. Until
        cancelled. Raises NetworkError or OSError."""
        try:
            bridge = await self._node.bridge()
            async with TaskGroup() as group:
                group.create_task(server.serve(bridge.gateway, 0), name="name-server")
                await server.serving.wait()
                await self._node.hold_names(Names(address, *server.address))
        except BaseExceptionGroup as several:
            first = several.exceptions[0]
            if isinstance(first, RuntimeFailure):
                raise NetworkError(first.message) from several
            raise first from several
        except RuntimeFailure as error:
            raise NetworkError(error.message) from error
