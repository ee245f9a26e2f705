"""Hints in proportion to the CPU of zones."""

from __future__ import annotations

import pytest

from controlplane.controllers.endpointslice import hints, plan
from wherry.api import codec
from wherry.pb import core_v1_pb2, discovery_v1_pb2
from wherry.testing.builders import make_pod


def node(name: str, zone: str, cpu: str = "4", *, ready: bool = True, **labels: str) -> core_v1_pb2.Node:
    made = core_v1_pb2.Node()
    made.metadata.name = name
    made.metadata.labels.update(labels)
    if zone:
        made.metadata.labels[hints.ZONE] = zone
    if cpu:
        made.status.allocatable["cpu"].string = cpu
    made.status.conditions.add(type="Ready", status="True" if ready else "False")
    return made


@pytest.mark.parametrize(
    ("nodes", "want"),
    [
        ([node("a", "z1"), node("b", "z2", "500m"), node("c", "z2", "1")], {"z1": 4000, "z2": 1500}),
        ([node("a", "z1"), node("b", "z2", ready=False)], {"z1": 4000}),
        ([node("a", "z1"), node("b", "")], {}),
        ([node("a", "z1"), node("b", "z2", "")], {}),
        ([node("a", "z1"), node("b", "", **{"node-role.kubernetes.io/control-plane": ""})], {"z1": 4000}),
    ],
    ids=["sums", "one is not ready", "a zone is unknown", "a size is unknown", "control planes do not count"],
)
def test_cpu_by_zone(nodes: list[core_v1_pb2.Node], want: dict[str, int]) -> None:
    assert hints.cpu_by_zone(nodes) == want


EVEN = {"z1": 4000, "z2": 4000}


@pytest.mark.parametrize(
    ("zones", "cpu", "want"),
    [
        ("1122", EVEN, "1122"),
        ("1112", EVEN, "1122"),
        ("1111", EVEN, "1122"),
        ("111222", {"z1": 8000, "z2": 4000}, "111221"),
        ("1", EVEN, ""),
        ("11", {"z1": 4000}, ""),
        ("113", EVEN, ""),
        ("112", EVEN, ""),
        ("111", {}, ""),
    ],
    ids=["level", "one too many", "all in one zone", "a larger zone", "fewer than zones", "one zone", "elsewhere",
         "no fair way", "nothing known"],
)  # fmt: skip
def test_zones_of_endpoints(zones: str, cpu: dict[str, int], want: str) -> None:
    endpoints = [discovery_v1_pb2.Endpoint(addresses=[f"10.1.0.{n}"], zone=f"z{zone}") for n, zone in enumerate(zones)]
    found = hints.assign(endpoints, cpu)
    assert "".join(zone.removeprefix("z") for zone in found) == want
    assert len(found) == len(zones)


def test_a_service_asks_for_them_by_an_annotation() -> None:
    document = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default", "uid": "u"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }  # fmt: skip
    service = codec.from_dict(document, core_v1_pb2.Service)
    pods = [make_pod(f"p{n}").labels(app="web").ip(f"10.1.0.{n}").on(f"n{n}").ready().build() for n in (1, 2)]
    zones = {"n1": "z1", "n2": "z2"}

    def told() -> list[list[str]]:
        (made,) = plan.plan(service, pods, zones, [], EVEN).create
        return [[hint.name for hint in endpoint.hints.for_zones] for endpoint in made.endpoints]

    assert told() == [[], []]
    service.metadata.annotations["service.kubernetes.io/topology-mode"] = "Auto"
    assert told() == [["z1"], ["z2"]]
