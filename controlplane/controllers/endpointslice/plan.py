"""Which endpoints a Service has, and how they lie in slices. Pure; called by `controller`, `legacy` and `mirror`.

Changes are as few as can be: an endpoint stays in its slice, new ones go first into slices that are written anyway, and a
full slice that nothing happened to is not touched. What lies in two slices (after a create whose answer was lost) stays in one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from controlplane.controllers import objects
from controlplane.controllers.endpointslice import hints
from wherry.api import meta
from wherry.pb import core_v1_pb2, discovery_v1_pb2

SLICE_SIZE = 100
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
ZONE = "topology.kubernetes.io/zone"
_OURS = (SERVICE_NAME, MANAGED_BY, HEADLESS)

# (name, protocol, port or None, appProtocol) of each port: slices of one group have the same.
Ports = tuple[tuple[str, str, int | None, str], ...]
Group = tuple[str, Ports]  # address type and ports


@dataclass(slots=True)
class Plan:
    create: list[discovery_v1_pb2.EndpointSlice] = field(default_factory=list)
    update: list[discovery_v1_pb2.EndpointSlice] = field(default_factory=list)
    delete: list[discovery_v1_pb2.EndpointSlice] = field(default_factory=list)


def has_slices(service: core_v1_pb2.Service) -> bool:
    """Whether the endpoints of the Service are ours to find."""
    return bool(service.spec.selector) and service.spec.type != "ExternalName" and not meta.is_deleting(service)


def plan(
    service: core_v1_pb2.Service,
    pods: Iterable[core_v1_pb2.Pod],
    zones: Mapping[str, str],
    slices: Sequence[discovery_v1_pb2.EndpointSlice],
    cpu: Mapping[str, int] = MappingProxyType({}),
) -> Plan:
    """`pods`: those that the selector matches. `zones`: node name -> zone. `slices`: those of the Service that we manage.
    `cpu`: of the nodes of each zone, for hints in proportion."""
    decided = Plan()
    if not has_slices(service):
        decided.delete = [found for found in slices if not meta.is_deleting(found)]
        return decided
    present: dict[Group, list[discovery_v1_pb2.EndpointSlice]] = {}
    for found in slices:
        if not meta.is_deleting(found):
            present.setdefault(group_of(found), []).append(found)
    wanted = endpoints(service, pods, zones)
    if hints.is_auto(service) and not service.spec.traffic_distribution:
        for group_endpoints in wanted.values():
            ready = [endpoint for endpoint in group_endpoints if endpoint.conditions.ready]
            for endpoint, zone in zip(ready, hints.assign(ready, cpu), strict=True):
                if zone:
                    endpoint.hints.for_zones.add(name=zone)
    for family in service.spec.ip_families or ("IPv4",):
        if not any(address_type == family for address_type, _ in wanted):
            wanted[(family, ())] = []  # one empty slice tells that there is nothing, in contrast to nothing known yet
    for group, found_slices in sorted(present.items(), key=lambda item: repr(item[0])):
        if group not in wanted:
            decided.delete += found_slices
    for group, found_endpoints in wanted.items():
        fit(_template(service), group, found_endpoints, present.get(group, []), decided)
    return decided


def endpoints(
    service: core_v1_pb2.Service, pods: Iterable[core_v1_pb2.Pod], zones: Mapping[str, str]
) -> dict[Group, list[discovery_v1_pb2.Endpoint]]:
    """By address family and by the ports that the Service's ports lead to, which may differ between pods when they are
    given by name."""
    found: dict[Group, list[discovery_v1_pb2.Endpoint]] = {}
    for pod in sorted(pods, key=lambda pod: (pod.metadata.creation_timestamp.seconds, pod.metadata.name)):
        if objects.is_finished(pod):
            continue
        ports = resolve_ports(service, pod)
        if service.spec.ports and not ports:
            continue  # none of the names is in this pod
        for family in service.spec.ip_families or ("IPv4",):
            addresses = addresses_of(pod, family)
            if addresses:
                found.setdefault((family, ports), []).append(_endpoint(service, pod, addresses, zones))
    return found


def addresses_of(pod: core_v1_pb2.Pod, family: str) -> list[str]:
    texts = [item.ip for item in pod.status.pod_ips] or ([pod.status.pod_ip] if pod.status.pod_ip else [])
    version = 6 if family == "IPv6" else 4
    return [text for text in texts if ipaddress.ip_address(text).version == version][:1]


def resolve_ports(service: core_v1_pb2.Service, pod: core_v1_pb2.Pod) -> Ports:
    found = []
    for port in service.spec.ports:
        number = _target(port, pod)
        if number:
            found.append((port.name, port.protocol or "TCP", number, port.app_protocol))
    return tuple(sorted(found))


def _target(port: core_v1_pb2.ServicePort, pod: core_v1_pb2.Pod) -> int:
    """0 when no container of the pod has a port of that name and protocol."""
    target = port.target_port
    if not target.type:
        return target.int_val or port.port
    sidecars = [container for container in pod.spec.init_containers if container.restart_policy == "Always"]
    for container in (*pod.spec.containers, *sidecars):
        for offered in container.ports:
            if offered.name == target.str_val and (offered.protocol or "TCP") == (port.protocol or "TCP"):
                return offered.container_port
    return 0


def _endpoint(
    service: core_v1_pb2.Service, pod: core_v1_pb2.Pod, addresses: list[str], zones: Mapping[str, str]
) -> discovery_v1_pb2.Endpoint:
    serving, terminating = objects.is_ready(pod), meta.is_deleting(pod)
    endpoint = discovery_v1_pb2.Endpoint(
        addresses=addresses,
        conditions=discovery_v1_pb2.EndpointConditions(
            ready=service.spec.publish_not_ready_addresses or (serving and not terminating),
            serving=serving,
            terminating=terminating,
        ),
        target_ref=reference(pod),
    )
    if pod.spec.node_name:
        endpoint.node_name = pod.spec.node_name
        zone = zones.get(pod.spec.node_name, "")
        if zone:
            endpoint.zone = zone
        match service.spec.traffic_distribution:
            case "PreferClose" | "PreferSameZone" if zone:
                endpoint.hints.for_zones.add(name=zone)
            case "PreferSameNode":
                endpoint.hints.for_nodes.add(name=pod.spec.node_name)
                if zone:
                    endpoint.hints.for_zones.add(name=zone)
    if has_hostname(service, pod):
        endpoint.hostname = pod.spec.hostname
    return endpoint


def has_hostname(service: core_v1_pb2.Service, pod: core_v1_pb2.Pod) -> bool:
    """Whether the pod has a name of its own below the Service's."""
    return bool(pod.spec.hostname) and pod.spec.subdomain == service.metadata.name


def reference(pod: core_v1_pb2.Pod) -> core_v1_pb2.ObjectReference:
    return core_v1_pb2.ObjectReference(
        kind="Pod", namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid
    )


# -- slices


def group_of(found: discovery_v1_pb2.EndpointSlice) -> Group:
    ports = ((p.name, p.protocol, p.port if p.HasField("port") else None, p.app_protocol) for p in found.ports)
    return found.address_type, tuple(sorted(ports, key=repr))


def fit(
    template: discovery_v1_pb2.EndpointSlice,
    group: Group,
    wanted: list[discovery_v1_pb2.Endpoint],
    present: Sequence[discovery_v1_pb2.EndpointSlice],
    decided: Plan,
) -> None:
    """Fills the group's slices, of which `template` has the metadata."""
    left = {_key(endpoint): endpoint for endpoint in wanted}
    kept: list[tuple[discovery_v1_pb2.EndpointSlice, list[discovery_v1_pb2.Endpoint]]] = []
    for found in sorted(present, key=lambda item: (item.metadata.creation_timestamp.seconds, item.metadata.name)):
        inside = [left.pop(_key(endpoint)) for endpoint in found.endpoints if _key(endpoint) in left]
        kept.append((found, inside))
    new = list(left.values())
    changed = [item for item in kept if list(item[0].endpoints) != item[1]]
    for _, inside in changed:
        room = max(SLICE_SIZE - len(inside), 0)
        inside.extend(new[:room])
        del new[:room]
    if 0 < len(new) < SLICE_SIZE:
        # The fullest of the unchanged slices that has room for all.
        roomy = [item for item in kept if item not in changed and len(item[1]) + len(new) <= SLICE_SIZE]
        if roomy:
            max(roomy, key=lambda item: len(item[1]))[1].extend(new)
            new = []
    alive = 0
    for found, inside in kept:
        if not inside and (wanted or alive):
            decided.delete.append(found)
            continue
        alive += 1
        made = _make(template, group, inside, found)
        if not meta.equal(made, found):
            decided.update.append(made)
    for start in range(0, len(new), SLICE_SIZE):
        decided.create.append(_make(template, group, new[start : start + SLICE_SIZE], None))
        alive += 1
    if not alive:
        decided.create.append(_make(template, group, [], None))


def _key(endpoint: discovery_v1_pb2.Endpoint) -> tuple[str, str]:
    return endpoint.target_ref.uid, endpoint.addresses[0] if endpoint.addresses else ""


def _template(service: core_v1_pb2.Service) -> discovery_v1_pb2.EndpointSlice:
    made = discovery_v1_pb2.EndpointSlice()
    made.metadata.generate_name = f"{service.metadata.name}-"
    made.metadata.namespace = service.metadata.namespace
    made.metadata.owner_references.append(meta.owner_reference(service))
    made.metadata.labels.update({key: text for key, text in service.metadata.labels.items() if key not in _OURS})
    made.metadata.labels[SERVICE_NAME] = service.metadata.name
    made.metadata.labels[MANAGED_BY] = CONTROLLER
    if service.spec.cluster_ip == "None":
        made.metadata.labels[HEADLESS] = ""
    return made


def _make(
    template: discovery_v1_pb2.EndpointSlice,
    group: Group,
    inside: Sequence[discovery_v1_pb2.Endpoint],
    old: discovery_v1_pb2.EndpointSlice | None,
) -> discovery_v1_pb2.EndpointSlice:
    made = discovery_v1_pb2.EndpointSlice()
    made.metadata.CopyFrom((old or template).metadata)
    made.metadata.labels.clear()
    made.metadata.labels.update(template.metadata.labels)
    made.address_type = group[0]
    for name, protocol, number, app_protocol in group[1]:
        port = made.ports.add(name=name, protocol=protocol)
        if number is not None:
            port.port = number
        if app_protocol:
            port.app_protocol = app_protocol
    made.endpoints.extend(inside)
    return made
