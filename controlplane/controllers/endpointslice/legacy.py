"""The Endpoints object of a Service: what slices say, in the older kind's words. Pure; called by `controller`."""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.controllers import objects
from controlplane.controllers.endpointslice import plan as planning
from wherry.api import meta
from wherry.pb import core_v1_pb2

MANAGED_BY = "endpoints.kubernetes.io/managed-by"
CONTROLLER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MAX_ADDRESSES = 1000


def plan(
    service: core_v1_pb2.Service, pods: Iterable[core_v1_pb2.Pod], old: core_v1_pb2.Endpoints | None
) -> core_v1_pb2.Endpoints | None:
    """What to write (without uid: create it); None when it is right as it is."""
    made = core_v1_pb2.Endpoints()
    if old is not None:
        made.metadata.CopyFrom(old.metadata)
    else:
        made.metadata.name = service.metadata.name
        made.metadata.namespace = service.metadata.namespace
    made.metadata.labels.clear()
    made.metadata.labels.update(service.metadata.labels)
    made.metadata.labels[MANAGED_BY] = CONTROLLER
    made.metadata.labels.pop(planning.HEADLESS, None)
    if service.spec.cluster_ip == "None":
        made.metadata.labels[planning.HEADLESS] = ""
    _subsets(service, pods, made)
    return None if old is not None and meta.equal(made, old) else made


def _subsets(service: core_v1_pb2.Service, pods: Iterable[core_v1_pb2.Pod], made: core_v1_pb2.Endpoints) -> None:
    family = service.spec.ip_families[0] if service.spec.ip_families else "IPv4"
    always = service.spec.publish_not_ready_addresses
    subsets: dict[planning.Ports, tuple[list[core_v1_pb2.EndpointAddress], list[core_v1_pb2.EndpointAddress]]] = {}
    count = 0
    # Those that are ready first: they are the last to fall to the limit.
    for pod in sorted(pods, key=lambda pod: (not objects.is_ready(pod), pod.status.pod_ip, pod.metadata.name)):
        ports = planning.resolve_ports(service, pod)
        addresses = planning.addresses_of(pod, family)
        if (
            not addresses
            or objects.is_finished(pod)
            or (meta.is_deleting(pod) and not always)
            or (service.spec.ports and not ports)
        ):
            continue
        count += 1
        if count > MAX_ADDRESSES:
            continue
        ready, not_ready = subsets.setdefault(ports, ([], []))
        address = core_v1_pb2.EndpointAddress(ip=addresses[0], target_ref=planning.reference(pod))
        if pod.spec.node_name:
            address.node_name = pod.spec.node_name
        if planning.has_hostname(service, pod):
            address.hostname = pod.spec.hostname
        (ready if always or objects.is_ready(pod) else not_ready).append(address)
    made.metadata.annotations.pop(OVER_CAPACITY, None)
    if count > MAX_ADDRESSES:
        made.metadata.annotations[OVER_CAPACITY] = "truncated"
    for ports, (ready, not_ready) in sorted(subsets.items(), key=lambda item: repr(item[0])):
        subset = made.subsets.add(addresses=ready, not_ready_addresses=not_ready)
        for name, protocol, number, app_protocol in ports:
            port = subset.ports.add(name=name, protocol=protocol, port=number)
            if app_protocol:
                port.app_protocol = app_protocol
