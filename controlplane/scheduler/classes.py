"""Classes of pods: one feasible set and one vector of scores for all pods with equal needs, kept up to date row by row.

`PodClass.place` is the engine's inner loop. It gives the same answer as placing pod after pod on the best node (ties in
turn, from `table.start` on), but takes all nodes that share the best score in one step: placing on one node changes no
other node's score, so they follow one another in any case, unless a node comes out of it *better* than before (balance
can improve), where the step ends. Called by `cycle`; reads the arrays of `nodes`, writes to them only by `reserve`.

Invariants, after `refresh`: `total[row] >= 0` exactly for feasible rows; `verdict[row]` is 0 there, NO_NODE for a free
row, and else 1 + the index in FILTERS of the filter that said no.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.scheduler import scores
from controlplane.scheduler.filters import FILTERS, RESOURCES_FIT
from controlplane.scheduler.needs import Needs
from controlplane.scheduler.nodes import Bools, Ints, NodeTable, Rows

NO_NODE = 255
BYTES_PER_ROW = 32  # of one class, roughly
MEMORY_FOR_CLASSES = 8 << 20
PORTS = next(index for index, item in enumerate(FILTERS) if item.plugin == "NodePorts")

SCORE_PLUGINS = (
    "TaintToleration",
    "NodeAffinity",
    "NodeResourcesFit",
    "NodeResourcesBalancedAllocation",
)


class Refusals:
    """What `cycle` has said about the class, as long as no row has changed since `sequence`."""

    __slots__ = ("by_pod", "sequence")

    def __init__(self) -> None:
        self.sequence = -1
        self.by_pod: dict[tuple[int, bool], Any] = {}


class PodClass:
    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.refusals = Refusals()
        # What has been computed so far, in rows and in steps: `cycle` turns it into the length of a slice.
        self.rows_evaluated = 0
        self.steps = 0
        self._shape = (0, 0)
        self._seen = -1  # the table's sequence number up to which the vectors hold

    # -- bringing the vectors up to date

    def refresh(self, table: NodeTable) -> None:
        if self.needs.requests and not all(name in table.columns for name in self.needs.requests):
            for name in self.needs.requests:
                table.column(name)
        if self._shape != (table.capacity, len(table.columns)):
            self._reset(table)
        elif self._seen == table.sequence:
            return
        static = np.flatnonzero(table.static_at > self._seen)
        dynamic = np.flatnonzero(table.dynamic_at > self._seen)
        self._seen = table.sequence
        if static.size:
            self._evaluate_static(table, static)
        if dynamic.size:
            self._evaluate_dynamic(table, dynamic)
            self._update_totals(table, dynamic)

    def _reset(self, table: NodeTable) -> None:
        capacity = table.capacity
        self._shape = (capacity, len(table.columns))
        self._seen = -1
        self._static_verdict: NDArray[np.uint8] = np.full(capacity, NO_NODE, np.uint8)
        self.verdict: NDArray[np.uint8] = np.full(capacity, NO_NODE, np.uint8)
        self._taints: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self._affinity: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self._plain = True  # no node has a raw static score
        self._greatest = (-1, -1)  # of the raw static scores over the feasible rows
        self._least: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self._balanced: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.total: NDArray[np.int32] = np.full(capacity, -1, np.int32)
        self._vector = table.request_vector(self.needs)
        self._asked = np.flatnonzero(self._vector)
        self._amounts = self._vector[self._asked]
        self._scored = np.array((self.needs.scored_cpu_milli, self.needs.scored_memory_bytes), np.int64)

    def _evaluate_static(self, table: NodeTable, rows: Rows) -> None:
        self.rows_evaluated += len(rows)
        verdict = np.where(table.alive[rows], 0, NO_NODE).astype(np.uint8)
        for index, item in enumerate(FILTERS):
            if item.static:
                verdict[item.rejects(table, self.needs, rows) & (verdict == 0)] = index + 1
        self._static_verdict[rows] = verdict
        self._taints[rows] = scores.soft_taints(table, self.needs, rows)
        self._affinity[rows] = scores.preferred_affinity(table, self.needs, rows)
        self._plain = not self._taints.any() and not self._affinity.any()

    def _evaluate_dynamic(self, table: NodeTable, rows: Rows) -> None:
        self.rows_evaluated += len(rows)
        verdict = self._static_verdict[rows]
        for index, item in enumerate(FILTERS):
            if not item.static:
                verdict[item.rejects(table, self.needs, rows) & (verdict == 0)] = index + 1
        self.verdict[rows] = verdict
        self._least[rows], self._balanced[rows] = self._allocation_scores(table, rows, ahead=1)

    def _allocation_scores(self, table: NodeTable, rows: Rows, ahead: int) -> tuple[Ints, Ints]:
        """With `ahead` pods of this class on each of the rows, in addition to those that are there."""
        least = scores.least_allocated(table, rows, table.scored[rows] + ahead * self._scored)
        if self.needs.best_effort:
            return least, np.zeros(len(rows), np.int64)
        requested = table.requested[rows, :2] + ahead * self._vector[:2]
        return least, scores.balanced_allocation(table, rows, requested)

    def _update_totals(self, table: NodeTable, rows: Rows) -> None:
        greatest = self._greatest_now()
        if greatest != self._greatest:
            self._greatest, rows = greatest, np.arange(table.capacity)
        total = self._weighted(rows, self._least[rows], self._balanced[rows])
        total[self.verdict[rows] != 0] = -1
        self.total[rows] = total

    def _greatest_now(self) -> tuple[int, int]:
        if self._plain:
            return 0, 0
        feasible = self.verdict == 0
        if not feasible.any():
            return 0, 0
        return int(self._taints[feasible].max()), int(self._affinity[feasible].max())

    def _static_scores(self, rows: Rows) -> tuple[Ints, Ints]:
        taints = scores.normalised(self._taints[rows].astype(np.int64), self._greatest[0], reverse=True)
        affinity = scores.normalised(self._affinity[rows].astype(np.int64), self._greatest[1])
        return taints, affinity

    def _weighted(self, rows: Rows, least: NDArray[Any], balanced: NDArray[Any]) -> NDArray[np.int32]:
        total = scores.WEIGHT_LEAST_ALLOCATED * least + scores.WEIGHT_BALANCED_ALLOCATION * balanced
        if self._greatest == (0, 0):
            total = total + scores.WEIGHT_TAINT_TOLERATION * scores.MAX_SCORE
        else:
            taints, affinity = self._static_scores(rows)
            total = total + scores.WEIGHT_TAINT_TOLERATION * taints + scores.WEIGHT_NODE_AFFINITY * affinity
        return np.asarray(total, np.int32)

    # -- placing

    def place(self, table: NodeTable, count: int, priority: int, max_steps: int = 1 << 30) -> list[int]:
        """The rows of up to `count` pods, in order, reserved in the table. Fewer: no node is feasible for the next one
        (`exhausted`), or the steps are used up."""
        self.refresh(table)
        placed: list[int] = []
        while len(placed) < count and max_steps > 0:
            max_steps -= 1
            self.steps += 1
            best = self.total.max() if len(self.total) else -1
            if best < 0:
                break
            ties = np.flatnonzero(self.total == best)
            if len(ties) > 1:
                turn = int(np.searchsorted(ties, table.start))
                if turn:
                    ties = np.concatenate((ties[turn:], ties[:turn]))
            self._place_step(table, ties[: count - len(placed)], int(best), priority, placed)
        return placed

    def _place_step(self, table: NodeTable, rows: Rows, best: int, priority: int, placed: list[int]) -> None:
        """One pod on each of `rows`, as far as they would follow one another."""
        feasible_after = self._feasible_after(table, rows)
        least, balanced = self._allocation_scores(table, rows, ahead=2)
        after = self._weighted(rows, least, balanced)
        after[~feasible_after] = -1
        ends = after > best
        if self._greatest != (0, 0):
            ends |= ~feasible_after  # the greatest raw score may leave with it
        if ends.any():
            stop = int(ends.argmax()) + 1
            rows, least, balanced, after = rows[:stop], least[:stop], balanced[:stop], after[:stop]
            feasible_after = feasible_after[:stop]
        table.reserve(rows, self.needs, self._vector, priority)
        table.start = int(rows[-1]) + 1
        self._seen = table.sequence
        self.rows_evaluated += len(rows)
        self._least[rows], self._balanced[rows], self.total[rows] = least, balanced, after
        if not feasible_after.all():
            full = rows[~feasible_after]
            self.verdict[full] = 1 + (PORTS if self.needs.ports else RESOURCES_FIT)
            if self._greatest != (0, 0) and self._greatest_now() != self._greatest:
                self._update_totals(table, np.arange(table.capacity))
        placed.extend(rows.tolist())

    def _feasible_after(self, table: NodeTable, rows: Rows) -> Bools:
        """Whether yet another pod of the class would fit on a row that takes one."""
        if self.needs.ports:
            return np.zeros(len(rows), np.bool_)
        index = rows[:, None]
        free = table.allocatable[index, self._asked] - table.requested[index, self._asked]
        return np.asarray((2 * self._amounts <= free).all(axis=1))

    @property
    def exhausted(self) -> bool:
        """No node is feasible, as of the latest refresh or placement."""
        return not len(self.total) or int(self.total.max()) < 0

    def plugin_scores(self, row: int) -> dict[str, float]:
        """Weighted, by plugin, as of the latest refresh; for explaining."""
        taints, affinity = self._static_scores(np.array([row]))
        values = (
            scores.WEIGHT_TAINT_TOLERATION * int(taints[0]),
            scores.WEIGHT_NODE_AFFINITY * int(affinity[0]),
            scores.WEIGHT_LEAST_ALLOCATED * int(self._least[row]),
            scores.WEIGHT_BALANCED_ALLOCATION * int(self._balanced[row]),
        )
        return {plugin: float(value) for plugin, value in zip(SCORE_PLUGINS, values, strict=True)}


class Classes:
    """The classes in use, the least recently used forgotten when their vectors would take too much memory."""

    def __init__(self) -> None:
        self._classes: OrderedDict[Needs, PodClass] = OrderedDict()

    def __len__(self) -> int:
        return len(self._classes)

    def of(self, needs: Needs, table: NodeTable) -> PodClass:
        found = self._classes.get(needs)
        if found is None:
            found = self._classes[needs] = PodClass(needs)
            limit = max(16, MEMORY_FOR_CLASSES // (BYTES_PER_ROW * table.capacity))
            while len(self._classes) > limit:
                self._classes.popitem(last=False)
        else:
            self._classes.move_to_end(needs)
        return found
