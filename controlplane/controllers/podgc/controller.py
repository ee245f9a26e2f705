"""The pod collector's shell: looks at all pods every now and then, and deletes what the plan names.

Started by `controlplane.controllers.manager`. How long a node has been missing is counted from when this process first
saw it missing: after a restart the count starts anew, which only delays.
"""

from __future__ import annotations

import asyncio
import logging

from controlplane.controllers import objects, shell
from controlplane.controllers.podgc import plan as planning
from controlplane.controllers.podgc.plan import Collected
from controlplane.controllers.shell import Kit
from wherry.api import meta
from wherry.api.errors import APIError, Conflict, NotFound
from wherry.client.base import DeleteOptions
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

PERIOD_S = 20.0
SLICE = 500  # pods looked at between two chances for the loop to do something else


class PodCollector:
    def __init__(self, kit: Kit, *, terminated_threshold: int = planning.TERMINATED_THRESHOLD) -> None:
        self._kit = kit
        self._client = kit.client
        self._threshold = terminated_threshold
        self._pods = shell.pods(kit)
        self._nodes = kit.informers.informer(core_v1_pb2.Node)
        self._missing_since: dict[str, float] = {}  # node name -> loop time

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.collect()
            except APIError as error:
                log.warning("podgc: %s: %s; again in %g s", error.reason, error, PERIOD_S)

    async def collect(self) -> None:
        nodes = self._nodes.list()
        known = {node.metadata.name for node in nodes}
        pods = []  # those that a plan may name: of most there is nothing to be said
        for position, pod in enumerate(self._pods.list()):
            if position % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            if planning.concerns(pod, known):
                pods.append(pod)
        if self._threshold > 0:
            await self._remove(planning.plan_finished(pods, self._threshold))
        await self._remove(planning.plan_out_of_service(pods, nodes))
        await self._remove(planning.plan_unscheduled(pods))
        gone = await self._gone(planning.missing_nodes(pods, known))
        await self._remove(planning.plan_orphaned(pods, gone))

    async def _gone(self, missing: list[str]) -> list[str]:
        """Those that have been missing for the quarantine, asked of the server once more."""
        now = asyncio.get_running_loop().time()
        self._missing_since = {name: self._missing_since.get(name, now) for name in missing}
        gone = []
        for name, since in self._missing_since.items():
            if now - since < planning.QUARANTINE_S:
                continue
            try:
                await self._client.get(core_v1_pb2.Node, name)
            except NotFound:
                gone.append(name)
        return gone

    async def _remove(self, collected: list[Collected]) -> None:
        for each in collected:
            try:
                await self._end(each)
                options = DeleteOptions(grace_period_s=0, uid=each.pod.metadata.uid)
                await self._client.delete(core_v1_pb2.Pod, each.pod.metadata.name, each.pod.metadata.namespace, options)
            except (NotFound, Conflict) as error:
                log.debug("podgc: %s: %s", meta.key(each.pod), error)

    async def _end(self, collected: Collected) -> None:
        """Nobody will report the end of a pod whose node is gone, so it is done here."""
        if not collected.reason or objects.is_finished(collected.pod):
            return
        copy = shell.copy_of(collected.pod)
        copy.status.phase = "Failed"
        meta.set_condition(
            copy.status.conditions, "DisruptionTarget", "True", reason=collected.reason, message=collected.message,
            now=self._kit.env.now(),
        )  # fmt: skip
        await self._client.update_status(copy)
