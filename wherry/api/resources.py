"""What a pod asks for and may use, summed as Kubernetes sums it: init containers, sidecars, overhead, pod-level figures.

Amounts are integers: cpu in thousandths of a core, everything else in whole units (bytes, pieces), rounded up. Called by the
scheduler, the node agent and the registry's defaults (QoS class).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal

from wherry.api import quantity
from wherry.pb import core_v1_pb2

Amounts = dict[str, Decimal]
QOSClass = Literal["Guaranteed", "Burstable", "BestEffort"]

CPU = "cpu"
MEMORY = "memory"
_QOS_RESOURCES = (CPU, MEMORY)
# What the scheduler takes a container for that asks for nothing, so that such pods spread as well.
DEFAULT_MILLI_CPU = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024


def parse(quantities: Mapping[str, Any]) -> Amounts:
    """A resource list (map of Quantity messages or of strings), exactly."""
    return {name: quantity.amount(quantities[name]) for name in quantities}


def to_units(amounts: Amounts) -> dict[str, int]:
    """Thousandths for cpu, whole units for all else."""
    return {
        name: int((value.scaleb(3) if name == CPU else value).to_integral_value("ROUND_CEILING"))
        for name, value in amounts.items()
    }


def units(quantities: Mapping[str, Any]) -> dict[str, int]:
    return to_units(parse(quantities))


def add(into: Amounts, more: Amounts) -> None:
    for name, value in more.items():
        into[name] = into.get(name, Decimal(0)) + value


def raise_to(into: Amounts, other: Amounts) -> None:
    """The larger of both, name by name."""
    for name, value in other.items():
        if name not in into or value > into[name]:
            into[name] = value


def is_sidecar(container: core_v1_pb2.Container) -> bool:
    """An init container that keeps running beside the others."""
    return container.restart_policy == "Always"


def as_held(pod: core_v1_pb2.Pod) -> core_v1_pb2.Pod:
    """The pod with what counts for its node while it is resized in place: for each container the most of what it wants (unless
    its node can never give that), is allocated and runs with. Itself when these are the same."""
    status = pod.status
    more: dict[str, list[Mapping[str, Any]]] = {}
    for entry in (*status.container_statuses, *status.init_container_statuses):
        if entry.allocated_resources or entry.resources.requests:
            more[entry.name] = [entry.allocated_resources, entry.resources.requests]
    spec = pod.spec
    containers = [item for item in (*spec.containers, *spec.init_containers) if item.name in more]
    if all(_same(container.resources.requests, held) for container in containers for held in more[container.name]):
        return pod
    infeasible = any(item.type == "PodResizePending" and item.reason == "Infeasible" for item in status.conditions)
    made = core_v1_pb2.Pod()
    made.CopyFrom(pod)
    for container in (*made.spec.containers, *made.spec.init_containers):
        amounts: dict[str, Any] = {} if infeasible and container.name in more else dict(container.resources.requests)
        for held in more.get(container.name, ()):
            for name in held:
                if name not in amounts or quantity.compare(held[name], amounts[name]) > 0:
                    amounts[name] = held[name]
        strings = {name: amount.string for name, amount in amounts.items()}
        container.resources.requests.clear()
        for name, string in strings.items():
            container.resources.requests[name].string = string
    return made


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return len(one) == len(other) and all(
        name in other and quantity.compare(one[name], other[name]) == 0 for name in one
    )


def pod_requests(pod: core_v1_pb2.Pod) -> dict[str, int]:
    return to_units(exact_requests(pod.spec))


def exact_requests(spec: core_v1_pb2.PodSpec) -> Amounts:
    total = _sum(spec, "requests")
    if spec.HasField("resources"):
        total |= {name: value for name, value in parse(spec.resources.requests).items() if _pod_level(name)}
    add(total, parse(spec.overhead))
    return total


def exact_limits(spec: core_v1_pb2.PodSpec) -> Amounts:
    """Overhead counts only on top of a limit that is there: no limit stays no limit."""
    total = _sum(spec, "limits")
    if spec.HasField("resources"):
        total |= {name: value for name, value in parse(spec.resources.limits).items() if _pod_level(name)}
    add(total, {name: value for name, value in parse(spec.overhead).items() if total.get(name)})
    return total


def _pod_level(name: str) -> bool:
    return name in _QOS_RESOURCES or name.startswith("hugepages-")


def _sum(spec: core_v1_pb2.PodSpec, what: Literal["requests", "limits"]) -> Amounts:
    """All containers and sidecars together, or the hungriest moment of the initialisation, whichever is more."""
    total: Amounts = {}
    for container in spec.containers:
        add(total, parse(getattr(container.resources, what)))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.init_containers:
        own = parse(getattr(container.resources, what))
        if is_sidecar(container):
            add(total, own)
            add(sidecars, own)
            moment = dict(sidecars)
        else:
            moment = dict(sidecars)
            add(moment, own)
        raise_to(peak, moment)
    raise_to(total, peak)
    return total


def scoring_requests(pod: core_v1_pb2.Pod) -> tuple[int, int]:
    """Thousandths of a core and bytes of memory for scoring: a container that asks for nothing counts as a small one."""
    spec = core_v1_pb2.PodSpec()
    spec.CopyFrom(pod.spec)
    for container in (*spec.containers, *spec.init_containers):
        requests = container.resources.requests
        if CPU not in requests:
            requests[CPU].string = quantity.from_milli(DEFAULT_MILLI_CPU)
        if MEMORY not in requests:
            requests[MEMORY].string = quantity.from_bytes(DEFAULT_MEMORY_BYTES)
    found = to_units(exact_requests(spec))
    return found.get(CPU, 0), found.get(MEMORY, 0)


def qos_class(pod: core_v1_pb2.Pod) -> QOSClass:
    """The pod's quality of service, which orders eviction and sets cgroups."""
    spec = pod.spec
    lists: Iterable[Any] = (
        [spec.resources]
        if spec.HasField("resources") and (spec.resources.requests or spec.resources.limits)
        else [container.resources for container in (*spec.containers, *spec.init_containers)]
    )
    asked: Amounts = {}
    allowed: Amounts = {}
    guaranteed = True
    for resources in lists:
        requests = {
            name: value for name, value in parse(resources.requests).items() if value and name in _QOS_RESOURCES
        }
        limits = {name: value for name, value in parse(resources.limits).items() if value and name in _QOS_RESOURCES}
        add(asked, requests)
        add(allowed, limits)
        guaranteed = guaranteed and len(limits) == len(_QOS_RESOURCES)
    if not asked and not allowed:
        return "BestEffort"
    if guaranteed and all(allowed.get(name) == value for name, value in asked.items()) and len(asked) == len(allowed):
        return "Guaranteed"
    return "Burstable"
