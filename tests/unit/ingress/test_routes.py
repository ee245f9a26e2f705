"""What Ingresses mean: hosts, paths, backends, precedence, what is told of those that do not work."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet.ingress import routes
from kubelet.ingress.routes import Backend, Problem, Services
from wherry.api import codec
from wherry.pb import core_v1_pb2, discovery_v1_pb2, networking_v1_pb2


def ingress(name: str, spec: dict[str, Any], age: int = 0, **annotations: str) -> networking_v1_pb2.Ingress:
    document = {"metadata": {"name": name, "namespace": "ns", "annotations": annotations}, "spec": spec}
    found: networking_v1_pb2.Ingress = codec.from_dict(document, networking_v1_pb2.Ingress)
    found.metadata.creation_timestamp.seconds = 1000 - age
    return found


def rule(host: str, *paths: dict[str, Any]) -> dict[str, Any]:
    return {"host": host, "http": {"paths": list(paths)}}


def path(text: str, kind: str = "Prefix", service: str = "web", port: Any = 80) -> dict[str, Any]:
    wanted = {"number": port} if isinstance(port, int) else {"name": port}
    return {"path": text, "pathType": kind, "backend": {"service": {"name": service, "port": wanted}}}


def service(spec: dict[str, Any]) -> core_v1_pb2.Service:
    found: core_v1_pb2.Service = codec.from_dict({"metadata": {"name": "x"}, "spec": spec}, core_v1_pb2.Service)
    return found


def slices(*endpoints: dict[str, Any], port: str = "http") -> discovery_v1_pb2.EndpointSlice:
    document = {
        "addressType": "IPv4", "ports": [{"name": port, "port": 8080, "protocol": "TCP"}], "endpoints": list(endpoints),
    }  # fmt: skip
    found: discovery_v1_pb2.EndpointSlice = codec.from_dict(document, discovery_v1_pb2.EndpointSlice)
    return found


WORLD = {
    "ns/web": service({"ports": [{"name": "http", "port": 80}]}),
    "ns/api": service({"ports": [{"name": "http", "port": 80, "appProtocol": "kubernetes.io/h2c"}]}),
    "ns/far": service({"type": "ExternalName", "externalName": "far.example.org."}),
}
ENDPOINTS = {
    "ns/web": [
        slices({"addresses": ["10.0.0.2"], "conditions": {"ready": True}}, {"addresses": ["10.0.0.1"]}),
        slices({"addresses": ["10.0.0.9"], "conditions": {"ready": False}}),
        slices({"addresses": ["10.0.0.8"]}, port="other"),
    ],
    "ns/api": [
        slices({"addresses": ["10.0.1.1"], "conditions": {"ready": False, "serving": True, "terminating": True}}),
    ],
}  # fmt: skip
SERVICES = Services(WORLD.get, lambda key: ENDPOINTS.get(key, []))


def compile(*ingresses: networking_v1_pb2.Ingress) -> routes.Routes:
    return routes.compile(ingresses, SERVICES)


def test_hosts_and_paths() -> None:
    found = compile(
        ingress("a", {"rules": [rule("A.example.com", path("/x/", "Prefix"), path("/x", "Exact", "api")),
                                rule("", path("", "ImplementationSpecific"))]})
    )  # fmt: skip
    assert found.hosts == {"a.example.com", "-"}
    assert found.exact == {("a.example.com", "/x"): "ns_api_80"}
    assert found.prefixes == {("a.example.com", "/x"): "ns_web_80", ("-", ""): "ns_web_80"}
    assert not found.problems
    assert not found.default


@pytest.mark.parametrize(
    ("wanted", "backend"),
    [
        pytest.param(path("/"), Backend("ns_web_80", (("10.0.0.1", 8080), ("10.0.0.2", 8080))), id="ready-endpoints"),
        pytest.param(
            path("/", port="http"), Backend("ns_web_http", (("10.0.0.1", 8080), ("10.0.0.2", 8080))), id="named-port"
        ),
        pytest.param(
            path("/", service="api"), Backend("ns_api_80", (("10.0.1.1", 8080),), "h2c"), id="only-leaving-ones-h2c"
        ),
        pytest.param(
            path("/", service="far", port=8443),
            Backend("ns_far_8443", (("far.example.org", 8443),)),
            id="external-name",
        ),
    ],
)
def test_backends(wanted: dict[str, Any], backend: Backend) -> None:
    found = compile(ingress("a", {"rules": [rule("h", wanted)]}))
    assert found.backends == {backend.name: backend}
    assert not found.problems


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        pytest.param(
            {"rules": [rule("h", path("/", service="gone"))]},
            Problem("ns/a", "ServiceNotFound", 'Service "gone" does not exist'), id="no-service",
        ),
        pytest.param(
            {"rules": [rule("h", path("/", port=81))]},
            Problem("ns/a", "PortNotFound", 'Service "web" has no port 81'), id="no-port",
        ),
        pytest.param(
            {"defaultBackend": {"resource": {"kind": "Bucket", "name": "b"}}},
            Problem("ns/a", "UnsupportedBackend", "backends must be Services, not Bucket b"), id="resource",
        ),
        pytest.param(
            {"rules": [rule("h", path("/a b", "ImplementationSpecific"))]},
            Problem("ns/a", "InvalidPath", "path '/a b' holds blanks, which no request has: write them as %20"),
            id="blank",
        ),
    ],
)  # fmt: skip
def test_what_does_not_work_is_told(spec: dict[str, Any], problem: Problem) -> None:
    assert compile(ingress("a", spec)).problems == [problem]


def test_what_two_claim_belongs_to_the_older() -> None:
    young = ingress("young", {"rules": [rule("h", path("/", service="api"))]}, age=1)
    old = ingress("old", {"rules": [rule("h", path("/"))]}, age=2)
    found = compile(young, old)
    assert found.prefixes == {("h", ""): "ns_web_80"}
    assert [(item.ingress, item.reason) for item in found.problems] == [("ns/young", "Conflict")]


def test_a_default_backend_takes_what_no_rule_of_its_hosts_takes() -> None:
    default = {"service": {"name": "api", "port": {"number": 80}}}
    first = ingress("first", {"defaultBackend": default, "rules": [rule("h", path("/x")), rule("i", path("/"))]}, age=2)
    second = ingress("second", {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}, age=1)
    found = compile(first, second)
    assert found.default == "ns_api_80"  # of the oldest
    assert found.prefixes == {("h", "/x"): "ns_web_80", ("i", ""): "ns_web_80", ("h", ""): "ns_api_80"}


def test_certificates_and_redirects() -> None:
    tls = [{"hosts": ["H", "other"], "secretName": "s"}]
    rules = [rule("h", path("/")), rule("i", path("/"))]
    found = compile(ingress("a", {"rules": rules, "tls": tls}))
    assert found.secrets == {"ns/s": {"h", "other"}}
    assert found.redirects == {"h"}
    quiet = ingress("a", {"rules": rules, "tls": [{"secretName": "s"}]})
    quiet.metadata.annotations["nginx.ingress.kubernetes.io/ssl-redirect"] = "false"
    found = compile(quiet)
    assert found.secrets == {"ns/s": {"h", "i"}}
    assert not found.redirects


def _class(name: str, controller: str, *, default: bool = False) -> networking_v1_pb2.IngressClass:
    found = networking_v1_pb2.IngressClass()
    found.metadata.name = name
    found.spec.controller = controller
    if default:
        found.metadata.annotations[routes.DEFAULT_CLASS] = "true"
    return found


@pytest.mark.parametrize(
    ("named", "legacy", "others_default", "expected"),
    [
        pytest.param("wherry", "", False, True, id="our-class"),
        pytest.param("other", "", False, False, id="another-class"),
        pytest.param("none", "", False, False, id="a-class-that-is-not-there"),
        pytest.param("", "wherry", False, True, id="annotation"),
        pytest.param("", "other", False, False, id="another-annotation"),
        pytest.param("", "", False, True, id="no-class"),
        pytest.param("", "", True, False, id="no-class-and-another-is-the-default"),
    ],
)
def test_which_are_ours(named: str, legacy: str, others_default: bool, expected: bool) -> None:
    found = ingress("a", {"rules": []})
    if named:
        found.spec.ingress_class_name = named
    if legacy:
        found.metadata.annotations[routes.LEGACY_CLASS] = legacy
    classes = {
        "wherry": _class("wherry", routes.CONTROLLER, default=not others_default),
        "other": _class("other", "example.com/other", default=others_default),
    }
    assert routes.ours(found, classes) is expected


def test_a_change_of_endpoints_alone_compiles_nothing_else() -> None:
    ingresses = [ingress("a", {"rules": [rule("a", path("/"), path("/far", service="far"))]}),
                 ingress("b", {"rules": [rule("b", path("/", service="api"), path("/n", port="http"))]})]  # fmt: skip
    found = compile(*ingresses)
    later = {**ENDPOINTS, "ns/web": [slices({"addresses": ["10.0.0.7"]})], "ns/api": []}
    services = Services(WORLD.get, lambda key: later.get(key, []))
    routes.refresh(found, {"ns/web", "ns/nobody-asks"}, services)
    assert found.backends["ns_web_80"].targets == found.backends["ns_web_http"].targets == (("10.0.0.7", 8080),)
    assert found.backends["ns_api_80"].targets == (("10.0.1.1", 8080),)  # was not named
    routes.refresh(found, {"ns/api", "ns/far"}, services)
    assert found == routes.compile(ingresses, services)
