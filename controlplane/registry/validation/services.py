"""Service. What of its addresses and ports is taken is `allocation`'s."""

from __future__ import annotations

import ipaddress
from typing import Any

from controlplane.registry import metadata, violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes
from wherry.api import names

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_POLICIES = ("Cluster", "Local")
_FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")


def service(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    headless = spec.cluster_ip == "None"
    if not spec.ports and not headless and spec.type != "ExternalName":
        causes.append(violations.required("spec.ports"))
    causes += _type(spec, headless)
    causes += _ports(spec)
    if spec.selector:
        causes += metadata.validate_labels(spec.selector, "spec.selector")
    if spec.session_affinity not in ("ClientIP", "None"):
        causes.append(violations.unsupported("spec.sessionAffinity", spec.session_affinity, ("ClientIP", "None")))
    elif spec.session_affinity == "ClientIP":
        seconds = spec.session_affinity_config.client_ip.timeout_seconds
        if not 0 < seconds <= 86400:
            path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
            causes.append(violations.invalid(path, seconds, "must be greater than 0 and less than 86400"))
    causes += _addresses(spec)
    causes += _policies(spec)
    return causes


def _type(spec: Any, headless: bool) -> Causes:
    if spec.type not in TYPES:
        return [violations.unsupported("spec.type", spec.type, TYPES)]
    causes: Causes = []
    if spec.type == "ExternalName":
        held = (
            ("clusterIPs", spec.cluster_ips), ("ipFamilies", spec.ip_families),
            ("ipFamilyPolicy", spec.HasField("ip_family_policy")),
        )  # fmt: skip
        detail = "may not be set for ExternalName services"
        causes += (violations.forbidden(f"spec.{name}", detail) for name, present in held if present)
        if not spec.external_name:
            causes.append(violations.required("spec.externalName"))
        else:
            name = spec.external_name.removesuffix(".").lower()
            causes += (
                violations.invalid("spec.externalName", spec.external_name, text)
                for text in names.dns1123_subdomain(name)
            )
    elif headless and spec.type in ("NodePort", "LoadBalancer"):
        detail = f"may not be set to 'None' for {spec.type} services"
        causes.append(violations.invalid("spec.clusterIPs[0]", "None", detail))
    return causes


def _ports(spec: Any) -> Causes:
    causes: Causes = []
    seen_names: set[str] = set()
    seen: set[tuple[str, int]] = set()
    node_ports: set[tuple[str, int]] = set()
    for index, port in enumerate(spec.ports):
        path = f"spec.ports[{index}]"
        if len(spec.ports) > 1 and not port.name:
            causes.append(violations.required(f"{path}.name"))
        elif port.name:
            causes += (violations.invalid(f"{path}.name", port.name, text) for text in names.dns1123_label(port.name))
            if port.name in seen_names:
                causes.append(violations.duplicate(f"{path}.name", port.name))
            seen_names.add(port.name)
        causes += common.port_number(port.port, f"{path}.port")
        if port.protocol not in _PROTOCOLS:
            causes.append(violations.unsupported(f"{path}.protocol", port.protocol, _PROTOCOLS))
        causes += common.port_or_name(port.target_port, f"{path}.targetPort")
        if port.node_port:
            if spec.type not in ("NodePort", "LoadBalancer"):
                detail = f"may not be used when `type` is '{spec.type}'"
                causes.append(violations.forbidden(f"{path}.nodePort", detail))
            elif (port.protocol, port.node_port) in node_ports:
                causes.append(violations.duplicate(f"{path}.nodePort", port.node_port))
            node_ports.add((port.protocol, port.node_port))
        if (port.protocol, port.port) in seen:
            shown = {
                "Name": "", "Protocol": port.protocol, "AppProtocol": None, "Port": port.port, "TargetPort": 0,
                "NodePort": 0,
            }  # fmt: skip
            causes.append(violations.duplicate(path, shown))
        seen.add((port.protocol, port.port))
        if port.HasField("app_protocol"):
            causes += (
                violations.invalid(f"{path}.appProtocol", port.app_protocol, text)
                for text in names.qualified_name(port.app_protocol)
            )
    return causes


def _addresses(spec: Any) -> Causes:
    causes = cluster_addresses(spec)
    for index, text in enumerate(spec.external_ips):
        path = f"spec.externalIPs[{index}]"
        wrong = common.ip_address(text, path)
        causes += wrong or _special_address(text, path)
    if spec.load_balancer_source_ranges:
        if spec.type != "LoadBalancer":
            detail = "may only be used when `type` is 'LoadBalancer'"
            causes.append(violations.forbidden("spec.LoadBalancerSourceRanges", detail))
        for index, text in enumerate(spec.load_balancer_source_ranges):
            causes += common.cidr(text.strip(), f"spec.LoadBalancerSourceRanges[{index}]")
    if spec.HasField("allocate_load_balancer_node_ports") and spec.type != "LoadBalancer":
        detail = "may only be used when `type` is 'LoadBalancer'"
        causes.append(violations.forbidden("spec.allocateLoadBalancerNodePorts", detail))
    if spec.HasField("load_balancer_class"):
        if spec.type != "LoadBalancer":
            detail = "may only be used when `type` is 'LoadBalancer'"
            causes.append(violations.forbidden("spec.loadBalancerClass", detail))
        else:
            causes += (
                violations.invalid("spec.loadBalancerClass", spec.load_balancer_class, text)
                for text in names.qualified_name(spec.load_balancer_class)
            )
    return causes


def cluster_addresses(spec: Any) -> Causes:
    """Of each address by itself, and of all together. `allocation` asks too, before it takes them for what they are."""
    path, texts = "spec.clusterIPs", list(spec.cluster_ips)
    causes: Causes = []
    for index, text in enumerate(texts):
        if index == 0 and text == "None":
            if len(texts) > 1:
                causes.append(violations.invalid(path, texts, "'None' must be the first and only value"))
            continue
        causes += common.ip_address(text, f"{path}[{index}]")
    if texts and spec.cluster_ip != texts[0]:
        causes.append(violations.invalid(path, texts, "first value must match `clusterIP`"))
    if len(texts) > 2:
        causes.append(violations.invalid(path, texts, "may only hold up to 2 values"))
    if causes or "None" in texts:
        return causes
    families = [family_of(text) for text in texts]
    if len(families) > 1 and len(set(families)) == 1:
        causes.append(violations.invalid(path, texts, "may specify no more than one IP for each IP family"))
    for index, (text, family, wanted) in enumerate(zip(texts, families, spec.ip_families, strict=False)):
        if wanted in ("IPv4", "IPv6") and family != wanted:
            detail = f"expected an {wanted} value as indicated by `ipFamilies[{index}]`"
            causes.append(violations.invalid(f"{path}[{index}]", text, detail))
    return causes


def family_of(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _special_address(text: str, path: str) -> Causes:
    address = ipaddress.ip_address(text)
    if address.is_unspecified:
        return [violations.invalid(path, text, f"may not be unspecified ({text})")]
    if address.is_loopback:
        return [violations.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")]
    if address.is_link_local:
        return [violations.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")]
    if address.is_multicast:
        return [
            violations.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
        ]
    return []


def _policies(spec: Any) -> Causes:
    causes: Causes = []
    path = "spec.externalTrafficPolicy"
    external = spec.type in ("NodePort", "LoadBalancer") or bool(spec.external_ips)
    if spec.external_traffic_policy:
        if not external:
            detail = "may only be set for externally-accessible services"
            causes.append(violations.invalid(path, spec.external_traffic_policy, detail))
        elif spec.external_traffic_policy not in _POLICIES:
            causes.append(violations.unsupported(path, spec.external_traffic_policy, _POLICIES))
    if spec.health_check_node_port and not has_health_check(spec):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        causes.append(violations.invalid("spec.healthCheckNodePort", spec.health_check_node_port, detail))
    if spec.HasField("internal_traffic_policy") and spec.internal_traffic_policy not in _POLICIES:
        causes.append(violations.unsupported("spec.internalTrafficPolicy", spec.internal_traffic_policy, _POLICIES))
    if spec.HasField("ip_family_policy") and spec.ip_family_policy not in _FAMILY_POLICIES:
        causes.append(violations.unsupported("spec.ipFamilyPolicy", spec.ip_family_policy, _FAMILY_POLICIES))
    for index, family in enumerate(spec.ip_families):
        if family not in ("IPv4", "IPv6"):
            causes.append(violations.unsupported(f"spec.ipFamilies[{index}]", family, ("IPv4", "IPv6")))
        elif family in list(spec.ip_families)[:index]:
            causes.append(violations.duplicate(f"spec.ipFamilies[{index}]", family))
    if spec.HasField("traffic_distribution"):
        allowed = ("PreferClose", "PreferSameNode", "PreferSameZone")
        if spec.traffic_distribution not in allowed:
            causes.append(violations.unsupported("spec.trafficDistribution", spec.traffic_distribution, allowed))
    return causes


def has_health_check(spec: Any) -> bool:
    """Whether its nodes tell, at a port, if they have endpoints."""
    return (spec.type, spec.external_traffic_policy) == ("LoadBalancer", "Local")


def service_update(obj: Any, old: Any) -> Causes:
    """An address that was given stays, unless the service stops having one."""
    causes: Causes = []
    if obj.spec.type != "ExternalName" and old.spec.type != "ExternalName":
        before, now = list(old.spec.cluster_ips), list(obj.spec.cluster_ips)
        if before and now and before[0] != now[0]:
            causes.append(violations.invalid("spec.clusterIPs[0]", now, "may not change once set"))
    changed = obj.spec.health_check_node_port != old.spec.health_check_node_port
    if changed and old.spec.health_check_node_port and has_health_check(obj.spec) and has_health_check(old.spec):
        causes.append(
            violations.invalid("spec.healthCheckNodePort", obj.spec.health_check_node_port, "field is immutable")
        )
    path = "spec.loadBalancerClass"
    if (
        obj.spec.type == "LoadBalancer" == old.spec.type
        and obj.spec.load_balancer_class != old.spec.load_balancer_class
    ):
        causes.append(violations.invalid(path, obj.spec.load_balancer_class, "may not change once set"))
    return causes


def drop_type_dependent(obj: Any, old: Any | None) -> None:
    """A change of type or policy takes along what only the old one had, when the client left it as it was."""
    if old is None:
        return
    spec, before = obj.spec, old.spec
    if not has_health_check(spec) and spec.health_check_node_port == before.health_check_node_port:
        spec.health_check_node_port = 0
    if spec.type == before.type:
        return
    if spec.type == "ExternalName" and list(spec.cluster_ips) == list(before.cluster_ips):
        spec.cluster_ip = ""
        for name in ("cluster_ips", "ip_families", "ip_family_policy", "internal_traffic_policy"):
            spec.ClearField(name)
    if spec.type not in ("NodePort", "LoadBalancer"):
        known = {port.node_port for port in before.ports}
        for port in spec.ports:
            if port.node_port in known:
                port.node_port = 0
        if spec.external_traffic_policy == before.external_traffic_policy and not spec.external_ips:
            spec.external_traffic_policy = ""
    if spec.type != "LoadBalancer":
        for name in ("allocate_load_balancer_node_ports", "load_balancer_class"):
            if spec.HasField(name) and before.HasField(name) and getattr(spec, name) == getattr(before, name):
                spec.ClearField(name)


def warnings(obj: Any) -> list[str]:
    found = []
    spec = obj.spec
    if spec.external_name and spec.type != "ExternalName":
        found.append('spec.externalName is ignored when spec.type is not "ExternalName"')
    if spec.cluster_ip == "None" and spec.session_affinity != "None" and spec.session_affinity:
        found.append("spec.SessionAffinity is ignored for headless services")
    return found
