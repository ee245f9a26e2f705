"""The garbage collector's graph and decisions, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.garbagecollector.graph import Graph, Node, Owner
from controlplane.controllers.garbagecollector.plan import (
    Act,
    Decision,
    OwnerState,
    decide,
    decide_deleting,
    may_own,
    owner_namespace,
)
from wherry.api import kinds
from wherry.api.kinds import Kind

POD = kinds.by_name("v1", "Pod")
NODE = kinds.by_name("v1", "Node")
SOLID, ABSENT, WAITING, UNKNOWN = OwnerState.SOLID, OwnerState.ABSENT, OwnerState.WAITING, OwnerState.UNKNOWN


def node(uid: str, *owners: str, state: str = "", kind: Kind = POD) -> Node:
    """Owners by uid; a trailing `!` blocks. `state`: letters of d(eleting), f(oreground), o(rphan)."""
    references = tuple(Owner("v1", "Pod", uid.strip("!"), uid.strip("!"), uid.endswith("!")) for uid in owners)
    return Node(uid, kind, "ns", uid, references, "d" in state, "f" in state, "o" in state)


DECISIONS = [
    pytest.param(node("a"), {}, [], Decision(Act.NOTHING), id="no owner"),
    pytest.param(node("a", "x"), {"x": SOLID}, [], Decision(Act.NOTHING), id="its owner is there"),
    pytest.param(node("a", "x"), {"x": ABSENT}, [], Decision(Act.DELETE, "Background"), id="its owner is gone"),
    pytest.param(
        node("a", "x", "y"), {"x": ABSENT, "y": SOLID}, [], Decision(Act.DROP_OWNERS, owners=("x",)), id="one of two is gone"
    ),
    pytest.param(
        node("a", "x", "y"), {"x": WAITING, "y": SOLID}, [], Decision(Act.DROP_OWNERS, owners=("x",)),
        id="one of two goes in the foreground",
    ),
    pytest.param(
        node("a", "x", "y"), {"x": ABSENT, "y": ABSENT}, [], Decision(Act.DELETE, "Background"), id="both are gone"
    ),
    pytest.param(node("a", "x"), {"x": WAITING}, [], Decision(Act.DELETE, "Background"), id="foreground, a leaf"),
    pytest.param(
        node("a", "x"), {"x": WAITING}, [node("b", "a")], Decision(Act.DELETE, "Foreground"), id="foreground, not a leaf"
    ),
    pytest.param(
        node("a", "x"), {"x": WAITING}, [node("x", "a", state="df")], Decision(Act.UNBLOCK_DEPENDENTS, "Foreground"),
        id="foreground, a circle",
    ),
    pytest.param(node("a", "x", state="o"), {"x": ABSENT}, [], Decision(Act.DELETE, "Orphan"), id="with the orphan finalizer"),
    pytest.param(node("a", "x", state="f"), {"x": ABSENT}, [], Decision(Act.DELETE, "Foreground"), id="with the foreground one"),
    pytest.param(node("a", "x", "y"), {"x": ABSENT, "y": UNKNOWN}, [], Decision(Act.NOTHING), id="an owner of unknown kind"),
]  # fmt: skip


@pytest.mark.parametrize(("live", "states", "dependents", "expected"), DECISIONS)
def test_decide(live: Node, states: dict[str, OwnerState], dependents: list[Node], expected: Decision) -> None:
    assert decide(live, states, list(states), dependents) == expected


def test_an_owner_that_the_graph_does_not_know_is_looked_at_again() -> None:
    assert decide(node("a", "x"), {"x": SOLID}, [], []) == Decision(Act.LOOK_AGAIN)


DELETING = [
    pytest.param(node("a", state="d"), [node("b", "a!")], Act.NOTHING, id="somebody else's finalizer"),
    pytest.param(node("a", state="df"), [node("b", "a!")], Act.NOTHING, id="a dependent blocks"),
    pytest.param(node("a", state="df"), [node("b", "a")], Act.FINISH_FOREGROUND, id="a dependent that does not block"),
    pytest.param(node("a", state="df"), [], Act.FINISH_FOREGROUND, id="no dependents left"),
    pytest.param(node("a", state="do"), [node("b", "a!")], Act.ORPHAN_DEPENDENTS, id="orphan"),
]


@pytest.mark.parametrize(("live", "dependents", "expected"), DELETING)
def test_decide_deleting(live: Node, dependents: list[Node], expected: Act) -> None:
    assert decide_deleting(live, dependents).act is expected


def test_owners_are_looked_for_beside_their_dependents() -> None:
    assert may_own(True, node("p"))
    assert may_own(False, node("p"))
    assert not may_own(True, node("n", kind=NODE))
    assert owner_namespace(True, node("p")) == "ns"
    assert owner_namespace(False, node("p")) == ""


GRAPH = [
    pytest.param([], node("a", "x"), ["a"], id="an owner that is not known"),
    pytest.param([node("x")], node("a", "x"), [], id="an owner that is"),
    pytest.param([node("x", state="df")], node("a", "x"), ["a"], id="an owner that waits for its dependents"),
    pytest.param(
        [node("x"), node("a", "x")], node("x", state="df"), ["x", "a"], id="it begins to wait for its dependents"
    ),
    pytest.param([node("x", state="df"), node("a", "x")], node("x", state="df"), ["x"], id="it still waits"),
    pytest.param([node("x", state="df"), node("a", "x")], node("a"), ["x"], id="a dependent lets go"),
    pytest.param([], node("a", state="do"), ["a"], id="orphaning"),
    pytest.param([replace(node("x"), namespace="other")], node("a", "x"), ["a"], id="an owner in another namespace"),
    pytest.param([replace(node("x"), name="y")], node("a", "x"), ["a"], id="an owner of another name"),
    pytest.param([], node("a", "x", state="d"), [], id="deleted already"),
]


@pytest.mark.parametrize(("before", "put", "affected"), GRAPH)
def test_what_a_change_affects(before: list[Node], put: Node, affected: list[str]) -> None:
    graph = Graph()
    for each in before:
        graph.put(each)
    assert graph.put(put) == affected
    graph.check_invariants()


def test_what_a_removal_affects() -> None:
    graph = Graph()
    for each in (node("x", state="df"), node("a", "x!"), node("b", "a"), node("c", "a")):
        graph.put(each)
    assert graph.remove("a") == ["b", "c", "x"]
    assert [each.uid for each in graph.dependents("a")] == ["b", "c"]
    assert graph.remove("a") == []
    graph.check_invariants()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from("abcde"), st.lists(st.sampled_from("abcde"), max_size=3, unique=True)),
        max_size=30,
    )
)
def test_the_graph_keeps_its_invariants(steps: list[tuple[bool, str, list[str]]]) -> None:
    graph = Graph()
    for removes, uid, owners in steps:
        if removes:
            graph.remove(uid)
        else:
            graph.put(node(uid, *owners))
        graph.check_invariants()
