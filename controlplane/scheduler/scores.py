"""The scores of the default profile: formulas and weights of kube-scheduler, over rows of arrays.

Static raw scores (preferred affinity, tolerated soft taints) are normalised over the feasible nodes, so the greatest of them
counts 100; the two allocation scores stand for themselves. `classes` adds them up. A new score is a function here, a
weight, and a line in `classes.PodClass`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controlplane.scheduler.filters import term_matches
from controlplane.scheduler.needs import Needs
from controlplane.scheduler.nodes import CPU, MEMORY, Ints, NodeTable, Rows

MAX_SCORE = 100
WEIGHT_TAINT_TOLERATION = 3
WEIGHT_NODE_AFFINITY = 2
WEIGHT_LEAST_ALLOCATED = 1
WEIGHT_BALANCED_ALLOCATION = 1


def preferred_affinity(table: NodeTable, needs: Needs, rows: Rows) -> Ints:
    """The sum of the weights of the preferred terms that a node matches."""
    total = np.zeros(len(rows), np.int64)
    for weight, term in needs.preferred:
        if term.labels or term.fields:
            total += weight * term_matches(table, term, rows)
    return total


def soft_taints(table: NodeTable, needs: Needs, rows: Rows) -> Ints:
    """The number of PreferNoSchedule taints that the pod does not tolerate."""
    mask = table.taint_mask(
        taint for taint in table.taints if taint.effect == "PreferNoSchedule" and not needs.tolerates(*taint)
    )
    if not mask.any():
        return np.zeros(len(rows), np.int64)
    return np.asarray(np.bitwise_count(table.taint_bits[rows] & mask).sum(axis=1, dtype=np.int64))


def normalised(raw: Ints, greatest: int, *, reverse: bool = False) -> Ints:
    """0..100 in whole numbers, against the greatest raw score of the feasible nodes."""
    if greatest == 0:
        return np.full(len(raw), MAX_SCORE if reverse else 0, np.int64)
    share = MAX_SCORE * raw // greatest
    return MAX_SCORE - share if reverse else share


def least_allocated(table: NodeTable, rows: Rows, scored: Ints) -> Ints:
    """The mean of the free shares of cpu and memory; `scored` is what would be requested with the pod there."""
    total, counted = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for column in (CPU, MEMORY):
        allocatable, requested = table.allocatable[rows, column], scored[:, column]
        present = allocatable > 0
        share = (allocatable - requested) * MAX_SCORE // np.maximum(allocatable, 1)
        total += np.where(present & (requested <= allocatable), share, 0)
        counted += present
    return total // np.maximum(counted, 1)


def balanced_allocation(table: NodeTable, rows: Rows, requested: Ints) -> Ints:
    """100 when cpu and memory are used in equal shares; `requested` is what would be requested with the pod there.
    (The standard deviation of two fractions is half their difference; fewer than two deviate by nothing.)"""
    fractions: list[NDArray[np.float64]] = []
    both = np.ones(len(rows), np.bool_)
    for column in (CPU, MEMORY):
        allocatable = table.allocatable[rows, column]
        both &= allocatable > 0
        fractions.append(np.minimum(requested[:, column] / np.maximum(allocatable, 1), 1.0))
    deviation = np.where(both, np.abs((fractions[0] - fractions[1]) / 2), 0.0)
    return ((1 - deviation) * MAX_SCORE).astype(np.int64)
