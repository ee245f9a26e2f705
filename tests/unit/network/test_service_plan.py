"""What one Service adds to a node's table, and how changes become transactions."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet.network.services import controller
from kubelet.network.services.plan import DRAWS, FEW, Part, Place, plan
from kubelet.network.services.ruleset import TABLE, Ruleset, drawing, skeleton
from wherry.api import codec
from wherry.pb import core_v1_pb2, discovery_v1_pb2

PLACE = Place("n1", "10.1.0.0/24", "z1")
ANY = "goto svc-default/web/80/tcp"  # from outside


def service(name: str = "web", *, protocol: str = "TCP", node_port: int = 0, status: Any = None, **spec: Any) -> Any:
    port = {"port": 80, "protocol": protocol, **({"nodePort": node_port} if node_port else {})}
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.96.1.1", "type": "ClusterIP", "ports": [port], **spec},
        "status": status or {},
    }
    return codec.from_dict(body, core_v1_pb2.Service)


def slice_of(*endpoints: tuple[str, str, str], protocol: str = "TCP", hints: Any = None) -> Any:
    """Each: address, node, state; the state is ready, unready or draining."""
    conditions = {
        "ready": {"ready": True, "serving": True},
        "unready": {"ready": False, "serving": False},
        "draining": {"ready": False, "serving": True, "terminating": True},
    }
    items = [
        {
            "addresses": [address],
            "nodeName": node,
            "conditions": conditions[state],
            **({"hints": hints} if hints else {}),
        }
        for address, node, state in endpoints
    ]
    body = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s", "namespace": "default"},
        "addressType": "IPv4", "endpoints": items, "ports": [{"name": "", "port": 8080, "protocol": protocol}],
    }  # fmt: skip
    return codec.from_dict(body, discovery_v1_pb2.EndpointSlice)


HERE = ("10.1.0.2", "n1", "ready")
THERE = ("10.1.1.2", "n2", "ready")


def to(*addresses: str) -> tuple[str, ...]:
    if len(addresses) <= FEW:
        # Each has its share of what those before it have left.
        left = range(len(addresses), 0, -1)
        chances = [f"numgen random mod {count} == 0 " if count > 1 else "" for count in left]
        return tuple(f"meta l4proto tcp {chance}dnat to {a}:8080" for chance, a in zip(chances, addresses, strict=True))
    choices = ", ".join(f"{n} : {address} . 8080" for n, address in enumerate(addresses))
    return (f"meta l4proto tcp dnat to numgen random mod {len(addresses)} map {{ {choices} }}",)


def numbered(*addresses: str, vip: str = "10.96.1.1") -> dict[Any, str]:
    """What leads from the cluster address to these."""
    wanted = {
        ("endpoints-tcp", f"{vip} . 80 . {number}"): f"{address} . 8080" for number, address in enumerate(addresses)
    }
    return wanted | {("counts", f"{vip} . tcp . 80"): f"0:{len(addresses):x}"}


def without_hairpin(part: Part) -> dict[Any, str]:
    return {key: value for key, value in part.elements.items() if key[0] != "hairpin"}


CHOICES = {
    "one": ([HERE], ("10.1.0.2",)),
    "two nodes": ([HERE, THERE], ("10.1.0.2", "10.1.1.2")),
    "many": (
        [(f"10.1.0.{n}", "n1", "ready") for n in range(11, 21)],
        tuple(f"10.1.0.{n}" for n in range(11, 21)),
    ),
    "only those that are ready": ([HERE, ("10.1.0.3", "n1", "unready")], ("10.1.0.2",)),
    "a draining one beside a ready one": ([HERE, ("10.1.0.3", "n1", "draining")], ("10.1.0.2",)),
    "draining ones when there are no others": ([("10.1.0.3", "n1", "draining")], ("10.1.0.3",)),
}


@pytest.mark.parametrize(("endpoints", "wanted"), CHOICES.values(), ids=list(CHOICES))
def test_which_endpoints_are_chosen_from(endpoints: list[tuple[str, str, str]], wanted: tuple[str, ...]) -> None:
    part = plan(service(), [slice_of(*endpoints)], PLACE)
    assert part.chains == {}
    assert without_hairpin(part) == numbered(*wanted)
    assert not part.counts
    outer = plan(service(node_port=30080, type="NodePort"), [slice_of(*endpoints)], PLACE)
    assert outer.chains["svc-default/web/80/tcp"] == to(*wanted)


NOTHING_TO_DO = {
    "headless": {"clusterIP": "None"},
    "not allocated": {"clusterIP": ""},
    "an ExternalName": {"type": "ExternalName", "externalName": "example.com"},
}


@pytest.mark.parametrize("spec", NOTHING_TO_DO.values(), ids=list(NOTHING_TO_DO))
def test_services_without_an_address(spec: dict[str, Any]) -> None:
    assert plan(service(**spec), [slice_of(HERE)], PLACE) == Part()


def test_without_endpoints_connections_are_refused() -> None:
    part = plan(service(node_port=30080, type="NodePort", externalIPs=["192.0.2.1"]), [], PLACE)
    assert part.chains == {}
    assert part.elements == {
        ("refused", "10.96.1.1 . tcp . 80"): "goto refuse",
        ("refused", "192.0.2.1 . tcp . 80"): "goto refuse",
        ("refused-nodeports", "tcp . 30080"): "goto refuse",
    }


def test_from_outside_the_node_stands_in_for_the_client() -> None:
    status = {
        "loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]}
    }
    made = service(node_port=30080, type="LoadBalancer", externalIPs=["192.0.2.1"], status=status)
    part = plan(made, [slice_of(HERE, THERE)], PLACE)
    outside = "goto ext-default/web/80/tcp"
    assert part.chains["ext-default/web/80/tcp"] == ("meta mark set meta mark | 0x4000", ANY)
    assert part.elements == {
        **numbered("10.1.0.2", "10.1.1.2"),
        ("services", "192.0.2.1 . tcp . 80"): outside,
        ("services", "192.0.2.9 . tcp . 80"): outside,
        ("nodeports", "tcp . 30080"): outside,
        ("hairpin", "10.1.0.2 . 10.1.0.2"): "",
    }


def test_a_load_balancer_with_ranges_asks_where_one_comes_from() -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}]}}
    ranges = ["198.51.100.0/24 ", "fd00::/8", "10.0.0.7/255.0.0.0", "nonsense"]  # as stored by whoever
    made = service(type="LoadBalancer", externalIPs=["192.0.2.1"], status=status, loadBalancerSourceRanges=ranges)
    part = plan(made, [slice_of(HERE, THERE)], PLACE)
    outside = "goto ext-default/web/80/tcp"
    assert part.elements["services", "192.0.2.1 . tcp . 80"] == outside
    assert part.elements["services", "192.0.2.9 . tcp . 80"] == "goto fwl-default/web/80/tcp"
    assert part.chains["fwl-default/web/80/tcp"] == (
        f"ip saddr 198.51.100.0/24 {outside}", f"ip saddr 10.0.0.0/8 {outside}", f"ip saddr 192.0.2.9 {outside}", "drop",
    )  # fmt: skip
    assert plan(made, [], PLACE).elements["refused", "192.0.2.9 . tcp . 80"] == "goto refuse"


@pytest.mark.parametrize(
    ("endpoints", "last"),
    [([HERE, THERE], "goto loc-default/web/80/tcp"), ([THERE], "drop")],
    ids=["with an endpoint here", "with none here"],
)
def test_external_policy_local(endpoints: list[tuple[str, str, str]], last: str) -> None:
    made = service(node_port=30080, type="NodePort", externalTrafficPolicy="Local")
    part = plan(made, [slice_of(*endpoints)], PLACE)
    assert part.elements["nodeports", "tcp . 30080"] == "goto lex-default/web/80/tcp"
    assert part.chains["lex-default/web/80/tcp"] == (
        f"ip saddr 10.1.0.0/24 {ANY}", f"fib saddr type local {ANY}", last,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("endpoints", "wanted"),
    [
        ([HERE, THERE], numbered("10.1.0.2")),
        ([THERE], {("refused", "10.96.1.1 . tcp . 80"): "drop"}),
        ([], {("refused", "10.96.1.1 . tcp . 80"): "goto refuse"}),
    ],
    ids=["with an endpoint here", "with none here", "with none at all"],
)
def test_internal_policy_local(endpoints: list[tuple[str, str, str]], wanted: dict[Any, str]) -> None:
    part = plan(service(internalTrafficPolicy="Local"), [slice_of(*endpoints)], PLACE)
    assert without_hairpin(part) == wanted


def test_hints_keep_traffic_in_the_zone() -> None:
    near = slice_of(HERE, hints={"forZones": [{"name": "z1"}]})
    far = slice_of(THERE, hints={"forZones": [{"name": "z2"}]})
    assert without_hairpin(plan(service(), [near, far], PLACE)) == numbered("10.1.0.2")
    assert without_hairpin(plan(service(), [far], PLACE)) == numbered("10.1.1.2")


def test_affinity_remembers_the_client_by_endpoint() -> None:
    config = {"clientIP": {"timeoutSeconds": 60}}
    part = plan(service(sessionAffinity="ClientIP", sessionAffinityConfig=config), [slice_of(HERE, THERE)], PLACE)
    names = ["aff-default/web/80/tcp/10.1.0.2/8080", "aff-default/web/80/tcp/10.1.1.2/8080"]
    assert part.sets == dict.fromkeys(names, "type ipv4_addr; flags dynamic,timeout;")
    assert part.chains[names[0]] == (
        f"update @{names[0]} {{ ip saddr timeout 60s }}",
        "meta l4proto tcp dnat to 10.1.0.2:8080",
    )
    assert part.chains["svc-default/web/80/tcp"] == (
        f"ip saddr @{names[0]} goto {names[0]}",
        f"ip saddr @{names[1]} goto {names[1]}",
        f"numgen random mod 2 vmap {{ 0 : goto {names[0]}, 1 : goto {names[1]} }}",
    )


# -- transactions


def part_of(*endpoints: tuple[str, str, str], **spec: Any) -> Part:
    return plan(service(**spec), [slice_of(*endpoints)], PLACE)


def test_a_change_of_one_endpoint_is_a_change_of_elements() -> None:
    rules = Ruleset(TABLE, skeleton(TABLE))
    rules.change({f"default/s{number}": plan(service(f"s{number}", clusterIP=f"10.96.2.{number}"), [slice_of(HERE)], PLACE)
                  for number in range(50)})  # fmt: skip
    rules.change({"default/web": part_of(THERE)})
    before = rules.state
    told = rules.change({"default/web": part_of(THERE, ("10.1.1.3", "n2", "ready"))}).splitlines()
    assert told == [
        "delete element ip wherry-services counts { 10.96.1.1 . tcp . 80 }",
        "add element ip wherry-services counts { 10.96.1.1 . tcp . 80 : 0:2 }",
        "add element ip wherry-services endpoints-tcp { 10.96.1.1 . 80 . 1 : 10.1.1.3 . 8080 }",
        f"add chain ip wherry-services {rules.state}",
        f"delete chain ip wherry-services {before}",
    ]
    rules.check_invariants()


def test_a_rule_that_draws_from_many_is_there_while_somebody_needs_it() -> None:
    rules = Ruleset(TABLE, skeleton(TABLE))
    many = [(f"10.1.1.{number}", "n2", "ready") for number in range(DRAWS + 1)]
    name, value = f"any-{DRAWS + 1}", f"0:{DRAWS + 1:x}"
    told = rules.change({"default/a": part_of(*many)})
    assert told.startswith(
        f"add chain ip wherry-services {name}\n"
        f"add rule ip wherry-services {name} {drawing('tcp', DRAWS + 1)}\n"
        f"add rule ip wherry-services {name} {drawing('udp', DRAWS + 1)}\n"
        f"add element ip wherry-services draws {{ {value} : jump {name} }}\n"
    )
    assert name not in rules.change({"default/b": part_of(*many, clusterIP="10.96.1.2")})
    assert name not in rules.change({"default/a": part_of(*many[1:])})
    assert f"add chain ip wherry-services {name}\n" in rules.whole()
    told = rules.change({"default/b": None})
    assert (
        told.index("counts {")
        < told.index(f"draws {{ {value} }}")
        < told.index(f"delete chain ip wherry-services {name}")
    )
    assert name not in rules.whole()
    rules.check_invariants()


def test_a_change_from_outside_rewrites_one_chain() -> None:
    rules = Ruleset(TABLE, skeleton(TABLE))
    spec = {"node_port": 30080, "type": "NodePort"}
    rules.change({"default/web": part_of(THERE, **spec)})
    told = rules.change({"default/web": part_of(THERE, ("10.1.1.3", "n2", "ready"), **spec)}).splitlines()
    assert [line for line in told if " svc-" in line] == [
        "flush chain ip wherry-services svc-default/web/80/tcp",
        *(f"add rule ip wherry-services svc-default/web/80/tcp {rule}" for rule in to("10.1.1.2", "10.1.1.3")),
    ]


def test_the_state_names_the_contents_and_not_how_they_came_about() -> None:
    one, other = Ruleset(TABLE, skeleton(TABLE)), Ruleset(TABLE, skeleton(TABLE))
    empty = one.state
    one.change({"default/web": part_of(HERE)})
    one.change({"default/web": part_of(HERE, THERE), "default/db": part_of(THERE, clusterIP="10.96.1.2")})
    other.change({"default/db": part_of(THERE, clusterIP="10.96.1.2")})
    other.change({"default/web": part_of(HERE, THERE)})
    assert one.state == other.state != empty
    assert one.change({"default/web": part_of(HERE, THERE)}) == ""
    one.change({"default/web": None, "default/db": None})
    assert one.state == empty
    assert not one.parts


def test_of_two_claims_to_an_address_the_first_name_wins_until_it_goes() -> None:
    rules = Ruleset(TABLE, skeleton(TABLE))
    first, second = (
        plan(service(name, clusterIP=address, externalIPs=["192.0.2.1"]), [slice_of(THERE)], PLACE)
        for name, address in (("a", "10.96.1.1"), ("b", "10.96.1.2"))
    )
    rules.change({"default/b": second})
    told = rules.change({"default/a": first})
    assert "add element ip wherry-services services { 192.0.2.1 . tcp . 80 : goto ext-default/a/80/tcp }" in told
    told = rules.change({"default/a": None})
    assert "add element ip wherry-services services { 192.0.2.1 . tcp . 80 : goto ext-default/b/80/tcp }" in told
    rules.check_invariants()


def test_flows_to_endpoints_that_are_gone_are_forgotten_for_udp_only() -> None:
    udp = [
        plan(service(protocol="UDP"), [slice_of(*found, protocol="UDP")], PLACE)
        for found in ([HERE, THERE], [HERE], [])
    ]  # fmt: skip
    assert list(controller.stale_udp({"k": udp[0]}, {"k": udp[1]})) == [("10.96.1.1", 80, "10.1.1.2")]
    assert list(controller.stale_udp({"k": udp[2]}, {"k": udp[1]})) == [("10.96.1.1", 80, "")]
    assert list(controller.stale_udp({"k": part_of(HERE)}, {"k": None})) == []
