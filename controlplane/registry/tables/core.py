"""Tables of the core kinds besides pods, of leases and of certificate requests."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column, always
from controlplane.registry.tables.common import NONE, age_column, name_column, text_of_map
from wherry.api import meta, times

UNKNOWN = "<unknown>"


# nodes


def _node_status(obj: Any, now: float) -> str:
    condition = meta.get_condition(obj.status.conditions, "Ready")
    if condition is None:
        words = ["Unknown"]
    else:
        words = ["Ready" if condition.status == "True" else "NotReady"]
    if obj.spec.unschedulable:
        words.append("SchedulingDisabled")
    return ",".join(words)


def _roles(obj: Any, now: float) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = {key.removeprefix(prefix) for key in obj.metadata.labels if key.startswith(prefix)}
    if obj.metadata.labels.get("kubernetes.io/role"):
        roles.add(obj.metadata.labels["kubernetes.io/role"])
    return ",".join(sorted(role for role in roles if role)) or NONE


def _node_address(kind: str) -> Any:
    def cell(obj: Any, now: float) -> str:
        return next((str(item.address) for item in obj.status.addresses if item.type == kind), NONE)

    return cell


def _node_info(field: str) -> Any:
    def cell(obj: Any, now: float) -> str:
        return getattr(obj.status.node_info, field) or UNKNOWN

    return cell


NODES = (
    name_column(),
    Column("Status", _node_status),
    Column("Roles", _roles),
    age_column(),
    Column("Version", lambda obj, now: str(obj.status.node_info.kubelet_version)),
    Column("Internal-IP", _node_address("InternalIP"), priority=1),
    Column("External-IP", _node_address("ExternalIP"), priority=1),
    Column("OS-Image", _node_info("os_image"), priority=1),
    Column("Kernel-Version", _node_info("kernel_version"), priority=1),
    Column("Container-Runtime", _node_info("container_runtime_version"), priority=1),
)

NAMESPACES = (name_column(), Column("Status", lambda obj, now: str(obj.status.phase)), age_column())

CONFIG_MAPS = (name_column(), Column("Data", lambda obj, now: len(obj.data) + len(obj.binary_data)), age_column())

SECRETS = (
    name_column(),
    Column("Type", lambda obj, now: str(obj.type)),
    Column("Data", lambda obj, now: len(obj.data)),
    age_column(),
)

# kubectl has shown the number of an account's secrets until tokens were no longer secrets.
SERVICE_ACCOUNTS = (name_column(), age_column())


# services


def _external(obj: Any, now: float) -> str:
    spec = obj.spec
    if spec.type == "ExternalName":
        return str(spec.external_name)
    addresses = list(spec.external_ips)
    if spec.type == "LoadBalancer":
        given = [item.ip or item.hostname for item in obj.status.load_balancer.ingress]
        addresses = [*given, *addresses]
        return ",".join(addresses) or "<pending>"
    return ",".join(addresses) or NONE


def _service_ports(obj: Any, now: float) -> str:
    parts = []
    for port in obj.spec.ports:
        node_port = f":{port.node_port}" if port.node_port else ""
        parts.append(f"{port.port}{node_port}/{port.protocol}")
    return ",".join(parts) or NONE


def _cluster_ip(obj: Any, now: float) -> str:
    return str(obj.spec.cluster_ips[0]) if obj.spec.cluster_ips else str(obj.spec.cluster_ip) or NONE


SERVICES = (
    name_column(),
    Column("Type", lambda obj, now: str(obj.spec.type)),
    Column("Cluster-IP", _cluster_ip),
    Column("External-IP", _external),
    Column("Port(s)", _service_ports),
    age_column(),
    Column("Selector", lambda obj, now: text_of_map(dict(obj.spec.selector)), priority=1),
)


# events


def _seconds(obj: Any, *names: str) -> float:
    for name in names:
        if obj.HasField(name) and getattr(obj, name).seconds:
            return times.from_time(getattr(obj, name))
    return 0.0


def _last_seen(obj: Any, now: float) -> str:
    first = _seconds(obj, "first_timestamp", "event_time")
    last = _seconds(obj, "last_timestamp") or first
    count = obj.count
    if obj.HasField("series"):
        last = times.from_time(obj.series.last_observed_time) or last
        count = obj.series.count
    if not last:
        return UNKNOWN
    if count > 1:
        return f"{times.human_duration(now - last)} (x{count} over {times.human_duration(now - first)})"
    return times.human_duration(now - last)


def _first_seen(obj: Any, now: float) -> str:
    first = _seconds(obj, "first_timestamp", "event_time")
    return times.human_duration(now - first) if first else UNKNOWN


def _count(obj: Any, now: float) -> int:
    if obj.HasField("series"):
        return int(obj.series.count)
    return int(obj.count) or 1


def _source(obj: Any, now: float) -> str:
    parts = [obj.source.component or obj.reporting_component]
    if obj.source.host:
        parts.append(obj.source.host)
    return ", ".join(parts)


EVENTS = (
    Column("Last Seen", _last_seen, passes=always),
    Column("Type", lambda obj, now: str(obj.type)),
    Column("Reason", lambda obj, now: str(obj.reason)),
    Column("Object", lambda obj, now: f"{obj.involved_object.kind.lower()}/{obj.involved_object.name}"),
    Column("Subobject", lambda obj, now: str(obj.involved_object.field_path), priority=1),
    Column("Source", _source, priority=1),
    Column("Message", lambda obj, now: str(obj.message).strip()),
    Column("First Seen", _first_seen, priority=1, passes=always),
    Column("Count", _count, priority=1),
    Column("Name", lambda obj, now: str(obj.metadata.name), format="name", priority=1),
)


# leases and certificates

LEASES = (name_column(), Column("Holder", lambda obj, now: str(obj.spec.holder_identity)), age_column())


def _duration(obj: Any, now: float) -> str:
    if not obj.spec.HasField("expiration_seconds"):
        return NONE
    return times.human_duration(obj.spec.expiration_seconds)


def _condition(obj: Any, now: float) -> str:
    types = {condition.type for condition in obj.status.conditions}
    words = [word for word in ("Approved", "Denied") if word in types] or ["Pending"]
    if "Failed" in types:
        words.append("Failed")
    if obj.status.certificate:
        words.append("Issued")
    return ",".join(words)


CERTIFICATE_REQUESTS = (
    name_column(),
    age_column(),
    Column("SignerName", lambda obj, now: str(obj.spec.signer_name) or NONE),
    Column("Requestor", lambda obj, now: str(obj.spec.username)),
    Column("RequestedDuration", _duration),
    Column("Condition", _condition),
)
