"""Hints for a Service with the annotation `service.kubernetes.io/topology-mode: Auto`: each zone gets endpoints in proportion to
the CPU of its nodes, its own ones first. Pure; called by `plan`.

Kubernetes' safeguards: no hints at all when some node's zone or CPU is unknown, when there are fewer endpoints than zones, or
when a zone's endpoints would have to bear a fifth more than their share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wherry.api import quantity
from wherry.pb import core_v1_pb2, discovery_v1_pb2

ANNOTATIONS = ("service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints")
ZONE = "topology.kubernetes.io/zone"
_CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
OVERLOAD = 0.2


@dataclass(frozen=True, slots=True)
class Share:
    """Of the endpoints, for one zone. `least` keeps each of them below the bound of overload."""

    desired: float
    least: int


def is_auto(service: core_v1_pb2.Service) -> bool:
    return any(service.metadata.annotations.get(name, "").lower() == "auto" for name in ANNOTATIONS)


def cpu_by_zone(nodes: Iterable[core_v1_pb2.Node]) -> dict[str, int]:
    """Of nodes that are ready and no control plane's, in thousandths; empty when one of them does not say."""
    found: dict[str, int] = {}
    for node in nodes:
        if any(label in node.metadata.labels for label in _CONTROL_PLANE):
            continue
        if not any(item.type == "Ready" and item.status == "True" for item in node.status.conditions):
            continue
        zone, cpu = node.metadata.labels.get(ZONE, ""), node.status.allocatable.get("cpu")
        if not zone or cpu is None or not cpu.string:
            return {}
        found[zone] = found.get(zone, 0) + quantity.milli(cpu.string)
    return found


def shares(cpu: Mapping[str, int], endpoints: int) -> dict[str, Share]:
    """Empty when there is no fair way."""
    total = sum(cpu.values())
    if len(cpu) < 2 or endpoints < len(cpu) or not total:
        return {}
    found = {}
    for zone, amount in sorted(cpu.items()):
        desired = endpoints * amount / total
        found[zone] = Share(desired, math.ceil(desired / (1 + OVERLOAD)))
    return found if sum(share.least for share in found.values()) <= endpoints else {}


def assign(endpoints: Sequence[discovery_v1_pb2.Endpoint], cpu: Mapping[str, int]) -> list[str]:
    """The zone that each endpoint (in this order) serves; all empty when there are to be no hints."""
    wanted = shares(cpu, len(endpoints))
    none = [""] * len(endpoints)
    if not wanted or any(endpoint.zone not in wanted for endpoint in endpoints):
        return none
    zones = [endpoint.zone for endpoint in endpoints]
    counts = {zone: zones.count(zone) for zone in wanted}
    # From whoever has most above its share to whoever lacks most, until every zone has the least that it needs.
    while short := [zone for zone in wanted if counts[zone] < wanted[zone].least]:
        receiver = max(short, key=lambda zone: wanted[zone].least - counts[zone])
        givers = [zone for zone in wanted if counts[zone] > wanted[zone].least]
        if not givers:
            return none
        giver = max(givers, key=lambda zone: counts[zone] - wanted[zone].desired)
        zones[len(zones) - 1 - zones[::-1].index(giver)] = receiver
        counts[giver] -= 1
        counts[receiver] += 1
    return zones
