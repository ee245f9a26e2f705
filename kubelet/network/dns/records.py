"""What the cluster's names mean, as Kubernetes' DNS specification (1.1.0) says. Pure but for the informers it reads; called by
`server`.

    SERVICE.NAMESPACE.svc.DOMAIN            A: the cluster address; of a headless Service its endpoints' addresses;
                                            CNAME: the name that an ExternalName stands for
    HOSTNAME.SERVICE.NAMESPACE.svc.DOMAIN   A: one endpoint, with A-B-C-D for a hostname when it has none
    _PORT._PROTO.SERVICE.NAMESPACE.svc...   SRV
    A-B-C-D.NAMESPACE.pod.DOMAIN            A: the address in the name
    D.C.B.A.in-addr.arpa                    PTR: the Service, or the endpoint of a headless one, with that address

A name that exists without a record of the type asked for is an empty answer, one that doesn't exist is NXDOMAIN: resolvers
go on to the next search domain in either case. Nothing is said before the informers have synced, or were
primed with what an earlier agent knew.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kubelet.network.endpoints import is_ready
from wherry.pb import core_v1_pb2, discovery_v1_pb2

T = TypeVar("T")

VERSION = "1.1.0"
ADDRESS_INDEX = "address"


class Lookup(Protocol[T]):
    """What is needed of an informer."""

    @property
    def known(self) -> bool: ...
    @property
    def generation(self) -> int: ...
    def get(self, name: str, namespace: str = "") -> T | None: ...
    def by_index(self, index: str, value: str) -> list[T]: ...


@dataclass(frozen=True, slots=True)
class Record:
    """`data` as in a zone file."""

    name: str
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class Answer:
    exists: bool = True
    answers: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()


NO_NAME = Answer(exists=False)
NO_DATA = Answer()


def service_addresses(service: core_v1_pb2.Service) -> tuple[str, ...]:
    """Index function."""
    return tuple(text for text in service.spec.cluster_ips if text and text != "None")


def slice_addresses(found: discovery_v1_pb2.EndpointSlice) -> tuple[str, ...]:
    """Index function."""
    return tuple(dict.fromkeys(address for endpoint in found.endpoints for address in endpoint.addresses))


class Zone:
    """`find` raises NotSynced as long as nobody can know."""

    def __init__(
        self,
        domain: str,
        services: Lookup[core_v1_pb2.Service],
        slices: Lookup[discovery_v1_pb2.EndpointSlice],
        *,
        slice_index: str = "service",
    ) -> None:
        self.domain = domain.strip(".").lower()
        self._labels = tuple(self.domain.split("."))
        self._services = services
        self._slices = slices
        self._slice_index = slice_index

    @property
    def version(self) -> int:
        """Another number when `find` may find something else."""
        return self._services.generation + self._slices.generation  # neither ever falls

    def find(self, name: str, kind: str) -> Answer | None:
        """`name` in lower case without the last dot; None: not ours, ask elsewhere."""
        labels = tuple(name.split(".")) if name else ()
        if labels[-2:] == ("in-addr", "arpa"):
            return self._reverse(name, labels, kind)
        if labels[-len(self._labels) :] != self._labels:
            return None
        if not (self._services.known and self._slices.known):
            raise NotSynced
        inner = labels[: -len(self._labels)]
        match inner:
            case () | ("svc",) | ("pod",) | (_, "svc") | (_, "pod"):
                return NO_DATA
            case ("dns-version",):
                return Answer(answers=(Record(name, "TXT", f'"{VERSION}"'),)) if kind in ("TXT", "ANY") else NO_DATA
            case (text, _, "pod"):
                return _pod(name, text, kind)
            case (*rest, service_name, namespace, "svc"):
                service = self._services.get(service_name, namespace)
                return NO_NAME if service is None else self._service(name, tuple(rest), service, kind)
        return NO_NAME

    def _service(self, name: str, rest: tuple[str, ...], service: core_v1_pb2.Service, kind: str) -> Answer:
        spec = service.spec
        if spec.type == "ExternalName":
            if rest:
                return NO_NAME
            target = spec.external_name.removesuffix(".") + "."
            return Answer(answers=(Record(name, "CNAME", target),))
        match rest:
            case ():
                addresses = self._addresses(service)
                return _addresses(name, kind, addresses) if addresses else NO_NAME
            case (proto,) if proto in ("_tcp", "_udp", "_sctp"):
                return NO_DATA
            case (port, proto) if port.startswith("_") and proto.startswith("_"):
                return self._srv(name, port[1:], proto[1:], service, kind)
            case (hostname,):
                found = [address for host, address in self._endpoints(service) if host == hostname]
                return _addresses(name, kind, found) if found else NO_NAME
        return NO_NAME

    def _addresses(self, service: core_v1_pb2.Service) -> list[str]:
        if not _is_headless(service):
            return list(service_addresses(service))
        return list(dict.fromkeys(address for _, address in self._endpoints(service)))

    def _endpoints(self, service: core_v1_pb2.Service) -> list[tuple[str, str]]:
        """(hostname, address) of those that are ready."""
        return [(host, address) for host, address, _ in self._with_ports(service)]

    def _with_ports(
        self, service: core_v1_pb2.Service
    ) -> Iterable[tuple[str, str, Sequence[discovery_v1_pb2.EndpointPort]]]:
        key = f"{service.metadata.namespace}/{service.metadata.name}"
        for found in self._slices.by_index(self._slice_index, key):
            for endpoint in found.endpoints:
                if is_ready(endpoint):
                    for address in endpoint.addresses:
                        yield hostname(endpoint, address), address, found.ports

    def _srv(self, name: str, port: str, proto: str, service: core_v1_pb2.Service, kind: str) -> Answer:
        own = f"{service.metadata.name}.{service.metadata.namespace}.svc.{self.domain}"
        answers: list[Record] = []
        additional: list[Record] = []
        if _is_headless(service):
            for host, address, ports in self._with_ports(service):
                for offered in ports:
                    if offered.name == port and offered.protocol.lower() == proto:
                        answers.append(Record(name, "SRV", f"0 100 {offered.port} {host}.{own}."))
                        additional += _addresses(f"{host}.{own}", _family(address), [address]).answers
        else:
            for item in service.spec.ports:
                if item.name == port and item.protocol.lower() == proto:
                    answers.append(Record(name, "SRV", f"0 100 {item.port} {own}."))
            for address in service_addresses(service) if answers else ():
                additional += _addresses(own, _family(address), [address]).answers
        if not answers:
            return NO_NAME
        return Answer(answers=tuple(answers), additional=tuple(additional)) if kind in ("SRV", "ANY") else NO_DATA

    def _reverse(self, name: str, labels: tuple[str, ...], kind: str) -> Answer | None:
        address = ".".join(reversed(labels[:-2]))
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            return None
        targets = [
            f"{service.metadata.name}.{service.metadata.namespace}.svc.{self.domain}."
            for service in self._services.by_index(ADDRESS_INDEX, address)
        ]
        for found in self._slices.by_index(ADDRESS_INDEX, address):
            owner = found.metadata.labels.get("kubernetes.io/service-name", "")
            service = self._services.get(owner, found.metadata.namespace) if owner else None
            if service is None or not _is_headless(service):
                continue
            own = f"{owner}.{found.metadata.namespace}.svc.{self.domain}."
            ready = [item for item in found.endpoints if address in item.addresses and is_ready(item)]
            targets += [f"{hostname(item, address)}.{own}" for item in ready]
        if not targets:
            return None  # another's network, for all we know
        if kind not in ("PTR", "ANY"):
            return NO_DATA
        return Answer(answers=tuple(Record(name, "PTR", target) for target in dict.fromkeys(targets)))


class NotSynced(Exception):
    """The cluster's names are not known yet."""


def hostname(endpoint: discovery_v1_pb2.Endpoint, address: str) -> str:
    return endpoint.hostname or address.replace(".", "-").replace(":", "-")


def _is_headless(service: core_v1_pb2.Service) -> bool:
    return service.spec.cluster_ip == "None"


def _family(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def _addresses(name: str, kind: str, addresses: Iterable[str]) -> Answer:
    return Answer(
        answers=tuple(Record(name, _family(text), text) for text in addresses if kind in (_family(text), "ANY"))
    )


def _pod(name: str, text: str, kind: str) -> Answer:
    try:
        address = str(ipaddress.IPv4Address(text.replace("-", ".")))
    except ValueError:
        return NO_NAME
    return _addresses(name, kind, [address])
