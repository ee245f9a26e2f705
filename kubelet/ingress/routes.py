"""What all Ingresses mean together: which host and path leads to which Service, under which certificate. Pure; called by
`controller`.

Precedence is Kubernetes': an exact host before a wildcard before none; of a host's paths the longest, an exact one before a
prefix. What two Ingresses both claim belongs to the older one, and the other is told so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kubelet.network.endpoints import endpoints_of, usable
from wherry.api import meta
from wherry.pb import core_v1_pb2, discovery_v1_pb2, networking_v1_pb2

CONTROLLER = "wherry.dev/ingress"
LEGACY_CLASS = "kubernetes.io/ingress.class"
DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
# A host with a certificate is sent to HTTPS, as other controllers do it, unless one of their annotations says no.
NO_REDIRECT = ("wherry.dev/ssl-redirect", "nginx.ingress.kubernetes.io/ssl-redirect", "haproxy.org/ssl-redirect")
TLS_SECRET = "kubernetes.io/tls"
ANY_HOST = "-"
_PROTOCOLS = {"kubernetes.io/h2c": "h2c", "https": "https", "HTTPS": "https"}

Target = tuple[str, int]  # address (or DNS name) and port


@dataclass(frozen=True, slots=True)
class Backend:
    """A Service's port. `targets` is sorted; none of them means that nobody serves. `service` (namespace/name) and `port`: of
    what it was made."""

    name: str
    targets: tuple[Target, ...] = ()
    protocol: str = ""  # "", h2c, https
    service: str = field(default="", compare=False)
    port: networking_v1_pb2.ServiceBackendPort | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something of an Ingress that does not work, for an Event."""

    ingress: str  # namespace/name
    reason: str
    message: str


@dataclass(slots=True)
class Routes:
    """`exact` and `prefixes`: host, then path -> name of a backend; a prefix has no slash at its end. `secrets`: TLS Secret
    (namespace/name) -> hosts for which it is shown, all that it names itself when empty."""

    hosts: set[str] = field(default_factory=set)
    exact: dict[tuple[str, str], str] = field(default_factory=dict)
    prefixes: dict[tuple[str, str], str] = field(default_factory=dict)
    backends: dict[str, Backend] = field(default_factory=dict)
    default: str = ""
    secrets: dict[str, set[str]] = field(default_factory=dict)
    redirects: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


class Services:
    """What backends are looked up in."""

    def __init__(
        self,
        service: Callable[[str], core_v1_pb2.Service | None],
        slices: Callable[[str], Sequence[discovery_v1_pb2.EndpointSlice]],
    ) -> None:
        self.service = service
        self.slices = slices


def ours(ingress: networking_v1_pb2.Ingress, classes: Mapping[str, networking_v1_pb2.IngressClass]) -> bool:
    """One of our class; one that names none, when no other class is the default."""
    spec = ingress.spec
    name = spec.ingress_class_name if spec.HasField("ingress_class_name") else ""
    name = name or ingress.metadata.annotations.get(LEGACY_CLASS, "")
    if name:
        found = classes.get(name)
        return found is not None and found.spec.controller == CONTROLLER
    defaults = [item for item in classes.values() if item.metadata.annotations.get(DEFAULT_CLASS) == "true"]
    return not defaults or any(item.spec.controller == CONTROLLER for item in defaults)


def compile(ingresses: Iterable[networking_v1_pb2.Ingress], services: Services) -> Routes:
    routes = Routes()
    fallbacks: list[tuple[str, str]] = []
    for ingress in sorted(ingresses, key=_age):
        reader = _Reader(routes, ingress, services)
        reader.read()
        fallbacks += reader.fallbacks
    for host, backend in fallbacks:
        routes.prefixes.setdefault((host, ""), backend)
    return routes


def _age(ingress: networking_v1_pb2.Ingress) -> tuple[int, int, str]:
    created = ingress.metadata.creation_timestamp
    return created.seconds, created.nanos, meta.key(ingress)


class _Reader:
    """Adds one Ingress to what older ones have made."""

    def __init__(self, routes: Routes, ingress: networking_v1_pb2.Ingress, services: Services) -> None:
        self._routes = routes
        self._ingress = ingress
        self._services = services
        self._key = meta.key(ingress)
        self._namespace = ingress.metadata.namespace
        self.fallbacks: list[tuple[str, str]] = []  # host and backend of what no rule of that host takes

    def read(self) -> None:
        routes, spec = self._routes, self._ingress.spec
        hosts = []
        for rule in spec.rules:
            host = rule.host.lower() or ANY_HOST
            hosts.append(host)
            routes.hosts.add(host)
            for path in rule.ingress_rule_value.http.paths:
                self._path(host, path)
        if spec.HasField("default_backend"):
            self._default(hosts)
        self._tls([host for host in hosts if host != ANY_HOST])

    def _path(self, host: str, path: networking_v1_pb2.HTTPIngressPath) -> None:
        text = path.path or "/"
        if any(letter.isspace() or ord(letter) < 32 for letter in text):
            self._tell("InvalidPath", f"path {text!r} holds blanks, which no request has: write them as %20")
            return
        backend = self._backend(path.backend)
        if not backend:
            return
        if path.path_type == "Exact":
            self._claim(self._routes.exact, host, text, backend)
        else:
            self._claim(self._routes.prefixes, host, text.rstrip("/"), backend)

    def _claim(self, table: dict[tuple[str, str], str], host: str, path: str, backend: str) -> None:
        holder = table.setdefault((host, path), backend)
        if holder != backend:
            where = f"{'' if host == ANY_HOST else host}{path or '/'}"
            self._tell("Conflict", f"{where} is claimed by an older Ingress already, which keeps it")

    def _default(self, hosts: list[str]) -> None:
        backend = self._backend(self._ingress.spec.default_backend)
        if not backend:
            return
        self.fallbacks = [(host, backend) for host in hosts]
        if not self._routes.default:
            self._routes.default = backend

    def _backend(self, wanted: networking_v1_pb2.IngressBackend) -> str:
        """The backend's name; "" when there can be none. A Service that is not there yet is one that nobody serves."""
        if not wanted.HasField("service"):
            resource = wanted.resource
            self._tell("UnsupportedBackend", f"backends must be Services, not {resource.kind} {resource.name}")
            return ""
        port = wanted.service.port
        name = f"{self._namespace}_{wanted.service.name}_{port.name or port.number}"
        if name in self._routes.backends:
            return name
        key = meta.key_of(self._namespace, wanted.service.name)
        service = self._services.service(key)
        if service is None:
            self._tell("ServiceNotFound", f'Service "{wanted.service.name}" does not exist')
        elif service.spec.type != "ExternalName" and not any(_is_port(item, port) for item in service.spec.ports):
            self._tell("PortNotFound", f'Service "{wanted.service.name}" has no port {port.name or port.number}')
        self._routes.backends[name] = _backend(name, key, port, self._services)
        return name

    def _tls(self, ruled: list[str]) -> None:
        allowed = not any(self._ingress.metadata.annotations.get(name) == "false" for name in NO_REDIRECT)
        for entry in self._ingress.spec.tls:
            hosts = {host.lower() for host in entry.hosts}
            if entry.secret_name:
                key = meta.key_of(self._namespace, entry.secret_name)
                self._routes.secrets.setdefault(key, set()).update(hosts or ruled)
            if allowed:
                self._routes.redirects.update(host for host in (hosts or ruled) if host in self._routes.hosts)

    def _tell(self, reason: str, message: str) -> None:
        problem = Problem(self._key, reason, message)
        if problem not in self._routes.problems:
            self._routes.problems.append(problem)


def _is_port(port: core_v1_pb2.ServicePort, wanted: networking_v1_pb2.ServiceBackendPort) -> bool:
    return port.name == wanted.name if wanted.name else port.port == wanted.number


def _backend(name: str, key: str, wanted: networking_v1_pb2.ServiceBackendPort, services: Services) -> Backend:
    service = services.service(key)
    targets: tuple[Target, ...] = ()
    protocol = ""
    if service is not None:
        port = next((item for item in service.spec.ports if _is_port(item, wanted)), None)
        protocol = _PROTOCOLS.get(port.app_protocol, "") if port is not None else ""
        if service.spec.type == "ExternalName":
            targets = (
                (service.spec.external_name.rstrip("."), port.port if port is not None else wanted.number or 80),
            )
        elif port is not None:
            targets = tuple(item.target for item in usable(endpoints_of(services.slices(key), port.name, "TCP")))
    return Backend(name, targets, protocol, key, wanted)


def refresh(routes: Routes, keys: Collection[str], services: Services) -> None:
    """The endpoints of these Services (namespace/name) have changed, and nothing else."""
    for name, backend in routes.backends.items():
        if backend.service in keys and backend.port is not None:
            routes.backends[name] = _backend(name, backend.service, backend.port, services)


def status(addresses: Sequence[str]) -> networking_v1_pb2.IngressLoadBalancerStatus:
    found = networking_v1_pb2.IngressLoadBalancerStatus()
    for address in addresses:
        if address[-1:].isdigit():
            found.ingress.add(ip=address)
        else:
            found.ingress.add(hostname=address)
    return found
