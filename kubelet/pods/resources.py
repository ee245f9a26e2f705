"""Requests and limits as cgroup values, and a pod's quality of service. Pure; the numbers are the kubelet's.

Called by `config` (containers, sandbox), `kubelet.pods.cgroups` (the pod's own cgroup) and `kubelet.eviction` (ranking).
"""

from __future__ import annotations

from collections.abc import Mapping

from kubelet.pods.model import containers_of
from kubelet.pods.states import Role
from kubelet.runtime.base import Resources
from wherry.api import quantity
from wherry.pb import core_v1_pb2, meta_resource_pb2

CPU_PERIOD_US = 100_000
MIN_QUOTA_US = 1_000
MIN_SHARES = 2
SYSTEM_CRITICAL_PRIORITY = 2_000_000_000
GUARANTEED, BURSTABLE, BEST_EFFORT = "Guaranteed", "Burstable", "BestEffort"

Quantities = Mapping[str, meta_resource_pb2.Quantity]


def milli_cpu(amounts: Quantities) -> int:
    return quantity.milli(amounts["cpu"]) if "cpu" in amounts else 0


def memory_bytes(amounts: Quantities) -> int:
    return quantity.value(amounts["memory"]) if "memory" in amounts else 0


def shares(milli: int) -> int:
    return max(milli * 1024 // 1000, MIN_SHARES)


def quota(milli: int) -> int:
    return max(milli * CPU_PERIOD_US // 1000, MIN_QUOTA_US) if milli else 0


def qos_class(pod: core_v1_pb2.Pod) -> str:
    """As the API wrote it; worked out here for pods that have none."""
    if pod.status.qos_class:
        return pod.status.qos_class
    guaranteed, anything = True, False
    for container, role in containers_of(pod.spec):
        if role is Role.EPHEMERAL:
            continue
        requests, limits = container.resources.requests, container.resources.limits
        for name in ("cpu", "memory"):
            request, limit = requests.get(name), limits.get(name)
            if request is not None or limit is not None:
                anything = True
            if limit is None or (request is not None and quantity.compare(request, limit) != 0):
                guaranteed = False
    if not anything:
        return BEST_EFFORT
    return GUARANTEED if guaranteed else BURSTABLE


def oom_score_adj(pod: core_v1_pb2.Pod, container: core_v1_pb2.Container, node_memory_bytes: int) -> int:
    if pod.spec.priority >= SYSTEM_CRITICAL_PRIORITY:
        return -997
    match qos_class(pod):
        case "Guaranteed":
            return -997
        case "BestEffort":
            return 1000
        case _:
            requested = memory_bytes(container.resources.requests) or memory_bytes(container.resources.limits)
            score = 1000 - 1000 * requested // max(node_memory_bytes, 1)
            return min(max(score, 3), 999)


def container_resources(pod: core_v1_pb2.Pod, container: core_v1_pb2.Container, node_memory_bytes: int) -> Resources:
    requests, limits = container.resources.requests, container.resources.limits
    # A limit without a request is also the request.
    requested_milli = milli_cpu(requests) if "cpu" in requests else milli_cpu(limits)
    return Resources(
        cpu_shares=shares(requested_milli),
        cpu_quota=quota(milli_cpu(limits)),
        cpu_period=CPU_PERIOD_US,
        memory_limit_bytes=memory_bytes(limits),
        oom_score_adj=oom_score_adj(pod, container, node_memory_bytes),
    )


def pod_requests(pod: core_v1_pb2.Pod) -> tuple[int, int]:
    """(milli CPU, memory bytes) that the pod asks for: the larger of what runs for long and of any moment of its start."""
    return _effective_milli(pod, "requests"), _effective_bytes(pod, "requests")


def pod_resources(pod: core_v1_pb2.Pod) -> Resources:
    """For the pod's cgroup: a limit holds for the pod only when every container has one."""
    cpu_limited = all(_limited(c, "cpu") for c, role in containers_of(pod.spec) if role is not Role.EPHEMERAL)
    memory_limited = all(_limited(c, "memory") for c, role in containers_of(pod.spec) if role is not Role.EPHEMERAL)
    return Resources(
        cpu_shares=shares(_effective_milli(pod, "requests")),
        cpu_quota=quota(_effective_milli(pod, "limits")) if cpu_limited else 0,
        cpu_period=CPU_PERIOD_US,
        memory_limit_bytes=_effective_bytes(pod, "limits") if memory_limited else 0,
    )


def overhead(pod: core_v1_pb2.Pod) -> Resources:
    """What the pod's sandbox takes besides its containers, as its RuntimeClass says."""
    if not pod.spec.overhead:
        return Resources()
    milli = milli_cpu(pod.spec.overhead)
    return Resources(
        cpu_shares=shares(milli),
        cpu_quota=quota(milli),
        cpu_period=CPU_PERIOD_US,
        memory_limit_bytes=memory_bytes(pod.spec.overhead),
    )


def larger(one: Resources, other: Resources) -> Resources:
    """The more generous of both, limit by limit; 0 is no limit."""

    def limit(left: int, right: int) -> int:
        return max(left, right) if left and right else 0

    return Resources(
        cpu_shares=max(one.cpu_shares, other.cpu_shares),
        cpu_quota=limit(one.cpu_quota, other.cpu_quota),
        cpu_period=one.cpu_period,
        memory_limit_bytes=limit(one.memory_limit_bytes, other.memory_limit_bytes),
    )


def _limited(container: core_v1_pb2.Container, resource: str) -> bool:
    return resource in container.resources.limits


def _effective_milli(pod: core_v1_pb2.Pod, which: str) -> int:
    return _effective([milli_cpu(_amounts(c, which)) for c, _ in _lasting(pod)], pod, which, milli_cpu)


def _effective_bytes(pod: core_v1_pb2.Pod, which: str) -> int:
    return _effective([memory_bytes(_amounts(c, which)) for c, _ in _lasting(pod)], pod, which, memory_bytes)


def _lasting(pod: core_v1_pb2.Pod) -> list[tuple[core_v1_pb2.Container, Role]]:
    return [(c, role) for c, role in containers_of(pod.spec) if role in (Role.APP, Role.SIDECAR)]


def _amounts(container: core_v1_pb2.Container, which: str) -> Quantities:
    resources = container.resources
    if which == "limits":
        return resources.limits
    merged = dict(resources.limits)
    merged.update(resources.requests)
    return merged


def _effective(lasting: list[int], pod: core_v1_pb2.Pod, which: str, measure: object) -> int:
    count = milli_cpu if measure is milli_cpu else memory_bytes
    total, sidecars, peak = sum(lasting), 0, 0
    for container, role in containers_of(pod.spec):
        if role is Role.SIDECAR:
            sidecars += count(_amounts(container, which))
        elif role is Role.INIT:
            # While an init container runs, the sidecars before it run too.
            peak = max(peak, sidecars + count(_amounts(container, which)))
    return max(total, peak) + count(pod.spec.overhead)
