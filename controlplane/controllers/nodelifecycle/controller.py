"""The node lifecycle controller's shell: taints nodes, evicts and marks pods as the plan says.

Started by `controlplane.controllers.manager`. One key per node; its pods are looked at with it.
"""

from __future__ import annotations

from typing import Any

from controlplane.controllers import objects, shell
from controlplane.controllers.nodelifecycle import plan as planning
from controlplane.controllers.shell import Kit
from wherry.api import meta
from wherry.api.errors import Conflict, NotFound
from wherry.api.tasks import TaskGroup
from wherry.client.base import DeleteOptions
from wherry.client.controller import Controller
from wherry.client.events import NORMAL, WARNING
from wherry.pb import core_v1_pb2


class NodeLifecycleController:
    def __init__(self, kit: Kit, *, workers: int = 4) -> None:
        self._kit = kit
        self._client = kit.client
        self._nodes = kit.informers.informer(core_v1_pb2.Node)
        self._pods = shell.pods(kit)
        self._recorder = kit.recorder("node-controller")
        self._runner: Controller[str] = Controller("nodelifecycle", self.reconcile, workers=workers)
        self._any_ready = False
        self._nodes.add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        async with TaskGroup() as group:
            group.keep(self._recorder.run, name="nodelifecycle-events")
            group.keep(self._runner.run, name="nodelifecycle")

    def _on_node(self, old: Any, new: Any) -> None:
        any_ready = any(planning.is_ready(node) for node in self._nodes.list())
        if any_ready != self._any_ready:
            # Whether pods may be evicted from a lost node depends on the others.
            self._any_ready = any_ready
            for node in self._nodes.list():
                self._runner.enqueue(node.metadata.name)
        if new is not None:
            self._runner.enqueue(new.metadata.name)

    def _on_pod(self, old: Any, new: Any) -> None:
        """A pod matters here only on a node in trouble."""
        if new is None or not new.spec.node_name:
            return
        node = self._nodes.get(new.spec.node_name)
        if node is not None and (
            planning.is_unreachable(node)
            or planning.is_marked(new)
            or any(taint.effect == planning.NO_EXECUTE for taint in node.spec.taints)
        ):
            self._runner.enqueue(node.metadata.name)

    async def reconcile(self, name: str) -> float | None:
        node = self._nodes.get(name)
        if node is None:
            return None
        now = self._kit.env.now()
        # When no node at all is ready the fault is more likely ours than theirs, and there is nowhere to go.
        taints = planning.plan_taints(node, may_evict=self._any_ready, now=now)
        if taints is not None:
            node = await self._write_taints(node, taints)
        pods = self._pods.by_index(shell.NODE_INDEX, name)
        for pod in planning.plan_marks(node, pods, now):
            await self._mark(pod)
        evictions = planning.plan_evictions(node.spec.taints, pods, now)
        for pod in evictions.now:
            await self._evict(pod)
        return evictions.next_in_s

    async def _write_taints(self, node: core_v1_pb2.Node, taints: list[core_v1_pb2.Taint]) -> core_v1_pb2.Node:
        copy = shell.copy_of(node)
        del copy.spec.taints[:]
        copy.spec.taints.extend(taints)
        written = await self._client.update(copy)
        if reason := planning.readiness_event(node, taints):
            self._recorder.event(node, NORMAL, reason, f"Node {node.metadata.name} status is now: {reason}")
        return written

    async def _mark(self, pod: core_v1_pb2.Pod) -> None:
        try:
            await self._client.update_status(pod)
        except (NotFound, Conflict):
            return  # it changed or went; the event of that brings us back
        if not objects.is_ready(pod):
            self._recorder.event(pod, WARNING, "NodeNotReady", "Node is not ready")

    async def _evict(self, pod: core_v1_pb2.Pod) -> None:
        self._recorder.event(pod, NORMAL, "TaintManagerEviction", f"Marking for deletion Pod {meta.key(pod)}")
        copy = shell.copy_of(pod)
        if meta.set_condition(
            copy.status.conditions, "DisruptionTarget", "True", reason="DeletionByTaintManager",
            message="Taint manager: deleting due to NoExecute taint", now=self._kit.env.now(),
        ):  # fmt: skip
            try:
                await self._client.update_status(copy)
            except (NotFound, Conflict):
                pass  # it says why the pod goes; that it goes matters more
        try:
            options = DeleteOptions(uid=pod.metadata.uid)
            await self._client.delete(core_v1_pb2.Pod, pod.metadata.name, pod.metadata.namespace, options)
        except NotFound:
            pass
