"""Keeps routes and overlay level with the Nodes. Run by `kubelet.network.traffic`.

Nothing is touched before the informer has synced, so a restarted agent leaves its predecessor's routes at work until it knows
better; then whatever no node accounts for goes. Without the control plane all stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from kubelet.network import NetworkError
from kubelet.network.mesh import kernel, plan
from kubelet.network.mesh.plan import Peer
from wherry.client.informer import SharedInformers
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

RETRY_S = 2.0
# If somebody has changed routes or links.
CHECK_S = 30.0
# Nodes that come within this are one change.
GATHER_S = 0.05


class MeshController:
    """`on_overlay` is called when the overlay's link has come or gone."""

    def __init__(self, informers: SharedInformers, own: Peer, on_overlay: Callable[[], Awaitable[None]]) -> None:
        self._own = own
        self._on_overlay = on_overlay
        self._wake = asyncio.Event()
        self._active = True
        self._nodes = informers.informer(core_v1_pb2.Node)
        self._nodes.add_handler(self._on_node)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._nodes.wait_synced()
            while True:
                self._wake.clear()
                patience_s = CHECK_S if await self._sync() else RETRY_S
                try:
                    async with asyncio.timeout(patience_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(GATHER_S)
        finally:
            self._active = False  # the informers may live on

    def _on_node(self, old: Any, new: Any) -> None:
        # Nodes report their state every few minutes; only a few of these reports concern us.
        before, after = (plan.peer_of(node) if node is not None else None for node in (old, new))
        if self._active and before != after:
            self._wake.set()

    async def _sync(self) -> bool:
        """False when it has to be tried again."""
        peers = [peer for node in self._nodes.list() if (peer := plan.peer_of(node)) and peer.name != self._own.name]
        try:
            near = await asyncio.to_thread(kernel.on_link)
            changed = await asyncio.to_thread(kernel.apply, self._own, plan.choose(self._own, peers, near))
        except (NetworkError, OSError) as error:
            log.error("the way to the pods of other nodes: %s; again in %g s", error, RETRY_S)
            return False
        if changed:
            await self._on_overlay()
        return True
