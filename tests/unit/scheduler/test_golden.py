"""The words of a real kube-scheduler 1.36 (recorded.jsonl) in the situations that our filters cover."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlplane.scheduler import cycle
from controlplane.scheduler.classes import Classes
from controlplane.scheduler.cluster import PodInfo
from controlplane.scheduler.needs import NeedsCache
from controlplane.scheduler.nodes import NodeFacts, NodeTable
from wherry.api import codec
from wherry.pb import core_v1_pb2

RECORDED = [json.loads(line) for line in (Path(__file__).parent / "recorded.jsonl").read_text().splitlines()]
NODES = [item["node"] for item in RECORDED if "node" in item]
SITUATIONS = [item for item in RECORDED if item.get("condition", {}).get("reason") == "Unschedulable"]


def _pod(item: dict[str, Any]) -> core_v1_pb2.Pod:
    pod = codec.from_dict(item["pod"], core_v1_pb2.Pod)
    for container in pod.spec.containers:  # as the registry's defaults do
        for name, amount in container.resources.limits.items():
            container.resources.requests[name].CopyFrom(amount)
    return pod


@pytest.mark.parametrize("item", SITUATIONS, ids=lambda item: item["situation"])
def test_words(item: dict[str, Any]) -> None:
    table, cache = NodeTable(), NeedsCache()
    for node in NODES:
        table.put(node["metadata"]["name"], NodeFacts.of(codec.from_dict(node, core_v1_pb2.Node)))
    if item["situation"].startswith("host port"):
        before = next(other for other in RECORDED if other.get("nodeName") and "fits" in other["situation"])
        needs = cache.of(_pod(before))
        table.reserve(np.array([table.rows[before["nodeName"]]]), needs, table.request_vector(needs), 0)
    done = cycle.schedule(table, Classes(), cycle.group([PodInfo.of(_pod(item), cache)]))
    assert [refusal.message for _, refusal in done.refusals] == [item["condition"]["message"]]
