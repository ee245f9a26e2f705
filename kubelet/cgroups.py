"""A pod's own cgroup, with the pod's limits, above those of its containers. Cgroup v1 (cgroupfs) and v2.

Made before the sandbox, removed after it. Called by the pod workers through `kubelet.pods.services.Cgroups`, and by
`kubelet.stats` for what all pods use; blocking, well under a millisecond. Paths are the kubelet's:
PARENT/kubepods/[besteffort|burstable/]podUID.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from kubelet.pods.resources import BEST_EFFORT, BURSTABLE, GUARANTEED, MIN_SHARES, pod_requests, qos_class, shares
from kubelet.runtime.base import Resources
from kubelet.stats import Usage
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "memory", "pids", "cpuset", "io")


class PodCgroups:
    def __init__(self, parent: str, root: Path = ROOT) -> None:
        self._parent = "/" + parent.strip("/") if parent.strip("/") else ""
        self._root = root
        self.unified = (root / "cgroup.controllers").exists()
        self._shares: dict[str, int] = {}  # of the two classes' cgroups, as written last

    def parent_of(self, pod: core_v1_pb2.Pod) -> str:
        qos = qos_class(pod)
        middle = "" if qos == GUARANTEED else f"{qos.lower()}/"
        return f"{self._parent}/kubepods/{middle}pod{pod.metadata.uid}"

    @property
    def pods_parent(self) -> str:
        return f"{self._parent}/kubepods"

    def create(self, pod: core_v1_pb2.Pod, limits: Resources) -> None:
        """Idempotent. A limit that cannot be set is logged: the containers' own limits still hold."""
        path = self.parent_of(pod).strip("/")
        if self.unified:
            self._make_unified(path)
            self._write(path, "cpu.weight", str(_weight(limits.cpu_shares)))
            self._write(path, "cpu.max", f"{limits.cpu_quota or 'max'} {limits.cpu_period or 100_000}")
            self._write(path, "memory.max", str(limits.memory_limit_bytes or "max"))
            return
        for controller in ("cpu", "memory"):
            (self._root / controller / path).mkdir(parents=True, exist_ok=True)
        self._write(f"cpu/{path}", "cpu.shares", str(limits.cpu_shares))
        if limits.cpu_quota:
            self._write(f"cpu/{path}", "cpu.cfs_period_us", str(limits.cpu_period))
            self._write(f"cpu/{path}", "cpu.cfs_quota_us", str(limits.cpu_quota))
        if limits.memory_limit_bytes:
            self._write(f"memory/{path}", "memory.limit_in_bytes", str(limits.memory_limit_bytes))

    def weigh(self, pods: Iterable[core_v1_pb2.Pod]) -> None:
        """Sets what the classes of service get when CPU is short: the burstable pods together what they ask for, best-effort
        ones next to nothing. `pods`: those that are not finished."""
        asked = sum(pod_requests(pod)[0] for pod in pods if qos_class(pod) == BURSTABLE)
        for qos, wanted in ((BURSTABLE, shares(asked)), (BEST_EFFORT, MIN_SHARES)):
            path = f"{self.pods_parent}/{qos.lower()}".strip("/")
            if self._shares.get(qos) == wanted and (self._root / path if self.unified else self._cpu(path)).is_dir():
                continue
            if self.unified:
                self._make_unified(path)
                self._write(path, "cpu.weight", str(_weight(wanted)))
            else:
                self._cpu(path).mkdir(parents=True, exist_ok=True)
                self._write(f"cpu/{path}", "cpu.shares", str(wanted))
            self._shares[qos] = wanted

    def _cpu(self, path: str) -> Path:
        return self._root / "cpu" / path

    def remove(self, pod: core_v1_pb2.Pod) -> None:
        """In every hierarchy, since the runtime makes the parents in all of them."""
        path = self.parent_of(pod).strip("/")
        tops = [self._root] if self.unified else [entry for entry in self._root.iterdir() if not entry.is_symlink()]
        for top in tops:
            target = top / path
            if not target.is_dir():
                continue
            for directory, _, _ in os.walk(target, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError as error:
                    log.debug("cgroup %s stays: %s", directory, error)

    def memory_working_set_bytes(self) -> int | None:
        """Of all pods together; None when there is no such cgroup."""
        path = self.pods_parent.strip("/")
        base = self._root / path if self.unified else self._root / "memory" / path
        name = "memory.current" if self.unified else "memory.usage_in_bytes"
        try:
            used = int((base / name).read_text())
            stat = dict(line.split() for line in (base / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            return None
        return max(used - int(stat.get("inactive_file" if self.unified else "total_inactive_file", "0")), 0)

    def read(self, now: float) -> Usage | None:
        """What all pods of this node use together: all there is to say of a node that has a part of the machine only."""
        path = self.pods_parent.strip("/")
        try:
            if self.unified:
                stat = dict(line.split() for line in (self._root / path / "cpu.stat").read_text().splitlines())
                cpu_ns = int(stat["usage_usec"]) * 1000
                used = int((self._root / path / "memory.current").read_text())
            else:
                cpu_ns = int((self._root / "cpuacct" / path / "cpuacct.usage").read_text())
                used = int((self._root / "memory" / path / "memory.usage_in_bytes").read_text())
        except FileNotFoundError:
            return Usage(now, 0, 0, 0)  # no pod was here yet
        except (OSError, ValueError, KeyError):
            return None
        return Usage(now, cpu_ns, self.memory_working_set_bytes() or 0, used)

    def _make_unified(self, path: str) -> None:
        directory = self._root
        for part in path.split("/"):
            self._enable(directory)
            directory /= part
            directory.mkdir(exist_ok=True)

    def _enable(self, directory: Path) -> None:
        """For what is below it. One that cannot be enabled would keep the others of the same write from it."""
        try:
            there = (directory / "cgroup.controllers").read_text().split()
            enabled = (directory / "cgroup.subtree_control").read_text().split()
        except OSError:
            there, enabled = list(CONTROLLERS), []
        for controller in CONTROLLERS:
            if controller in there and controller not in enabled:
                try:
                    (directory / "cgroup.subtree_control").write_text(f"+{controller}")
                except OSError as error:
                    log.debug("controller %s below %s: %s", controller, directory, error)

    def _write(self, path: str, name: str, value: str) -> None:
        try:
            (self._root / path / name).write_text(value)
        except OSError as error:
            log.warning("cgroup %s: %s = %s: %s", path, name, value, error)


def _weight(shares: int) -> int:
    """The mapping that runc uses: shares 2..262144 to weight 1..10000."""
    return 1 + max(shares - 2, 0) * 9999 // 262142
