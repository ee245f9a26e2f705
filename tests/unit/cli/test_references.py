"""What `describe` says of references, in kubectl's words."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.api import codec
from wherry.cli.commands import references
from wherry.pb import core_v1_pb2, discovery_v1_pb2


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"value": "x"}, "x"),
        ({}, ""),
        ({"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}, "(v1:metadata.name)"),
        ({"valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}, "(limits.cpu)"),
        ({"valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "containerName": "a"}}}, "a (limits.cpu)"),
        ({"valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}, "<set to the key 'k' of config map 'c'>"),
        (
            {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
            "<set to the key 'k' in secret 's'>  Optional: true",
        ),
    ],
)
def test_variables(item: dict[str, Any], said: str) -> None:
    assert references.value_of(codec.from_dict({"name": "N", **item}, core_v1_pb2.EnvVar)) == said


def test_sources_of_many_variables() -> None:
    items = [{"configMapRef": {"name": "c"}}, {"prefix": "P_", "secretRef": {"name": "s", "optional": True}}]
    container = codec.from_dict({"name": "a", "envFrom": items}, core_v1_pb2.Container)
    assert references.sources_of(container) == ["c  ConfigMap", "s  Secret with prefix 'P_'  Optional: true"]


def test_endpoints_are_the_ready_ones_of_the_port() -> None:
    def part(addresses: list[str], ready: bool | None, **ports: int) -> discovery_v1_pb2.EndpointSlice:
        endpoints = [{"addresses": [ip], "conditions": {} if ready is None else {"ready": ready}} for ip in addresses]
        listed = [{"name": name, "port": number} for name, number in ports.items()]
        return codec.from_dict({"endpoints": endpoints, "ports": listed}, discovery_v1_pb2.EndpointSlice)

    port = core_v1_pb2.ServicePort(name="http", port=80)
    slices = [part(["10.0.0.2", "10.0.0.1"], True, http=8080, other=9), part(["10.0.0.3"], False, http=8080)]
    assert references.endpoints(slices, port) == "10.0.0.1:8080,10.0.0.2:8080"
    assert references.endpoints([part(["fd00::1"], None, http=1)], port) == "[fd00::1]:1"
    assert references.endpoints([], port) == "<none>"
    many = part([f"10.0.0.{number}" for number in range(1, 9)], True, http=1)
    assert references.endpoints([many], port).endswith("10.0.0.6:1 + 2 more...")
