"""The engine against a slow, obvious one: pod after pod, node after node, plain Python over the objects themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.scheduler import cycle
from controlplane.scheduler.classes import Classes
from controlplane.scheduler.needs import Needs, NeedsCache
from controlplane.scheduler.nodes import NodeFacts, NodeTable
from wherry.api import quantity, resources
from wherry.pb import core_v1_pb2
from wherry.testing.builders import NodeBuilder, PodBuilder, make_node, make_pod


@dataclass
class Machine:
    node: core_v1_pb2.Node
    pods: list[core_v1_pb2.Pod] = field(default_factory=list)

    def allocatable(self, resource: str) -> int:
        amount = self.node.status.allocatable.get(resource, "0")
        return quantity.milli(amount) if resource == "cpu" else quantity.value(amount)

    def used(self, resource: str) -> int:
        return sum(resources.pod_requests(pod).get(resource, 0) for pod in self.pods)

    def scored(self, resource: str) -> int:
        return sum(_scored(pod, resource) for pod in self.pods)


def _scored(pod: core_v1_pb2.Pod, resource: str) -> int:
    return resources.scoring_requests(pod)[resource == "memory"]


def _tolerated(pod: core_v1_pb2.Pod, key: str, value: str, effect: str) -> bool:
    for toleration in pod.spec.tolerations:
        if toleration.effect not in ("", effect) or toleration.key not in ("", key):
            continue
        if toleration.operator == "Exists" or (toleration.key and toleration.value == value):
            return True
    return False


def _holds(item: core_v1_pb2.NodeSelectorRequirement, labels: dict[str, str]) -> bool:
    there, value = item.key in labels, labels.get(item.key, "")
    match item.operator:
        case "In":
            return there and value in item.values
        case "NotIn":
            return not there or value not in item.values
        case "Exists":
            return there
        case "DoesNotExist":
            return not there
        case "Gt" | "Lt":
            if not value.lstrip("-").isdigit():
                return False
            return int(value) > int(item.values[0]) if item.operator == "Gt" else int(value) < int(item.values[0])
    raise AssertionError(item.operator)


def _term_holds(term: core_v1_pb2.NodeSelectorTerm, node: core_v1_pb2.Node) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    labels, fields = dict(node.metadata.labels), {"metadata.name": node.metadata.name}
    return all(_holds(item, labels) for item in term.match_expressions) and all(
        _holds(item, fields) for item in term.match_fields
    )


def _addresses(pod: core_v1_pb2.Pod) -> Iterable[tuple[str, str, int]]:
    for container in pod.spec.containers:
        for port in container.ports:
            if port.host_port:
                yield port.host_ip or "0.0.0.0", port.protocol, port.host_port


def _reasons(pod: core_v1_pb2.Pod, machine: Machine) -> list[str]:
    node = machine.node
    if node.spec.unschedulable and not _tolerated(pod, "node.kubernetes.io/unschedulable", "", "NoSchedule"):
        return ["node(s) were unschedulable"]
    for taint in node.spec.taints:
        hard = taint.effect in ("NoSchedule", "NoExecute")
        if hard and not _tolerated(pod, taint.key, taint.value, taint.effect):
            return ["node(s) had untolerated taint(s)"]
    affinity = pod.spec.affinity.node_affinity
    matches = all(node.metadata.labels.get(key) == value for key, value in pod.spec.node_selector.items())
    if affinity.HasField("required_during_scheduling_ignored_during_execution"):
        terms = affinity.required_during_scheduling_ignored_during_execution.node_selector_terms
        matches = matches and any(_term_holds(term, node) for term in terms)
    if not matches:
        return ["node(s) didn't match Pod's node affinity/selector"]
    for ip, protocol, port in _addresses(pod):
        for other in machine.pods:
            for other_ip, other_protocol, other_port in _addresses(other):
                meets = ip == other_ip or "0.0.0.0" in (ip, other_ip)
                if meets and protocol == other_protocol and port == other_port:
                    return ["node(s) didn't have free ports for the requested pod ports"]
    reasons = []
    if len(machine.pods) + 1 > machine.allocatable("pods"):
        reasons.append("Too many pods")
    for resource, amount in resources.pod_requests(pod).items():
        if amount and amount > machine.allocatable(resource) - machine.used(resource):
            reasons.append(f"Insufficient {resource}")
    return reasons


def _soft_taints(pod: core_v1_pb2.Pod, node: core_v1_pb2.Node) -> int:
    return sum(
        taint.effect == "PreferNoSchedule" and not _tolerated(pod, taint.key, taint.value, taint.effect)
        for taint in node.spec.taints
    )


def _preference(pod: core_v1_pb2.Pod, node: core_v1_pb2.Node) -> int:
    terms = pod.spec.affinity.node_affinity.preferred_during_scheduling_ignored_during_execution
    return sum(term.weight for term in terms if _term_holds(term.preference, node))


def _least(pod: core_v1_pb2.Pod, machine: Machine) -> int:
    parts = []
    for resource in ("cpu", "memory"):
        have = machine.allocatable(resource)
        if have:
            used = machine.scored(resource) + _scored(pod, resource)
            parts.append(0 if used > have else (have - used) * 100 // have)
    return sum(parts) // len(parts) if parts else 0


def _balance(pod: core_v1_pb2.Pod, machine: Machine) -> int:
    mine = resources.pod_requests(pod)
    if not mine.get("cpu") and not mine.get("memory"):
        return 0
    fractions = []
    for resource in ("cpu", "memory"):
        have = machine.allocatable(resource)
        if have:
            fractions.append(min(1.0, (machine.used(resource) + mine.get(resource, 0)) / have))
    deviation = abs((fractions[0] - fractions[1]) / 2) if len(fractions) == 2 else 0.0
    return int((1 - deviation) * 100)


class Reference:
    def __init__(self, nodes: list[core_v1_pb2.Node]) -> None:
        self.machines = [Machine(node) for node in nodes]
        self.start = 0

    def place(self, pod: core_v1_pb2.Pod) -> str | list[str]:
        """The node's name, or the reasons of all nodes."""
        reasons = {row: _reasons(pod, machine) for row, machine in enumerate(self.machines)}
        feasible = [row for row in reasons if not reasons[row]]
        if not feasible:
            return [reason for row in reasons for reason in reasons[row]]
        most_taints = max(_soft_taints(pod, self.machines[row].node) for row in feasible)
        most_preferred = max(_preference(pod, self.machines[row].node) for row in feasible)

        def score(row: int) -> int:
            machine = self.machines[row]
            taints = 100 - (100 * _soft_taints(pod, machine.node) // most_taints if most_taints else 0)
            preferred = 100 * _preference(pod, machine.node) // most_preferred if most_preferred else 0
            return 3 * taints + 2 * preferred + _least(pod, machine) + _balance(pod, machine)

        best = max(map(score, feasible))
        ties = [row for row in feasible if score(row) == best]
        row = next((row for row in ties if row >= self.start), ties[0])
        self.start = row + 1
        self.machines[row].pods.append(pod)
        return self.machines[row].node.metadata.name


@dataclass(frozen=True)
class Candidate:
    pod: core_v1_pb2.Pod
    needs: Needs
    priority: int = 0
    may_preempt: bool = True


ZONES = st.sampled_from(["a", "b", "c"])
TAINTS = st.tuples(
    st.sampled_from(["k1", "k2"]),
    st.sampled_from(["", "v"]),
    st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"]),
)


@st.composite
def nodes(draw: st.DrawFn) -> list[core_v1_pb2.Node]:
    """Up to three kinds, several of each: ties are where the engine takes its short cut."""
    built = []
    for kind in range(draw(st.integers(1, 3))):
        node: NodeBuilder = make_node("n").cpu(draw(st.sampled_from([1, 2, 4, 0])))
        node.memory(draw(st.sampled_from(["1Gi", "2Gi", "8Gi"]))).pods(draw(st.integers(1, 8)))
        node.labels(zone=draw(ZONES), cores=draw(st.sampled_from(["4", "16", "many", "-2"])))
        if draw(st.integers(0, 3)) == 0:
            node.capacity("example.com/gpu", 2)
        if draw(st.integers(0, 5)) == 0:
            node.unschedulable()
        for taint in sorted(draw(st.sets(TAINTS, max_size=2))):
            node.taint(*taint)
        for number in range(draw(st.integers(1, 4))):
            twin = node.build()
            twin.metadata.name = twin.metadata.labels["kubernetes.io/hostname"] = f"n{kind}{number}"
            built.append(twin)
    return draw(st.permutations(built))


def _affinity(draw: st.DrawFn, pod: PodBuilder) -> None:
    match draw(st.integers(0, 8)):
        case 0:
            pod.require("zone", draw(st.sampled_from(["In", "NotIn"])), draw(ZONES), draw(ZONES))
        case 1:
            pod.require("cores", draw(st.sampled_from(["Gt", "Lt"])), draw(st.sampled_from(["3", "10", "-5"])))
        case 2:
            pod.require("zone", "In", draw(ZONES)).require("cores", "Exists").require(
                "nothing", "DoesNotExist", new_term=False
            )
        case 3:
            pod.require_field("metadata.name", "NotIn", "n00")
        case 4:
            pod.node_selector(zone=draw(ZONES))
        case 5 | 6:
            pod.prefer(draw(st.integers(1, 100)), "zone", "In", draw(ZONES))
            pod.prefer(draw(st.integers(1, 100)), "cores", "In", "4", "16")


@st.composite
def pods(draw: st.DrawFn) -> core_v1_pb2.Pod:
    pod = make_pod("p")
    if draw(st.booleans()):
        pod.cpu(draw(st.sampled_from(["50m", "100m", "500m", "1500m"])))
    if draw(st.booleans()):
        pod.memory(draw(st.sampled_from(["64Mi", "256Mi", "1Gi"])))
    if draw(st.integers(0, 5)) == 0:
        pod.request("example.com/gpu", 1)
    if draw(st.integers(0, 4)) == 0:
        pod.host_port(draw(st.integers(80, 81)), ip=draw(st.sampled_from(["", "10.0.0.1", "10.0.0.2"])))
    if draw(st.booleans()):
        pod.tolerate(
            draw(st.sampled_from(["k1", "k2", ""])),
            operator="Exists",
            effect=draw(st.sampled_from(["", "NoSchedule", "PreferNoSchedule"])),
        )
    if draw(st.integers(0, 4)) == 0:
        pod.tolerate("k1", "v")
    _affinity(draw, pod)
    return pod.build()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_same_placements_as_pod_by_pod(data: st.DataObject) -> None:
    built = data.draw(nodes())
    kinds = data.draw(st.lists(pods(), min_size=1, max_size=4))
    # Runs of equal pods, as replicas come: (kind, how many).
    runs = data.draw(st.lists(st.tuples(st.integers(0, len(kinds) - 1), st.integers(1, 12)), min_size=1, max_size=6))
    reference, table, classes, cache = Reference(built), NodeTable(len(built)), Classes(), NeedsCache()
    for node in built:
        table.put(node.metadata.name, NodeFacts.of(node))
    for kind, count in runs:
        pod = kinds[kind]
        candidates = [Candidate(pod, cache.of(pod)) for _ in range(count)]
        expected = [reference.place(pod) for _ in range(count)]
        groups = cycle.group(candidates)
        got: list[str] = []
        refused: list[cycle.Refusal] = []
        while groups:
            done = cycle.schedule(table, classes, groups, budget_us=data.draw(st.sampled_from([1.0, 150.0, 1e6])))
            got.extend(table.names[row] for _, row in done.placements)
            refused.extend(reason for _, reason in done.refusals)
        assert got == [item for item in expected if isinstance(item, str)]
        reasons = [item for item in expected if isinstance(item, list)]
        assert len(refused) == len(reasons)
        for refusal, of_nodes in zip(refused, reasons, strict=True):
            counts = sorted(f"{of_nodes.count(reason)} {reason}" for reason in set(of_nodes))
            assert refusal.message.startswith(f"0/{len(built)} nodes are available: {', '.join(counts)}. ")


def _run(
    built: list[core_v1_pb2.Node], present: dict[str, core_v1_pb2.Pod], pod: core_v1_pb2.Pod
) -> tuple[list[str], list[str]]:
    """Three placements of `pod`, by the engine and by the reference; `present` runs on the nodes already."""
    reference, table, cache = Reference(built), NodeTable(len(built)), NeedsCache()
    for machine in reference.machines:
        name = machine.node.metadata.name
        row = table.put(name, NodeFacts.of(machine.node))
        if name in present:
            machine.pods.append(present[name])
            needs = cache.of(present[name])
            table.reserve(np.array([row]), needs, table.request_vector(needs), 0)
    groups = cycle.group([Candidate(pod, cache.of(pod))] * 3)
    placements = cycle.schedule(table, Classes(), groups, budget_us=1e6).placements
    return [table.names[row] for _, row in placements], [str(reference.place(pod)) for _ in range(3)]


def test_a_node_that_comes_out_better_is_taken_again() -> None:
    """Memory is half used and cpu is not: the pod balances the node by more than it fills it, so the step must end."""
    built = [make_node(name).cpu(2).memory("64Gi").build() for name in ("n0", "n1")]
    used = make_pod("used").memory("30Gi").build()
    got, expected = _run(built, {"n0": used, "n1": used}, make_pod("p").cpu("190m").build())
    assert got == expected == ["n0", "n0", "n1"]


def test_preferences_are_measured_anew_when_the_most_preferred_node_is_full() -> None:
    """All three are level at first; without n0, n2 has the greatest preference, and comes before n1 in spite of the turn."""
    shape = [("n0", "a", 60), ("n1", "c", 20), ("n2", "b", 40)]
    built = [make_node(name).cpu(1000).memory("100Ti").pods(2).labels(zone=zone).build() for name, zone, _ in shape]
    present = {name: make_pod("u").cpu(10 * used).memory(f"{used}Ti").build() for name, _, used in shape}
    pod = (
        make_pod("p").prefer(8, "zone", "Exists").prefer(1, "zone", "In", "a", "b").prefer(1, "zone", "In", "a").build()
    )
    got, expected = _run(built, present, pod)
    assert got == expected == ["n0", "n2", "n1"]
