"""Which pod and port a proxied name means, by Kubernetes' rules and in its words. Pure; called by `pods`.

A name is NAME, NAME:PORT or SCHEME:NAME:PORT. A Service's port is one of its own, by name or number, and leads to a pod behind it
that is ready; a pod's is a number, and without one the first port that a container names.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wherry.api import integers
from wherry.api.errors import BadRequest, ServiceUnavailable
from wherry.pb import core_v1_pb2

_SCHEMES = ("", "http", "https")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Name:
    """`scheme` is http unless the request says otherwise; `port` is "" when it says nothing."""

    scheme: str
    name: str
    port: str


@dataclass(frozen=True, slots=True)
class Backend:
    """An endpoint of a Service: a pod, the address that it must have, and the port on it."""

    pod: str
    address: str
    port: int


def split(text: str, what: str) -> Name:
    """`what` is "pod" or "service". Raises BadRequest."""
    parts = text.split(":")
    found: Name | None = None
    if len(parts) == 1:
        found = Name("http", parts[0], "")
    elif len(parts) == 2:
        found = Name("http", parts[0], parts[1])
    elif len(parts) == 3 and parts[0] in _SCHEMES:
        found = Name(parts[0] or "http", parts[1], parts[2])
    if found is None or not found.name:
        raise BadRequest(f'invalid {what} request "{text}"')
    return found


def pod_port(pod: core_v1_pb2.Pod, name: Name) -> int:
    """Raises BadRequest, or ServiceUnavailable for what no connection can be made to."""
    if not allowed(pod.status.pod_ip):
        raise BadRequest("address not allowed")
    if not name.port:
        for container in pod.spec.containers:
            if container.ports:
                return int(container.ports[0].container_port)
        return _DEFAULT_PORTS[name.scheme]
    number = integers.parse_unsigned(name.port)
    if number is None:
        raise ServiceUnavailable(f"error trying to reach service: dial tcp: lookup tcp/{name.port}: unknown port")
    if not 0 < number < 65536:
        raise ServiceUnavailable(f"error trying to reach service: dial tcp: address {name.port}: invalid port")
    return number


def allowed(address: str) -> bool:
    """Whether it is one that a pod can have: not a loopback's, not link-local, none of many hosts."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified)


def service_port(service: core_v1_pb2.Service, name: Name, asked: str) -> str:
    """The name of the Service's port, as its slices know it. `asked` is the whole name, for the words. Raises
    ServiceUnavailable."""
    number = integers.parse_unsigned(name.port)
    if number is None:
        return name.port
    for port in service.spec.ports:
        if port.port == number:
            return str(port.name)
    raise ServiceUnavailable(f'no service port {name.port} found for service "{asked}"')


def backends(slices: Sequence[Any], port: str) -> list[Backend]:
    """Of the slices of one Service: those that are pods and ready, in order. What is no pod is not reached, as in Kubernetes."""
    found: dict[Backend, None] = {}
    for item in slices:
        numbers = [each.port for each in item.ports if each.name == port]
        for endpoint in item.endpoints:
            ready = not endpoint.conditions.HasField("ready") or endpoint.conditions.ready
            if ready and numbers and endpoint.addresses and endpoint.target_ref.kind == "Pod":
                found[Backend(endpoint.target_ref.name, endpoint.addresses[0], numbers[0])] = None
    return sorted(found, key=lambda backend: (backend.pod, backend.address, backend.port))


def shuffled(found: Sequence[Backend], rng: random.Random) -> list[Backend]:
    """Any of them may be the first."""
    return rng.sample(found, len(found))


def no_endpoints(service: str) -> ServiceUnavailable:
    return ServiceUnavailable(f'no endpoints available for service "{service}"')
