"""At which addresses a Service of type LoadBalancer is reached."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.loadbalancer.plan import EXCLUDED, plan
from wherry.api import codec
from wherry.pb import core_v1_pb2, discovery_v1_pb2
from wherry.testing.builders import NodeBuilder, make_node


def service(*ingress: str, **spec: Any) -> core_v1_pb2.Service:
    body = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in ingress]}},
    }  # fmt: skip
    return codec.from_dict(body, core_v1_pb2.Service)


def node(number: int, builder: NodeBuilder | None = None) -> core_v1_pb2.Node:
    built = (builder or make_node(f"n{number}")).build()
    del built.status.addresses[:]
    built.status.addresses.add(type="InternalIP", address=f"192.0.2.{number}")
    return built


NODES = [node(1), node(2), node(3, make_node("n3").not_ready()), node(4, make_node("n4").labels({EXCLUDED: ""}))]
SLICE = discovery_v1_pb2.EndpointSlice(
    endpoints=[
        discovery_v1_pb2.Endpoint(node_name="n2", conditions=discovery_v1_pb2.EndpointConditions(ready=True)),
        discovery_v1_pb2.Endpoint(node_name="n1", conditions=discovery_v1_pb2.EndpointConditions(ready=False)),
    ]
)
CASES: dict[str, tuple[core_v1_pb2.Service, list[str] | None]] = {
    "every ready node": (service(), ["192.0.2.1", "192.0.2.2"]),
    "as it is": (service("192.0.2.1", "192.0.2.2"), None),
    "only where there are endpoints": (service(externalTrafficPolicy="Local"), ["192.0.2.2"]),
    "another's class": (service(loadBalancerClass="example.com/lb"), None),
    "no longer one": (service("192.0.2.1", type="ClusterIP"), []),
    "never one": (service(type="NodePort"), None),
}


@pytest.mark.parametrize(("found", "wanted"), CASES.values(), ids=list(CASES))
def test_addresses(found: core_v1_pb2.Service, wanted: list[str] | None) -> None:
    status = plan(found, NODES, [SLICE])
    assert (status if status is None else [item.ip for item in status.ingress]) == wanted
