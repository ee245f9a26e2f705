"""Whether a pod that is bound to this node fits beside those that are here. Pure; called by `kubelet.agent` for every new pod.

The scheduler has asked the same already; this is for pods that name their node themselves. Reason and message are the kubelet's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from kubelet.pods.resources import pod_requests
from wherry.api import quantity
from wherry.pb import core_v1_pb2

HostPort = tuple[str, str, int]  # address of the node ("" for all), protocol, number
_ALL = ("", "0.0.0.0")


def host_ports(pod: core_v1_pb2.Pod) -> Iterator[HostPort]:
    """Ports of the node that lead to the pod. On the host's network they have been filled in."""
    sidecars = [container for container in pod.spec.init_containers if container.restart_policy == "Always"]
    for container in (*pod.spec.containers, *sidecars):
        for port in container.ports:
            if port.host_port:
                yield port.host_ip, port.protocol or "TCP", port.host_port


def clash(one: HostPort, other: HostPort) -> bool:
    return one[1:] == other[1:] and (one[0] == other[0] or one[0] in _ALL or other[0] in _ALL)


def refusal(
    pod: core_v1_pb2.Pod,
    here: Sequence[tuple[int, int]],
    allocatable: Mapping[str, str],
    taken: Collection[HostPort] = (),
) -> tuple[str, str] | None:
    """Reason and message. `here`: what each pod that holds resources on this node asks for (milli CPU, memory bytes). What the
    pod does not ask for is not held against it. `taken`: the host ports of those pods."""
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
    if any(clash(port, other) for port in host_ports(pod) for other in taken):
        return "NodePorts", "Pod was rejected: Predicate NodePorts failed"
    return None
