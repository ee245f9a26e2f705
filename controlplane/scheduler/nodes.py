"""The nodes as rows of numpy arrays: what the filters and scores compute on.

One row per node; a removed node's row is used again. Resources are columns: cpu (milli), memory (bytes), ephemeral-storage
(bytes), pods, then extended resources as they turn up. Each label key is a column of interned value ids (which makes every
label a topology key with its domain ids for the asking; a bit per value would grow with the square of the nodes, as
each has its own hostname). Taints are few and distinct, so a row's taints are a bitset of 64-bit words.

Rows remember the sequence number of their latest change, so that each class of pods brings only those rows up to date.
`Cluster` writes here; `classes`, `filters` and `scores` read.

Invariants: a free row has `alive` false, no amounts and no ports; `requested[:, PODS]` counts the pods; `static_at <=
dynamic_at <= sequence` for every row (a change of what is allocatable, labels or taints is also one of what is free).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from controlplane.scheduler.needs import HostPort, Needs, clamped
from wherry.api import resources
from wherry.pb import core_v1_pb2

CPU, MEMORY, STORAGE, PODS = range(4)
BASE_RESOURCES = ("cpu", "memory", "ephemeral-storage", "pods")
NO_PODS = 1 << 40  # min_priority of a row without pods; above every int32

Ints = NDArray[np.int64]
Rows = NDArray[np.intp]
Bools = NDArray[np.bool_]


class Taint(NamedTuple):
    key: str
    value: str
    effect: str


# The node lifecycle controller turns these conditions into taints; they hold here already before it has.
_CONDITION_TAINTS = {
    ("Ready", "False"): "node.kubernetes.io/not-ready",
    ("Ready", "Unknown"): "node.kubernetes.io/unreachable",
    ("MemoryPressure", "True"): "node.kubernetes.io/memory-pressure",
    ("DiskPressure", "True"): "node.kubernetes.io/disk-pressure",
    ("PIDPressure", "True"): "node.kubernetes.io/pid-pressure",
    ("NetworkUnavailable", "True"): "node.kubernetes.io/network-unavailable",
}


def node_taints(node: core_v1_pb2.Node) -> frozenset[Taint]:
    taints = {Taint(taint.key, taint.value, taint.effect) for taint in node.spec.taints}
    for condition in node.status.conditions:
        key = _CONDITION_TAINTS.get((condition.type, condition.status))
        if key:
            taints.add(Taint(key, "", "NoSchedule"))
    return frozenset(taints)


class NodeFacts(NamedTuple):
    """What the arrays hold of a Node; equal facts mean that an update may be ignored."""

    allocatable: dict[str, int]
    labels: dict[str, str]
    taints: frozenset[Taint]
    unschedulable: bool

    @classmethod
    def of(cls, node: core_v1_pb2.Node) -> NodeFacts:
        return cls(
            {name: clamped(amount) for name, amount in resources.units(node.status.allocatable).items()},
            dict(node.metadata.labels),
            node_taints(node),
            node.spec.unschedulable,
        )


class LabelColumn:
    """One label key: a value id per row (-1: absent), and the values by id."""

    __slots__ = ("ids", "values")

    def __init__(self, capacity: int) -> None:
        self.ids: NDArray[np.int32] = np.full(capacity, -1, np.int32)
        self.values: dict[str, int] = {}


class NodeTable:
    def __init__(self, capacity: int = 16) -> None:
        self.capacity = capacity
        self.sequence = 0
        self.names: list[str] = [""] * capacity
        self.rows: dict[str, int] = {}
        self._free = list(range(capacity))  # a heap: the lowest row first, so that two runs agree
        self.columns: dict[str, int] = {name: column for column, name in enumerate(BASE_RESOURCES)}
        self.alive: Bools = np.zeros(capacity, np.bool_)
        self.allocatable: Ints = np.zeros((capacity, len(BASE_RESOURCES)), np.int64)
        self.requested: Ints = np.zeros((capacity, len(BASE_RESOURCES)), np.int64)
        self.scored: Ints = np.zeros((capacity, 2), np.int64)  # requested cpu and memory as the scores see them
        self.unschedulable: Bools = np.zeros(capacity, np.bool_)
        self.min_priority: Ints = np.full(capacity, NO_PODS, np.int64)
        self.labels: dict[str, LabelColumn] = {}
        self.taints: dict[Taint, int] = {}  # -> bit
        self.taint_bits: NDArray[np.uint64] = np.zeros((capacity, 1), np.uint64)
        self.ports: dict[tuple[str, int], dict[int, dict[str, int]]] = {}  # (protocol, port) -> row -> ip -> pods
        self.static_at: Ints = np.zeros(capacity, np.int64)
        self.dynamic_at: Ints = np.zeros(capacity, np.int64)
        # Where the next tie is broken: equal nodes are taken in turn, from this row on.
        self.start = 0

    def __len__(self) -> int:
        return len(self.rows)

    def copy(self) -> NodeTable:
        """For what-if questions: shares nothing that either side changes."""
        other = NodeTable.__new__(NodeTable)
        other.__dict__.update(self.__dict__)
        for name, value in self.__dict__.items():
            if isinstance(value, np.ndarray | dict | list):
                setattr(other, name, value.copy())
        other.labels = {}
        for key, column in self.labels.items():
            twin = other.labels[key] = LabelColumn(0)
            twin.ids, twin.values = column.ids.copy(), column.values.copy()
        other.ports = {port: {row: ips.copy() for row, ips in rows.items()} for port, rows in self.ports.items()}
        return other

    # -- nodes

    def put(self, name: str, facts: NodeFacts) -> int:
        """Adds the node or brings its row up to date. What is requested on it stays."""
        row = self.rows.get(name)
        if row is None:
            if not self._free:
                self._grow()
            row = self.rows[name] = heapq.heappop(self._free)
            self.names[row] = name
            self.alive[row] = True
        for resource in facts.allocatable:
            self.column(resource)
        self.allocatable[row] = 0
        for resource, amount in facts.allocatable.items():
            self.allocatable[row, self.columns[resource]] = amount
        self.unschedulable[row] = facts.unschedulable
        self._set_labels(row, facts.labels)
        self._set_taints(row, facts.taints)
        self.sequence += 1
        self.static_at[row] = self.dynamic_at[row] = self.sequence
        return row

    def remove(self, name: str) -> None:
        """The caller has released the pods on it."""
        row = self.rows.pop(name)
        self.names[row] = ""
        for array in (self.alive, self.allocatable, self.requested, self.scored, self.unschedulable, self.taint_bits):
            array[row] = 0
        self.min_priority[row] = NO_PODS
        self._set_labels(row, {})
        for port, rows in list(self.ports.items()):
            if rows.pop(row, None) is not None and not rows:
                del self.ports[port]
        self.sequence += 1
        self.static_at[row] = self.dynamic_at[row] = self.sequence
        heapq.heappush(self._free, row)

    def column(self, resource: str) -> int:
        """The resource's column, made when it is new."""
        column = self.columns.get(resource)
        if column is None:
            column = self.columns[resource] = len(self.columns)
            empty = np.zeros((self.capacity, 1), np.int64)
            self.allocatable = np.hstack((self.allocatable, empty))
            self.requested = np.hstack((self.requested, empty))
        return column

    def _grow(self) -> None:
        more = self.capacity
        self.names.extend([""] * more)
        for row in range(self.capacity, self.capacity + more):
            heapq.heappush(self._free, row)
        self.capacity += more

        def longer(array: NDArray[Any], fill: int = 0) -> NDArray[Any]:
            return np.concatenate((array, np.full((more, *array.shape[1:]), fill, array.dtype)))

        self.alive, self.unschedulable = longer(self.alive), longer(self.unschedulable)
        self.allocatable, self.requested = longer(self.allocatable), longer(self.requested)
        self.scored, self.taint_bits = longer(self.scored), longer(self.taint_bits)
        self.min_priority = longer(self.min_priority, NO_PODS)
        self.static_at, self.dynamic_at = longer(self.static_at), longer(self.dynamic_at)
        for label in self.labels.values():
            label.ids = longer(label.ids, -1)

    def _set_labels(self, row: int, labels: Mapping[str, str]) -> None:
        for key, column in self.labels.items():
            if key not in labels:
                column.ids[row] = -1
        for key, value in labels.items():
            known = self.labels.get(key)
            if known is None:
                known = self.labels[key] = LabelColumn(self.capacity)
            if len(known.values) > 4 * self.capacity:
                self._forget_unused_values(known)
            known.ids[row] = known.values.setdefault(value, len(known.values))

    @staticmethod
    def _forget_unused_values(column: LabelColumn) -> None:
        """Nodes come and go, each with a hostname of its own: without this the values would grow for ever."""
        by_id = list(column.values)
        column.values = {}
        for row in np.flatnonzero(column.ids >= 0).tolist():
            column.ids[row] = column.values.setdefault(by_id[column.ids[row]], len(column.values))

    def _set_taints(self, row: int, taints: frozenset[Taint]) -> None:
        if len(self.taints) > 4 * self.capacity:
            self._forget_unused_taints()
        self.taint_bits[row] = 0
        for taint in sorted(taints):
            bit = self.taints.setdefault(taint, len(self.taints))
            if bit >= 64 * self.taint_bits.shape[1]:
                self.taint_bits = np.hstack((self.taint_bits, np.zeros((self.capacity, 1), np.uint64)))
            self.taint_bits[row, bit // 64] |= np.uint64(1 << (bit % 64))

    def _forget_unused_taints(self) -> None:
        old, rows = list(self.taints), {row: self.taints_of(row) for row in self.rows.values()}
        self.taints = {taint: bit for bit, taint in enumerate(t for t in old if any(t in of for of in rows.values()))}
        self.taint_bits = np.zeros((self.capacity, len(self.taints) // 64 + 1), np.uint64)
        for row, of_row in rows.items():
            for taint in of_row:
                bit = self.taints[taint]
                self.taint_bits[row, bit // 64] |= np.uint64(1 << (bit % 64))

    def taints_of(self, row: int) -> list[Taint]:
        words = self.taint_bits[row].tolist()
        return [taint for taint, bit in self.taints.items() if words[bit // 64] >> (bit % 64) & 1]

    def taint_mask(self, wanted: Iterable[Taint]) -> NDArray[np.uint64]:
        mask = [0] * self.taint_bits.shape[1]
        for taint in wanted:
            bit = self.taints[taint]
            mask[bit // 64] |= 1 << (bit % 64)
        return np.array(mask, np.uint64)

    def topology(self, key: str) -> NDArray[np.int32] | None:
        """The domain id of each row for a topology key (-1: the node lacks the label); None: no node has it."""
        column = self.labels.get(key)
        return None if column is None else column.ids

    # -- what is requested on them

    def request_vector(self, needs: Needs) -> Ints:
        """One pod's requests by column, the pod itself included."""
        for resource in needs.requests:
            self.column(resource)
        vector = np.zeros(len(self.columns), np.int64)
        for resource, amount in needs.requests.items():
            vector[self.columns[resource]] = amount
        vector[PODS] = 1
        return vector

    def reserve(self, rows: Rows, needs: Needs, vector: Ints, priority: int) -> None:
        """One pod more on each of `rows`, which are distinct."""
        self.requested[rows] += vector
        self.scored[rows] += (needs.scored_cpu_milli, needs.scored_memory_bytes)
        self.min_priority[rows] = np.minimum(self.min_priority[rows], priority)
        if needs.ports:
            for row in rows.tolist():
                self._take_ports(row, needs.ports)
        self.sequence += 1
        self.dynamic_at[rows] = self.sequence

    def release(self, row: int, needs: Needs, min_priority: int) -> None:
        """One pod less; `min_priority` is that of the pods that stay (NO_PODS: none)."""
        self.requested[row] -= self.request_vector(needs)
        self.scored[row] -= (needs.scored_cpu_milli, needs.scored_memory_bytes)
        self.min_priority[row] = min_priority
        for port in needs.ports:
            rows = self.ports[port.protocol, port.port]
            ips = rows[row]
            ips[port.ip] -= 1
            if not ips[port.ip]:
                del ips[port.ip]
                if not ips:
                    del rows[row]
                    if not rows:
                        del self.ports[port.protocol, port.port]
        self.sequence += 1
        self.dynamic_at[row] = self.sequence

    def _take_ports(self, row: int, ports: tuple[HostPort, ...]) -> None:
        for port in ports:
            ips = self.ports.setdefault((port.protocol, port.port), {}).setdefault(row, {})
            ips[port.ip] = ips.get(port.ip, 0) + 1

    def rows_with_conflict(self, ports: tuple[HostPort, ...]) -> Iterator[int]:
        """Rows where one of these ports is taken; 0.0.0.0 meets every address."""
        for port in ports:
            for row, ips in self.ports.get((port.protocol, port.port), {}).items():
                if port.ip == "0.0.0.0" or port.ip in ips or "0.0.0.0" in ips:
                    yield row
