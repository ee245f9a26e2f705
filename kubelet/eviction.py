"""When memory or disk counts as short, and which pods go then. Pure; called by `kubelet.pressure`. Signals, thresholds, order and
words are the kubelet's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kubelet.pods.resources import BEST_EFFORT, SYSTEM_CRITICAL_PRIORITY, qos_class
from wherry.api import quantity
from wherry.pb import core_v1_pb2

MEMORY, NODEFS, NODEFS_INODES = "memory.available", "nodefs.available", "nodefs.inodesFree"
IMAGEFS, IMAGEFS_INODES = "imagefs.available", "imagefs.inodesFree"
# Memory first: a node without it does nothing else any more.
SIGNALS = (MEMORY, NODEFS, NODEFS_INODES, IMAGEFS, IMAGEFS_INODES)
DEFAULT_HARD = (
    "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%"
)
# How long a pressure is reported after it has gone, so that the scheduler does not send pods right back.
PRESSURE_TRANSITION_S = 300.0
MEMORY_PRESSURE, DISK_PRESSURE = "MemoryPressure", "DiskPressure"
_STORAGE = "ephemeral-storage"


@dataclass(frozen=True, slots=True)
class Threshold:
    """Met below `bytes` (or that many inodes), or below the share `fraction` of the capacity."""

    signal: str
    amount: int = 0
    fraction: float = 0.0

    def value(self, capacity: int) -> int:
        return int(capacity * self.fraction) if self.fraction else self.amount


@dataclass(frozen=True, slots=True)
class Measure:
    available: int
    capacity: int = 0


def parse(text: str) -> tuple[Threshold, ...]:
    """`memory.available<100Mi,nodefs.available<10%`; "" is none. Raises ValueError."""
    found: dict[str, Threshold] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        signal, less, wanted = part.partition("<")
        if not less or signal not in SIGNALS:
            raise ValueError(f'"{part}"; wanted SIGNAL<QUANTITY or SIGNAL<PERCENT%, with one of {", ".join(SIGNALS)}')
        if signal in found:
            raise ValueError(f'"{part}": there are two thresholds for {signal}')
        try:
            if wanted.endswith("%"):
                fraction = float(wanted[:-1]) / 100
                amount = 0
            else:
                fraction, amount = 0.0, quantity.value(wanted)
        except ValueError as error:
            raise ValueError(f'"{part}": {error}') from error
        if not 0 <= fraction < 1 or amount < 0:
            raise ValueError(f'"{part}": wanted 0% to 100%, or an amount that is not negative')
        found[signal] = Threshold(signal, amount, fraction)
    return tuple(found[signal] for signal in SIGNALS if signal in found)


def met(thresholds: Sequence[Threshold], measured: Mapping[str, Measure]) -> list[Threshold]:
    """In order of urgency. What could not be measured is not short."""
    return [
        threshold
        for threshold in thresholds
        if (measure := measured.get(threshold.signal)) is not None
        and measure.available < threshold.value(measure.capacity)
    ]


def condition_of(threshold: Threshold) -> str:
    return MEMORY_PRESSURE if threshold.signal == MEMORY else DISK_PRESSURE


def resource_of(threshold: Threshold) -> str:
    """What pods use up."""
    return "memory" if threshold.signal == MEMORY else _STORAGE


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one container."""

    memory_bytes: int = 0
    storage_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """`containers` by name; `volumes_bytes`: its emptyDirs on disk, its logs."""

    pod: core_v1_pb2.Pod
    containers: Mapping[str, Usage] = field(default_factory=dict)
    volumes_bytes: int = 0

    def used(self, resource: str) -> int:
        if resource == "memory":
            return sum(usage.memory_bytes for usage in self.containers.values())
        return self.volumes_bytes + sum(usage.storage_bytes for usage in self.containers.values())

    def requested(self, resource: str) -> int:
        return sum(_requested(container, resource) for container in self.pod.spec.containers)


def evictable(pod: core_v1_pb2.Pod) -> bool:
    """Critical and mirror pods stay; so does what is on its way out."""
    metadata = pod.metadata
    if metadata.HasField("deletion_timestamp") or pod.status.phase in ("Succeeded", "Failed"):
        return False
    return not _critical(pod) and "kubernetes.io/config.mirror" not in metadata.annotations


def rank(candidates: Sequence[Candidate], resource: str) -> list[Candidate]:
    """First those that use more than they asked for, then the lower priority, then who exceeds its request most."""

    def order(candidate: Candidate) -> tuple[bool, int, int, str]:
        over = candidate.used(resource) - candidate.requested(resource)
        return (over <= 0, candidate.pod.spec.priority, -over, candidate.pod.metadata.uid)

    return sorted((c for c in candidates if evictable(c.pod)), key=order)


def choose(
    short: Sequence[Threshold], measured: Mapping[str, Measure], candidates: Sequence[Candidate]
) -> tuple[Candidate, str] | None:
    """The one pod to evict now, and the message; the kubelet too takes one and looks again."""
    for threshold in short:
        resource = resource_of(threshold)
        if ranked := rank(candidates, resource):
            return ranked[0], message(threshold, measured[threshold.signal], resource, ranked[0])
    return None


def message(threshold: Threshold, measure: Measure, resource: str, candidate: Candidate) -> str:
    named = "inodes" if threshold.signal.endswith("inodesFree") else resource
    amounts = [_amount(each, named) for each in (threshold.value(measure.capacity), measure.available)]
    text = f"The node was low on resource: {named}. Threshold quantity: {amounts[0]}, available: {amounts[1]}. "
    for container in candidate.pod.spec.containers:
        usage = candidate.containers.get(container.name)
        if usage is None or named == "inodes":
            continue
        used = usage.memory_bytes if resource == "memory" else usage.storage_bytes
        request = container.resources.requests.get(resource)
        if used > _requested(container, resource):
            text += (
                f"Container {container.name} was using {_amount(used, resource)}, request is "
                f"{request.string if request is not None else '0'}, has larger consumption of {resource}. "
            )
    return text


def refusal(pod: core_v1_pb2.Pod, conditions: Sequence[str]) -> tuple[str, str] | None:
    """Why a new pod does not start under these pressures: reason and message. Under memory pressure alone, those that asked
    for something do, and those that tolerate it."""
    if not conditions or _critical(pod):
        return None
    if list(conditions) == [MEMORY_PRESSURE]:
        tolerant = any(
            toleration.effect in ("", "NoSchedule")
            and (
                toleration.key == "node.kubernetes.io/memory-pressure"
                or (toleration.key == "" and toleration.operator == "Exists")
            )
            for toleration in pod.spec.tolerations
        )
        if qos_class(pod) != BEST_EFFORT or tolerant:
            return None
    return "Evicted", f"The node had condition: [{' '.join(conditions)}]. "


def _critical(pod: core_v1_pb2.Pod) -> bool:
    return pod.spec.priority >= SYSTEM_CRITICAL_PRIORITY


def _requested(container: core_v1_pb2.Container, resource: str) -> int:
    requests = container.resources.requests
    return quantity.value(requests[resource]) if resource in requests else 0


def _amount(number: int, resource: str) -> str:
    if resource == "inodes":
        return str(number)
    return quantity.from_bytes(number // 1024 * 1024)
