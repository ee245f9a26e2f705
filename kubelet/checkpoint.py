"""The pods assigned to this node, on its own disk, so that an agent restarted without a control plane knows what to run.

One file per pod, replaced by renaming: a killed agent leaves the old one or the new one. Nothing is synced to the platter, since
after a power cut no container runs and the control plane tells everything anew; a damaged file is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError

from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

DELAY_S = 1.0


class Checkpoints:
    """`root` None: nothing is kept (hollow nodes)."""

    def __init__(self, root: Path | None) -> None:
        self._directory = root / "checkpoints" if root is not None else None
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._unsaved: dict[str, None] = {}

    def mark(self, uid: str) -> None:
        """Its object or status has changed."""
        self._unsaved[uid] = None

    async def run(self, find: Callable[[str], core_v1_pb2.Pod | None]) -> None:
        """Saves what is marked, a second late at most, until cancelled: restart counts and terminal phases must outlive us.
        `find` gives a pod with its status as they are now, None for one that is gone."""
        while True:
            await asyncio.sleep(DELAY_S)
            unsaved, self._unsaved = self._unsaved, {}
            for uid in unsaved:
                pod = find(uid)
                if pod is not None:
                    self.save(pod)

    def save(self, pod: core_v1_pb2.Pod) -> None:
        if self._directory is None:
            return
        path = self._directory / f"{pod.metadata.uid}.pb"
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_bytes(pod.SerializeToString(deterministic=True))
            temporary.replace(path)
        except OSError as error:
            # A full disk costs the next agent's memory of this pod, not the pod.
            log.error("checkpoint: %s", error)

    def remove(self, uid: str) -> None:
        self._unsaved.pop(uid, None)
        if self._directory is not None:
            (self._directory / f"{uid}.pb").unlink(missing_ok=True)

    def load(self) -> list[core_v1_pb2.Pod]:
        pods: list[core_v1_pb2.Pod] = []
        if self._directory is None:
            return pods
        for path in sorted(self._directory.glob("*.pb")):
            try:
                pod = core_v1_pb2.Pod.FromString(path.read_bytes())
            except (DecodeError, OSError) as error:
                log.warning("dropping the damaged checkpoint %s: %s", path, error)
                path.unlink(missing_ok=True)
                continue
            if pod.metadata.uid == path.stem:
                pods.append(pod)
        return pods
