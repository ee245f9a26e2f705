"""What the cluster's names mean, as the specification says."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet.network.dns.records import (
    ADDRESS_INDEX,
    NO_DATA,
    NO_NAME,
    Answer,
    NotSynced,
    Record,
    Zone,
    service_addresses,
    slice_addresses,
)
from kubelet.network.services.controller import by_service
from wherry.api import codec
from wherry.pb import core_v1_pb2, discovery_v1_pb2


class Objects:
    """As an informer, without one."""

    def __init__(self, objects: list[Any], **indexes: Any) -> None:
        self.known = True
        self._objects, self._indexes = objects, indexes

    def get(self, name: str, namespace: str = "") -> Any:
        return next((o for o in self._objects if (o.metadata.name, o.metadata.namespace) == (name, namespace)), None)

    def by_index(self, index: str, value: str) -> list[Any]:
        return [obj for obj in self._objects if value in self._indexes[index](obj)]


def service(name: str, **spec: Any) -> core_v1_pb2.Service:
    address = spec.get("clusterIP", "")
    body = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "a"},
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "clusterIPs": [address] if address else [], **spec},
    }  # fmt: skip
    return codec.from_dict(body, core_v1_pb2.Service)


def slices(name: str, *endpoints: dict[str, Any]) -> discovery_v1_pb2.EndpointSlice:
    body = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": list(endpoints),
        "metadata": {"name": f"{name}-1", "namespace": "a", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }  # fmt: skip
    return codec.from_dict(body, discovery_v1_pb2.EndpointSlice)


SERVICES = Objects(
    [
        service("web", clusterIP="10.96.1.1"),
        service("db", clusterIP="None"),
        service("idle", clusterIP="None"),
        service("far", type="ExternalName", externalName="example.com"),
    ],
    **{ADDRESS_INDEX: service_addresses},
)
SLICES = Objects(
    [
        slices(
            "db",
            {"addresses": ["10.1.0.2"], "hostname": "db-0", "conditions": {"ready": True}},
            {"addresses": ["10.1.0.3"], "conditions": {"ready": True}},
            {"addresses": ["10.1.0.4"], "hostname": "db-2", "conditions": {"ready": False}},
        ),
        slices("idle", {"addresses": ["10.1.0.5"], "conditions": {"ready": False}}),
        slices("web", {"addresses": ["10.1.0.9"], "conditions": {"ready": True}}),
    ],
    service=by_service, **{ADDRESS_INDEX: slice_addresses},
)  # fmt: skip
ZONE = Zone("cluster.local", SERVICES, SLICES)

WEB, DB = "web.a.svc.cluster.local", "db.a.svc.cluster.local"
BACK_1, BACK_2 = "1.1.96.10.in-addr.arpa", "2.0.1.10.in-addr.arpa"
NAMES: dict[str, tuple[str, str, Answer | None]] = {
    "a service": (WEB, "A", Answer(answers=(Record(WEB, "A", "10.96.1.1"),))),
    "a service, AAAA": (WEB, "AAAA", NO_DATA),
    "a port of a service": (
        f"_http._tcp.{WEB}", "SRV",
        Answer(
            answers=(Record(f"_http._tcp.{WEB}", "SRV", f"0 100 80 {WEB}."),), additional=(Record(WEB, "A", "10.96.1.1"),),
        ),
    ),
    "no such port": (f"_https._tcp.{WEB}", "SRV", NO_NAME),
    "a headless service": (DB, "A", Answer(answers=(Record(DB, "A", "10.1.0.2"), Record(DB, "A", "10.1.0.3")))),
    "a host of it": (f"db-0.{DB}", "A", Answer(answers=(Record(f"db-0.{DB}", "A", "10.1.0.2"),))),
    "a host of it that has no name": (f"10-1-0-3.{DB}", "A", Answer(answers=(Record(f"10-1-0-3.{DB}", "A", "10.1.0.3"),))),
    "a host of it that is not ready": (f"db-2.{DB}", "A", NO_NAME),
    "a host of a service with an address": (
        f"10-1-0-9.{WEB}", "A", Answer(answers=(Record(f"10-1-0-9.{WEB}", "A", "10.1.0.9"),)),
    ),
    "no host of a service with an address": (f"10-1-0-8.{WEB}", "A", NO_NAME),
    "a headless service without a ready endpoint": ("idle.a.svc.cluster.local", "A", NO_NAME),
    "its ports": ("_http._tcp.idle.a.svc.cluster.local", "SRV", NO_NAME),
    "back from an endpoint that is not ready": ("5.0.1.10.in-addr.arpa", "PTR", None),
    "a host of an alias": ("a.far.a.svc.cluster.local", "A", NO_NAME),
    "an alias, AAAA": (
        "far.a.svc.cluster.local", "AAAA", Answer(answers=(Record("far.a.svc.cluster.local", "CNAME", "example.com."),)),
    ),
    "ports of a headless service": (
        f"_http._tcp.{DB}", "SRV",
        Answer(
            answers=(
                Record(f"_http._tcp.{DB}", "SRV", f"0 100 8080 db-0.{DB}."),
                Record(f"_http._tcp.{DB}", "SRV", f"0 100 8080 10-1-0-3.{DB}."),
            ),
            additional=(Record(f"db-0.{DB}", "A", "10.1.0.2"), Record(f"10-1-0-3.{DB}", "A", "10.1.0.3")),
        ),
    ),
    "elsewhere": (
        "far.a.svc.cluster.local", "A", Answer(answers=(Record("far.a.svc.cluster.local", "CNAME", "example.com."),)),
    ),
    "no such service": ("nope.a.svc.cluster.local", "A", NO_NAME),
    "no such thing": ("a.b.c.cluster.local", "A", NO_NAME),
    "a namespace": ("a.svc.cluster.local", "A", NO_DATA),
    "the domain": ("cluster.local", "A", NO_DATA),
    "the version": (
        "dns-version.cluster.local", "TXT", Answer(answers=(Record("dns-version.cluster.local", "TXT", '"1.1.0"'),)),
    ),
    "a pod": (
        "10-1-0-2.a.pod.cluster.local", "A", Answer(answers=(Record("10-1-0-2.a.pod.cluster.local", "A", "10.1.0.2"),)),
    ),
    "no pod": ("10-1-0.a.pod.cluster.local", "A", NO_NAME),
    "back from a service": (BACK_1, "PTR", Answer(answers=(Record(BACK_1, "PTR", f"{WEB}."),))),
    "back from a host": (BACK_2, "PTR", Answer(answers=(Record(BACK_2, "PTR", f"db-0.{DB}."),))),
    "back from an endpoint of a service with an address": ("9.0.1.10.in-addr.arpa", "PTR", None),
    "another's name": ("example.com", "A", None),
    "another's address": ("1.2.0.192.in-addr.arpa", "PTR", None),
    "a name that only ends alike": ("xcluster.local", "A", None),
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "wanted"), NAMES.values(), ids=list(NAMES))
def test_names(name: str, kind: str, wanted: Answer | None) -> None:
    assert ZONE.find(name, kind) == wanted


def test_nothing_is_said_of_the_cluster_before_it_is_known() -> None:
    unsynced = Objects([], **{ADDRESS_INDEX: service_addresses})
    unsynced.known = False
    zone = Zone("cluster.local", unsynced, SLICES)
    with pytest.raises(NotSynced):
        zone.find(WEB, "A")
    assert zone.find("example.com", "A") is None
