"""When a pod that is to end may get its signal: once no node leads new connections to it any more.

Step of the data path: between the deletion of a pod and the stop of its containers. Reads EndpointSlices (the informer of
`kubelet.network.traffic`), asks the control plane over the control stream whether all nodes route by them. Called by the pods'
workers through `kubelet.agent`. Every wait is bounded: a node or a control plane that is away delays a pod, and no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from wherry.client.informer import Informer
from wherry.pb import discovery_v1_pb2

log = logging.getLogger(__name__)

TARGET_INDEX = "target"
LIMIT_S = 4.0  # more than the control plane takes to give up on a node


def targets(found: discovery_v1_pb2.EndpointSlice) -> tuple[str, ...]:
    """Index function: the uids of the pods behind the endpoints."""
    return tuple(endpoint.target_ref.uid for endpoint in found.endpoints if endpoint.target_ref.uid)


class Drain:
    """`ask(request, revision)` is False when there is nobody to ask. Invariant: `_settled` has a future for each request that
    somebody waits for."""

    def __init__(self, slices: Informer[discovery_v1_pb2.EndpointSlice], ask: Callable[[int, int], bool]) -> None:
        self._slices = slices
        self._ask = ask
        self._number = 0
        self._settled: dict[int, asyncio.Future[None]] = {}
        self._changed: dict[str, asyncio.Event] = {}  # by uid of a pod that is waited for
        slices.add_indexer(TARGET_INDEX, targets)
        slices.add_handler(self._on_slice)

    async def drained(self, uid: str) -> None:
        """Returns at once for a pod that is behind no Service. Never raises but when it is cancelled."""
        if not self._slices.synced or not self._slices.by_index(TARGET_INDEX, uid):
            return
        try:
            async with asyncio.timeout(LIMIT_S):
                revision = await self._left(uid)
                await self._known(revision)
        except TimeoutError:
            log.warning("pod %s: not every node is known to have taken it from its endpoints", uid)

    def on_settled(self, request: int, missing: list[str]) -> None:
        if missing:
            log.warning("nodes that may still lead connections to a pod that ends: %s", ", ".join(missing))
        future = self._settled.get(request)
        if future is not None and not future.done():
            future.set_result(None)

    async def _left(self, uid: str) -> int:
        """The revision at which the slices say that the pod takes no new connections."""
        event = self._changed.setdefault(uid, asyncio.Event())
        revision = 0
        try:
            while True:
                event.clear()
                found = self._slices.by_index(TARGET_INDEX, uid)
                revision = max([revision, *(int(item.metadata.resource_version or 0) for item in found)])
                if not any(_leads_to(item, uid) for item in found):
                    return revision
                await event.wait()
        finally:
            self._changed.pop(uid, None)

    async def _known(self, revision: int) -> None:
        self._number += 1
        number = self._number
        future = self._settled[number] = asyncio.get_running_loop().create_future()
        try:
            if self._ask(number, revision):
                await future
        finally:
            del self._settled[number]

    def _on_slice(self, old: Any, new: Any) -> None:
        if self._changed:
            for found in (old, new):
                for uid in targets(found) if found is not None else ():
                    if uid in self._changed:
                        self._changed[uid].set()


def _leads_to(found: discovery_v1_pb2.EndpointSlice, uid: str) -> bool:
    """A Service that publishes what is not ready keeps the pod until it is gone (ready and terminating both): not waited for."""
    for endpoint in found.endpoints:
        conditions = endpoint.conditions
        if endpoint.target_ref.uid == uid and not conditions.terminating:
            return conditions.ready if conditions.HasField("ready") else True
    return False
