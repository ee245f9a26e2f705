"""NetworkPolicies into rules, and whom their selectors mean."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.nodelink.peers import projection
from kubelet.network.policy import plan
from kubelet.network.policy.plan import TABLE, Compiled
from kubelet.network.policy.world import World
from kubelet.network.services.plan import Part
from kubelet.network.services.ruleset import Ruleset
from wherry.api import codec
from wherry.pb import core_v1_pb2, networking_v1_pb2


def policy(spec: dict[str, Any], name: str = "p", namespace: str = "default") -> networking_v1_pb2.NetworkPolicy:
    document = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"podSelector": {}} | spec,
    }  # fmt: skip
    return codec.from_dict(document, networking_v1_pb2.NetworkPolicy)


def pod(
    name: str, address: str, *, node: str = "n2", namespace: str = "default", host: bool = False, phase: str = "Running",
    ports: tuple[tuple[str, int], ...] = (), **labels: str,
) -> core_v1_pb2.Pod:  # fmt: skip
    made = core_v1_pb2.Pod()
    made.metadata.namespace, made.metadata.name = namespace, name
    made.metadata.labels.update(labels)
    made.spec.node_name, made.spec.host_network = node, host
    container = made.spec.containers.add()
    for port_name, number in ports:
        container.ports.add(name=port_name, container_port=number, protocol="TCP")
    made.status.phase, made.status.pod_ip = phase, address
    return made


def named(compiled: Compiled, rules: tuple[str, ...] | None) -> list[str] | None:
    """With the sets' names told apart by who they are."""
    if rules is None:
        return None
    texts = []
    for rule in rules:
        for number, name in enumerate(compiled.sets):
            rule = rule.replace(f"@{name} ", f"@{name.partition('-')[0]}{number} ")
        texts.append(rule)
    return texts


PODS_A = {"podSelector": {"matchLabels": {"a": "b"}}}
ROWS: dict[str, tuple[dict[str, Any], list[str] | None, list[str] | None]] = {
    "nobody may come": ({}, [], None),
    "only egress is named": ({"policyTypes": ["Egress"]}, None, []),
    "egress rules imply the type": ({"egress": [{}]}, [], ["return"]),
    "both, and nothing": ({"policyTypes": ["Ingress", "Egress"]}, [], []),
    "everybody": ({"ingress": [{}]}, ["return"], None),
    "pods": ({"ingress": [{"from": [PODS_A]}]}, ["ip saddr @pods0 return"], None),
    "to pods": ({"policyTypes": ["Egress"], "egress": [{"to": [PODS_A]}]}, None, ["ip daddr @pods0 return"]),
    "one port": ({"ingress": [{"ports": [{"port": 80}]}]}, ["meta l4proto tcp th dport { 80 } return"], None),
    "ports of two protocols": (
        {"ingress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}, {"port": 80}]}]},
        ["meta l4proto udp th dport { 53 } return", "meta l4proto tcp th dport { 53, 80 } return"], None),
    "a whole protocol": ({"ingress": [{"ports": [{"protocol": "UDP"}, {"port": 5, "protocol": "UDP"}]}]},
                         ["meta l4proto udp return"], None),
    "a range, and what overlaps it": (
        {"ingress": [{"ports": [{"port": 8000, "endPort": 8010}, {"port": 8005}, {"port": 8011}, {"port": 9}]}]},
        ["meta l4proto tcp th dport { 9, 8000-8011 } return"], None),
    "peers and ports": (
        {"ingress": [{"from": [PODS_A, {"namespaceSelector": {}}], "ports": [{"port": 80}]}]},
        ["ip saddr @pods0 meta l4proto tcp th dport { 80 } return", "ip saddr @pods1 meta l4proto tcp th dport { 80 } return"],
        None),
    "a block": ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}, ["ip saddr 10.0.0.0/8 return"], None),
    "a block but for": (
        {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}}]}]},
        ["ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16, 10.2.0.0/16 } return"], None),
    "everywhere but for": (
        {"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]}]},
        None, ["ip daddr != { 169.254.0.0/16 } return"]),
    "everywhere": ({"ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}, ["return"], None),
    "IPv6 comes from nowhere": ({"ingress": [{"from": [{"ipBlock": {"cidr": "fd00::/8"}}]}]}, [], None),
    "a port of ours by name": (
        {"ingress": [{"from": [PODS_A], "ports": [{"port": "web"}]}]},
        ["ip saddr @pods0 ip daddr . meta l4proto . th dport @ports1 return"], None),
    "a port of theirs by name": (
        {"policyTypes": ["Egress"], "egress": [{"to": [PODS_A], "ports": [{"port": "web"}, {"port": 1}]}]},
        None, ["ip daddr @pods0 meta l4proto tcp th dport { 1 } return",
               "ip daddr @pods0 ip daddr . meta l4proto . th dport @ports1 return"]),
    "a name has no meaning in a block": (
        {"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "web"}]}]},
        None, []),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "ingress", "egress"), ROWS.values(), ids=ROWS)
def test_rules(spec: dict[str, Any], ingress: list[str] | None, egress: list[str] | None) -> None:
    compiled = plan.compile_policy(policy(spec))
    assert named(compiled, compiled.ingress) == ingress
    assert named(compiled, compiled.egress) == egress


def world(*things: Any) -> World:
    made = World("n1")
    for name, labels in {"default": {"team": "x"}, "other": {"team": "y"}}.items():
        namespace = core_v1_pb2.Namespace()
        namespace.metadata.name = name
        namespace.metadata.labels.update(labels)
        made.put_namespace(namespace)
    for thing in things:
        if isinstance(thing, core_v1_pb2.Pod):
            made.put_pod(thing)
        else:
            made.put_policy(thing)
    return made


def elements(changes: dict[str, Part | None], what: str) -> set[str]:
    """The elements of all sets (or of the map) whose name begins so."""
    return {key for part in changes.values() if part for (name, key) in part.elements if name.startswith(what)}


A, B = pod("a", "10.1.0.1", node="n1", app="web"), pod("b", "10.1.0.2", app="client")
PEERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "pods of the namespace": ({"podSelector": {"matchLabels": {"app": "client"}}}, {"10.1.0.2"}),
    "all pods of the namespace": ({"podSelector": {}}, {"10.1.0.1", "10.1.0.2"}),
    "all pods of some namespaces": ({"namespaceSelector": {"matchLabels": {"team": "y"}}}, {"10.1.0.3"}),
    "all pods of all namespaces": ({"namespaceSelector": {}}, {"10.1.0.1", "10.1.0.2", "10.1.0.3"}),
    "both selectors": (
        {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["x", "y"]}]},
         "podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}},
        {"10.1.0.2", "10.1.0.3"}),
}  # fmt: skip


@pytest.mark.parametrize(("peer", "want"), PEERS.values(), ids=PEERS)
def test_peers(peer: dict[str, Any], want: set[str]) -> None:
    found = world(
        policy({"ingress": [{"from": [peer]}]}), A, B, pod("c", "10.1.0.3", namespace="other", app="client"),
        pod("host", "192.168.1.1", host=True, app="client"), pod("done", "10.1.0.9", phase="Succeeded", app="client"),
        pod("new", "", app="client"),
    )  # fmt: skip
    assert elements(found.changes(), "pods-") == want


def test_only_the_pods_of_this_node_are_held_to_policies_and_only_those_selected() -> None:
    found = world(
        policy({"podSelector": {"matchLabels": {"app": "web"}}}), A, B, pod("d", "10.1.0.4", node="n1", app="other"),
        pod("h", "192.168.1.1", node="n1", host=True, app="web"),
    )  # fmt: skip
    changes = found.changes()
    assert elements(changes, "ingress") == {"10.1.0.1"}
    assert elements(changes, "egress") == set()


def test_ports_by_name_are_those_of_the_pods() -> None:
    theirs = {"policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "web"}]}]}
    found = world(
        policy(theirs), A, pod("x", "10.1.0.5", ports=(("web", 8080), ("admin", 9))), pod("y", "10.1.0.6", ports=(("web", 80),)),
    )  # fmt: skip
    assert elements(found.changes(), "ports-") == {"10.1.0.5 . tcp . 8080", "10.1.0.6 . tcp . 80"}
    # A sidecar's too, of this node's pods and of those that the control plane tells of, but no other init container's.
    late = pod("z", "10.1.0.7")
    for restart, number in (("Always", 81), ("", 82)):
        late.spec.init_containers.add(restart_policy=restart).ports.add(name="web", container_port=number)
    for told in (late, projection(late)):
        found.put_pod(told)
        assert {item for item in elements(found.changes(), "ports-") if "10.1.0.7" in item} == {"10.1.0.7 . tcp . 81"}
        found.remove_pod("default/z")
        assert "10.1.0.7 . tcp . 81" not in elements(found.changes(), "ports-")


def test_pods_of_the_same_policies_share_a_chain_and_what_one_allows_is_allowed() -> None:
    found = world(
        policy({"ingress": [{"ports": [{"port": 80}]}]}, "one"), policy({"ingress": [{"ports": [{"port": 81}]}]}, "two"),
        A, pod("a2", "10.1.0.7", node="n1"),
    )  # fmt: skip
    chains = [part.chains for part in found.changes().values() if part and part.chains]
    ((rules,),) = [list(chain.values()) for chain in chains]
    assert rules == ("meta l4proto tcp th dport { 80 } return", "meta l4proto tcp th dport { 81 } return", "drop")


def test_a_pod_more_changes_its_sets_and_nothing_else() -> None:
    found = world(policy({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}), A, B)
    rules = Ruleset(TABLE, plan.skeleton())
    rules.change(found.changes())
    assert found.changes() == {}
    found.put_pod(pod("c", "10.1.0.8", app="client"))
    (name,) = {name for part in rules.parts.values() for name in part.sets}
    before = rules.state
    lines = rules.change(found.changes()).splitlines()
    assert lines == [
        f"add element ip {TABLE} {name} {{ 10.1.0.8 }}",
        f"add chain ip {TABLE} {rules.state}",
        f"delete chain ip {TABLE} {before}",
    ]
    found.remove_pod("default/c")
    found.remove_pod("default/b")
    assert f"delete element ip {TABLE} {name} {{ 10.1.0.8 }}" in rules.change(found.changes())
    found.remove_policy("default/p")
    gone = rules.change(found.changes())
    assert f"delete set ip {TABLE} {name}" in gone
    assert rules.parts == {}
    rules.check_invariants()


def test_a_pod_is_isolated_before_the_control_plane_knows_its_address() -> None:
    found = world(policy({"podSelector": {"matchLabels": {"app": "web"}}}))

    def told(address: str, uid: str) -> core_v1_pb2.Pod:
        made = pod("a", address, node="n1", app="web")
        made.metadata.uid = uid
        return made

    def isolated() -> set[str]:
        return elements({key: part for key, part in found._parts.items()}, "ingress")

    found.put_pod(told("", "u1"))
    assert not found.expect_pod(pod("b", "10.1.0.2", node="n1", app="other"))
    assert found.expect_pod(told("10.1.0.1", "u1"))
    found.changes()
    assert isolated() == {"10.1.0.1"}
    found.put_pod(told("", "u1"))  # an older word
    found.remove_pod("default/a", "u0")  # about one of this name that is gone
    found.changes()
    assert isolated() == {"10.1.0.1"}
    found.put_pod(told("10.1.0.1", "u1"))
    found.remove_pod("default/a", "u1")
    found.changes()
    assert isolated() == set()
