"""The shell: follows the definitions, writes their status, deletes the objects of those that go.

Started by `controlplane.server` in every replica once there is a definition. Objects are counted on the server, never
in a cache: what is not seen would be left behind under names that may be given anew.
"""

from __future__ import annotations

from typing import Any

from controlplane.controllers.definitions import plan as planning
from controlplane.controllers.definitions import services
from controlplane.controllers.definitions.plan import Definition
from wherry.api import kinds, meta
from wherry.api.context import Env
from wherry.api.errors import NotFound
from wherry.api.kinds import Kind
from wherry.api.tasks import TaskGroup
from wherry.client.base import ClientAPI, DeleteOptions, Selection
from wherry.client.controller import Controller
from wherry.client.informer import Informer

_SERVICES = ""  # stands for all APIServices where names of definitions stand
AGAIN_S = 1.0  # while objects with finalizers remain
PAGE = 500


class DefinitionController:
    def __init__(self, client: ClientAPI, env: Env, *, workers: int = 2) -> None:
        self._client = client
        self._env = env
        self._definitions = Informer(client, Definition, env)
        self._runner: Controller[str] = Controller("definitions", self.reconcile, workers=workers)
        self._definitions.add_handler(self._on_change)

    async def run(self) -> None:
        """Until cancelled."""
        async with TaskGroup() as group:
            group.keep(self._definitions.run, name="definitions-informer")
            await self._definitions.wait_synced()
            self._runner.enqueue(_SERVICES)  # of definitions that went while nobody was here
            group.keep(self._runner.run, name="definitions")

    def _on_change(self, old: Any, new: Any) -> None:
        if new is not None:
            self._runner.enqueue(new.metadata.name)
            if old is not None and services.wanted([old]).keys() - services.wanted([new]).keys():
                self._runner.enqueue(_SERVICES)
        else:
            self._runner.enqueue(_SERVICES)
            # Names have become free, which another definition of the group may be waiting for.
            for other in self._definitions.list():
                if other.spec.group == old.spec.group:
                    self._runner.enqueue(other.metadata.name)

    async def reconcile(self, name: str) -> float | None:
        if name == _SERVICES:
            await services.clean_up(self._client, self._definitions.list())
            return None
        definition = self._definitions.get(name)
        if definition is None:
            return None
        status = planning.plan_names(definition, self._definitions.list(), self._env.now())
        if status is not None:
            changed = Definition()
            changed.CopyFrom(definition)
            changed.status.CopyFrom(status)
            await self._update(changed, status=True)
            return None  # it comes by again
        if planning.needs_cleanup(definition):
            return await self._clean_up(definition)
        await services.ensure(self._client, self._env, definition)
        if self._definitions.get(name) is None:
            self._runner.enqueue(_SERVICES)
        return None

    async def _clean_up(self, definition: Definition) -> float | None:
        left = 0
        if planning.is_established(definition):
            kind = _kind_of(definition)
            try:
                left = await self._empty(kind)
            except NotFound:
                return AGAIN_S  # not served yet, or by no version
        changed = planning.plan_cleanup(definition, left, self._env.now())
        if not meta.equal(changed.status, definition.status):
            await self._update(changed, status=True)
            return AGAIN_S if left else 0.0
        if left:
            return AGAIN_S
        await self._update(planning.finished(definition), status=False)
        return None

    async def _empty(self, kind: Kind) -> int:
        """Asks for the deletion of all objects; how many are still there after that."""
        found = await self._objects(kind)
        background = DeleteOptions(propagation_policy="Background")
        for namespace in sorted({obj.metadata.namespace for obj in found if not meta.is_deleting(obj)}):
            await self._client.delete_collection(kind.message, Selection(namespace=namespace), background)
        return len(await self._objects(kind)) if found else 0

    async def _objects(self, kind: Kind) -> list[Any]:
        token = ""
        found: list[Any] = []
        while True:
            page = await self._client.list(kind.message, limit=PAGE, continue_token=token)
            found.extend(page.items)
            token = page.continue_token
            if not token:
                return found

    async def _update(self, definition: Definition, *, status: bool) -> None:
        """At the revision that was judged; a conflict brings the runner back with a fresher one."""
        try:
            if status:
                await self._client.update_status(definition)
            else:
                await self._client.update(definition)
        except NotFound:
            pass


def _kind_of(definition: Definition) -> Kind:
    """Any version that is served will do: all give out all objects."""
    spec = definition.spec
    version = next((version.name for version in spec.versions if version.served), "")
    return kinds.dynamic(
        spec.group,
        version,
        spec.names.kind,
        spec.names.plural,
        spec.names.singular,
        namespaced=spec.scope == "Namespaced",
    )
