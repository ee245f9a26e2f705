"""Sets up the node's part of the pod network with the addresses that the control plane gives it. Called by `kubelet.agent`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kubelet.options import NetworkSetup
from wherry.api.tasks import TaskGroup
from wherry.pb import nodelink_pb2

log = logging.getLogger(__name__)

RETRY_S = 5.0


class PodNetwork:
    """Invariant: at most one task configures, for the newest addresses."""

    def __init__(self, network: NetworkSetup, ready: Callable[[], None]) -> None:
        """`ready` is called when it is set up."""
        self._network, self._ready = network, ready
        self._cidrs = ("", "")  # this node's pods, all pods
        self._task: asyncio.Task[None] | None = None

    def on_settings(self, group: TaskGroup, settings: nodelink_pb2.Settings) -> None:
        cidrs = (settings.pod_cidr, settings.cluster_cidr)
        if not settings.pod_cidr or cidrs == self._cidrs:
            return
        self._cidrs = cidrs
        if self._task is not None:
            self._task.cancel()
        self._task = group.create_task(self._configure(*cidrs), name="pod-network")

    async def _configure(self, pod_cidr: str, cluster_cidr: str) -> None:
        while True:
            try:
                await self._network.configure(pod_cidr, cluster_cidr)
                self._ready()
                return
            except Exception as error:
                # Whatever it is, the node stays NotReady for want of a network, and this says why.
                log.error("the pod network %s cannot be set up: %s", pod_cidr, error)
                await asyncio.sleep(RETRY_S)
