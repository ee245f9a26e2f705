"""Statuses on their way up: the latest one per pod, never a queue of old ones. Written by the pod workers, drained by the
agent's control stream in bounded batches. After a reconnect everything is sent again."""

from __future__ import annotations

import asyncio

from wherry.api.context import cause
from wherry.pb import core_v1_pb2, nodelink_pb2

BATCH = 100


class StatusManager:
    """Invariants: what `_pending` names is in `_latest`; `_changed` is set exactly while something is pending."""

    def __init__(self) -> None:
        self._latest: dict[str, nodelink_pb2.PodStatusUpdate] = {}
        self._pending: dict[str, None] = {}
        self._changed = asyncio.Event()

    def put(self, pod: core_v1_pb2.Pod, status: core_v1_pb2.PodStatus, *, terminated: bool) -> None:
        metadata = pod.metadata
        update = nodelink_pb2.PodStatusUpdate(
            namespace=metadata.namespace, name=metadata.name, uid=metadata.uid, terminated=terminated, cause=cause.get()
        )
        update.status.CopyFrom(status)
        self._latest[metadata.uid] = update
        self._pending[metadata.uid] = None
        self._changed.set()

    def forget(self, uid: str) -> None:
        self._latest.pop(uid, None)
        self._pending.pop(uid, None)
        if not self._pending:
            self._changed.clear()

    def resend_all(self) -> None:
        self._pending = dict.fromkeys(self._latest)
        if self._pending:
            self._changed.set()

    def take(self, limit: int = BATCH) -> list[nodelink_pb2.PodStatusUpdate]:
        """The oldest changes first. What is taken counts as sent: call `resend_all` when the stream breaks."""
        uids = list(self._pending)[:limit]
        for uid in uids:
            del self._pending[uid]
        if not self._pending:
            self._changed.clear()
        return [self._latest[uid] for uid in uids]

    async def changed(self) -> None:
        """Returns when there is something to take."""
        await self._changed.wait()

    def check_invariants(self) -> None:
        assert self._pending.keys() <= self._latest.keys()
        assert self._changed.is_set() == bool(self._pending)
