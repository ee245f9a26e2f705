"""Answers "why" and "what if" for the Scheduling service, on a copy of the node table; nothing is changed or written.

Pure, in slices, so that `Scheduler` can yield to the event loop in between. Called by `Scheduler.explain` and `.plan`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from controlplane.scheduler import cycle
from controlplane.scheduler.classes import Classes, PodClass
from controlplane.scheduler.cluster import PodInfo
from controlplane.scheduler.needs import NeedsCache
from controlplane.scheduler.nodes import NO_PODS, NodeTable
from controlplane.scheduler.reporter import GATED_MESSAGE
from wherry.pb import core_v1_pb2, scheduling_pb2

NODES_PER_SLICE = 200


def explain_slices(
    table: NodeTable, info: PodInfo, counts_on: str, response: scheduling_pb2.ExplainResponse
) -> Iterator[None]:
    """Fills in the nodes, in order of their names, and the message of a pod that fits nowhere. `table` is the caller's to
    give away; the pod is taken off the node that it counts on first, so its scores are those it would get now."""
    if counts_on in table.rows:
        table.release(table.rows[counts_on], info.needs, NO_PODS)
    pod_class = PodClass(info.needs)
    pod_class.refresh(table)
    yield
    for number, name in enumerate(sorted(table.rows)):
        row = table.rows[name]
        plugin, reasons = cycle.reasons_of_row(table, pod_class, row)
        entry = response.nodes.add(name=name, feasible=not plugin, plugin=plugin, reasons=reasons)
        if not plugin:
            entry.scores.update(pod_class.plugin_scores(row))
            entry.total = float(pod_class.total[row])
        if number % NODES_PER_SLICE == NODES_PER_SLICE - 1:
            yield
    response.node = info.pod.spec.node_name
    if counts_on:
        return
    if info.pod.spec.scheduling_gates:
        response.message = GATED_MESSAGE
    elif pod_class.exhausted:
        response.message = cycle.refusal(table, pod_class, info.priority, info.may_preempt).message


def plan_slices(
    table: NodeTable, cache: NeedsCache, pods: Sequence[core_v1_pb2.Pod], response: scheduling_pb2.PlanResponse
) -> Iterator[None]:
    """Places the pods as one round would, in the caller's order of pods; gated ones wait."""
    placements: dict[int, scheduling_pb2.PlanResponse.Placement] = {}
    waiting: list[PodInfo] = []
    for pod in pods:
        placement = response.placements.add(namespace=pod.metadata.namespace, name=pod.metadata.name)
        if pod.spec.scheduling_gates:
            placement.message = GATED_MESSAGE
            continue
        info = PodInfo.of(pod, cache)
        placements[id(info)] = placement
        waiting.append(info)
    groups, classes = cycle.group(waiting), Classes()
    while groups:
        done = cycle.schedule(table, classes, groups)
        for pod_info, row in done.placements:
            placements[id(pod_info)].node = table.names[row]
        for pod_info, refusal in done.refusals:
            placements[id(pod_info)].message = refusal.message
        yield
