"""What `kubelet.network.traffic` stands on when the node is a container on Docker: the tables of Services and of NetworkPolicies
are written in there, and names are served at this machine's end of the bridge. Made by `wherry agent`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from kubelet.network import NetworkError
from kubelet.network.dns.server import NameServer
from kubelet.network.policy.plan import TABLE as POLICIES_TABLE
from kubelet.network.services.ruleset import TABLE
from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.docker_bridge import Names
from kubelet.runtime.docker_node import CALL_TIMEOUT_S, NodeContainer
from wherry.api.tasks import TaskGroup


class BridgeKernel:
    """A table in the node's container: the `Kernel` of `kubelet.network.services.controller` and of that of policies. Blocking,
    called in threads; the calls run on the loop that it was made on."""

    def __init__(self, node: NodeContainer, table: str = TABLE) -> None:
        self._node = node
        self._table = table
        self._loop = asyncio.get_running_loop()

    def prepare(self) -> bool:
        return True  # whatever a pod sends or is sent passes the node

    def has(self, state: str) -> bool:
        return self._call(["nft", "list", "chain", "ip", self._table, state])[0] == 0

    def sets(self) -> str:
        code, said = self._call(["nft", "-j", "list", "sets", "table", "ip", self._table])
        return said if code == 0 else ""

    def apply(self, transaction: str) -> None:
        code, said = self._call(["nft", "-f", "-"], transaction)
        if code:
            raise NetworkError(f"nft -f -: {said}")

    def remove(self) -> bool:
        return self._call(["nft", "delete", "table", "ip", self._table])[0] == 0

    def udp_flows(self) -> str:
        code, said = self._call(["conntrack", "-L", "-p", "udp", "--dst-nat"])
        return said if code == 0 else ""

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
        self.policies = BridgeKernel(node, POLICIES_TABLE)
        self._node = node
        self.sweep = node.sweep

    def on_replaced(self, who: str, tell: Callable[[], None]) -> None:
        self._node.replaced[who] = tell

    async def machine(self) -> str:
        try:
            return (await self._node.bridge()).gateway
        except RuntimeFailure as error:
            raise NetworkError(error.message) from error

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
