"""The namespace controller's shell: empties a namespace that is being deleted, then lets it go.

Started by `controlplane.controllers.manager`. Reads lists from the server, never from a cache: what it has not seen
would be left behind for ever.
"""

from __future__ import annotations

from typing import Any

from controlplane.controllers import shell
from controlplane.controllers.namespace import plan as planning
from controlplane.controllers.namespace.plan import Remains
from controlplane.controllers.shell import Kit
from wherry.api import kinds, meta
from wherry.api.errors import APIError, MethodNotAllowed, NotFound
from wherry.api.kinds import Kind
from wherry.client.base import DeleteOptions, Selection
from wherry.client.controller import Controller
from wherry.pb import core_v1_pb2

AGAIN_S = 1.0  # while something remains; pods with a long grace period take theirs
PAGE = 500


class NamespaceController:
    def __init__(self, kit: Kit, *, workers: int = 4) -> None:
        self._kit = kit
        self._client = kit.client
        self._namespaces = kit.informers.informer(core_v1_pb2.Namespace)
        self._runner: Controller[str] = Controller("namespace", self.reconcile, workers=workers)
        self._namespaces.add_handler(self._on_namespace)

    async def run(self) -> None:
        await self._runner.run()

    def _on_namespace(self, old: Any, new: Any) -> None:
        if new is not None and meta.is_deleting(new):
            self._runner.enqueue(new.metadata.name)

    async def reconcile(self, name: str) -> float | None:
        cached = self._namespaces.get(name)
        if cached is None or not meta.is_deleting(cached) or planning.FINALIZER not in cached.spec.finalizers:
            return None
        try:
            namespace = await self._client.get(core_v1_pb2.Namespace, name)
        except NotFound:
            return None
        if namespace.metadata.uid != cached.metadata.uid or not meta.is_deleting(namespace):
            return None
        remains = await self._empty(name)
        status = planning.plan_status(namespace, remains, self._kit.env.now())
        if remains.nothing:
            await self._client.update(planning.finalized(namespace), subresource="finalize")
            return None
        if status is not None:
            copy = shell.copy_of(namespace)
            copy.status.CopyFrom(status)
            await self._client.update_status(copy)
        return AGAIN_S

    async def _empty(self, namespace: str) -> Remains:
        """Asks for the deletion of everything, and counts what is still there afterwards. Pods go first, and the rest
        waits for them: network policies and the like must hold as long as they run."""
        remains = Remains()
        everything = await self._namespaced_kinds()
        pods = [kind for kind in everything if kind.group_resource == "pods"]
        for kind in pods:
            await self._empty_kind(kind, namespace, remains)
        waiting = not remains.nothing
        for kind in everything:
            if kind in pods:
                continue
            if waiting:
                await self._count(kind, namespace, remains)
            else:
                await self._empty_kind(kind, namespace, remains)
        return remains

    async def _namespaced_kinds(self) -> list[Kind]:
        found: dict[str, Kind] = {}
        for resource in (await self._client.discover()).resources:
            kind = kinds.of_resource(resource)
            if kind.namespaced and {"list", "delete"} <= set(resource.verbs):
                found.setdefault(kind.group_resource, kind)  # of several versions one
        return list(found.values())

    async def _empty_kind(self, kind: Kind, namespace: str, remains: Remains) -> None:
        try:
            if await self._count(kind, namespace, Remains()):
                await self._delete_all(kind, namespace)
            await self._count(kind, namespace, remains)
        except APIError as error:
            remains.errors.append(f"{kind.group_resource}: {error}")

    async def _delete_all(self, kind: Kind, namespace: str) -> None:
        background = DeleteOptions(propagation_policy="Background")
        try:
            await self._client.delete_collection(kind.message, Selection(namespace=namespace), background)
        except MethodNotAllowed:
            page = await self._client.list(kind.message, Selection(namespace=namespace))
            for obj in page.items:
                try:
                    await self._client.delete(kind.message, obj.metadata.name, namespace, background)  # type: ignore[attr-defined]
                except NotFound:
                    continue

    async def _count(self, kind: Kind, namespace: str, remains: Remains) -> int:
        token = ""
        total = 0
        while True:
            page = await self._client.list(
                kind.message, Selection(namespace=namespace), limit=PAGE, continue_token=token
            )
            for obj in page.items:
                remains.finalizers.update(obj.metadata.finalizers)  # type: ignore[attr-defined]  # every kind has it
            total += len(page.items)
            token = page.continue_token
            if not token:
                break
        if total:
            remains.counts[planning.group_key(kind.plural, kind.group)] += total
        return total
