"""Ingress, IngressClass, NetworkPolicy, IPAddress and ServiceCIDR."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes
from wherry.api import names

_CLASS_ANNOTATION = "kubernetes.io/ingress.class"
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_BAD_SEQUENCES = ("//", "/./", "/../", "%2f", "%2F")
_BAD_ENDINGS = ("/..", "/.")


def ingress(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    if not spec.rules and not spec.HasField("default_backend"):
        causes.append(violations.invalid("spec", None, "either `defaultBackend` or `rules` must be specified"))
    if spec.HasField("default_backend"):
        causes += _backend(spec.default_backend, "spec.defaultBackend")
    for index, rule in enumerate(spec.rules):
        path = f"spec.rules[{index}]"
        if rule.host:
            causes += _host(rule.host, f"{path}.host")
        if rule.ingress_rule_value.HasField("http"):
            causes += _paths(rule.ingress_rule_value.http.paths, f"{path}.http.paths")
    for index, tls in enumerate(spec.tls):
        for number, host in enumerate(tls.hosts):
            place = f"spec.tls[{index}].hosts[{number}]"
            check = names.wildcard_dns1123_subdomain if "*" in host else names.dns1123_subdomain
            causes += (violations.invalid(place, host, text) for text in check(host))
        if tls.secret_name:
            place = f"spec.tls[{index}].secretName"
            causes += (
                violations.invalid(place, tls.secret_name, text) for text in names.dns1123_subdomain(tls.secret_name)
            )
    if spec.HasField("ingress_class_name"):
        name = spec.ingress_class_name
        causes += (violations.invalid("spec.ingressClassName", name, text) for text in names.dns1123_subdomain(name))
    return causes


def _host(host: str, path: str) -> Causes:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        check = names.wildcard_dns1123_subdomain if "*" in host else names.dns1123_subdomain
        return [violations.invalid(path, host, text) for text in check(host)]
    return [violations.invalid(path, host, "must be a DNS name, not an IP address")]


def _paths(paths: Any, path: str) -> Causes:
    if not paths:
        return [violations.required(path)]
    causes: Causes = []
    for index, item in enumerate(paths):
        place = f"{path}[{index}]"
        if not item.HasField("path_type"):
            causes.append(violations.required(f"{place}.pathType", "pathType must be specified"))
        elif item.path_type not in _PATH_TYPES:
            causes.append(violations.unsupported(f"{place}.pathType", item.path_type, _PATH_TYPES))
        elif item.path_type != "ImplementationSpecific" or item.path:
            causes += _path(item.path, f"{place}.path", strict=item.path_type != "ImplementationSpecific")
        causes += _backend(item.backend, f"{place}.backend")
    return causes


def _path(text: str, path: str, *, strict: bool) -> Causes:
    if not text.startswith("/"):
        return [violations.invalid(path, text, "must be an absolute path")]
    if not strict:
        return []
    causes = [violations.invalid(path, text, f"must not contain '{bad}'") for bad in _BAD_SEQUENCES if bad in text]
    causes += [violations.invalid(path, text, f"cannot end with '{bad}'") for bad in _BAD_ENDINGS if text.endswith(bad)]
    return causes


def _backend(backend: Any, path: str) -> Causes:
    resource, service = backend.HasField("resource"), backend.HasField("service")
    if resource and service:
        return [violations.invalid(path, "", "cannot set both resource and service backends")]
    if not resource and not service:
        return [violations.invalid(path, "", "resource or service backend is required")]
    if resource:
        return []
    causes: Causes = []
    found = backend.service
    if not found.name:
        causes.append(violations.required(f"{path}.service.name"))
    else:
        causes += (violations.invalid(f"{path}.service.name", found.name, x) for x in names.dns1035_label(found.name))
    if found.port.name and found.port.number:
        causes.append(violations.invalid(path, "", "cannot set both port name & port number"))
    elif found.port.name:
        place = f"{path}.service.port.name"
        causes += (violations.invalid(place, found.port.name, text) for text in names.port_name(found.port.name))
    elif found.port.number:
        causes += common.port_number(found.port.number, f"{path}.service.port.number")
    else:
        causes.append(violations.required(path, "port name or number is required"))
    return causes


def ingress_warnings(obj: Any) -> list[str]:
    if _CLASS_ANNOTATION in obj.metadata.annotations:
        return [
            f"annotation {violations.quote(_CLASS_ANNOTATION)} is deprecated, please use 'spec.ingressClassName' instead"
        ]
    return []


def ingress_class(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    if not spec.controller:
        causes.append(violations.required("spec.controller"))
    elif "/" not in spec.controller:
        detail = 'must be a domain-prefixed path (such as "acme.io/foo")'
        causes.append(violations.invalid("spec.controller", spec.controller, detail))
    if not spec.HasField("parameters"):
        return causes
    found, path = spec.parameters, "spec.parameters"
    for name, value in (("kind", found.kind), ("name", found.name)):
        if not value:
            causes.append(violations.required(f"{path}.{name}"))
    causes += common.one_of(found.scope, ("Cluster", "Namespace"), f"{path}.scope")
    if found.scope == "Namespace" and not found.namespace:
        detail = "`parameters.scope` is set to 'Namespace'"
        causes.append(violations.required(f"{path}.namespace", detail))
    if found.scope == "Cluster" and found.HasField("namespace"):
        detail = "`parameters.scope` is set to 'Cluster'"
        causes.append(violations.forbidden(f"{path}.namespace", detail))
    return causes


def ingress_class_update(obj: Any, old: Any) -> Causes:
    return common.immutable(obj.spec.controller, old.spec.controller, "spec.controller")


def network_policy(obj: Any) -> Causes:
    spec = obj.spec
    causes = common.label_selector(spec.pod_selector, "spec.podSelector")
    for index, rule in enumerate(spec.ingress):
        path = f"spec.ingress[{index}]"
        causes += _policy_ports(rule.ports, f"{path}.ports")
        causes += _peers(getattr(rule, "from"), f"{path}.from")
    for index, rule in enumerate(spec.egress):
        path = f"spec.egress[{index}]"
        causes += _policy_ports(rule.ports, f"{path}.ports")
        causes += _peers(rule.to, f"{path}.to")
    if len(spec.policy_types) > 2:
        detail = "may not specify more than two policyTypes"
        return [*causes, violations.invalid("spec.policyTypes", list(spec.policy_types), detail)]
    for index, name in enumerate(spec.policy_types):
        if name not in ("Ingress", "Egress"):
            causes.append(violations.unsupported(f"spec.policyTypes[{index}]", name, ("Ingress", "Egress")))
    return causes


def _policy_ports(ports: Any, path: str) -> Causes:
    causes: Causes = []
    for index, port in enumerate(ports):
        place = f"{path}[{index}]"
        if port.protocol not in ("TCP", "UDP", "SCTP"):
            causes.append(violations.unsupported(f"{place}.protocol", port.protocol, ("SCTP", "TCP", "UDP")))
        if port.HasField("port"):
            causes += common.port_or_name(port.port, f"{place}.port")
        if not port.HasField("end_port"):
            continue
        if not port.HasField("port"):
            causes.append(violations.required(f"{place}.port", "must be specified when `endPort` is specified"))
        elif port.port.type:
            causes.append(
                violations.invalid(f"{place}.endPort", port.end_port, "may not be specified when `port` is non-numeric")
            )
        elif port.end_port < port.port.int_val:
            detail = "must be greater than or equal to `port`"
            causes.append(violations.invalid(f"{place}.endPort", port.port.int_val, detail))
    return causes


def _peers(peers: Any, path: str) -> Causes:
    causes: Causes = []
    for index, peer in enumerate(peers):
        place = f"{path}[{index}]"
        given = [field.name for field, _ in peer.ListFields()]
        for name in ("pod_selector", "namespace_selector"):
            if name in given:
                json_name = peer.DESCRIPTOR.fields_by_name[name].json_name
                causes += common.label_selector(getattr(peer, name), f"{place}.{json_name}")
        if "ip_block" in given:
            causes += _block(peer.ip_block, f"{place}.ipBlock")
            if len(given) > 1:
                causes.append(violations.forbidden(place, "may not specify both ipBlock and another peer"))
        if not given:
            causes.append(violations.required(place, "must specify a peer"))
    return causes


def _block(block: Any, path: str) -> Causes:
    if not block.cidr:
        return [violations.required(f"{path}.cidr")]
    causes = common.cidr(block.cidr, f"{path}.cidr")
    if causes:
        return causes
    whole = ipaddress.ip_network(block.cidr, strict=False)
    for index, text in enumerate(getattr(block, "except")):
        place = f"{path}.except[{index}]"
        wrong = common.cidr(text, place)
        causes += wrong
        if wrong:
            continue
        part = ipaddress.ip_network(text, strict=False)
        inside = part.version == whole.version and part != whole and part.subnet_of(whole)  # type: ignore[arg-type]
        if not inside:
            causes.append(violations.invalid(place, text, "must be a strict subset of `cidr`"))
    return causes


def ip_address_name(name: str, prefix: bool) -> Sequence[str]:
    try:
        canonical = str(ipaddress.ip_address(name))
    except ValueError:
        return [common.IP_MESSAGE]
    return [] if name == canonical else [f"must be in canonical form ({violations.quote(canonical)})"]


def ip_address(obj: Any) -> Causes:
    parent = obj.spec.parent_ref
    if not obj.spec.HasField("parent_ref"):
        return [violations.required("spec.parentRef")]
    given = (("resource", parent.resource), ("name", parent.name))
    return [violations.required(f"spec.parentRef.{name}") for name, value in given if not value]


def ip_address_update(obj: Any, old: Any) -> Causes:
    return common.immutable(obj.spec.parent_ref, old.spec.parent_ref, "spec.parentRef")


def service_cidr(obj: Any) -> Causes:
    cidrs = obj.spec.cidrs
    if not cidrs:
        return [violations.required("spec.cidrs", "at least one CIDR required")]
    causes: Causes = []
    if len(cidrs) > 2:
        causes.append(violations.invalid("spec", list(cidrs), "may only hold up to 2 values"))
    for index, text in enumerate(cidrs):
        causes += common.cidr(text, f"spec.cidrs[{index}]")
    return causes


def service_cidr_update(obj: Any, old: Any) -> Causes:
    if list(obj.spec.cidrs) == list(old.spec.cidrs):
        return []
    return [violations.invalid("spec.cidrs", list(obj.spec.cidrs), "field is immutable")]
