"""Starts all controllers of a process over shared informers, and keeps them going until cancelled.

Called by `controlplane.server` with a client of its own identity (in process, or over gRPC from elsewhere). With several
control plane replicas it runs on the one that holds the Lease only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from controlplane.controllers.aggregation.controller import AggregationController
from controlplane.controllers.deployment.controller import DeploymentController
from controlplane.controllers.disruption.controller import DisruptionController
from controlplane.controllers.endpointslice.controller import EndpointSliceController
from controlplane.controllers.endpointslice.mirroring import MirroringController
from controlplane.controllers.garbagecollector.controller import GarbageCollector
from controlplane.controllers.loadbalancer.controller import LoadBalancerController
from controlplane.controllers.namespace.controller import NamespaceController
from controlplane.controllers.nodelifecycle.controller import NodeLifecycleController
from controlplane.controllers.podgc.controller import PodCollector
from controlplane.controllers.podgc.plan import TERMINATED_THRESHOLD
from controlplane.controllers.replicaset.controller import ReplicaSetController
from controlplane.controllers.resourcequota.controller import ResourceQuotaController
from controlplane.controllers.serviceaccount.controller import ServiceAccountController
from controlplane.controllers.shell import Kit
from wherry.api.context import Env
from wherry.api.tasks import TaskGroup
from wherry.client.base import ClientAPI
from wherry.client.informer import SharedInformers
from wherry.pb import apps_v1_pb2, core_v1_pb2, policy_v1_pb2, rbac_v1_pb2

# Kinds that some controller watches whole; the garbage collector shares those instead of watching them again.
WATCHED_WHOLE: frozenset[type[Message]] = frozenset(
    (
        core_v1_pb2.Pod,
        core_v1_pb2.Node,
        core_v1_pb2.Namespace,
        core_v1_pb2.Service,
        core_v1_pb2.ResourceQuota,
        apps_v1_pb2.ReplicaSet,
        apps_v1_pb2.Deployment,
        policy_v1_pb2.PodDisruptionBudget,
        rbac_v1_pb2.ClusterRole,
    )
)


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    terminated_pod_threshold: int = TERMINATED_THRESHOLD


DEFAULT_OPTIONS = ControllerOptions()


async def run(
    client: ClientAPI, env: Env, *, ca_pem: bytes, options: ControllerOptions = DEFAULT_OPTIONS,
    informers: SharedInformers | None = None,
) -> None:  # fmt: skip
    """Until cancelled. `ca_pem` is what pods get to verify the API server with. `informers`: those of the caller, which
    then runs them."""
    shared = informers if informers is not None else SharedInformers(client, env)
    kit = Kit(client, env, shared)
    # Every informer is asked for here, before anything starts, so that all are synced when the first key is worked on.
    workers: list[Any] = [
        NamespaceController(kit),
        ServiceAccountController(kit, ca_pem),
        NodeLifecycleController(kit),
        DeploymentController(kit),
        ReplicaSetController(kit),
        EndpointSliceController(kit),
        MirroringController(kit),
        LoadBalancerController(kit),
        DisruptionController(kit),
        ResourceQuotaController(kit),
        AggregationController(kit),
        PodCollector(kit, terminated_threshold=options.terminated_pod_threshold),
        GarbageCollector(kit, shared=WATCHED_WHOLE),
    ]
    async with TaskGroup() as group:
        if informers is None:
            group.keep(shared.run, name="controllers-informers")
        await shared.wait_synced()
        for worker in workers:
            group.keep(worker.run, name=type(worker).__name__)
