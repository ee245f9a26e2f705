"""Which pods go when memory or disk runs short. Pure; called by `kubelet.housekeeping`. Thresholds and
order are the kubelet's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubelet.pods.resources import SYSTEM_CRITICAL_PRIORITY, pod_requests
from wherry.api import quantity
from wherry.pb import core_v1_pb2

MEMORY_AVAILABLE_BYTES = 100 << 20
NODEFS_AVAILABLE = 0.10
PIDS_AVAILABLE = 0.05
# How long a pressure is reported after it has gone, so that the scheduler does not send pods right back.
PRESSURE_TRANSITION_S = 300.0


@dataclass(frozen=True, slots=True)
class Signals:
    """What was measured. None: could not be."""

    memory_available_bytes: int | None = None
    nodefs_available_bytes: int | None = None
    nodefs_capacity_bytes: int = 0

    @property
    def memory_short(self) -> bool:
        return self.memory_available_bytes is not None and self.memory_available_bytes < MEMORY_AVAILABLE_BYTES

    @property
    def disk_short(self) -> bool:
        available = self.nodefs_available_bytes
        return available is not None and available < self.nodefs_threshold_bytes

    @property
    def nodefs_threshold_bytes(self) -> int:
        return int(self.nodefs_capacity_bytes * NODEFS_AVAILABLE)


@dataclass(frozen=True, slots=True)
class Candidate:
    pod: core_v1_pb2.Pod
    memory_bytes: int
    disk_bytes: int
    usage_text: str = ""  # "container c was using 1Gi, request is 0"


def evictable(pod: core_v1_pb2.Pod) -> bool:
    """Critical and mirror pods stay; so does what is on its way out."""
    metadata = pod.metadata
    if metadata.HasField("deletion_timestamp") or pod.status.phase in ("Succeeded", "Failed"):
        return False
    return pod.spec.priority < SYSTEM_CRITICAL_PRIORITY and "kubernetes.io/config.mirror" not in metadata.annotations


def rank_for_memory(candidates: Sequence[Candidate]) -> list[Candidate]:
    """First those that use more than they asked for, then the lower priority, then who exceeds its request most."""

    def order(candidate: Candidate) -> tuple[bool, int, int, str]:
        over = candidate.memory_bytes - pod_requests(candidate.pod)[1]
        return (over <= 0, candidate.pod.spec.priority, -over, candidate.pod.metadata.uid)

    return sorted((c for c in candidates if evictable(c.pod)), key=order)


def rank_for_disk(candidates: Sequence[Candidate]) -> list[Candidate]:
    def requested(pod: core_v1_pb2.Pod) -> int:
        return sum(
            quantity.value(c.resources.requests["ephemeral-storage"])
            for c in pod.spec.containers
            if "ephemeral-storage" in c.resources.requests
        )

    def order(candidate: Candidate) -> tuple[bool, int, int, str]:
        over = candidate.disk_bytes - requested(candidate.pod)
        return (over <= 0, candidate.pod.spec.priority, -over, candidate.pod.metadata.uid)

    return sorted((c for c in candidates if evictable(c.pod)), key=order)


def choose(signals: Signals, candidates: Sequence[Candidate]) -> tuple[Candidate, str] | None:
    """The one pod to evict now, and the message; the kubelet too takes one and looks again. Memory comes first."""
    if signals.memory_short and (ranked := rank_for_memory(candidates)):
        available = quantity.from_bytes((signals.memory_available_bytes or 0) // 1024 * 1024)
        return ranked[0], message("memory", "100Mi", available, ranked[0])
    if signals.disk_short and (ranked := rank_for_disk(candidates)):
        threshold = str(signals.nodefs_threshold_bytes)
        return ranked[0], message("ephemeral-storage", threshold, str(signals.nodefs_available_bytes), ranked[0])
    return None


def message(resource: str, threshold: str, available: str, candidate: Candidate) -> str:
    text = f"The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {available}. "
    return text + (f"{candidate.usage_text}. " if candidate.usage_text else "")
