"""The strategy of Services. Addresses and node ports are `allocation`'s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry.defaults import core as defaults
from controlplane.registry.strategy import Strategy
from controlplane.registry.validation import services as validation
from wherry.api.errors import Cause


@dataclass(slots=True)
class Services(Strategy):
    has_status: bool = True
    create_on_update: bool = True

    def defaults(self, obj: Any) -> None:
        defaults.service(obj)

    def prepare_create(self, obj: Any) -> None:
        Strategy.prepare_create(self, obj)
        validation.drop_type_dependent(obj, None)
        _pair_addresses(obj)

    def prepare_update(self, obj: Any, old: Any) -> None:
        Strategy.prepare_update(self, obj, old)
        _keep_allocated(obj, old)
        validation.drop_type_dependent(obj, old)
        _pair_addresses(obj)

    def validate(self, obj: Any) -> list[Cause]:
        return validation.service(obj)

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        return validation.service_update(obj, old)

    def warnings(self, obj: Any, old: Any | None) -> list[str]:
        return validation.warnings(obj)


def _pair_addresses(obj: Any) -> None:
    """clusterIP and clusterIPs[0] are one field that grew."""
    spec = obj.spec
    if spec.cluster_ip and not spec.cluster_ips:
        spec.cluster_ips.append(spec.cluster_ip)
    elif spec.cluster_ips and not spec.cluster_ip:
        spec.cluster_ip = spec.cluster_ips[0]


def _keep_allocated(obj: Any, old: Any) -> None:
    """A client that leaves out what the server chose keeps it, as long as the type still has such a thing."""
    spec, before = obj.spec, old.spec
    if spec.type != "ExternalName" and before.type != "ExternalName":
        if not spec.cluster_ip and not spec.cluster_ips:
            spec.cluster_ip = before.cluster_ip
            spec.cluster_ips.extend(before.cluster_ips)
        elif spec.cluster_ip != before.cluster_ip and list(spec.cluster_ips) == list(before.cluster_ips):
            del spec.cluster_ips[:]  # only the old field was changed: it speaks for both
        if not spec.ip_families:
            spec.ip_families.extend(before.ip_families)
        if not spec.HasField("ip_family_policy") and before.HasField("ip_family_policy"):
            spec.ip_family_policy = before.ip_family_policy
    if spec.type in ("NodePort", "LoadBalancer") and before.type in ("NodePort", "LoadBalancer"):
        known = {(port.protocol, port.port): port.node_port for port in before.ports if port.node_port}
        used = {port.node_port for port in spec.ports}
        for port in spec.ports:
            node_port = known.get((port.protocol, port.port), 0)
            if not port.node_port and node_port and node_port not in used:
                port.node_port = node_port
        if not spec.health_check_node_port and spec.external_traffic_policy == before.external_traffic_policy:
            spec.health_check_node_port = before.health_check_node_port
