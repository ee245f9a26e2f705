"""The filters of the default profile, each a plain function over rows: `rejects(table, needs, rows) -> bool per row`.

FILTERS fixes their order, which is kube-scheduler's: the first one that says no gives a node its reason. Static ones read
what changes with the Node object, dynamic ones what changes with the pods on it; `classes` evaluates them apart. A new
filter is a function and an entry here (inter-pod terms, topology spread and volumes will come that way).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from controlplane.scheduler.needs import Needs, Requirement, Term
from controlplane.scheduler.nodes import Bools, NodeTable, Rows, Taint

UNSCHEDULABLE_TAINT = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
HARD_EFFECTS = frozenset({"NoSchedule", "NoExecute"})

NodesFilter = Callable[[NodeTable, Needs, Rows], Bools]


@dataclass(frozen=True, slots=True)
class Filter:
    plugin: str
    reason: str  # in Kubernetes' words; NodeResourcesFit says one per resource instead
    rejects: NodesFilter
    # The cluster events after which a pod that this filter kept waiting is tried again (see queue.ClusterEvent).
    wakes_on: frozenset[str]
    static: bool = True
    # Whether taking pods off the node could help (kube-scheduler: Unschedulable against UnschedulableAndUnresolvable).
    resolvable: bool = False


def not_in_node_set(table: NodeTable, needs: Needs, rows: Rows) -> Bools:
    names = needs.only_nodes()
    if names is None:
        return np.zeros(len(rows), np.bool_)
    return ~_is_named(table, names, rows)


def unschedulable(table: NodeTable, needs: Needs, rows: Rows) -> Bools:
    if needs.tolerates(*UNSCHEDULABLE_TAINT):
        return np.zeros(len(rows), np.bool_)
    return table.unschedulable[rows]


def other_node_name(table: NodeTable, needs: Needs, rows: Rows) -> Bools:
    if not needs.node_name:
        return np.zeros(len(rows), np.bool_)
    return ~_is_named(table, frozenset({needs.node_name}), rows)


def untolerated_taint(table: NodeTable, needs: Needs, rows: Rows) -> Bools:
    mask = table.taint_mask(
        taint for taint in table.taints if taint.effect in HARD_EFFECTS and not needs.tolerates(*taint)
    )
    if not mask.any():
        return np.zeros(len(rows), np.bool_)
    return np.asarray((table.taint_bits[rows] & mask).any(axis=1))


def affinity_mismatch(table: NodeTable, needs: Needs, rows: Rows) -> Bools:
    matches = np.ones(len(rows), np.bool_)
    for requirement in needs.selector:
        matches &= _label_matches(table, requirement, rows)
    if needs.required is not None:
        any_term = np.zeros(len(rows), np.bool_)
        for term in needs.required:
            any_term |= term_matches(table, term, rows)
        matches &= any_term
    return ~matches


def port_taken(table: NodeTable, needs: Needs, rows: Rows) -> Bools:
    if not needs.ports:
        return np.zeros(len(rows), np.bool_)
    taken = np.zeros(table.capacity, np.bool_)
    taken[list(table.rows_with_conflict(needs.ports))] = True
    return taken[rows]


def insufficient(table: NodeTable, needs: Needs, rows: Rows) -> Bools:
    vector = table.request_vector(needs)
    columns = np.flatnonzero(vector)
    free = table.allocatable[rows[:, None], columns] - table.requested[rows[:, None], columns]
    return np.asarray((vector[columns] > free).any(axis=1))


FILTERS: tuple[Filter, ...] = (
    Filter("NodeAffinity", "node(s) didn't satisfy plugin(s) [NodeAffinity]", not_in_node_set, frozenset({"NodeAdd"})),
    Filter(
        "NodeUnschedulable", "node(s) were unschedulable", unschedulable, frozenset({"NodeAdd", "NodeTaint"})
    ),
    Filter("NodeName", "node(s) didn't match the requested node name", other_node_name, frozenset({"NodeAdd"})),
    Filter(
        "TaintToleration", "node(s) had untolerated taint(s)", untolerated_taint, frozenset({"NodeAdd", "NodeTaint"})
    ),
    Filter(
        "NodeAffinity",
        "node(s) didn't match Pod's node affinity/selector",
        affinity_mismatch,
        frozenset({"NodeAdd", "NodeLabel"}),
    ),
    Filter(
        "NodePorts",
        "node(s) didn't have free ports for the requested pod ports",
        port_taken,
        frozenset({"NodeAdd", "PodGone"}),
        static=False,
        resolvable=True,
    ),
    Filter(
        "NodeResourcesFit",
        "",
        insufficient,
        frozenset({"NodeAdd", "NodeAllocatable", "PodGone"}),
        static=False,
        resolvable=True,
    ),
)  # fmt: skip
RESOURCES_FIT = len(FILTERS) - 1


def insufficient_reason(resource: str) -> str:
    return "Too many pods" if resource == "pods" else f"Insufficient {resource}"


# -- node selector terms


def term_matches(table: NodeTable, term: Term, rows: Rows) -> Bools:
    matches = np.ones(len(rows), np.bool_)
    for requirement in term.labels:
        matches &= _label_matches(table, requirement, rows)
    for requirement in term.fields:
        matches &= _field_matches(table, requirement, rows)
    return matches


def _label_matches(table: NodeTable, requirement: Requirement, rows: Rows) -> Bools:
    column = table.labels.get(requirement.key)
    operator = requirement.operator
    if column is None:
        return np.full(len(rows), operator in ("NotIn", "DoesNotExist"), np.bool_)
    ids = column.ids[rows]
    if operator == "Exists":
        return ids >= 0
    if operator == "DoesNotExist":
        return ids < 0
    if operator in ("In", "NotIn"):
        wanted = [column.values[value] for value in requirement.values if value in column.values]
        found = np.isin(ids, wanted) if len(wanted) != 1 else ids == wanted[0]
        return found if operator == "In" else ~found
    if operator in ("Gt", "Lt"):
        bound = _integer(requirement.values[0]) if len(requirement.values) == 1 else None
        if bound is None:
            return np.zeros(len(rows), np.bool_)
        wanted = []
        for value, number in column.values.items():
            amount = _integer(value)
            if amount is not None and (amount > bound if operator == "Gt" else amount < bound):
                wanted.append(number)
        return np.isin(ids, wanted)
    return np.zeros(len(rows), np.bool_)  # an operator that validation does not let through matches nothing


def _field_matches(table: NodeTable, requirement: Requirement, rows: Rows) -> Bools:
    """metadata.name is the only field there is."""
    if requirement.key != "metadata.name" or requirement.operator not in ("In", "NotIn"):
        return np.zeros(len(rows), np.bool_)
    named = _is_named(table, frozenset(requirement.values), rows)
    return named if requirement.operator == "In" else ~named


def _is_named(table: NodeTable, names: frozenset[str], rows: Rows) -> Bools:
    named = np.zeros(table.capacity, np.bool_)
    named[[table.rows[name] for name in sorted(names) if name in table.rows]] = True
    return named[rows]


def _integer(text: str) -> int | None:
    """As Go's ParseInt in base 10: no spaces and no underscores."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    return int(text) if digits.isascii() and digits.isdigit() else None
