"""The scheduler's picture of the cluster: the node table, and the pods that count on each node, assumed ones included.

A pod is *assumed* on a node from the moment that the cycle has placed it until the watch confirms the binding, so that the
next cycle counts it. `Scheduler` feeds this from the informers and from the binder's results; nothing here does I/O.

Invariants (`check_invariants`): a row's requested amounts are the sum of the pods held on that node; an assumed pod is held;
a node has more requested than allocatable only when that came from outside (`excused`): pods bound by others, or a node
that shrank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.scheduler.needs import Needs, NeedsCache
from controlplane.scheduler.nodes import NO_PODS, PODS, NodeFacts, NodeTable
from wherry.api import meta, resources
from wherry.pb import core_v1_pb2

# What changed, in the terms of filters.Filter.wakes_on.
NODE_ADD, NODE_TAINT, NODE_LABEL, NODE_ALLOCATABLE, POD_GONE = (
    "NodeAdd", "NodeTaint", "NodeLabel", "NodeAllocatable", "PodGone"
)  # fmt: skip
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class PodInfo:
    """One pod as last seen. `pod` belongs to the informer: never changed here."""

    key: str
    pod: core_v1_pb2.Pod
    needs: Needs
    priority: int
    may_preempt: bool

    @classmethod
    def of(cls, pod: core_v1_pb2.Pod, cache: NeedsCache) -> PodInfo:
        return cls(
            meta.key(pod),
            pod,
            cache.of(resources.as_held(pod)),
            pod.spec.priority,
            pod.spec.preemption_policy != "Never",
        )

    @property
    def uid(self) -> str:
        return self.pod.metadata.uid


@dataclass(slots=True)
class _Held:
    info: PodInfo
    node: str
    assumed: bool


class Cluster:
    def __init__(self) -> None:
        self.table = NodeTable()
        self._facts: dict[str, NodeFacts] = {}
        self._held: dict[str, _Held] = {}
        self._by_node: dict[str, dict[str, PodInfo]] = {}
        self._excused: dict[str, None] = {}

    # -- nodes

    def put_node(self, node: core_v1_pb2.Node) -> frozenset[str]:
        """What changed for pods that wait."""
        name, facts = node.metadata.name, NodeFacts.of(node)
        before = self._facts.get(name)
        if before == facts:
            return NOTHING
        self._facts[name] = facts
        row = self.table.put(name, facts)
        if before is None:
            for info in self._by_node.get(name, {}).values():
                self._reserve(row, info)
        self._excuse(name)
        if before is None:
            return frozenset({NODE_ADD})
        changes = {
            NODE_ALLOCATABLE: before.allocatable != facts.allocatable,
            NODE_LABEL: before.labels != facts.labels,
            NODE_TAINT: (before.taints, before.unschedulable) != (facts.taints, facts.unschedulable),
        }
        return frozenset(name for name, changed in changes.items() if changed)

    def remove_node(self, name: str) -> None:
        """Its pods stay known, for the case that it comes back."""
        if self._facts.pop(name, None) is not None:
            self.table.remove(name)
            self._excused.pop(name, None)

    # -- pods

    def put_assigned(self, info: PodInfo, node: str) -> frozenset[str]:
        """A pod that is bound, as the API says. Confirms it when it was assumed there."""
        held = self._held.get(info.key)
        if held is not None:
            before = held.info
            same = before.uid == info.uid and before.needs is info.needs and before.priority == info.priority
            if same and held.node == node:
                held.info = self._by_node[node][info.key] = info
                held.assumed = False
                return NOTHING
            self._drop(held)
        self._hold(_Held(info, node, assumed=False))
        row = self.table.rows.get(node)
        if row is not None:
            self._reserve(row, info)
            self._excuse(node)
        return NOTHING if held is None else frozenset({POD_GONE})

    def assume(self, info: PodInfo, row: int) -> str:
        """A pod that the cycle has placed (and reserved in the table). Returns the node's name."""
        node = self.table.names[row]
        assert info.key not in self._held, info.key
        self._hold(_Held(info, node, assumed=True))
        return node

    def forget(self, key: str) -> frozenset[str]:
        """An assumed pod that is not bound after all."""
        held = self._held.get(key)
        return self.remove_pod(key) if held is not None and held.assumed else NOTHING

    def remove_pod(self, key: str) -> frozenset[str]:
        held = self._held.get(key)
        if held is None:
            return NOTHING
        self._drop(held)
        return frozenset({POD_GONE})

    def node_of(self, key: str) -> str:
        """Where the pod counts; "" when it does not."""
        held = self._held.get(key)
        return held.node if held is not None else ""

    def held_info(self, key: str) -> PodInfo | None:
        held = self._held.get(key)
        return held.info if held is not None else None

    def is_assumed(self, key: str) -> bool:
        held = self._held.get(key)
        return held is not None and held.assumed

    # -- inside

    def _hold(self, held: _Held) -> None:
        self._held[held.info.key] = held
        self._by_node.setdefault(held.node, {})[held.info.key] = held.info

    def _drop(self, held: _Held) -> None:
        key, node = held.info.key, held.node
        del self._held[key]
        others = self._by_node[node]
        del others[key]
        if not others:
            del self._by_node[node]
        row = self.table.rows.get(node)
        if row is not None:
            lowest = int(self.table.min_priority[row])
            if held.info.priority == lowest:
                lowest = min((info.priority for info in others.values()), default=NO_PODS)
            self.table.release(row, held.info.needs, lowest)
            if node in self._excused:
                self._excuse(node)

    def _reserve(self, row: int, info: PodInfo) -> None:
        self.table.reserve(np.array([row]), info.needs, self.table.request_vector(info.needs), info.priority)

    def _excuse(self, node: str) -> None:
        row = self.table.rows[node]
        if (self.table.requested[row] > self.table.allocatable[row]).any():
            self._excused[node] = None
        else:
            self._excused.pop(node, None)

    def check_invariants(self) -> None:
        table = self.table
        assert {key for pods in self._by_node.values() for key in pods} == set(self._held)
        for key, held in self._held.items():
            assert self._by_node[held.node][key] is held.info, key
        assert set(table.rows) == set(self._facts)
        for name, row in table.rows.items():
            pods = self._by_node.get(name, {})
            expected = np.zeros(len(table.columns), np.int64)
            scored = np.zeros(2, np.int64)
            for info in pods.values():
                expected += table.request_vector(info.needs)
                scored += (info.needs.scored_cpu_milli, info.needs.scored_memory_bytes)
            assert (table.requested[row] == expected).all(), (name, table.requested[row], expected)
            assert (table.scored[row] == scored).all(), (name, table.scored[row], scored)
            assert table.requested[row, PODS] == len(pods), name
            lowest = min((info.priority for info in pods.values()), default=NO_PODS)
            assert table.min_priority[row] == lowest, name
            over = (table.requested[row] > table.allocatable[row]).any()
            assert not over or name in self._excused, (name, table.requested[row], table.allocatable[row])
        assert not table.requested[~table.alive].any()
