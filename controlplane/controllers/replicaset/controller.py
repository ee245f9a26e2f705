"""The ReplicaSet controller's shell: makes and deletes pods as the plan says, and reports.

Started by `controlplane.controllers.manager`. Pods are made in batches that double while all goes well, so that a
namespace without quota costs one refused request and not five hundred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from controlplane.controllers import shell
from controlplane.controllers.replicaset import plan as planning
from controlplane.controllers.replicaset.expectations import Expectations
from controlplane.controllers.shell import Kit
from wherry.api import labels, meta
from wherry.api.errors import APIError, NotFound, ServiceUnavailable, Timeout
from wherry.api.tasks import TaskGroup
from wherry.client.base import DeleteOptions, Selection
from wherry.client.controller import Controller
from wherry.client.events import NORMAL, WARNING
from wherry.pb import apps_v1_pb2, core_v1_pb2

LAG_S = 1.0  # how long to wait for a cache that should have shown our own writes by now


class ReplicaSetController:
    def __init__(self, kit: Kit, *, workers: int = 5) -> None:
        self._kit = kit
        self._client = kit.client
        self._sets = kit.informers.informer(
            apps_v1_pb2.ReplicaSet, indexers={shell.CONTROLLER_INDEX: shell.by_controller}
        )
        self._pods = shell.pods(kit)
        self._expectations = Expectations()
        self._recorder = kit.recorder("replicaset-controller")
        self._runner: Controller[str] = Controller("replicaset", self.reconcile, workers=workers)
        self._sets.add_handler(self._on_set)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        async with TaskGroup() as group:
            group.keep(self._recorder.run, name="replicaset-events")
            group.keep(self._runner.run, name="replicaset")

    def check_invariants(self) -> None:
        self._expectations.check_invariants()

    # -- what wakes a ReplicaSet

    def _on_set(self, old: Any, new: Any) -> None:
        self._runner.enqueue(meta.key(new if new is not None else old))

    def _on_pod(self, old: Any, new: Any) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            self._expectations.observe(pod.metadata.resource_version)
            owner = meta.controller_of(pod)
            if owner is not None and owner.kind == "ReplicaSet":
                self._runner.enqueue(meta.key_of(pod.metadata.namespace, owner.name))
        if new is not None and meta.controller_of(new) is None:
            for rs in self._sets.list(new.metadata.namespace):
                if labels.from_message(rs.spec.selector).matches(new.metadata.labels):
                    self._runner.enqueue(meta.key(rs))

    # -- one step

    async def reconcile(self, key: str) -> float | None:
        if self._expectations.in_doubt(key):
            await self._settle_doubt(key, meta.split_key(key)[0])
        rs = self._sets.by_key(key)
        if rs is None:
            self._expectations.forget(key)
            return None
        decided = planning.Plan()
        error: APIError | None = None
        # No await between these two: what is decided on must be the very cache that was found to be up to date.
        self._expectations.observe(self._pods.resource_version)
        up_to_date = self._expectations.satisfied(key, self._is_present(rs.metadata.namespace))
        found = shell.candidates(self._pods, rs)
        pods = await shell.claim(self._client, rs, rs.spec.selector, found)
        if up_to_date:
            decided = planning.plan(rs, pods, self._siblings(rs, pods), self._kit.env.now())
            error = await self._carry_out(key, rs, decided)
        status, again_in_s = planning.plan_status(rs, pods, decided, str(error or ""), self._kit.env.now())
        if status is not None:
            copy = shell.copy_of(rs)
            copy.status.CopyFrom(status)
            await self._client.update_status(copy)
        if error is not None:
            raise error
        return again_in_s if up_to_date else LAG_S

    def _is_present(self, namespace: str) -> Callable[[str, str], bool]:
        def present(name: str, uid: str) -> bool:
            pod = self._pods.get(name, namespace)
            return pod is not None and pod.metadata.uid == uid and not meta.is_deleting(pod)

        return present

    def _siblings(self, rs: apps_v1_pb2.ReplicaSet, pods: Sequence[core_v1_pb2.Pod]) -> Sequence[core_v1_pb2.Pod]:
        """The pods of all ReplicaSets of the same owner."""
        owner = meta.controller_of(rs)
        if owner is None:
            return pods
        sets = self._sets.by_index(shell.CONTROLLER_INDEX, owner.uid)
        return [pod for each in sets for pod in self._pods.by_index(shell.CONTROLLER_INDEX, each.metadata.uid)]

    async def _carry_out(self, key: str, rs: apps_v1_pb2.ReplicaSet, decided: planning.Plan) -> APIError | None:
        """The first error, if any; what was not done is decided anew."""
        if decided.create:

            async def create(_: int) -> APIError | None:
                return await self._create(key, rs)

            return await _in_growing_batches(range(decided.create), create)

        async def delete(pod: core_v1_pb2.Pod) -> APIError | None:
            return await self._delete(key, rs, pod)

        errors = await asyncio.gather(*(delete(pod) for pod in decided.delete))
        return next((error for error in errors if error is not None), None)

    async def _create(self, key: str, rs: apps_v1_pb2.ReplicaSet) -> APIError | None:
        try:
            pod = await self._client.create(planning.make_pod(rs))
        except APIError as error:
            if shell.is_namespace_terminating(error):
                return None
            if isinstance(error, ServiceUnavailable | Timeout):
                self._expectations.doubt(key)
            self._recorder.event(rs, WARNING, "FailedCreate", f"Error creating: {error}")
            return error
        self._expectations.expect_revision(key, pod.metadata.resource_version)
        self._recorder.event(rs, NORMAL, "SuccessfulCreate", f"Created pod: {pod.metadata.name}")
        return None

    async def _settle_doubt(self, key: str, namespace: str) -> None:
        """A request may have been carried out though no answer came. Nothing is made before the cache has reached a
        revision that shows it."""
        page = await self._client.list(core_v1_pb2.Pod, Selection(namespace=namespace), limit=1)
        self._expectations.settle(key, page.resource_version)

    async def _delete(self, key: str, rs: apps_v1_pb2.ReplicaSet, pod: core_v1_pb2.Pod) -> APIError | None:
        name, uid = pod.metadata.name, pod.metadata.uid
        try:
            left = await self._client.delete(core_v1_pb2.Pod, name, pod.metadata.namespace, DeleteOptions(uid=uid))
        except NotFound:
            self._expectations.expect_deletion(key, name, uid)
            return None
        except APIError as error:
            self._recorder.event(rs, WARNING, "FailedDelete", f"Error deleting: {error}")
            return error
        if left is not None:
            self._expectations.expect_revision(key, left.metadata.resource_version)
        self._expectations.expect_deletion(key, name, uid)
        self._recorder.event(rs, NORMAL, "SuccessfulDelete", f"Deleted pod: {name}")
        return None


async def _in_growing_batches(
    items: Sequence[int], act: Callable[[int], Awaitable[APIError | None]]
) -> APIError | None:
    """1, 2, 4, ... at a time; stops after the first batch with an error, which it returns."""
    done, size = 0, 1
    while done < len(items):
        errors = await asyncio.gather(*(act(item) for item in items[done : done + size]))
        for error in errors:
            if error is not None:
                return error
        done += size
        size *= 2
    return None
