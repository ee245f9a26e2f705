"""Watches over the nodes: declares the silent ones unknown, renews the Leases of those that are heard, tells each its settings.

Started by `controlplane.server`. It writes what a kubelet's silence means (conditions Unknown), and no more: taints, eviction and
so on follow from that in `controllers.nodelifecycle`, which sees it through the API like everyone else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from controlplane.nodelink.heartbeats import LOST_AFTER_INTERVALS, Heartbeats, interval_s
from controlplane.nodelink.leases import LEASE_DURATION_S, read_lease, renew_lease
from controlplane.nodelink.nodestatus import write_silence
from controlplane.nodelink.podcidrs import ensure_pod_cidr
from controlplane.nodelink.servicer import CUT_OFF, NodeLinkServicer
from controlplane.registry.base import Identity, ListOptions, RegistryAPI, RequestContext, WatchOptions
from controlplane.store.base import Store
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import APIError, Expired, NotFound, ServiceUnavailable
from wherry.api.tasks import TaskGroup
from wherry.pb import nodelink_pb2

log = logging.getLogger(__name__)

TICK_S = 0.25
# The loop was busy, or the process stopped, for longer than this: we did not listen, so nobody was silent.
STALL_S = 1.0
# After a start every node has this long to dial again; an agent tries at least every 3 s.
STARTUP_GRACE_S = 15.0
LEASE_RENEWAL_S = 60.0
MAX_WRITES = 16
FOREIGN_LOOK_S = 15.0


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What nodes are told. An empty `cluster_dns`: pods use the node's resolver."""

    cluster_cidr: str = "10.244.0.0/16"
    cluster_dns: str = ""
    cluster_domain: str = "cluster.local"


@dataclass(slots=True)
class _Foreign:
    """A node whose stream another replica holds. `version` of its Lease has stood since `since`; look again at `next_look`."""

    version: str
    since: float
    next_look: float


class Monitor:
    """With several replicas each judges the nodes whose Lease names it; a node whose Lease nobody renews is judged by all.

    Invariants: `_silent` holds nodes whose silence has been written (or is being written) and that have not been heard
    since; a node is declared silent only after `lost_after_s` without a message, by our own clock."""

    def __init__(
        self,
        env: Env,
        registry: RegistryAPI,
        store: Store,
        heartbeats: Heartbeats,
        servicer: NodeLinkServicer,
        identity: Identity,
        settings: LinkSettings,
        replica: str,
        address: str = "",
    ) -> None:
        self._env = env
        self._registry = registry
        self._store = store
        self._heartbeats = heartbeats
        self._servicer = servicer
        self._identity = identity
        self._settings = settings
        self._replica = replica
        self._address = address
        self._foreign: dict[str, _Foreign] = {}
        self._nodes: dict[str, float] = {}  # node -> loop time since when we know it
        self._silent: dict[str, None] = {}
        self._renewed: dict[str, float] = {}
        self._interval_s = interval_s(0)
        self._cidr_lock = asyncio.Lock()
        self._started_at = 0.0
        self._idle = False
        servicer.monitor = self
        heartbeats.listen(self._on_link)

    @property
    def lost_after_s(self) -> float:
        return LOST_AFTER_INTERVALS * self._interval_s

    async def run(self) -> None:
        """Until cancelled."""
        self._started_at = asyncio.get_running_loop().time()
        async with TaskGroup() as group:
            group.keep(self._follow_nodes, name="nodelink-nodes")
            group.keep(self._tick, name="nodelink-monitor")

    @property
    def cut_off(self) -> bool:
        return self._idle

    async def welcome(self, node: str) -> nodelink_pb2.Settings:
        """Raises NotFound when there is no Node of that name: the agent makes it and dials again."""
        async with self._cidr_lock:
            pod_cidr = await ensure_pod_cidr(
                self._registry, self._store, self._context(), node, self._settings.cluster_cidr
            )
        return self._settings_of(pod_cidr)

    def has_absent(self, elsewhere: Collection[str]) -> bool:
        """Of nodes only: a `wherry ingress` is known to the replica that it is connected to."""
        connected = {*self._heartbeats.connected_nodes(), *elsewhere}
        return any(node not in connected and node not in self._silent for node in self._nodes)

    def let_go(self) -> None:
        """We cannot serve them, nor judge them: the store is out of our reach."""
        self._idle = True
        self._servicer.disconnect_all(ServiceUnavailable(CUT_OFF))

    def resume(self, silence_s: float) -> None:
        """The store was out of reach for that long, so nodes were sent away: they have as long as after a start to come back."""
        self._idle = False
        self._heartbeats.forgive(silence_s)
        for node in self._nodes:
            self._heartbeats.forget(node)
        self._started_at = asyncio.get_running_loop().time()

    def _settings_of(self, pod_cidr: str) -> nodelink_pb2.Settings:
        return nodelink_pb2.Settings(
            heartbeat_interval_ms=round(self._interval_s * 1000),
            pod_cidr=pod_cidr,
            cluster_dns=self._settings.cluster_dns,
            cluster_domain=self._settings.cluster_domain,
            cluster_cidr=self._settings.cluster_cidr,
        )

    def _context(self) -> RequestContext:
        return RequestContext(self._identity, cause="nodelink")

    def _on_link(self, node: str, connected: bool) -> None:
        if connected:
            self._silent.pop(node, None)
            self._renewed.pop(node, None)  # renewed at once, at the next tick

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            if now - last > TICK_S + STALL_S:
                log.warning("nothing was heard for %.1f s: this process was not running", now - last)
                self._heartbeats.forgive(now - last)
                self._started_at += now - last
            last = now
            await self._declare(self._newly_silent(now))
            await self._renew(now)

    def _newly_silent(self, now: float) -> list[str]:
        found = []
        for node in sorted(self._nodes):
            seen = self._heartbeats.last_seen(node)
            if seen is not None and now - seen < self.lost_after_s:
                self._silent.pop(node, None)
            elif self._overdue(node, now):
                foreign = self._foreign.get(node)
                if node not in self._silent and (foreign is None or now >= foreign.next_look):
                    found.append(node)
        return found[:MAX_WRITES]

    def _overdue(self, node: str, now: float) -> bool:
        if self._idle or node not in self._nodes:
            return False
        seen = self._heartbeats.last_seen(node)
        if seen is not None:
            return now - seen >= self.lost_after_s
        # Not heard since we started, or since it was made.
        grace_s = max(STARTUP_GRACE_S, self.lost_after_s)
        return now - max(self._nodes[node], self._started_at) >= grace_s

    async def _declare(self, nodes: list[str]) -> None:
        if not nodes:
            return
        async with TaskGroup() as group:
            for node in nodes:
                group.create_task(self._silence(node), name=f"silence-{node}")

    async def _silence(self, node: str) -> None:
        self._silent[node] = None
        try:
            # What was asked may have been answered long after: the store was away meanwhile.
            if await self._is_foreign(node) or not self._overdue(node, asyncio.get_running_loop().time()):
                self._silent.pop(node, None)
                return
        except APIError as error:
            self._silent.pop(node, None)  # again at the next tick
            log.warning("node %s: its Lease was not read: %s", node, error)
            return
        # Should its agent still be there behind a stuck connection: it dials anew and posts all its state.
        self._servicer.disconnect(node, ServiceUnavailable("no heartbeat came in time; dial again"))
        try:
            if await write_silence(self._registry, self._context(), node, self._env.now()):
                log.warning("node %s has fallen silent", node)
        except NotFound:
            self._silent.pop(node, None)
        except APIError as error:
            self._silent.pop(node, None)  # again at the next tick
            log.warning("node %s: its silence was not written: %s", node, error)

    async def _is_foreign(self, node: str) -> bool:
        """Another replica holds the node's stream, and renews its Lease."""
        holder = await read_lease(self._registry, self._context(), node)
        if holder.replica in ("", self._replica):
            self._foreign.pop(node, None)
            return False
        now = asyncio.get_running_loop().time()
        known = self._foreign.get(node)
        if known is None or known.version != holder.version:
            known = self._foreign[node] = _Foreign(holder.version, now, now)
        known.next_look = now + FOREIGN_LOOK_S
        return now - known.since < LEASE_DURATION_S

    async def _renew(self, now: float) -> None:
        due = [
            node
            for node in self._heartbeats.connected_nodes()
            if node not in self._silent and now - self._renewed.get(node, -1e9) >= LEASE_RENEWAL_S
        ]
        if not due:
            return
        async with TaskGroup() as group:
            for node in due[:MAX_WRITES]:
                self._renewed[node] = now
                group.create_task(self._renew_one(node, now), name=f"lease-{node}")

    async def _renew_one(self, node: str, now: float) -> None:
        try:
            await renew_lease(self._registry, self._context(), node, self._env.now(), self._replica, self._address)
        except APIError as error:
            self._renewed[node] = now - LEASE_RENEWAL_S + 5.0
            log.debug("lease of node %s: %s", node, error)

    async def _follow_nodes(self) -> None:
        kind = kinds.by_name("v1", "Node")
        while True:
            try:
                listed = await self._registry.list(self._context(), kind, ListOptions())
                self._known([stored.message().metadata.name for stored in listed.items])
                options = WatchOptions(resource_version=str(listed.revision))
                async for batch in self._registry.watch(self._context(), kind, options):
                    for event in batch.events:
                        if event.type in ("ADDED", "DELETED"):
                            self._one_known(event.stored.message().metadata.name, event.type == "ADDED")
            except Expired:
                continue
            except APIError as error:
                log.warning("the node link's watch of nodes: %s", error)
                await asyncio.sleep(1.0)

    def _known(self, names: list[str]) -> None:
        wanted = set(names)
        for node in [node for node in self._nodes if node not in wanted]:
            self._one_known(node, False)
        for node in names:
            self._one_known(node, True)

    def _one_known(self, node: str, there: bool) -> None:
        if there:
            self._nodes.setdefault(node, asyncio.get_running_loop().time())
        else:
            self._nodes.pop(node, None)
            self._silent.pop(node, None)
            self._renewed.pop(node, None)
            self._foreign.pop(node, None)
            # Its agent, if it lives, makes the Node anew when it dials the next time.
            self._servicer.disconnect(node, ServiceUnavailable(f'node "{node}" was deleted'))
            self._heartbeats.forget(node)
        self._set_interval(interval_s(len(self._nodes)))

    def _set_interval(self, wanted_s: float) -> None:
        if wanted_s == self._interval_s:
            return
        self._interval_s = wanted_s
        for node in self._heartbeats.connected_nodes():
            self._servicer.update_settings(node, round(wanted_s * 1000))
