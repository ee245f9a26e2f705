"""Endpoints that somebody has written, as slices: nodes route by slices alone. Pure; called by `mirroring`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from controlplane.controllers.endpointslice import plan as planning
from controlplane.controllers.endpointslice.legacy import MANAGED_BY as LEGACY_MANAGED_BY
from wherry.api import meta
from wherry.pb import core_v1_pb2, discovery_v1_pb2

CONTROLLER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"  # an old kind of lock, which changes all the time
MAX_ADDRESSES = 1000  # of a subset, as in Kubernetes
_OURS = (planning.SERVICE_NAME, planning.MANAGED_BY, planning.HEADLESS, SKIP, LEGACY_MANAGED_BY)


def is_mirrored(service: core_v1_pb2.Service | None, written: core_v1_pb2.Endpoints | None) -> bool:
    return (
        service is not None
        and written is not None
        and not service.spec.selector
        and service.spec.type != "ExternalName"
        and not meta.is_deleting(service)
        and not meta.is_deleting(written)
        and written.metadata.labels.get(SKIP, "") != "true"
        and LEADER not in written.metadata.annotations
    )


def plan(
    service: core_v1_pb2.Service | None,
    written: core_v1_pb2.Endpoints | None,
    slices: Sequence[discovery_v1_pb2.EndpointSlice],
) -> planning.Plan:
    """`slices`: those that mirror the Endpoints of this name already."""
    decided = planning.Plan()
    present = [found for found in slices if not meta.is_deleting(found)]
    if written is None or not is_mirrored(service, written):
        decided.delete = present
        return decided
    wanted: dict[planning.Group, list[discovery_v1_pb2.Endpoint]] = {}
    for subset in written.subsets:
        ports = tuple(sorted(((p.name, p.protocol, p.port, p.app_protocol) for p in subset.ports), key=repr))
        for family, endpoint in _endpoints(subset):
            wanted.setdefault((family, ports), []).append(endpoint)
    groups: dict[planning.Group, list[discovery_v1_pb2.EndpointSlice]] = {}
    for found in present:
        groups.setdefault(planning.group_of(found), []).append(found)
    for group, gone in sorted(groups.items(), key=lambda item: repr(item[0])):
        if group not in wanted:
            decided.delete += gone
    for group, endpoints in wanted.items():
        planning.fit(_template(written), group, endpoints, groups.get(group, []), decided)
    return decided


def _endpoints(subset: core_v1_pb2.EndpointSubset) -> Iterator[tuple[str, discovery_v1_pb2.Endpoint]]:
    seen: set[str] = set()
    addresses: list[tuple[core_v1_pb2.EndpointAddress, bool]] = [
        *((address, True) for address in subset.addresses),
        *((address, False) for address in subset.not_ready_addresses),
    ]
    for address, ready in addresses[:MAX_ADDRESSES]:
        try:
            family = f"IPv{ipaddress.ip_address(address.ip).version}"
        except ValueError:
            continue
        if address.ip in seen:
            continue
        seen.add(address.ip)
        endpoint = discovery_v1_pb2.Endpoint(addresses=[address.ip])
        endpoint.conditions.ready = ready
        if address.HasField("target_ref"):
            endpoint.target_ref.CopyFrom(address.target_ref)
        if address.node_name:
            endpoint.node_name = address.node_name
        if address.hostname:
            endpoint.hostname = address.hostname
        yield family, endpoint


def _template(written: core_v1_pb2.Endpoints) -> discovery_v1_pb2.EndpointSlice:
    made = discovery_v1_pb2.EndpointSlice()
    made.metadata.generate_name = f"{written.metadata.name}-"
    made.metadata.namespace = written.metadata.namespace
    made.metadata.owner_references.append(meta.owner_reference(written))
    made.metadata.labels.update(_kept(written.metadata.labels.items()))
    made.metadata.labels[planning.SERVICE_NAME] = written.metadata.name
    made.metadata.labels[planning.MANAGED_BY] = CONTROLLER
    return made


def _kept(labels: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {key: text for key, text in labels if key not in _OURS}
