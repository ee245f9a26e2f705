"""Tables of the cycle: what filters refuse and in which words, what scores prefer, and the order of a round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from controlplane.scheduler import cycle
from controlplane.scheduler.classes import Classes
from controlplane.scheduler.needs import Needs, NeedsCache
from controlplane.scheduler.nodes import NodeFacts, NodeTable
from wherry.testing.builders import NodeBuilder, PodBuilder, make_node, make_pod


@dataclass(frozen=True)
class Candidate:
    name: str
    needs: Needs
    priority: int = 0
    may_preempt: bool = True


class Engine:
    """A table with nodes and the pods on them."""

    def __init__(self, nodes: list[NodeBuilder], present: list[PodBuilder] | None = None) -> None:
        self.cache, self.table, self.classes = NeedsCache(), NodeTable(2), Classes()
        for builder in nodes:
            node = builder.build()
            self.table.put(node.metadata.name, NodeFacts.of(node))
        for pod in present or []:
            self.add(pod)

    def add(self, builder: PodBuilder) -> None:
        pod = builder.build()
        needs = self.cache.of(pod)
        row = self.table.rows[pod.spec.node_name]
        self.table.reserve(np.array([row]), needs, self.table.request_vector(needs), pod.spec.priority)

    def place(self, *builders: PodBuilder) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """(pod, node) in order, and (pod, message)."""
        candidates = []
        for builder in builders:
            pod = builder.build()
            never = pod.spec.preemption_policy == "Never"
            candidates.append(Candidate(pod.metadata.name, self.cache.of(pod), pod.spec.priority, not never))
        groups = cycle.group(candidates)
        placements, refusals = [], []
        while groups:
            done = cycle.schedule(self.table, self.classes, groups)
            placements += [(pod.name, self.table.names[row]) for pod, row in done.placements]  # type: ignore[attr-defined]
            refusals += [(pod.name, reason.message) for pod, reason in done.refusals]  # type: ignore[attr-defined]
        return placements, refusals


AFFINITY = "node(s) didn't match Pod's node affinity/selector"
PORTS = "node(s) didn't have free ports for the requested pod ports"
TAINT = "node(s) had untolerated taint(s)"


@pytest.mark.parametrize(
    ("node", "present", "pod", "reason"),
    [
        pytest.param(make_node("n"), None, make_pod("p"), None, id="nothing asked"),
        pytest.param(make_node("n").cpu(2), None, make_pod("p").cpu(2), None, id="exactly as much cpu"),
        pytest.param(make_node("n").cpu(2), None, make_pod("p").cpu("2001m"), "Insufficient cpu", id="cpu"),
        pytest.param(make_node("n").memory(100), None, make_pod("p").memory(101), "Insufficient memory", id="memory"),
        pytest.param(
            make_node("n").capacity("ephemeral-storage", "1Gi"),
            None,
            make_pod("p").request("ephemeral-storage", "2Gi"),
            "Insufficient ephemeral-storage",
            id="ephemeral storage",
        ),
        pytest.param(
            make_node("n"),
            None,
            make_pod("p").request("x.io/gpu", 1),
            "Insufficient x.io/gpu",
            id="extended, none there",
        ),
        pytest.param(
            make_node("n").capacity("x.io/gpu", 2),
            make_pod("u").request("x.io/gpu", 1).on("n"),
            make_pod("p").request("x.io/gpu", 1),
            None,
            id="extended, one left",
        ),
        pytest.param(
            make_node("n").cpu(2),
            make_pod("u").cpu("1500m").on("n"),
            make_pod("p").cpu(1),
            "Insufficient cpu",
            id="used",
        ),
        pytest.param(make_node("n").pods(1), make_pod("u").on("n"), make_pod("p"), "Too many pods", id="pod count"),
        pytest.param(
            make_node("n").cpu(2), None, make_pod("p").cpu(1).container("d").cpu("1001m"), "Insufficient cpu", id="sum"
        ),
        pytest.param(
            make_node("n").cpu(2), None, make_pod("p").cpu(1).init_container("i").cpu(2), None, id="init fits"
        ),
        pytest.param(
            make_node("n").cpu(2),
            None,
            make_pod("p").sidecar("s").cpu(1).init_container("i").cpu("1001m"),
            "Insufficient cpu",
            id="init beside a sidecar",
        ),
        pytest.param(
            make_node("n").cpu(2),
            None,
            make_pod("p").cpu(1).sidecar("s").cpu("1001m"),
            "Insufficient cpu",
            id="sidecar beside containers",
        ),
        pytest.param(
            make_node("n").cpu(2), None, make_pod("p").cpu(2).overhead("cpu", "1m"), "Insufficient cpu", id="overhead"
        ),
        pytest.param(make_node("n").unschedulable(), None, make_pod("p"), "node(s) were unschedulable", id="cordoned"),
        pytest.param(
            make_node("n").unschedulable(),
            None,
            make_pod("p").tolerate("node.kubernetes.io/unschedulable", effect="NoSchedule"),
            None,
            id="cordoned, tolerated",
        ),
        pytest.param(make_node("n").taint("k", "v"), None, make_pod("p"), TAINT, id="taint"),
        pytest.param(make_node("n").taint("k", "v"), None, make_pod("p").tolerate("k", "v"), None, id="tolerated"),
        pytest.param(make_node("n").taint("k", "v"), None, make_pod("p").tolerate("k", "w"), TAINT, id="other value"),
        pytest.param(
            make_node("n").taint("k", effect="NoExecute"),
            None,
            make_pod("p").tolerate("k", effect="NoSchedule"),
            TAINT,
            id="other effect",
        ),
        pytest.param(
            make_node("n").taint("k", effect="NoExecute"),
            None,
            make_pod("p").tolerate("k", seconds=10),
            None,
            id="NoExecute tolerated for a while",
        ),
        pytest.param(make_node("n").taint("k", effect="PreferNoSchedule"), None, make_pod("p"), None, id="soft taint"),
        pytest.param(make_node("n").not_ready(), None, make_pod("p"), TAINT, id="not ready"),
        pytest.param(make_node("n").not_ready("Unknown"), None, make_pod("p"), TAINT, id="unreachable"),
        pytest.param(make_node("n").condition("DiskPressure", "True"), None, make_pod("p"), TAINT, id="disk pressure"),
        pytest.param(
            make_node("n").not_ready(), None, make_pod("p").tolerate(), None, id="not ready, everything tolerated"
        ),
        pytest.param(make_node("n").labels(a="b"), None, make_pod("p").node_selector(a="b"), None, id="selector"),
        pytest.param(
            make_node("n").labels(a="b"), None, make_pod("p").node_selector(a="c"), AFFINITY, id="selector, no"
        ),
        pytest.param(
            make_node("n").labels(a="5"), None, make_pod("p").require("a", "Gt", "4"), None, id="greater than"
        ),
        pytest.param(
            make_node("n").labels(a="5"), None, make_pod("p").require("a", "Lt", "5"), AFFINITY, id="not less than"
        ),
        pytest.param(
            make_node("n").labels(a="x"), None, make_pod("p").require("a", "Gt", "4"), AFFINITY, id="not a number"
        ),
        pytest.param(
            make_node("n"), None, make_pod("p").require("a", "NotIn", "b"), None, id="NotIn without the label"
        ),
        pytest.param(
            make_node("n").labels(a="b"),
            None,
            make_pod("p").require("a", "In", "c").require("a", "Exists"),
            None,
            id="the second term",
        ),
        pytest.param(
            make_node("n").labels(a="b"),
            None,
            make_pod("p").require("a", "Exists").require("c", "Exists", new_term=False),
            AFFINITY,
            id="both of a term",
        ),
        pytest.param(make_node("n"), None, make_pod("p").require_field("metadata.name", "In", "n"), None, id="by name"),
        pytest.param(
            make_node("n"),
            None,
            make_pod("p").require_field("metadata.name", "In", "m"),
            "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            id="by another name",
        ),
        pytest.param(
            make_node("n"), None, make_pod("p").require_field("metadata.name", "NotIn", "n"), AFFINITY, id="not by name"
        ),
        pytest.param(
            make_node("n"), make_pod("u").host_port(80).on("n"), make_pod("p").host_port(80), PORTS, id="port"
        ),
        pytest.param(
            make_node("n"), make_pod("u").host_port(80).on("n"), make_pod("p").host_port(81), None, id="another port"
        ),
        pytest.param(
            make_node("n"),
            make_pod("u").host_port(80).on("n"),
            make_pod("p").host_port(80, protocol="UDP"),
            None,
            id="another protocol",
        ),
        pytest.param(
            make_node("n"),
            make_pod("u").host_port(80, ip="10.0.0.1").on("n"),
            make_pod("p").host_port(80, ip="10.0.0.2"),
            None,
            id="another address",
        ),
        pytest.param(
            make_node("n"),
            make_pod("u").host_port(80, ip="10.0.0.1").on("n"),
            make_pod("p").host_port(80),
            PORTS,
            id="every address",
        ),
        pytest.param(
            make_node("n").taint("k").unschedulable(),
            None,
            make_pod("p").cpu(99),
            "node(s) were unschedulable",
            id="the first filter speaks",
        ),
    ],
)
def test_filters(node: NodeBuilder, present: PodBuilder | None, pod: PodBuilder, reason: str | None) -> None:
    placements, refusals = Engine([node], [present] if present else []).place(pod)
    if reason is None:
        assert placements == [("p", "n")]
    else:
        assert not placements
        assert refusals[0][1].startswith(f"0/1 nodes are available: 1 {reason}. ")


@pytest.mark.parametrize(
    ("nodes", "present", "pod", "node"),
    [
        pytest.param(
            [make_node("a"), make_node("b")], [make_pod("u").cpu(1).memory("2Gi").on("a")], make_pod("p"), "b", id="emptier"
        ),
        pytest.param([make_node("a").cpu(2).memory("4Gi"), make_node("b")], [], make_pod("p").cpu(1), "b", id="larger"),
        pytest.param(
            [make_node("a"), make_node("b")],
            [make_pod("u").cpu(2).on("a"), make_pod("v").cpu(1).memory("2Gi").on("b")],
            make_pod("p").cpu(1).memory("1Gi"),
            "b",
            id="more balanced",
        ),
        pytest.param(
            [make_node("a").taint("k", effect="PreferNoSchedule"), make_node("b")],
            [make_pod("u").cpu(3).memory("6Gi").on("b")],
            make_pod("p"),
            "b",
            id="no soft taint, though fuller",
        ),
        pytest.param(
            [make_node("a"), make_node("b").labels(disk="ssd")],
            [make_pod("u").cpu(2).memory("4Gi").on("b")],
            make_pod("p").prefer(1, "disk", "In", "ssd"),
            "b",
            id="preferred affinity, though fuller",
        ),
        pytest.param(
            [make_node("a").labels(x="1"), make_node("b").labels(y="1")],
            [],
            make_pod("p").prefer(10, "x", "Exists").prefer(90, "y", "Exists"),
            "b",
            id="the weightier preference",
        ),
    ],
)  # fmt: skip
def test_scores(nodes: list[NodeBuilder], present: list[PodBuilder], pod: PodBuilder, node: str) -> None:
    assert Engine(nodes, present).place(pod)[0] == [("p", node)]


def test_equal_nodes_are_taken_in_turn() -> None:
    engine = Engine([make_node(name) for name in "abc"])
    placements, _ = engine.place(*(make_pod(f"p{number}") for number in range(7)))
    assert [node for _, node in placements] == list("abcabca")


def test_priority_goes_first_and_takes_the_last_place() -> None:
    placements, refusals = Engine([make_node("n").pods(1)]).place(
        make_pod("low"), make_pod("high").priority(10), make_pod("middle").priority(5)
    )
    assert placements == [("high", "n")]
    assert [name for name, _ in refusals] == ["middle", "low"]


def test_pods_with_a_host_port_go_to_different_nodes() -> None:
    placements, refusals = Engine([make_node("a"), make_node("b")]).place(
        *(make_pod(f"p{number}").host_port(80) for number in range(3))
    )
    assert [node for _, node in placements] == ["a", "b"]
    assert "2 node(s) didn't have free ports" in refusals[0][1]


@pytest.mark.parametrize(
    ("pod", "suffix"),
    [
        pytest.param(
            make_pod("p").cpu(2), "0/1 nodes are available: 1 No preemption victims found for incoming pod.", id="no victims"
        ),
        pytest.param(
            make_pod("p").cpu(9), "0/1 nodes are available: 1 Preemption is not helpful for scheduling.", id="too large"
        ),
        pytest.param(
            make_pod("p").cpu(2).priority(5), "0/1 nodes are available: 1 Preemption is not enabled.", id="a victim"
        ),
        pytest.param(
            make_pod("p").cpu(2).priority(5, preemption_policy="Never"),
            "not eligible due to preemptionPolicy=Never.",
            id="never",
        ),
    ],
)  # fmt: skip
def test_what_is_said_about_preemption(pod: PodBuilder, suffix: str) -> None:
    _, refusals = Engine([make_node("n").cpu(4)], [make_pod("u").cpu(3).on("n")]).place(pod)
    assert refusals[0][1].endswith(f" no new claims to deallocate, preemption: {suffix}")


def test_no_nodes() -> None:
    assert Engine([]).place(make_pod("p"))[1] == [("p", "no nodes available to schedule pods")]


def test_a_row_is_used_again() -> None:
    engine = Engine([make_node("a"), make_node("b").labels(x="1").taint("k").capacity("x.io/gpu", 1)])
    row = engine.table.rows["b"]
    engine.place(make_pod("p"))  # a class has seen the old row
    engine.table.remove("b")
    assert engine.place(make_pod("p").node_selector(x="1"))[1][0][1].startswith("0/1 nodes")
    engine.table.put("c", NodeFacts.of(make_node("c").cpu(64).build()))
    assert engine.table.rows["c"] == row
    assert engine.place(make_pod("p"))[0] == [("p", "c")]
    assert not engine.place(make_pod("q").request("x.io/gpu", 1))[0]


def test_the_table_grows() -> None:
    engine = Engine([make_node(f"n{number:02}").pods(1).taint(f"t{number}") for number in range(70)])
    placements, refusals = engine.place(*(make_pod(f"p{number}").tolerate() for number in range(71)))
    assert len({node for _, node in placements}) == 70
    assert refusals[0][1].startswith("0/70 nodes are available: 70 Too many pods.")
    assert engine.place(make_pod("p"))[1][0][1].startswith(
        "0/70 nodes are available: 70 node(s) had untolerated taint(s)."
    )


def test_forgotten_values_do_not_change_what_matches() -> None:
    table, classes, cache = NodeTable(2), Classes(), NeedsCache()
    for number in range(40):
        name = f"n{number}"
        table.put(name, NodeFacts.of(make_node(name).taint(f"t{number}", effect="PreferNoSchedule").build()))
        if number:
            table.remove(f"n{number - 1}")
        wanted = Candidate("p", cache.of(make_pod("p").node_selector({"kubernetes.io/hostname": name}).build()))
        assert [table.names[row] for _, row in cycle.schedule(table, classes, cycle.group([wanted])).placements] == [
            name
        ]
        assert [taint.key for taint in table.taints_of(table.rows[name])] == [f"t{number}"]
    assert len(table.labels["kubernetes.io/hostname"].values) <= 10
    assert len(table.taints) <= 10


def test_a_copy_is_apart() -> None:
    engine = Engine([make_node("a").labels(x="1")], [make_pod("u").host_port(80).on("a")])
    before = engine.table.copy()
    engine.place(make_pod("p").cpu(1).host_port(81))
    engine.table.put("b", NodeFacts.of(make_node("b").labels(x="2").taint("k").build()))
    assert before.requested[0, 0] == 0
    assert set(before.ports) == {("TCP", 80)}
    assert before.rows == {"a": 0}
    assert before.labels["x"].values == {"1": 0}
    assert not before.taints
