"""The pods assigned to this node, on its own disk, so that an agent restarted without a control plane knows what to run.

One file per pod, replaced by renaming: a killed agent leaves the old one or the new one. Nothing is synced to the platter, since
after a power cut no container runs and the control plane tells everything anew; a damaged file is dropped.
"""

from __future__ import annotations

import logging
from pathlib import Path

from google.protobuf.message import DecodeError

from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)


class Checkpoints:
    """`root` None: nothing is kept (hollow nodes)."""

    def __init__(self, root: Path | None) -> None:
        self._directory = root / "checkpoints" if root is not None else None
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def save(self, pod: core_v1_pb2.Pod) -> None:
        if self._directory is None:
            return
        path = self._directory / f"{pod.metadata.uid}.pb"
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(pod.SerializeToString(deterministic=True))
        temporary.replace(path)

    def remove(self, uid: str) -> None:
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
