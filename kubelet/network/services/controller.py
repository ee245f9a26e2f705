"""Keeps the node's table level with Services, EndpointSlices and the zone of the node. Run by `kubelet.network.traffic`.

Nothing is written before both informers have synced, so a restarted agent leaves the last one's table at work until it knows
better, and then writes only what differs. Without the control plane it goes by what the last agent knew, a while after the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from kubelet.network import NetworkError, conntrack
from kubelet.network.level import Level
from kubelet.network.services import affinity
from kubelet.network.services import plan as planning
from kubelet.network.services.health import Health, HealthPorts
from kubelet.network.services.plan import Part, Place
from kubelet.network.services.ruleset import TABLE, Ruleset, skeleton
from wherry.api import meta
from wherry.client.informer import SharedInformers
from wherry.pb import core_v1_pb2, discovery_v1_pb2

log = logging.getLogger(__name__)

SERVICE_NAME = "kubernetes.io/service-name"
SERVICE_INDEX = "service"
ZONE = "topology.kubernetes.io/zone"
RETRY_S = 2.0
CHECK_S = 30.0
# Changes that come within this are one transaction; nft takes a few milliseconds each.
GATHER_S = 0.01
BATCH = 200  # Services planned between two looks at the loop


def by_service(found: discovery_v1_pb2.EndpointSlice) -> tuple[str, ...]:
    """Index function."""
    name = found.metadata.labels.get(SERVICE_NAME, "")
    return (meta.key_of(found.metadata.namespace, name),) if name else ()


class Kernel(Protocol):
    """`kubelet.network.services.kernel.Nftables` is one."""

    def prepare(self) -> bool: ...
    def has(self, state: str) -> bool: ...
    def sets(self) -> str: ...
    def apply(self, transaction: str) -> None: ...
    def udp_flows(self) -> str: ...
    def forget_udp(self, flows: Iterable[tuple[str, int, str]]) -> None: ...


class ServiceController:
    """Invariant: `_dirty` names every Service that changed since its part was planned."""

    def __init__(self, informers: SharedInformers, kernel: Kernel, place: Place) -> None:
        self._kernel = kernel
        self._place = place
        self._services = informers.informer(core_v1_pb2.Service)
        self._slices = informers.informer(discovery_v1_pb2.EndpointSlice, indexers={SERVICE_INDEX: by_service})
        self._ports = HealthPorts()
        self._health: dict[str, tuple[int, Health]] = {}  # by Service: port and state
        self._dirty: dict[str, None] = {}
        self._level = Level()
        self._wake = asyncio.Event()
        self._doubted = False  # whether the kernel still has what was written
        self._active = True
        self._ruleset = Ruleset(TABLE, skeleton(TABLE))
        self._nodes = informers.informer(core_v1_pb2.Node)
        self._nodes.add_handler(self._on_node)
        self._services.add_handler(self._on_service)
        self._slices.add_handler(self._on_slice)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._run()
        finally:
            self._active = False  # the informers may live on
            await asyncio.shield(self._ports.close())

    async def routes_by(self, revision: int) -> None:
        """Returns when the kernel has the slices of this revision, or later ones. Waits for a change that is still to come."""
        await self._level.reached(revision)

    async def _run(self) -> None:
        await self._services.wait_usable()
        await self._slices.wait_usable()
        if self._services.synced:
            await self._nodes.wait_synced()  # it is on its way too: nothing is led out of the zone for that moment
        visible = await asyncio.to_thread(self._kernel.prepare)
        self._ruleset = Ruleset(TABLE, skeleton(TABLE, bridged_pods="" if visible else self._place.pod_cidr))
        self._dirty = dict.fromkeys(self._services.keys())
        mark = self._level.mark()
        self._ruleset.change(await self._plan())
        await self._write_whole()
        await self._forget_misled()
        await self._ports.sync(dict(self._health.values()))
        self._level.done(mark)
        while True:
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._wake.wait()
            except TimeoutError:
                await self._write_whole()  # if somebody has flushed it
                continue
            await asyncio.sleep(GATHER_S)
            if self._doubted:
                self._doubted = False
                await self._write_whole()
            mark = self._level.mark()
            await self._write_changes()
            await self._ports.sync(dict(self._health.values()))
            self._level.done(mark)

    def look_again(self) -> None:
        """The kernel may have lost the table."""
        self._doubted = True
        self._wake.set()

    def _on_node(self, old: Any, new: Any) -> None:
        """Somebody may say later where this node is."""
        if new is None or new.metadata.name != self._place.node_name:
            return
        zone = new.metadata.labels.get(ZONE, "")
        if zone != self._place.zone:
            self._place = replace(self._place, zone=zone)
            for service in self._services.list():
                self._touch(meta.key(service))

    def _on_service(self, old: Any, new: Any) -> None:
        self._touch(meta.key(new if new is not None else old))

    def _on_slice(self, old: Any, new: Any) -> None:
        for found in (old, new):
            if found is not None:
                self._level.seen(found)
                for key in by_service(found):
                    self._touch(key)

    def _touch(self, key: str) -> None:
        if self._active:
            self._dirty[key] = None
            self._wake.set()

    async def _plan(self) -> dict[str, Part | None]:
        changes: dict[str, Part | None] = {}
        self._wake.clear()
        dirty, self._dirty = self._dirty, {}
        for number, key in enumerate(dirty):
            service = self._services.by_key(key)
            changes[key] = None
            self._health.pop(key, None)
            if service is not None:
                slices = self._slices.by_index(SERVICE_INDEX, key)
                changes[key] = planning.plan(service, slices, self._place)
                if port := service.spec.health_check_node_port:
                    count = planning.local_endpoints(slices, self._place)
                    self._health[key] = (port, Health(service.metadata.namespace, service.metadata.name, count))
            if number % BATCH == BATCH - 1:
                await asyncio.sleep(0)
        return changes

    async def _write_changes(self) -> None:
        changes = await self._plan()
        before = {key: self._ruleset.parts.get(key) for key in changes}
        transaction = self._ruleset.change(changes)
        if not transaction:
            return
        try:
            await asyncio.to_thread(self._kernel.apply, transaction)
        except NetworkError as error:
            log.warning("services: a change could not be made, writing all of them anew: %s", error)
            await self._write_whole()
        stale = list(stale_udp(before, changes))
        if stale:
            try:
                await asyncio.to_thread(self._kernel.forget_udp, stale)
            except NetworkError as error:
                log.warning("services: %s", error)

    async def _forget_misled(self) -> None:
        """What was remembered of endpoints that went while no agent was here."""
        wanted = {target: found for part in self._ruleset.parts.values() for target, found in part.udp.items()}
        if not wanted:
            return
        try:
            flows = conntrack.misled(await asyncio.to_thread(self._kernel.udp_flows), wanted)
            if flows:
                await asyncio.to_thread(self._kernel.forget_udp, flows)
        except NetworkError as error:
            log.warning("services: %s", error)

    async def _write_whole(self) -> None:
        """Unless the kernel has it so already. Clients keep their endpoints, unless they are what can't be written."""
        known = True
        while True:
            try:
                if not await asyncio.to_thread(self._kernel.has, self._ruleset.state):
                    clients = affinity.clients(await asyncio.to_thread(self._kernel.sets)) if known else {}
                    await asyncio.to_thread(self._kernel.apply, self._ruleset.whole(clients))
                return
            except (NetworkError, OSError) as error:
                log.error("services cannot be routed: %s; again in %g s", error, RETRY_S)
            known = False
            await asyncio.sleep(RETRY_S)
            self._ruleset.change(await self._plan())


def stale_udp(before: Mapping[str, Part | None], after: Mapping[str, Part | None]) -> Iterable[tuple[str, int, str]]:
    """(address, port, endpoint) whose remembered flows would go on to where nobody is. TCP connections end by themselves."""
    for key in sorted(before):
        old, new = before[key] or Part(), after[key] or Part()
        for (address, port), targets in sorted(old.udp.items()):
            for gone in sorted(targets - new.udp.get((address, port), frozenset())):
                yield address, port, gone
        for (address, port), targets in sorted(new.udp.items()):
            if targets and not old.udp.get((address, port)):
                yield address, port, ""
