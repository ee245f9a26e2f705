"""The garbage collector's shell: keeps the graph, reads the truth from the server, carries decisions out.

Started by `controlplane.controllers.manager`. Kinds are found by discovery, again every half minute and when a definition
changes, so that kinds that are served later are collected too. Nothing is decided before every kind has been listed once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from google.protobuf.message import Message

from controlplane.controllers import shell
from controlplane.controllers.garbagecollector import plan as planning
from controlplane.controllers.garbagecollector.graph import FOREGROUND, ORPHAN, Graph, Node, Owner, node_of
from controlplane.controllers.garbagecollector.plan import Act, Decision, OwnerState
from controlplane.controllers.metadata import MetadataClient
from controlplane.controllers.shell import Kit
from wherry.api import kinds, meta
from wherry.api.errors import APIError, NotFound
from wherry.api.kinds import Kind
from wherry.api.supervise import keep_running
from wherry.api.tasks import TaskGroup
from wherry.client.base import ClientAPI, DeleteOptions
from wherry.client.controller import Controller
from wherry.client.informer import Informer

log = logging.getLogger(__name__)

DISCOVERY_PERIOD_S = 30.0
DEFINITION_SETTLE_S = 0.5  # from the definition that is seen to the kind that is served
LOOK_AGAIN_S = 5.0
_IGNORED = ("events",)  # news about objects, not parts of them; they have a time to live of their own


class GarbageCollector:
    """`shared`: message classes whose whole objects this process watches anyway."""

    def __init__(self, kit: Kit, *, shared: frozenset[type[Message]] = frozenset(), workers: int = 8) -> None:
        self._kit = kit
        self._client = kit.client
        self._bare = cast(ClientAPI, MetadataClient(kit.client))
        self._shared = shared
        self._graph = Graph()
        self._informers: dict[type[Message], Informer[Any]] = {}
        self._served: dict[tuple[str, str], Kind] = {}  # (apiVersion, kind)
        self._definitions_changed = asyncio.Event()
        self._runner: Controller[str] = Controller("garbagecollector", self.reconcile, workers=workers)

    async def run(self) -> None:
        async with TaskGroup() as group:
            await keep_running("garbagecollector-discovery", partial(self._discover, group))
            for informer in list(self._informers.values()):
                await informer.wait_synced()
            group.keep(self._runner.run, name="garbagecollector")
            group.keep(partial(self._discover_again, group), name="garbagecollector-discovery")

    def check_invariants(self) -> None:
        self._graph.check_invariants()

    # -- the graph

    async def _discover_again(self, group: TaskGroup) -> None:
        while True:
            try:
                async with asyncio.timeout(DISCOVERY_PERIOD_S):
                    await self._definitions_changed.wait()
            except TimeoutError:
                pass
            else:
                self._definitions_changed.clear()
                await asyncio.sleep(DEFINITION_SETTLE_S)
            await self._discover(group)

    async def _discover(self, group: TaskGroup) -> None:
        while True:
            try:
                found = await self._client.discover()
                break
            except APIError as error:
                log.debug("garbage collector: discovery: %s", error)
                await asyncio.sleep(1.0)
        for resource in found.resources:
            kind = kinds.of_resource(resource)
            if kind.plural in _IGNORED or not {"list", "watch", "delete"} <= set(resource.verbs):
                continue
            # A second version is another shape of objects that are watched already.
            known = any((other.group, other.plural) == (kind.group, kind.plural) for other in self._served.values())
            if (kind.api_version, kind.kind) not in self._served:
                # Until now nothing could be said of owners of this kind.
                for uid in self._graph.referring_to(kind.api_version, kind.kind):
                    self._runner.enqueue(uid)
            self._served[(kind.api_version, kind.kind)] = kind
            if kind.message not in self._informers and not known:
                self._watch(group, kind)

    def _watch(self, group: TaskGroup, kind: Kind) -> None:
        if kind.message in self._shared:
            informer: Informer[Any] = self._kit.informers.informer(kind.message)
        else:
            informer = Informer(self._bare, kind.message, self._kit.env)
            group.keep(informer.run, name=f"garbagecollector-{kind.group_resource}")
        self._informers[kind.message] = informer
        informer.add_handler(self._handler(kind))

    def _handler(self, kind: Kind) -> Callable[[Any, Any], None]:
        def handle(old: Any, new: Any) -> None:
            if kind.plural == "customresourcedefinitions":
                self._definitions_changed.set()
            if new is None:
                affected = self._graph.remove(old.metadata.uid)
            else:
                affected = self._graph.put(node_of(kind, new))
            for uid in affected:
                self._runner.enqueue(uid)

        return handle

    # -- one object

    async def reconcile(self, uid: str) -> float | None:
        node = self._graph.get(uid)
        if node is None:
            return None
        obj = await self._read(node)
        if obj is None:
            return None  # gone: the watch will say so
        live = node_of(node.kind, obj)
        dependents = self._graph.dependents(uid)
        if live.deleting:
            decision = planning.decide_deleting(live, dependents)
        else:
            states = {owner.uid: await self._state(live, owner) for owner in live.owners}
            known = [owner.uid for owner in live.owners if self._graph.get(owner.uid) is not None]
            decision = planning.decide(live, states, known, dependents)
        if decision.act is Act.LOOK_AGAIN:
            return LOOK_AGAIN_S
        await self._carry_out(decision, obj, live, dependents)
        return None

    async def _read(self, node: Node) -> Any:
        """The object as the server has it now; None when it is gone, or another one has its name."""
        try:
            obj: Any = await self._client.get(node.kind.message, node.name, node.namespace)
        except NotFound:
            return None
        return obj if obj.metadata.uid == node.uid else None

    async def _state(self, dependent: Node, owner: Owner) -> OwnerState:
        kind = self._served.get((owner.api_version, owner.kind)) or self._other_version(owner)
        if kind is None:
            return OwnerState.UNKNOWN
        if not planning.may_own(kind.namespaced, dependent):
            return OwnerState.UNKNOWN
        try:
            found: Any = await self._client.get(
                kind.message, owner.name, planning.owner_namespace(kind.namespaced, dependent)
            )
        except NotFound:
            return OwnerState.ABSENT
        if found.metadata.uid != owner.uid:
            return OwnerState.ABSENT
        if meta.is_deleting(found) and FOREGROUND in found.metadata.finalizers:
            return OwnerState.WAITING
        return OwnerState.SOLID

    def _other_version(self, owner: Owner) -> Kind | None:
        """The reference may name another version of a group that is served."""
        group = owner.api_version.rpartition("/")[0]
        for kind in self._served.values():
            if (kind.group, kind.kind) == (group, owner.kind):
                return kind
        return None

    async def _carry_out(self, decision: Decision, obj: Any, live: Node, dependents: list[Node]) -> None:
        if decision.act is Act.NOTHING:
            return
        log.debug("garbage collector: %s: %s", live, decision)
        if decision.act is Act.DROP_OWNERS:
            await self._drop(obj, decision.owners)
        elif decision.act is Act.ORPHAN_DEPENDENTS:
            for dependent in dependents:
                found = await self._read(dependent)
                if found is not None:
                    await self._drop(found, (live.uid,))
            await self._finish(obj, ORPHAN)
        elif decision.act is Act.FINISH_FOREGROUND:
            await self._finish(obj, FOREGROUND)
        else:
            if decision.act is Act.UNBLOCK_DEPENDENTS:
                for dependent in dependents:
                    await self._unblock(dependent, live.uid)
            await self._delete(obj, live, decision.policy)

    async def _drop(self, obj: Any, uids: tuple[str, ...]) -> None:
        if not shell.remove_owners(obj, lambda reference: reference.uid in uids):
            return
        try:
            await self._client.update(obj)
        except NotFound:
            pass

    async def _finish(self, obj: Any, finalizer: str) -> None:
        if meta.remove_finalizer(obj, finalizer):
            try:
                await self._client.update(obj)
            except NotFound:
                pass

    async def _unblock(self, dependent: Node, owner_uid: str) -> None:
        obj = await self._read(dependent)
        if obj is None:
            return
        for reference in obj.metadata.owner_references:
            if reference.uid == owner_uid:
                reference.block_owner_deletion = False
        await self._client.update(obj)

    async def _delete(self, obj: Any, live: Node, policy: str) -> None:
        # At the revision that was judged: references may have been taken away meanwhile.
        options = DeleteOptions(propagation_policy=policy, uid=live.uid, resource_version=obj.metadata.resource_version)
        try:
            await self._client.delete(live.kind.message, live.name, live.namespace, options)
        except NotFound:
            pass
