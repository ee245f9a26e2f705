"""The shell around the plan of disruption budgets. Started by `controlplane.controllers.manager`.

Deployments and ReplicaSets are looked up in the shared caches, other owners are asked for when a budget counts on them:
StatefulSets and ReplicationControllers for themselves, all others for their scale (`scales`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from controlplane.controllers import shell
from controlplane.controllers.disruption import plan as planning
from controlplane.controllers.disruption.scales import OwnerScales
from controlplane.controllers.shell import Kit
from wherry.api import labels, meta
from wherry.api.errors import NotFound
from wherry.api.tasks import TaskGroup
from wherry.client.controller import Controller
from wherry.client.events import NORMAL, WARNING
from wherry.pb import apps_v1_pb2, core_v1_pb2, meta_v1_pb2, policy_v1_pb2

SLICE = 500  # pods looked at between two pauses
SETTLE_S = 0.05
UNKNOWN_AGAIN_S = 30.0  # nothing tells when an owner of another kind, or its scale, comes to be

# Owners of pods that say how many there should be, beside ReplicaSets.
_SCALED: dict[tuple[str, str], type[Message]] = {
    ("apps", "StatefulSet"): apps_v1_pb2.StatefulSet,
    ("", "ReplicationController"): core_v1_pb2.ReplicationController,
}


class DisruptionController:
    def __init__(self, kit: Kit, *, workers: int = 1) -> None:
        self._kit = kit
        self._client = kit.client
        self._budgets = kit.informers.informer(policy_v1_pb2.PodDisruptionBudget)
        self._sets = kit.informers.informer(
            apps_v1_pb2.ReplicaSet, indexers={shell.CONTROLLER_INDEX: shell.by_controller}
        )
        self._deployments = kit.informers.informer(apps_v1_pb2.Deployment)
        self._pods = shell.pods(kit)
        self._owners = OwnerScales(kit.client)
        self._recorder = kit.recorder("controllermanager")
        self._runner: Controller[str] = Controller("disruption", self.reconcile, workers=workers)
        self._budgets.add_handler(self._on_budget)
        self._pods.add_handler(self._on_pod)
        self._sets.add_handler(self._on_owner)
        self._deployments.add_handler(self._on_owner)

    async def run(self) -> None:
        async with TaskGroup() as group:
            group.create_task(self._recorder.run(), name="disruption-events")
            group.create_task(self._runner.run(), name="disruption")

    # -- what wakes a budget

    def _on_budget(self, old: Any, new: Any) -> None:
        if new is not None:
            self._runner.enqueue(meta.key(new))

    def _on_pod(self, old: Any, new: Any) -> None:
        if old is not None and new is not None and _facts(old) == _facts(new):
            return
        for pod in (old, new):
            if pod is not None:
                self._wake(pod.metadata.namespace, pod.metadata.labels)

    def _on_owner(self, old: Any, new: Any) -> None:
        """Its scale is what a percentage is taken of."""
        if old is not None and new is not None and old.spec.replicas == new.spec.replicas:
            return
        owner = new if new is not None else old
        self._wake(owner.metadata.namespace, owner.spec.template.metadata.labels)

    def _wake(self, namespace: str, pod_labels: Mapping[str, str]) -> None:
        for budget in self._budgets.list(namespace):
            selector = _selector(budget)
            if selector is not None and selector.matches(pod_labels):
                # A little later, so that a burst of changes costs one step.
                self._runner.queue.add_after(meta.key(budget), SETTLE_S)

    # -- one step

    async def reconcile(self, key: str) -> float | None:
        budget = self._budgets.by_key(key)
        if budget is None or meta.is_deleting(budget):
            return None
        selector = _selector(budget)
        pods = await self._selected(budget.metadata.namespace, selector)
        if not pods:
            self._recorder.event(budget, NORMAL, "NoPods", "No matching pods found")
        now = self._kit.env.now()
        try:
            scales = await self._scales(budget, pods) if planning.wants_scales(budget) else {}
            outcome = planning.plan(budget, pods, scales, now)
        except planning.UnknownScale as error:
            text = f"Failed to calculate the number of expected pods: {error}"
            self._recorder.event(budget, WARNING, "CalculateExpectedPodCountFailed", text)
            outcome = planning.plan_failure(budget, str(error), now)
            outcome.again_in_s = UNKNOWN_AGAIN_S
        for pod in outcome.undeleted:
            text = f"Pod was expected by PDB {key} to be deleted but it wasn't"
            self._recorder.event(pod, WARNING, "NotDeleted", text)
        if outcome.status is not None:
            copy = shell.copy_of(budget)
            copy.status.CopyFrom(outcome.status)
            # With the revision that was read: an eviction in between has taken a disruption from what was decided on.
            await self._client.update_status(copy)
        return outcome.again_in_s

    async def _selected(self, namespace: str, selector: labels.Selector | None) -> list[core_v1_pb2.Pod]:
        """In slices: a namespace may hold thousands. Who changes meanwhile wakes the budget again."""
        found: list[core_v1_pb2.Pod] = []
        if selector is None:
            return found
        for number, pod in enumerate(self._pods.list(namespace)):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            if selector.matches(pod.metadata.labels):
                found.append(pod)
        return found

    async def _scales(self, budget: policy_v1_pb2.PodDisruptionBudget, pods: list[core_v1_pb2.Pod]) -> planning.Scales:
        alone = planning.unmanaged(pods)
        if alone:
            shown = str(_selector(budget))
            self._recorder.event(
                budget, WARNING, "UnmanagedPods",
                f"Pods selected by this PodDisruptionBudget (selector: {shown}) were found to be unmanaged. As a result, "
                "the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account "
                'for these pods please set ".spec.minAvailable" field of the PDB to an integer value.',
            )  # fmt: skip
        owners = {owner.uid: owner for pod in pods if (owner := meta.controller_of(pod)) is not None}
        scales: dict[str, int] = {}
        deployments: dict[str, str] = {}  # uid -> the ReplicaSet that stands for it
        for uid in sorted(owners):
            found = await self._scale(budget.metadata.namespace, owners[uid], deployments)
            if found is not None:
                scales[uid] = found
        return scales

    async def _scale(
        self, namespace: str, owner: meta_v1_pb2.OwnerReference, deployments: dict[str, str]
    ) -> int | None:
        group = owner.api_version.rpartition("/")[0]
        if (group, owner.kind) == ("apps", "ReplicaSet"):
            return self._scale_of_set(namespace, owner, deployments)
        cls = _SCALED.get((group, owner.kind))
        if cls is None:
            return await self._owners.read(namespace, owner)
        try:
            found: Any = await self._client.get(cls, owner.name, namespace)
        except NotFound:
            return None
        return int(found.spec.replicas) if found.metadata.uid == owner.uid else None

    def _scale_of_set(
        self, namespace: str, owner: meta_v1_pb2.OwnerReference, deployments: dict[str, str]
    ) -> int | None:
        """A Deployment's pods are counted once, whichever of its ReplicaSets they are of."""
        found = self._sets.get(owner.name, namespace)
        if found is None or found.metadata.uid != owner.uid:
            return None
        above = meta.controller_of(found)
        if above is None or above.kind != "Deployment":
            return int(found.spec.replicas)
        deployment = self._deployments.get(above.name, namespace)
        if deployment is None or deployment.metadata.uid != above.uid:
            return int(found.spec.replicas)
        first = deployments.setdefault(above.uid, owner.uid)
        return int(deployment.spec.replicas) if first == owner.uid else 0


def _selector(budget: policy_v1_pb2.PodDisruptionBudget) -> labels.Selector | None:
    """None selects nothing: there is none, or an older version stored one that is not understood."""
    if not budget.spec.HasField("selector"):
        return None
    try:
        return labels.from_message(budget.spec.selector)
    except labels.BadSelector:
        return None


def _facts(pod: core_v1_pb2.Pod) -> tuple[object, ...]:
    """What of a pod a budget looks at."""
    ready = meta.is_true(pod.status.conditions, "Ready")
    owner = meta.controller_of(pod)
    return dict(pod.metadata.labels), ready, meta.is_deleting(pod), owner.uid if owner is not None else ""
