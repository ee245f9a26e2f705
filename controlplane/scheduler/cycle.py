"""The scheduling cycle, pure: rows and pods in, placements and refusals out. No clock, no await, no I/O.

`schedule` works through the pods of one round, bounded by a budget of estimated microseconds, so that the caller can yield
to the event loop between slices. `refusal` says why a class of pods fits nowhere, in kube-scheduler's words. Called by
`scheduler` (the shell), by `explain` for what-if questions, and by the benchmark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from controlplane.scheduler.classes import NO_NODE, Classes, PodClass
from controlplane.scheduler.filters import FILTERS, RESOURCES_FIT, insufficient_reason
from controlplane.scheduler.needs import Needs
from controlplane.scheduler.nodes import NodeTable

# Measured on the slower of our machines: a placement step over a few rows, the same per row that it evaluates, and
# what surrounds each pod (for a refused one, the shell's noting of events included). They only have to be of the right
# size: a slice of SLICE_BUDGET_US must stay under 5 ms.
STEP_COST_US = 120.0
ROW_COST_US = 0.4
POD_COST_US = 6.0
REFUSAL_COST_US = 100.0
REFUSED_POD_COST_US = 15.0  # an event and a condition to note
SLICE_BUDGET_US = 2500.0

NO_NODES = "no nodes available to schedule pods"
NEVER_PREEMPTS = "not eligible due to preemptionPolicy=Never."
NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"
# Ours: pods of lower priority are there, but this scheduler does not evict any.
NOT_ENABLED = "Preemption is not enabled"


class Schedulable(Protocol):
    """What the cycle needs to know of a pod."""

    @property
    def needs(self) -> Needs: ...
    @property
    def priority(self) -> int: ...
    @property
    def may_preempt(self) -> bool: ...


class Refusal(NamedTuple):
    """Why a pod fits nowhere. `plugins` are the filters that said no; `wakes_on` the events that may change it."""

    message: str
    plugins: frozenset[str]
    wakes_on: frozenset[str]


@dataclass(slots=True)
class Group:
    """Pods of one class and priority within a round, in queue order; `done` of them are dealt with."""

    needs: Needs
    priority: int
    pods: list[Schedulable]
    done: int = 0


@dataclass(slots=True)
class Slice:
    """What one bounded piece of work decided. The placements are reserved in the table already."""

    placements: list[tuple[Schedulable, int]] = field(default_factory=list)
    refusals: list[tuple[Schedulable, Refusal]] = field(default_factory=list)


def group(pods: Iterable[Schedulable]) -> list[Group]:
    """Strictly by priority; among equals, pods of one class are taken together at the place of the first of them. So
    order by time holds between rounds and within a class, and is given up only inside one round between classes."""
    groups: dict[tuple[int, Needs], Group] = {}
    for pod in pods:
        found = groups.get((-pod.priority, pod.needs))
        if found is None:
            found = groups[-pod.priority, pod.needs] = Group(pod.needs, pod.priority, [])
        found.pods.append(pod)
    return sorted(groups.values(), key=lambda item: -item.priority)


def schedule(table: NodeTable, classes: Classes, groups: list[Group], budget_us: float = SLICE_BUDGET_US) -> Slice:
    """Works on the groups in order until they are done (they are removed from the list) or the budget is spent. At least
    one step is made, so that calling it again always ends."""
    result = Slice()
    spent_us = 0.0
    while groups and spent_us < budget_us:
        current = groups[0]
        pod_class = classes.of(current.needs, table)
        steps, rows = pod_class.steps, pod_class.rows_evaluated
        wanted = current.pods[current.done : current.done + max(1, int((budget_us - spent_us) / POD_COST_US))]
        max_steps = max(1, int((budget_us - spent_us) / STEP_COST_US))
        placed = pod_class.place(table, len(wanted), current.priority, max_steps)
        result.placements.extend(zip(wanted, placed, strict=False))
        current.done += len(placed)
        spent_us += (
            (pod_class.steps - steps) * STEP_COST_US
            + (pod_class.rows_evaluated - rows) * ROW_COST_US
            + len(placed) * POD_COST_US
        )
        if len(placed) < len(wanted) and pod_class.exhausted:
            spent_us += REFUSAL_COST_US
            refused = current.pods[current.done :][: max(1, int((budget_us - spent_us) / REFUSED_POD_COST_US))]
            for pod in refused:
                result.refusals.append((pod, refusal(table, pod_class, pod.priority, pod.may_preempt)))
            spent_us += len(refused) * REFUSED_POD_COST_US
            current.done += len(refused)
        if current.done == len(current.pods):
            groups.pop(0)
    return result


# -- why not


def refusal(table: NodeTable, pod_class: PodClass, priority: int, may_preempt: bool) -> Refusal:
    """Of a class that is refreshed and exhausted; remembered until a row changes."""
    known = pod_class.refusals
    if known.sequence != table.sequence:
        known.sequence, known.by_pod = table.sequence, {}
    found = known.by_pod.get((priority, may_preempt))
    if found is None:
        found = known.by_pod[priority, may_preempt] = _refusal(table, pod_class, priority, may_preempt)
    return found


def _refusal(table: NodeTable, pod_class: PodClass, priority: int, may_preempt: bool) -> Refusal:
    if not table.rows:
        return Refusal(NO_NODES, frozenset(), frozenset({"NodeAdd"}))
    verdicts = np.bincount(pod_class.verdict, minlength=NO_NODE + 1)[1 : len(FILTERS) + 1].tolist()
    reasons: Counter[str] = Counter()
    plugins: set[str] = set()
    wakes_on: set[str] = set()
    for index, count in enumerate(verdicts):
        if count:
            plugins.add(FILTERS[index].plugin)
            wakes_on |= FILTERS[index].wakes_on
            if index != RESOURCES_FIT:
                reasons[FILTERS[index].reason] += count
    reasons.update(_insufficient_resources(table, pod_class))
    message = f"0/{len(table)} nodes are available: {_histogram(reasons)}."
    # Claims on devices do not exist here; Kubernetes' words all the same, since people and tools match on them.
    message += f" no new claims to deallocate, preemption: {_preemption(table, pod_class, priority, may_preempt)}"
    return Refusal(message, frozenset(plugins), frozenset(wakes_on))


def _histogram(reasons: Counter[str]) -> str:
    """Sorted as text, counts included: that is how Kubernetes does it."""
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items() if count))


def _insufficient_resources(table: NodeTable, pod_class: PodClass) -> Counter[str]:
    rows = np.flatnonzero(pod_class.verdict == RESOURCES_FIT + 1)
    vector = table.request_vector(pod_class.needs)
    found: Counter[str] = Counter()
    for resource, column in table.columns.items():
        if vector[column]:
            free = table.allocatable[rows, column] - table.requested[rows, column]
            found[insufficient_reason(resource)] += int((vector[column] > free).sum())
    return found


def _preemption(table: NodeTable, pod_class: PodClass, priority: int, may_preempt: bool) -> str:
    if not may_preempt:
        return NEVER_PREEMPTS
    resolvable = np.zeros(table.capacity, np.bool_)
    for index, item in enumerate(FILTERS):
        if item.resolvable:
            resolvable |= pod_class.verdict == index + 1
    # A request that is more than the whole node is not resolved by an eviction.
    vector = table.request_vector(pod_class.needs)
    asked = np.flatnonzero(vector)
    asked = asked[asked != table.columns["pods"]]
    resolvable &= ~(
        (pod_class.verdict == RESOURCES_FIT + 1) & (vector[asked] > table.allocatable[:, asked]).any(axis=1)
    )
    victims = resolvable & (table.min_priority < priority)
    count, with_victims = int(resolvable.sum()), int(victims.sum())
    reasons = Counter({NOT_HELPFUL: len(table) - count, NO_VICTIMS: count - with_victims, NOT_ENABLED: with_victims})
    return f"0/{len(table)} nodes are available: {_histogram(reasons)}."


def reasons_of_row(table: NodeTable, pod_class: PodClass, row: int) -> tuple[str, list[str]]:
    """The plugin that said no to this row, and its reasons; ("", []) when it is feasible."""
    verdict = int(pod_class.verdict[row])
    if not verdict:
        return "", []
    item = FILTERS[verdict - 1]
    if verdict != RESOURCES_FIT + 1:
        return item.plugin, [item.reason]
    vector = table.request_vector(pod_class.needs)
    free = table.allocatable[row] - table.requested[row]
    short = [name for name, column in table.columns.items() if vector[column] and vector[column] > free[column]]
    return item.plugin, [insufficient_reason(name) for name in short]
