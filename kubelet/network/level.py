"""By which EndpointSlices something leads connections: what `services.controller` and `kubelet.ingress` tell those who wait for a
pod to leave the endpoints."""

from __future__ import annotations

import asyncio

from wherry.pb import discovery_v1_pb2


class Level:
    """`seen` for each slice that an informer tells of; `mark` before what was seen is carried out, `done(mark)` after it.

    Invariant: what leads connections goes by the slices of `_done`, or later ones."""

    def __init__(self) -> None:
        self._seen = 0
        self._done = 0
        self._waiting: asyncio.Future[None] | None = None  # for a later one to be done

    def seen(self, found: discovery_v1_pb2.EndpointSlice) -> None:
        self._seen = max(self._seen, int(found.metadata.resource_version or 0))

    def mark(self) -> int:
        return self._seen

    def done(self, mark: int) -> None:
        self._done = max(self._done, mark)
        if self._waiting is not None:
            self._waiting.set_result(None)
            self._waiting = None

    async def reached(self, revision: int) -> None:
        """Returns when the slices of this revision, or later ones, are followed. Waits for a change that is still to come."""
        while self._done < revision:
            self._waiting = self._waiting or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)
