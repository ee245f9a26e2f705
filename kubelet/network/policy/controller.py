"""Keeps the table of policies level with the API. Run by `kubelet.network.traffic`.

Nothing is written before policies, namespaces and pods are known as a whole, so a restarted agent leaves the last one's table at
work until then. Without any policy there is no table, and the cluster's pods are not followed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from kubelet.network import NetworkError
from kubelet.network.policy import plan
from kubelet.network.policy.plan import TABLE
from kubelet.network.policy.world import World
from kubelet.network.services.ruleset import Ruleset
from wherry.api import meta
from wherry.api.tasks import TaskGroup
from wherry.client.informer import SharedInformers
from wherry.pb import core_v1_pb2, networking_v1_pb2, nodelink_pb2

log = logging.getLogger(__name__)

RETRY_S = 2.0
CHECK_S = 30.0
GATHER_S = 0.01
ISOLATE_LIMIT_S = 5.0


class Kernel(Protocol):
    """`kubelet.network.services.kernel.Nftables` is one, of our table."""

    def prepare(self) -> bool: ...
    def has(self, state: str) -> bool: ...
    def apply(self, transaction: str) -> None: ...
    def remove(self) -> bool: ...


class Peers(Protocol):
    """`kubelet.network.policy.peers.PeerStream` is one."""

    async def follow(self, take: Callable[[nodelink_pb2.PodBatch], None], restart: Callable[[], None]) -> None: ...


class PolicyController:
    """Invariant: `_level` only when the kernel has what `_ruleset` says."""

    def __init__(
        self, informers: SharedInformers, peers: Peers, kernel: Kernel, node_name: str, *, machine: str = ""
    ) -> None:
        """`machine`: whose packets no policy concerns, beside the node's own."""
        self._peers, self._kernel, self._node_name = peers, kernel, node_name
        self._policies = informers.informer(networking_v1_pb2.NetworkPolicy)
        self._namespaces = informers.informer(core_v1_pb2.Namespace)
        self._world = World(node_name)
        self._ruleset = Ruleset(TABLE, plan.skeleton(machine))
        self._level = False
        self._known: set[str] = set()  # pods named since the stream began
        self._synced = False
        self._wake = asyncio.Event()
        self._asked = self._done = 0  # how many pods were to be isolated, and how many of them are
        self._waiters: list[asyncio.Event] = []
        self._active = True
        self._policies.add_handler(self._on_policy)
        self._namespaces.add_handler(self._on_namespace)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._policies.wait_synced()
            await self._namespaces.wait_synced()
            while True:
                while not self._policies.list():
                    self._wake.clear()
                    await asyncio.to_thread(self._kernel.remove)
                    await self._wake.wait()
                if not await asyncio.to_thread(self._kernel.prepare):
                    log.error(
                        "this kernel does not show bridged packets: policies between pods of one node have no effect"
                    )
                await self._enforce()
        finally:
            self._active = False  # the informers may live on

    async def isolate(self, pod: core_v1_pb2.Pod, address: str) -> None:
        """Returns when the kernel holds a pod of this node to its policies: before its containers start. Waits a bounded time."""
        if not self._policies.list():
            return
        known = core_v1_pb2.Pod()
        known.CopyFrom(pod)
        known.status.pod_ip = address
        waiter = asyncio.Event()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(ISOLATE_LIMIT_S):
                while not self._synced:
                    await waiter.wait()
                    waiter.clear()
                if not self._world.expect_pod(known):
                    return
                self._asked += 1
                asked = self._asked
                self._wake.set()
                while self._done < asked:
                    await waiter.wait()
                    waiter.clear()
        except TimeoutError:
            log.error("pod %s starts before its network policies are known to be in force", meta.key(pod))
        finally:
            self._waiters.remove(waiter)

    async def _enforce(self) -> None:
        """For as long as there are policies."""
        async with TaskGroup() as group:
            following = group.create_task(self._peers.follow(self._take, self._restart), name="policy-peers")
            while self._policies.list():
                self._wake.clear()
                if self._synced:
                    asked = self._asked
                    await self._write()
                    self._done = asked
                    for waiter in self._waiters:
                        waiter.set()
                try:
                    async with asyncio.timeout(CHECK_S):
                        await self._wake.wait()
                except TimeoutError:
                    self._level = False  # if somebody has flushed it
                await asyncio.sleep(GATHER_S)
            following.cancel()
        for key in self._world.pods():
            self._world.remove_pod(key)
        self._synced, self._level = False, False
        self._ruleset.change(self._world.changes())

    def look_again(self) -> None:
        """The kernel may have lost the table."""
        self._level = False
        self._touch()

    def _on_policy(self, old: Any, new: Any) -> None:
        if new is not None:
            self._world.put_policy(new)
        else:
            self._world.remove_policy(meta.key(old))
        self._touch()

    def _on_namespace(self, old: Any, new: Any) -> None:
        if new is not None:
            self._world.put_namespace(new)
        else:
            self._world.remove_namespace(old.metadata.name)
        self._touch()

    def _touch(self) -> None:
        if self._active:
            self._wake.set()

    def _restart(self) -> None:
        self._known = set()

    def _take(self, batch: nodelink_pb2.PodBatch) -> None:
        for gone in batch.removed:
            self._world.remove_pod(meta.key_of(gone.namespace, gone.name), gone.uid)
        for pod in batch.upserts:
            self._known.add(meta.key(pod))
            self._world.put_pod(pod)
        if batch.synced:
            for key in self._world.pods():
                if key not in self._known:
                    self._world.remove_pod(key)
            self._synced = True
        self._touch()

    async def _write(self) -> None:
        transaction = self._ruleset.change(self._world.changes())
        if self._level and transaction:
            try:
                await asyncio.to_thread(self._kernel.apply, transaction)
                return
            except NetworkError as error:
                log.warning("network policies: a change could not be made, writing all of them anew: %s", error)
                self._level = False
        while not self._level:
            try:
                if not await asyncio.to_thread(self._kernel.has, self._ruleset.state):
                    await asyncio.to_thread(self._kernel.apply, self._ruleset.whole())
                self._level = True
            except (NetworkError, OSError) as error:
                log.error("network policies are not enforced: %s; again in %g s", error, RETRY_S)
                await asyncio.sleep(RETRY_S)
                self._ruleset.change(self._world.changes())
