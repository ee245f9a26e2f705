"""What of the runtime's sandboxes and containers is this node's. Read by `kubelet.agent` at its start and at every relist, and
by `wherry agent --remove`, which takes them away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from kubelet.options import NetworkSetup
from kubelet.pods import model as m
from kubelet.runtime.base import POD_UID, ContainerStatus, Runtime, RuntimeFailure, SandboxStatus
from wherry.api.supervise import keep_running

log = logging.getLogger(__name__)

RETRY_S = 1.0
REMOVALS = 8  # at once
Sandboxes = dict[str, list[SandboxStatus]]  # by pod uid
Containers = dict[str, list[ContainerStatus]]


class Inventory:
    """A runtime may hold the sandboxes of others: only those that bear our name are ours."""

    def __init__(self, runtime: Runtime, node_name: str) -> None:
        self._runtime = runtime
        self._node_name = node_name

    async def list(self) -> tuple[Sandboxes, Containers]:
        """Raises RuntimeFailure."""
        sandboxes: dict[str, list[SandboxStatus]] = {}
        owners: dict[str, str] = {}
        for sandbox in await self._runtime.list_sandboxes():
            if sandbox.annotations.get(m.NODE) == self._node_name:
                uid = sandbox.labels.get(POD_UID, sandbox.uid)
                sandboxes.setdefault(uid, []).append(sandbox)
                owners[sandbox.id] = uid
        containers: dict[str, list[ContainerStatus]] = {}
        for container in await self._runtime.list_containers():
            if container.sandbox_id in owners:
                containers.setdefault(owners[container.sandbox_id], []).append(container)
        return sandboxes, containers

    async def wait_for(self) -> tuple[Sandboxes, Containers]:
        """The same, however long it takes until the runtime answers."""
        return await keep_running("inventory", self._patiently)

    async def remove_all(self, *, timeout_s: float = 60.0) -> None:
        """The orderly way, so that the network gives back what it took. Raises RuntimeFailure when any is left: in a runtime that
        is not ours nothing is removed by force afterwards."""
        limit = asyncio.Semaphore(REMOVALS)

        async def remove(sandbox_id: str) -> None:
            async with limit:
                await self._runtime.stop_sandbox(sandbox_id)
                await self._runtime.remove_sandbox(sandbox_id)

        try:
            async with asyncio.timeout(timeout_s):
                sandboxes, _ = await self.list()
                ids = [sandbox.id for found in sandboxes.values() for sandbox in found]
                results = await asyncio.gather(*(remove(sandbox_id) for sandbox_id in ids), return_exceptions=True)
                left, _ = await self.list()
        except TimeoutError as error:
            raise RuntimeFailure(f"the pods of node {self._node_name} did not go within {timeout_s:g} s") from error
        if left:
            names = ", ".join(sorted(f"{found[0].namespace}/{found[0].name}" for found in left.values()))
            why = next((f": {result}" for result in results if isinstance(result, BaseException)), "")
            raise RuntimeFailure(f"pods of node {self._node_name} are left in the runtime ({names}){why}")

    async def _patiently(self) -> tuple[Sandboxes, Containers]:
        while True:
            try:
                return await self.list()
            except RuntimeFailure as error:
                log.warning("waiting for the runtime: %s", error.message)
                await asyncio.sleep(RETRY_S)


async def release_addresses(network: NetworkSetup | None, sandboxes: Mapping[str, Sequence[SandboxStatus]]) -> None:
    """A runtime without any sandbox has lost them, if there were any: nobody else will ever give their addresses back."""
    if sandboxes or network is None:
        return
    try:
        released = await network.release_leaked(set())
    except OSError as error:
        log.warning("addresses of lost sandboxes: %s", error)
        return
    if released:
        log.warning("the runtime has lost its sandboxes; their addresses are free again: %s", ", ".join(released))
