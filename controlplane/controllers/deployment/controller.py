"""The Deployment controller's shell: observes through informers, asks the plan, carries it out.

Started by `controlplane.controllers.manager`. Level-triggered: `reconcile` may be called at any time for any key, and
may die at any line: what was done shows in the objects, and the next call goes on from there.
"""

from __future__ import annotations

from typing import Any

from controlplane.controllers import objects, shell
from controlplane.controllers.deployment import plan as planning
from controlplane.controllers.deployment import template
from controlplane.controllers.shell import Kit
from wherry.api import labels, meta
from wherry.api.errors import AlreadyExists, APIError, NotFound
from wherry.api.tasks import TaskGroup
from wherry.client.base import DeleteOptions
from wherry.client.controller import Controller
from wherry.client.events import NORMAL, WARNING
from wherry.pb import apps_v1_pb2

LAG_S = 1.0  # how long to wait for a cache that should have shown our own write by now


class DeploymentController:
    def __init__(self, kit: Kit, *, workers: int = 5) -> None:
        self._kit = kit
        self._client = kit.client
        self._deployments = kit.informers.informer(apps_v1_pb2.Deployment)
        self._sets = kit.informers.informer(
            apps_v1_pb2.ReplicaSet, indexers={shell.CONTROLLER_INDEX: shell.by_controller}
        )
        self._pods = shell.pods(kit)
        self._recorder = kit.recorder("deployment-controller")
        self._runner: Controller[str] = Controller("deployment", self.reconcile, workers=workers)
        self._deployments.add_handler(self._on_deployment)
        self._sets.add_handler(self._on_set)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        async with TaskGroup() as group:
            group.keep(self._recorder.run, name="deployment-events")
            group.keep(self._runner.run, name="deployment")

    # -- what wakes a Deployment

    def _on_deployment(self, old: Any, new: Any) -> None:
        self._runner.enqueue(meta.key(new if new is not None else old))

    def _on_set(self, old: Any, new: Any) -> None:
        for rs in (old, new):
            if rs is not None and (owner := meta.controller_of(rs)) is not None:
                self._enqueue_owner(rs.metadata.namespace, owner)
        if new is not None and meta.controller_of(new) is None:
            for deployment in self._deployments.list(new.metadata.namespace):
                if labels.from_message(deployment.spec.selector).matches(new.metadata.labels):
                    self._runner.enqueue(meta.key(deployment))

    def _on_pod(self, old: Any, new: Any) -> None:
        """Recreate waits for the last old pod to be over."""
        pod = new if new is not None else old
        if new is not None and not objects.is_finished(new):
            return
        owner = meta.controller_of(pod)
        rs = self._sets.get(owner.name, pod.metadata.namespace) if owner is not None else None
        above = meta.controller_of(rs) if rs is not None else None
        if above is None:
            return
        deployment = self._deployments.get(above.name, pod.metadata.namespace)
        if deployment is not None and deployment.spec.strategy.type == "Recreate":
            self._enqueue_owner(pod.metadata.namespace, above)

    def _enqueue_owner(self, namespace: str, owner: Any) -> None:
        deployment = self._deployments.get(owner.name, namespace)
        if deployment is not None and deployment.metadata.uid == owner.uid:
            self._runner.enqueue(meta.key(deployment))

    # -- one step

    async def reconcile(self, key: str) -> float | None:
        deployment = self._deployments.by_key(key)
        if deployment is None:
            return None
        found = shell.candidates(self._sets, deployment)
        sets = await shell.claim(self._client, deployment, deployment.spec.selector, found)
        pods = [pod for rs in sets for pod in self._pods.by_index(shell.CONTROLLER_INDEX, rs.metadata.uid)]
        has_old_pods = planning.has_old_pods(deployment, sets, pods)
        decided = planning.plan(deployment, sets, has_old_pods=has_old_pods, now=self._kit.env.now())
        if decided.create is not None and not await self._create(deployment, decided.create):
            return LAG_S
        for resize in decided.resize:
            await self._client.update(resize.replica_set)
            if resize.message:
                self._recorder.event(deployment, NORMAL, "ScalingReplicaSet", resize.message)
        for rs in decided.delete:
            await self._delete(rs)
        await self._report(deployment, decided)
        return decided.again_in_s

    async def _create(self, deployment: apps_v1_pb2.Deployment, rs: apps_v1_pb2.ReplicaSet) -> bool:
        """False: look again later, since the cache or the status was not what the plan took it for."""
        try:
            created = await self._client.create(rs)
        except AlreadyExists:
            await self._settle_name(deployment, rs)
            return False
        except APIError as error:
            if shell.is_namespace_terminating(error):
                return False
            message = f'Failed to create new replica set "{rs.metadata.name}": {error}'
            self._recorder.event(deployment, WARNING, "ReplicaSetCreateError", message)
            status = planning.failed_to_create(deployment, rs.metadata.name, str(error), self._kit.env.now())
            if status is not None:
                await self._write_status(deployment, status)
            raise
        if created.spec.replicas:
            self._recorder.event(deployment, NORMAL, "ScalingReplicaSet", planning.created_message(created))
        return True

    async def _settle_name(self, deployment: apps_v1_pb2.Deployment, rs: apps_v1_pb2.ReplicaSet) -> None:
        """The name is taken: by what we made ourselves and do not see yet, or by a stranger."""
        taken = await self._client.get(apps_v1_pb2.ReplicaSet, rs.metadata.name, rs.metadata.namespace)
        same = template.canonical(taken.spec.template) == template.canonical(rs.spec.template)
        if not (meta.is_controlled_by(taken, deployment) and same):
            await self._write_status(deployment, planning.after_collision(deployment))

    async def _delete(self, rs: apps_v1_pb2.ReplicaSet) -> None:
        # At the revision that the plan saw: a set that was taken up again meanwhile must live.
        options = DeleteOptions(uid=rs.metadata.uid, resource_version=rs.metadata.resource_version)
        try:
            await self._client.delete(apps_v1_pb2.ReplicaSet, rs.metadata.name, rs.metadata.namespace, options)
        except NotFound:
            pass

    async def _report(self, deployment: apps_v1_pb2.Deployment, decided: planning.Plan) -> None:
        """Revision and status in one write through `status`, which takes annotations too and leaves the generation."""
        if decided.revision or decided.status is not None:
            await self._write_status(deployment, decided.status, decided.revision)

    async def _write_status(
        self, deployment: apps_v1_pb2.Deployment, status: apps_v1_pb2.DeploymentStatus | None, revision: str = ""
    ) -> None:
        copy = shell.copy_of(deployment)
        if status is not None:
            copy.status.CopyFrom(status)
        if revision:
            copy.metadata.annotations[template.REVISION] = revision
        await self._client.update_status(copy)
