"""Which endpoints a Service has, how they lie in slices, and what the Endpoints object says of them."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.endpointslice import legacy, plan
from wherry.api import codec
from wherry.pb import core_v1_pb2, discovery_v1_pb2
from wherry.testing.builders import CREATED_S, PodBuilder, make_pod


def service(name: str = "web", *, ports: Any = ({"port": 80},), **spec: Any) -> core_v1_pb2.Service:
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"selector": {"app": "web"}, "ports": list(ports), "ipFamilies": ["IPv4"], **spec},
    }
    return codec.from_dict(body, core_v1_pb2.Service)


def pod(number: int) -> PodBuilder:
    return make_pod(f"web-{number}").labels(app="web").ip(f"10.1.{number // 250}.{number % 250 + 1}").on("n1").ready()


def stored(made: list[discovery_v1_pb2.EndpointSlice]) -> list[discovery_v1_pb2.EndpointSlice]:
    """As the server would have them."""
    found = []
    for number, item in enumerate(made):
        copy = discovery_v1_pb2.EndpointSlice()
        copy.CopyFrom(item)
        copy.metadata.name = copy.metadata.name or f"web-{number}"
        copy.metadata.uid = copy.metadata.uid or f"uid-slice-{number}"
        found.append(copy)
    return found


def addresses(item: discovery_v1_pb2.EndpointSlice) -> list[str]:
    return [text for endpoint in item.endpoints for text in endpoint.addresses]


CONDITIONS = {
    "ready": (pod(1), {}, (True, True, False)),
    "not ready": (pod(1).condition("Ready", "False"), {}, (False, False, False)),
    "not ready, published": (
        pod(1).condition("Ready", "False"), {"publishNotReadyAddresses": True}, (True, False, False),
    ),
    "terminating, still serving": (pod(1).deleting(), {}, (False, True, True)),
    "terminating, published": (pod(1).deleting(), {"publishNotReadyAddresses": True}, (True, True, True)),
}  # fmt: skip


@pytest.mark.parametrize(("built", "spec", "wanted"), CONDITIONS.values(), ids=list(CONDITIONS))
def test_conditions(built: PodBuilder, spec: dict[str, Any], wanted: tuple[bool, bool, bool]) -> None:
    (made,) = plan.plan(service(**spec), [built.build()], {}, []).create
    (endpoint,) = made.endpoints
    found = endpoint.conditions
    assert (found.ready, found.serving, found.terminating) == wanted


NO_ENDPOINT = {
    "no address yet": make_pod("web-1").labels(app="web").on("n1"),
    "failed": pod(1).phase("Failed"),
    "succeeded": pod(1).phase("Succeeded"),
}


@pytest.mark.parametrize("built", NO_ENDPOINT.values(), ids=list(NO_ENDPOINT))
def test_a_service_without_endpoints_has_one_empty_slice(built: PodBuilder) -> None:
    (made,) = plan.plan(service(), [built.build()], {}, []).create
    assert not made.endpoints
    assert not made.ports
    assert made.address_type == "IPv4"


def test_a_slice_says_whose_it_is() -> None:
    web = service(clusterIP="None")
    web.metadata.labels["team"] = "a"
    (made,) = plan.plan(web, [pod(1).build()], {"n1": "z1"}, []).create
    assert dict(made.metadata.labels) == {
        "team": "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "service.kubernetes.io/headless": "",
    }
    (owner,) = made.metadata.owner_references
    assert (owner.kind, owner.name, owner.uid, owner.controller) == ("Service", "web", "uid-web", True)
    (endpoint,) = made.endpoints
    assert (endpoint.node_name, endpoint.zone, endpoint.target_ref.name) == ("n1", "z1", "web-1")


def test_a_named_port_may_be_another_number_in_each_pod() -> None:
    web = service(ports=[{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}])
    pods = [pod(1).port(8080, name="web").build(), pod(2).port(9090, name="web").build(), pod(3).build()]
    made = plan.plan(web, pods, {}, []).create
    assert sorted((item.ports[0].port, addresses(item)) for item in made) == [
        (8080, ["10.1.0.2"]),
        (9090, ["10.1.0.3"]),
    ]


def test_hostnames_are_those_of_pods_that_ask_for_this_service() -> None:
    mine, other = pod(1).build(), pod(2).build()
    for built, subdomain in ((mine, "web"), (other, "db")):
        built.spec.hostname, built.spec.subdomain = built.metadata.name, subdomain
    (made,) = plan.plan(service(), [mine, other], {}, []).create
    assert [endpoint.hostname for endpoint in made.endpoints] == ["web-1", ""]


LEFT_ALONE = {
    "without a selector": {"selector": {}},
    "an ExternalName": {"type": "ExternalName", "externalName": "example.com"},
}


@pytest.mark.parametrize("spec", LEFT_ALONE.values(), ids=list(LEFT_ALONE))
def test_other_services_lose_what_we_made_for_them(spec: dict[str, Any]) -> None:
    before = stored(plan.plan(service(), [pod(1).build()], {}, []).create)
    decided = plan.plan(service(**spec), [], {}, before)
    assert (decided.create, decided.update, decided.delete) == ([], [], before)


def test_what_is_right_is_not_written() -> None:
    pods = [pod(number).build() for number in range(250)]
    before = stored(plan.plan(service(), pods, {}, []).create)
    assert [len(item.endpoints) for item in before] == [100, 100, 50]
    assert plan.plan(service(), pods, {}, before) == plan.Plan()


def test_one_pod_less_and_one_more_is_one_write() -> None:
    pods = [pod(number).build() for number in range(250)]
    before = stored(plan.plan(service(), pods, {}, []).create)
    gone = before[0].endpoints[3].addresses[0]
    left = [item for item in pods if item.status.pod_ip != gone]
    decided = plan.plan(service(), [*left, pod(999).build()], {}, before)
    (changed,) = decided.update
    assert (decided.create, decided.delete) == ([], [])
    assert changed.metadata.name == before[0].metadata.name
    assert gone not in addresses(changed)
    assert pod(999).build().status.pod_ip in addresses(changed)


def test_a_few_more_go_into_the_fullest_slice_with_room() -> None:
    pods = [pod(number).build() for number in range(150)]
    before = stored(plan.plan(service(), pods, {}, []).create)
    more = [pod(number).build() for number in range(150, 160)]
    decided = plan.plan(service(), [*pods, *more], {}, before)
    assert [len(item.endpoints) for item in decided.update] == [60]
    assert not decided.create


def test_an_endpoint_in_two_slices_stays_in_one() -> None:
    twice = plan.plan(service(), [pod(1).build()], {}, []).create * 2
    before = stored(twice)
    decided = plan.plan(service(), [pod(1).build()], {}, before)
    assert [item.metadata.name for item in decided.delete] == ["web-1"]
    assert not decided.update


def test_the_last_endpoint_leaves_an_empty_slice_behind() -> None:
    before = stored(plan.plan(service(), [pod(1).build()], {}, []).create)
    decided = plan.plan(service(), [], {}, before)
    assert decided.delete == before
    assert [len(item.endpoints) for item in decided.create] == [0]
    assert plan.plan(service(), [], {}, stored(decided.create)) == plan.Plan()


def test_hints_name_the_zone_when_traffic_is_to_stay_close() -> None:
    (made,) = plan.plan(service(trafficDistribution="PreferClose"), [pod(1).build()], {"n1": "z1"}, []).create
    assert [hint.name for hint in made.endpoints[0].hints.for_zones] == ["z1"]


def test_endpoints_tell_ready_from_not_ready() -> None:
    pods = [
        pod(1).build(), pod(2).condition("Ready", "False").build(), pod(3).deleting(CREATED_S).build(), pod(4).build(),
    ]  # fmt: skip
    made = legacy.plan(service(), pods, None)
    assert made is not None
    (subset,) = made.subsets
    assert [address.ip for address in subset.addresses] == ["10.1.0.2", "10.1.0.5"]
    assert [address.ip for address in subset.not_ready_addresses] == ["10.1.0.3"]
    assert [(port.port, port.protocol) for port in subset.ports] == [(80, "TCP")]
    assert legacy.plan(service(), pods, made) is None
