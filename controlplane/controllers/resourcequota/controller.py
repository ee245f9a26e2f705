"""The shell around the count of quotas. Started by `controlplane.controllers.manager`.

A count must not overlook what was charged before: it is made of objects at least as new as the quota that it is written to, and
written on condition that the quota is still that one. So it never gives away what a write at the same time was charged for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.controllers import objects, shell
from controlplane.controllers.resourcequota import plan as planning
from controlplane.controllers.shell import Kit
from wherry.api import kinds, meta
from wherry.client.base import Selection
from wherry.client.controller import Controller
from wherry.client.informer import split_key
from wherry.pb import core_v1_pb2

# Every figure is counted anew after this long, in case a write was missed; Kubernetes' own period.
RESYNC_S = 300.0


class ResourceQuotaController:
    def __init__(self, kit: Kit, *, workers: int = 2) -> None:
        self._client = kit.client
        self._quotas = kit.informers.informer(core_v1_pb2.ResourceQuota)
        self._pods = shell.pods(kit)
        self._runner: Controller[str] = Controller("resourcequota", self.reconcile, workers=workers)
        self._quotas.add_handler(self._on_quota)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        await self._runner.run()

    def _on_quota(self, old: Any, new: Any) -> None:
        if new is not None and (old is None or planning.stale(new)):
            self._runner.enqueue(meta.key(new))

    def _on_pod(self, old: Any, new: Any) -> None:
        """A pod gives back what it had when it goes, and when it ends."""
        if new is not None and not (objects.is_finished(new) and old is not None and not objects.is_finished(old)):
            return
        for quota in self._quotas.list((new if new is not None else old).metadata.namespace):
            self._runner.enqueue(meta.key(quota))

    async def reconcile(self, key: str) -> float | None:
        quota = self._quotas.by_key(key)
        if quota is None:
            return None
        found = {resource: await self._objects(*resource, quota) for resource in planning.resources(quota)}
        status = planning.plan(quota, found)
        if status is not None:
            copy = shell.copy_of(quota)
            copy.status.CopyFrom(status)
            await self._client.update_status(copy)
        return RESYNC_S

    async def _objects(self, group: str, plural: str, quota: core_v1_pb2.ResourceQuota) -> Sequence[Any] | None:
        namespace, _ = split_key(meta.key(quota))
        if (group, plural) == ("", "pods") and int(self._pods.resource_version or 0) >= int(
            quota.metadata.resource_version
        ):
            return self._pods.list(namespace)
        kind = _kind(group, plural) or await self._custom(group, plural)
        if kind is None:
            return None
        return (await self._client.list(kind.message, Selection(namespace))).items

    async def _custom(self, group: str, plural: str) -> kinds.Kind | None:
        """A kind that is not in the schema; None when it is not served either."""
        for resource in (await self._client.discover()).resources:
            kind = kinds.of_resource(resource)
            if (kind.group, kind.plural) == (group, plural) and kind.namespaced:
                return kind
        return None


def _kind(group: str, plural: str) -> kinds.Kind | None:
    for api_version in kinds.MODULES:
        own, _, version = api_version.rpartition("/")
        found = kinds.by_resource(own, version, plural) if own == group else None
        if found is not None and found.namespaced:
            return found
    return None
