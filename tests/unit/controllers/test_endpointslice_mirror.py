"""Endpoints that somebody has written, as slices."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.endpointslice import mirror
from wherry.api import codec
from wherry.pb import core_v1_pb2, discovery_v1_pb2


def service(**spec: Any) -> core_v1_pb2.Service:
    metadata = {"name": "db", "namespace": "default", "uid": "u-service"}
    document = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}], **spec}}
    return codec.from_dict(document, core_v1_pb2.Service)


def written(*subsets: Any, **metadata: Any) -> core_v1_pb2.Endpoints:
    own = {"name": "db", "namespace": "default", "uid": "u-endpoints", **metadata}
    document = {"apiVersion": "v1", "kind": "Endpoints", "metadata": own, "subsets": list(subsets)}
    return codec.from_dict(document, core_v1_pb2.Endpoints)


def addresses(found: discovery_v1_pb2.EndpointSlice) -> dict[str, bool]:
    return {endpoint.addresses[0]: endpoint.conditions.ready for endpoint in found.endpoints}


PORTS = [{"name": "p", "port": 5432, "protocol": "TCP"}]
TWO = {"addresses": [{"ip": "192.0.2.1", "nodeName": "n1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": PORTS}


def test_addresses_ports_and_whose_they_are() -> None:
    decided = mirror.plan(service(), written(TWO, labels={"a": "b"}), [])
    (made,) = decided.create
    assert addresses(made) == {"192.0.2.1": True, "192.0.2.2": False}
    assert made.endpoints[0].node_name == "n1"
    assert [(port.name, port.port, port.protocol) for port in made.ports] == [("p", 5432, "TCP")]
    assert made.metadata.generate_name == "db-"
    assert dict(made.metadata.labels) == {
        "a": "b",
        "kubernetes.io/service-name": "db",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    (owner,) = made.metadata.owner_references
    assert (owner.kind, owner.uid) == ("Endpoints", "u-endpoints")


def test_families_and_ports_have_slices_of_their_own() -> None:
    six = {"addresses": [{"ip": "192.0.2.1"}, {"ip": "fd00::1"}], "ports": PORTS}
    other = {"addresses": [{"ip": "192.0.2.9"}], "ports": [{"name": "q", "port": 1}]}
    made = mirror.plan(service(), written(six, other), []).create
    assert sorted((item.address_type, item.ports[0].port, *addresses(item)) for item in made) == [
        ("IPv4", 1, "192.0.2.9"), ("IPv4", 5432, "192.0.2.1"), ("IPv6", 5432, "fd00::1"),
    ]  # fmt: skip


def test_a_change_changes_the_slice_and_the_end_ends_it() -> None:
    (before,) = mirror.plan(service(), written(TWO), []).create
    before.metadata.name = "db-x"
    assert mirror.plan(service(), written(TWO), [before]) == mirror.planning.Plan()
    one = {"addresses": [{"ip": "192.0.2.2"}], "ports": PORTS}
    (after,) = mirror.plan(service(), written(one), [before]).update
    assert (after.metadata.name, addresses(after)) == ("db-x", {"192.0.2.2": True})
    assert mirror.plan(service(), None, [before]).delete == [before]
    assert mirror.plan(None, written(TWO), [before]).delete == [before]


@pytest.mark.parametrize(
    ("made", "metadata"),
    [
        (service(selector={"a": "b"}), {}),
        (service(type="ExternalName", externalName="example.com"), {}),
        (service(), {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}),
        (service(), {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}),
        (None, {}),
    ],
    ids=["a selector", "an ExternalName", "not wanted", "a lock", "no Service"],
)
def test_what_is_not_mirrored(made: core_v1_pb2.Service | None, metadata: dict[str, Any]) -> None:
    assert mirror.plan(made, written(TWO, **metadata), []).create == []
