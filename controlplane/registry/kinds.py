"""The table of served kinds. The next one is a line here, plus a strategy where the base does not do.

Called by `registry` when it is built. `indexers` name selectable fields for which the cache keeps an index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from controlplane.registry import groups
from controlplane.registry.state import Served
from controlplane.registry.strategies.apps import Deployments, ReplicaSets
from controlplane.registry.strategies.core import (
    CertificateRequests,
    ConfigMaps,
    Events,
    Leases,
    Namespaces,
    Nodes,
    Secrets,
    ServiceAccounts,
)  # fmt: skip
from controlplane.registry.strategies.endpoints import Endpoints, EndpointSlices
from controlplane.registry.strategies.pods import Pods
from controlplane.registry.strategies.services import Services
from controlplane.registry.strategy import Strategy, label, subdomain
from controlplane.registry.tables import apps as app_tables
from controlplane.registry.tables import core as tables
from controlplane.registry.tables import endpoints as endpoint_tables
from controlplane.registry.tables import pods as pod_tables
from controlplane.store.cache import Indexer
from wherry.api import kinds
from wherry.pb import core_v1_pb2

Fields = dict[str, Callable[[Any], str]]

_POD_FIELDS: Fields = {
    "spec.nodeName": lambda obj: str(obj.spec.node_name),
    "spec.restartPolicy": lambda obj: str(obj.spec.restart_policy),
    "spec.schedulerName": lambda obj: str(obj.spec.scheduler_name),
    "spec.serviceAccountName": lambda obj: str(obj.spec.service_account_name),
    "spec.hostNetwork": lambda obj: _boolean(obj.spec.host_network),
    "status.phase": lambda obj: str(obj.status.phase),
    "status.podIP": lambda obj: str(obj.status.pod_ip),
    "status.podIPs": lambda obj: str(obj.status.pod_ips[0].ip) if obj.status.pod_ips else "",
    "status.nominatedNodeName": lambda obj: str(obj.status.nominated_node_name),
}
_EVENT_FIELDS: Fields = {
    "involvedObject.kind": lambda obj: str(obj.involved_object.kind),
    "involvedObject.namespace": lambda obj: str(obj.involved_object.namespace),
    "involvedObject.name": lambda obj: str(obj.involved_object.name),
    "involvedObject.uid": lambda obj: str(obj.involved_object.uid),
    "involvedObject.apiVersion": lambda obj: str(obj.involved_object.api_version),
    "involvedObject.resourceVersion": lambda obj: str(obj.involved_object.resource_version),
    "involvedObject.fieldPath": lambda obj: str(obj.involved_object.field_path),
    "reason": lambda obj: str(obj.reason),
    "reportingComponent": lambda obj: str(obj.reporting_component or obj.source.component),
    "source": lambda obj: str(obj.source.component or obj.reporting_component),
    "type": lambda obj: str(obj.type),
}


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _pod_node(value: bytes) -> tuple[str, ...]:
    return (core_v1_pb2.Pod.FromString(value).spec.node_name,)


def _entry(
    api_version: str, kind: str, strategy: type[Strategy], *, indexers: dict[str, Indexer] | None = None, **facts: Any
) -> Served:
    found = kinds.by_name(api_version, kind)
    return Served(found, strategy(kind=found, **facts), indexers or {})


def table(*, event_ttl_s: int) -> Iterator[Served]:
    """In discovery order."""
    yield _entry("v1", "ConfigMap", ConfigMaps, columns=tables.CONFIG_MAPS)
    yield _entry("v1", "Endpoints", Endpoints, columns=endpoint_tables.ENDPOINTS)
    yield _entry(
        "v1", "Event", Events, columns=tables.EVENTS, fields=_EVENT_FIELDS, ttl_s=event_ttl_s, tracks_managers=False
    )
    yield _entry(
        "v1", "Namespace", Namespaces, columns=tables.NAMESPACES, name_rule=label,
        fields={"status.phase": lambda obj: str(obj.status.phase)},
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
    )  # fmt: skip
    yield _entry(
        "v1", "Node", Nodes, columns=tables.NODES,
        fields={"spec.unschedulable": lambda obj: _boolean(obj.spec.unschedulable)},
    )  # fmt: skip
    yield _entry(
        "v1", "Pod", Pods, columns=pod_tables.COLUMNS, fields=_POD_FIELDS, indexers={"spec.nodeName": _pod_node},
    )  # fmt: skip
    yield _entry(
        "v1", "Secret", Secrets, columns=tables.SECRETS, fields={"type": lambda obj: str(obj.type)}
    )  # fmt: skip
    yield _entry("v1", "ServiceAccount", ServiceAccounts, columns=tables.SERVICE_ACCOUNTS)
    yield _entry(
        "v1", "Service", Services, columns=tables.SERVICES, name_rule=label,
        fields={
            "spec.clusterIP": lambda obj: str(obj.spec.cluster_ip),
            "spec.type": lambda obj: str(obj.spec.type),
        },
    )  # fmt: skip
    yield _entry("apps/v1", "Deployment", Deployments, columns=app_tables.DEPLOYMENTS)
    yield _entry(
        "apps/v1", "ReplicaSet", ReplicaSets, columns=app_tables.REPLICA_SETS,
        fields={"status.replicas": lambda obj: str(obj.status.replicas)},
    )  # fmt: skip
    yield _entry(
        "certificates.k8s.io/v1", "CertificateSigningRequest", CertificateRequests, columns=tables.CERTIFICATE_REQUESTS,
        fields={"spec.signerName": lambda obj: str(obj.spec.signer_name)}, name_rule=subdomain,
    )  # fmt: skip
    yield _entry("discovery.k8s.io/v1", "EndpointSlice", EndpointSlices, columns=endpoint_tables.ENDPOINT_SLICES)
    yield _entry("coordination.k8s.io/v1", "Lease", Leases, columns=tables.LEASES)


def later() -> Mapping[str, Callable[[], Iterable[Served]]]:
    """Per API group the kinds that are served once somebody asks for them; see `groups`."""
    return {group: partial(groups.load, group) for group in groups.MODULES}
