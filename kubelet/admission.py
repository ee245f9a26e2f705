"""Whether a pod that is bound to this node fits beside those that are here. Pure; called by `kubelet.agent` for every new pod.

The scheduler has asked the same already; this is for pods that name their node themselves. Reason and message are the kubelet's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kubelet.pods.resources import pod_requests
from wherry.api import quantity
from wherry.pb import core_v1_pb2


def refusal(
    pod: core_v1_pb2.Pod, here: Sequence[tuple[int, int]], allocatable: Mapping[str, str]
) -> tuple[str, str] | None:
    """Reason and message. `here`: what each pod that holds resources on this node asks for (milli CPU, memory bytes). What the
    pod does not ask for is not held against it."""
    milli, memory = pod_requests(pod)
    asked = {
        "pods": (1, len(here), quantity.value(allocatable["pods"]) if "pods" in allocatable else None),
        "cpu": (milli, sum(m for m, _ in here), quantity.milli(allocatable["cpu"]) if "cpu" in allocatable else None),
        "memory": (
            memory,
            sum(b for _, b in here),
            quantity.value(allocatable["memory"]) if "memory" in allocatable else None,
        ),
    }
    for resource, (requested, used, capacity) in asked.items():
        if requested and capacity is not None and used + requested > capacity:
            message = (
                f"Pod was rejected: Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, "
                f"capacity: {capacity}"
            )
            return f"OutOf{resource}", message
    return None
