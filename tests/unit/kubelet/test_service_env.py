"""The variables by which containers find Services, as a table."""

from __future__ import annotations

import pytest

from kubelet.pods.env import Found, environment
from kubelet.pods.serviceenv import variables
from wherry.pb import core_v1_pb2
from wherry.testing.builders import make_pod


def service(name: str, ip: str, *ports: tuple[str, int, str], namespace: str = "ns") -> core_v1_pb2.Service:
    made = core_v1_pb2.Service()
    made.metadata.name, made.metadata.namespace = name, namespace
    made.spec.cluster_ip = ip
    for port_name, number, protocol in ports:
        made.spec.ports.add(name=port_name, port=number, protocol=protocol)
    return made


API = service("kubernetes", "10.96.0.1", ("https", 443, "TCP"), namespace="default")
API_NAMES = {
    "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS", "KUBERNETES_PORT",
    "KUBERNETES_PORT_443_TCP", "KUBERNETES_PORT_443_TCP_PROTO", "KUBERNETES_PORT_443_TCP_PORT",
    "KUBERNETES_PORT_443_TCP_ADDR",
}  # fmt: skip


def pod(*, links: bool = True) -> core_v1_pb2.Pod:
    made = make_pod("p", "ns").build()
    made.spec.enable_service_links = links
    return made


def test_one_service_in_full() -> None:
    found = variables(pod(), [service("my-db", "10.96.0.7", ("sql", 5432, "TCP"), ("", 53, "UDP"))])
    assert found == {
        "MY_DB_SERVICE_HOST": "10.96.0.7",
        "MY_DB_SERVICE_PORT": "5432",
        "MY_DB_SERVICE_PORT_SQL": "5432",
        "MY_DB_PORT": "tcp://10.96.0.7:5432",
        "MY_DB_PORT_5432_TCP": "tcp://10.96.0.7:5432",
        "MY_DB_PORT_5432_TCP_PROTO": "tcp",
        "MY_DB_PORT_5432_TCP_PORT": "5432",
        "MY_DB_PORT_5432_TCP_ADDR": "10.96.0.7",
        "MY_DB_PORT_53_UDP": "udp://10.96.0.7:53",
        "MY_DB_PORT_53_UDP_PROTO": "udp",
        "MY_DB_PORT_53_UDP_PORT": "53",
        "MY_DB_PORT_53_UDP_ADDR": "10.96.0.7",
    }


OTHER = service("web", "10.96.0.8", ("", 80, "TCP"))
OWN_API = service("kubernetes", "10.96.0.66", ("https", 443, "TCP"))


@pytest.mark.parametrize(
    ("links", "services", "hosts"),
    [
        (True, [API, OTHER], {"KUBERNETES": "10.96.0.1", "WEB": "10.96.0.8"}),
        (False, [API, OTHER], {"KUBERNETES": "10.96.0.1"}),
        (True, [service("far", "10.96.0.9", ("", 80, "TCP"), namespace="other")], {}),
        (True, [service("headless", "None", ("", 80, "TCP")), service("name", "", ("", 80, "TCP"))], {}),
        (True, [API, OWN_API], {"KUBERNETES": "10.96.0.66"}),
        (False, [API, OWN_API], {"KUBERNETES": "10.96.0.1"}),
    ],
    ids=["both", "no links", "elsewhere", "without address", "one's own stands", "unless there are no links"],
)
def test_which(links: bool, services: list[core_v1_pb2.Service], hosts: dict[str, str]) -> None:
    for order in (services, services[::-1]):
        found = variables(pod(links=links), order)
        assert {
            name.removesuffix("_SERVICE_HOST"): value for name, value in found.items() if name.endswith("_HOST")
        } == hosts


def test_the_pod_has_the_last_word() -> None:
    made = pod()
    container = made.spec.containers[0]
    container.env.add(name="KUBERNETES_SERVICE_PORT", value="1")
    container.env.add(name="URL", value="https://$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)")
    found = dict(
        environment(made, container, Found(), ips=[], host_ips=[], allocatable={}, services=variables(made, [API]))
    )
    assert found["URL"] == "https://10.96.0.1:1"
    assert found["KUBERNETES_SERVICE_PORT"] == "1"
    assert found.keys() == {*API_NAMES, "URL"}
