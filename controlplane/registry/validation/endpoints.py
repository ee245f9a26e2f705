"""EndpointSlice and Endpoints. An endpoint may not lie where it would reach the node itself or nobody in particular."""

from __future__ import annotations

import ipaddress
from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes
from wherry.api import names

MAX_ENDPOINTS = 1000
MAX_ADDRESSES = 100
MAX_PORTS = 20000
_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
_PROTOCOLS = ("SCTP", "TCP", "UDP")


def endpoint_slice(obj: Any) -> Causes:
    causes: Causes = []
    if not obj.address_type:
        causes.append(violations.required("addressType"))
    elif obj.address_type not in _ADDRESS_TYPES:
        causes.append(violations.unsupported("addressType", obj.address_type, _ADDRESS_TYPES))
    if len(obj.endpoints) > MAX_ENDPOINTS:
        causes.append(violations.too_many("endpoints", len(obj.endpoints), MAX_ENDPOINTS))
    else:
        for index, endpoint in enumerate(obj.endpoints):
            causes += _endpoint(endpoint, obj.address_type, f"endpoints[{index}]")
    causes += _slice_ports(obj.ports)
    return causes


def endpoint_slice_update(obj: Any, old: Any) -> Causes:
    return common.immutable(obj.address_type, old.address_type, "addressType")


def _endpoint(endpoint: Any, address_type: str, path: str) -> Causes:
    causes: Causes = []
    if not endpoint.addresses:
        causes.append(violations.required(f"{path}.addresses", "must contain at least 1 address"))
    elif len(endpoint.addresses) > MAX_ADDRESSES:
        causes.append(violations.too_many(f"{path}.addresses", len(endpoint.addresses), MAX_ADDRESSES))
    for index, address in enumerate(endpoint.addresses):
        causes += _slice_address(address, address_type, f"{path}.addresses[{index}]")
    if endpoint.HasField("hostname"):
        place = f"{path}.hostname"
        causes += (
            violations.invalid(place, endpoint.hostname, text) for text in names.dns1123_label(endpoint.hostname)
        )
    if endpoint.HasField("node_name"):
        place = f"{path}.nodeName"
        causes += (
            violations.invalid(place, endpoint.node_name, text) for text in names.dns1123_subdomain(endpoint.node_name)
        )
    if endpoint.deprecated_topology:
        causes += (
            violations.invalid(f"{path}.deprecatedTopology", key, text)
            for key in sorted(endpoint.deprecated_topology)
            for text in names.qualified_name(key)
        )
    return causes


def _slice_address(address: str, address_type: str, path: str) -> Causes:
    if address_type == "FQDN":
        return [violations.invalid(path, address, text) for text in names.dns1123_subdomain(address)]
    if address_type not in ("IPv4", "IPv6"):
        return []
    causes = common.ip_address(address, path)
    if causes:
        return causes
    if ipaddress.ip_address(address).version != int(address_type[-1]):
        return [violations.invalid(path, address, f"must be an {address_type} address")]
    return _routable(address, path)


def _routable(address: str, path: str) -> Causes:
    found = ipaddress.ip_address(address)
    if found.is_unspecified:
        return [violations.invalid(path, address, "may not be unspecified (0.0.0.0 or ::)")]
    if found.is_loopback:
        return [violations.invalid(path, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)")]
    if found.is_link_local:
        return [violations.invalid(path, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")]
    if found.is_multicast and ((found.version == 4 and address.startswith("224.0.0.")) or address.startswith("ff02:")):
        detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        return [violations.invalid(path, address, detail)]
    return []


def _slice_ports(ports: Any) -> Causes:
    if len(ports) > MAX_PORTS:
        return [violations.too_many("ports", len(ports), MAX_PORTS)]
    causes: Causes = []
    seen: set[str] = set()
    for index, port in enumerate(ports):
        path = f"ports[{index}]"
        if port.name:
            causes += (violations.invalid(f"{path}.name", port.name, text) for text in names.dns1123_label(port.name))
        if port.name in seen:
            causes.append(violations.duplicate(f"{path}.name", port.name))
        seen.add(port.name)
        if port.protocol not in _PROTOCOLS:
            causes.append(violations.unsupported(f"{path}.protocol", port.protocol, _PROTOCOLS))
        if port.HasField("port"):
            causes += common.port_number(port.port, f"{path}.port")
        if port.app_protocol:
            place = f"{path}.appProtocol"
            causes += (
                violations.invalid(place, port.app_protocol, text) for text in names.qualified_name(port.app_protocol)
            )
    return causes


def endpoints(obj: Any) -> Causes:
    causes: Causes = []
    for index, subset in enumerate(obj.subsets):
        path = f"subsets[{index}]"
        if not subset.addresses and not subset.not_ready_addresses:
            causes.append(violations.required(path, "must specify `addresses` or `notReadyAddresses`"))
        for field, addresses in (("addresses", subset.addresses), ("notReadyAddresses", subset.not_ready_addresses)):
            for number, address in enumerate(addresses):
                causes += _address(address, f"{path}.{field}[{number}]")
        for number, port in enumerate(subset.ports):
            causes += _port(port, f"{path}.ports[{number}]", needs_name=len(subset.ports) > 1)
    return causes


def _address(address: Any, path: str) -> Causes:
    causes = common.ip_address(address.ip, f"{path}.ip")
    if causes:
        # Two rules look at it there, and both say so.
        causes.append(violations.invalid(f"{path}.ip", address.ip, "must be a valid IP address"))
    else:
        causes += _routable(address.ip, f"{path}.ip")
    if address.hostname:
        place = f"{path}.hostname"
        causes += (violations.invalid(place, address.hostname, text) for text in names.dns1123_label(address.hostname))
    return causes


def _port(port: Any, path: str, *, needs_name: bool) -> Causes:
    causes: Causes = []
    if needs_name and not port.name:
        causes.append(violations.required(f"{path}.name"))
    elif port.name:
        causes += (violations.invalid(f"{path}.name", port.name, text) for text in names.dns1123_label(port.name))
    causes += common.port_number(port.port, f"{path}.port")
    if port.protocol not in _PROTOCOLS:
        causes.append(violations.unsupported(f"{path}.protocol", port.protocol, _PROTOCOLS))
    return causes
