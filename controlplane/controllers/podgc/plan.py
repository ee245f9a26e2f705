"""Which pods are to be collected. Pure; called by `controller`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from controlplane.controllers import objects
from wherry.api import meta, times
from wherry.pb import core_v1_pb2

TERMINATED_THRESHOLD = 12_500  # as Kubernetes' --terminated-pod-gc-threshold
QUARANTINE_S = 40.0  # how long a node must be missing before its pods go, in case it is only being registered anew
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


@dataclass(frozen=True, slots=True)
class Collected:
    pod: core_v1_pb2.Pod
    reason: str  # "", or that of the DisruptionTarget condition
    message: str = ""


def concerns(pod: core_v1_pb2.Pod, nodes: Collection[str]) -> bool:
    """Whether any of the plans may name the pod."""
    node = pod.spec.node_name
    return bool(node and node not in nodes) or meta.is_deleting(pod) or objects.is_finished(pod)


def plan_finished(pods: Iterable[core_v1_pb2.Pod], threshold: int) -> list[Collected]:
    """The oldest finished pods beyond the threshold; evicted ones first."""
    finished = [pod for pod in pods if objects.is_finished(pod) and not meta.is_deleting(pod)]
    surplus = len(finished) - threshold
    if surplus <= 0:
        return []
    finished.sort(
        key=lambda pod: (
            pod.status.reason != "Evicted",
            times.from_time(pod.metadata.creation_timestamp),
            pod.metadata.namespace,
            pod.metadata.name,
        )
    )
    return [Collected(pod, "") for pod in finished[:surplus]]


def plan_unscheduled(pods: Iterable[core_v1_pb2.Pod]) -> list[Collected]:
    """Deleted before they had a node: there is no agent to finish them."""
    return [Collected(pod, "") for pod in pods if meta.is_deleting(pod) and not pod.spec.node_name]


def plan_out_of_service(pods: Iterable[core_v1_pb2.Pod], nodes: Iterable[core_v1_pb2.Node]) -> list[Collected]:
    """Terminating on a node of which an administrator says that it will not come back."""
    lost = {
        node.metadata.name
        for node in nodes
        if not meta.is_true(node.status.conditions, "Ready")
        and any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints)
    }
    return [Collected(pod, "") for pod in pods if meta.is_deleting(pod) and pod.spec.node_name in lost]


def missing_nodes(pods: Iterable[core_v1_pb2.Pod], known: Collection[str]) -> list[str]:
    """Names that pods are bound to and no Node has, sorted."""
    return sorted({pod.spec.node_name for pod in pods if pod.spec.node_name and pod.spec.node_name not in known})


def plan_orphaned(pods: Iterable[core_v1_pb2.Pod], gone: Collection[str]) -> list[Collected]:
    """`gone`: nodes that have been missing for long enough, and are missing now."""
    return [
        Collected(pod, "DeletionByPodGC", "PodGC: node no longer exists") for pod in pods if pod.spec.node_name in gone
    ]
