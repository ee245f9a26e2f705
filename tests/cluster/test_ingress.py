"""Ingress on a real cluster, through a real haproxy: hosts and paths, TLS by name, endpoints that come and go under load,
a controller and a haproxy that are killed.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import http.client
import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kubelet.ingress import process
from wherry.cli.cluster import launch
from wherry.client.base import Selection
from wherry.pb import core_v1_pb2, discovery_v1_pb2
from wherry.testing.local import LocalCluster, deployment, is_ready, trace, until
from wherry.testing.require import require_binary, require_containerd, require_root

pytestmark = pytest.mark.timeout(300)

# From its signal on it has no pages: whoever is still led to it sees that.
SERVE = (
    "mkdir -p /tmp/gone /tmp/w/a/b; cd /tmp/w; hostname > index.html; echo at-a > a/index.html; echo at-b > a/b/index.html; "
    "trap 'kill $server; wait $server; httpd -f -p 8080 -h /tmp/gone & sleep 1; exit 0' TERM; "
    "httpd -f -p 8080 -h /tmp/w & server=$!; wait"
)
READY = "readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}"
SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
    "spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n"
)


def ingress(name: str, spec: object) -> str:
    return json.dumps(
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name}, "spec": spec}
    )


def rule(host: str, *paths: tuple[str, str], service: str = "web") -> dict[str, object]:
    backend = {"service": {"name": service, "port": {"number": 80}}}
    return {"host": host, "http": {"paths": [{"path": p, "pathType": kind, "backend": backend} for p, kind in paths]}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    require_root()
    require_containerd()
    require_binary("haproxy", "haproxy")
    made = LocalCluster(prefix="i", ingress=True)
    try:
        made.up()
        made.apply(deployment("web", 2, SERVE, extra=READY) + "---\n" + SERVICE)
        until(lambda: len([pod for pod in made.pods("app=web") if is_ready(pod)]) == 2)
        yield made
    finally:
        made.down()
    left = {what: [line for line in lines if made.name in line] for what, lines in trace().items()}
    assert not any(left.values()), f"left behind: {left}"


def get(
    cluster: LocalCluster, host: str, path: str = "/", *, kept: http.client.HTTPConnection | None = None
) -> tuple[int, str, str]:
    """Status, body, Location. On a connection that the caller keeps, it is made anew only when an answer has ended it."""
    connection = kept or http.client.HTTPConnection(cluster.description.gateway, 80, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip(), answer.getheader("Location") or ""
    except OSError as error:
        connection.close()
        return 0, str(error), ""
    finally:
        if kept is None:
            connection.close()


def test_hosts_and_paths(cluster: LocalCluster) -> None:
    rules = [
        rule("www.test", ("/", "Prefix")),
        rule("*.wild.test", ("/a", "Prefix")),
        rule("exact.test", ("/a/", "Exact"), ("/a/b", "Prefix")),
    ]
    cluster.apply(ingress("web", {"rules": rules}))
    pods = {pod["metadata"]["name"] for pod in cluster.pods("app=web")}
    until(lambda: get(cluster, "www.test")[1] in pods)
    assert get(cluster, "WWW.test:80")[0] == 200
    assert get(cluster, "one.wild.test", "/a/")[1] == "at-a"
    assert get(cluster, "one.wild.test", "/a/b/?q=1")[1] == "at-b"
    assert get(cluster, "exact.test", "/a/")[1] == "at-a"
    assert get(cluster, "exact.test", "/a/b/")[1] == "at-b"
    for host, path in [
        ("one.wild.test", "/ab"), ("two.one.wild.test", "/a"), ("wild.test", "/a"), ("exact.test", "/a/x"), ("else", "/"),
    ]:  # fmt: skip
        assert get(cluster, host, path)[0] == 404, (host, path)
    found = until(lambda: cluster.json("ingress", "web")["status"].get("loadBalancer"))
    assert found == {"ingress": [{"ip": cluster.description.gateway}]}
    (made,) = cluster.json("ingressclasses")["items"]
    assert made["metadata"]["annotations"] == {"ingressclass.kubernetes.io/is-default-class": "true"}


def test_default_backends_and_other_peoples_classes(cluster: LocalCluster) -> None:
    """What no rule takes: an Ingress' own default for its hosts, the oldest default for all others, 404 without any. Who serves a
    request shows by its Service: `nobody` has no endpoints."""
    web, nobody = ({"service": {"name": name, "port": {"number": 80}}} for name in ("web", "nobody"))
    anywhere = {"http": {"paths": [{"path": "/a/", "pathType": "ImplementationSpecific", "backend": web}]}}
    own = rule("own.test", ("/a", "Prefix"), service="nobody")
    foreign = {"ingressClassName": "nginx", "rules": [rule("foreign.test", ("/", "Prefix"))], "defaultBackend": nobody}
    made = {
        "first": {"rules": [own, anywhere], "defaultBackend": web}, "second": {"defaultBackend": nobody},
        "foreign": foreign, "last": {"rules": [rule("last.test", ("/", "Exact"))]},
    }  # fmt: skip
    lone = SERVICE.replace("name: web", "name: nobody").replace("app: web", "app: nobody")
    cluster.apply("\n---\n".join([lone, *(ingress(name, spec) for name, spec in made.items())]))
    until(lambda: get(cluster, "own.test")[0] == 200)
    until(lambda: get(cluster, "last.test")[0] == 200)
    found = {
        (host, path): get(cluster, host, path)[0]
        for host, path in [
            ("own.test", "/"), ("own.test", "/a"), ("any.test", "/a/"), ("any.test", "/"), ("foreign.test", "/"),
            ("last.test", "/a/"),
        ]
    }  # fmt: skip
    assert found == {
        ("own.test", "/"): 200, ("own.test", "/a"): 503, ("any.test", "/a/"): 200, ("any.test", "/"): 200,
        ("foreign.test", "/"): 200, ("last.test", "/a/"): 200,
    }  # fmt: skip
    cluster.ok("delete", "ingress", "first")
    until(lambda: get(cluster, "any.test")[0] == 503)  # the second one's, from now on
    assert get(cluster, "last.test", "/a")[0] == 503
    cluster.ok("delete", "ingress", "second")
    until(lambda: get(cluster, "any.test")[0] == 404)
    assert get(cluster, "foreign.test")[0] == 404
    assert not cluster.json("ingress", "foreign")["status"]["loadBalancer"]
    assert cluster.json("ingress", "last")["spec"]["ingressClassName"] == "wherry"
    cluster.ok("delete", "ingress", "last", "foreign")


def certificate(name: str) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def secret(name: str, crt: str, key: str) -> str:
    data = {part: base64.b64encode(text.encode()).decode() for part, text in (("tls.crt", crt), ("tls.key", key))}
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/tls",
        "data": data,
    }
    return json.dumps(document)


def served(cluster: LocalCluster, name: str) -> tuple[str, int]:
    """The subject of the certificate that is shown for this name, and the page's status."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(cluster.description.gateway, 443, timeout=10, context=context)
    try:
        raw = socket.create_connection((cluster.description.gateway, 443), 10)
        connection.sock = context.wrap_socket(raw, server_hostname=name)
        shown = x509.load_der_x509_certificate(connection.sock.getpeercert(True) or b"")
        connection.request("GET", "/", headers={"Host": name})
        return shown.subject.rfc4514_string(), connection.getresponse().status
    finally:
        connection.close()


def test_tls_by_name(cluster: LocalCluster) -> None:
    hosts = ("one.tls.test", "two.tls.test", "broken.tls.test")
    crts = {host: certificate(host) for host in hosts}
    crts["broken.tls.test"] = (crts["broken.tls.test"][0], crts["one.tls.test"][1])  # not its key
    cluster.apply("\n---\n".join(secret(host.split(".")[0], *pair) for host, pair in crts.items()))
    spec = {
        "rules": [rule(host, ("/", "Prefix")) for host in hosts],
        "tls": [{"hosts": [host], "secretName": host.split(".")[0]} for host in hosts],
    }
    cluster.apply(ingress("tls", spec))
    until(lambda: get(cluster, "one.tls.test")[0] == 308)
    assert get(cluster, "one.tls.test", "/x")[2] == "https://one.tls.test/x"
    assert (
        get(cluster, "one.tls.test", "/.well-known/acme-challenge/t")[0] == 404
    )  # of the pod: it is not sent to HTTPS
    assert served(cluster, "one.tls.test") == ("CN=one.tls.test", 200)
    assert served(cluster, "two.tls.test") == ("CN=two.tls.test", 200)
    # A Secret that is broken spoils nothing but itself, and somebody is told.
    assert served(cluster, "broken.tls.test") == ("CN=Wherry ingress default certificate", 200)
    until(lambda: "does not belong to the first certificate" in cluster.ok("get", "events", "-o", "yaml"))
    fresh = certificate("one.tls.test")
    cluster.apply(secret("one", *fresh))
    serial = x509.load_pem_x509_certificate(fresh[0].encode()).serial_number
    until(lambda: shown_serial(cluster, "one.tls.test") == serial)


def shown_serial(cluster: LocalCluster, name: str) -> int:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection((cluster.description.gateway, 443), 10)
    with context.wrap_socket(raw, server_hostname=name) as shown:
        return x509.load_der_x509_certificate(shown.getpeercert(True) or b"").serial_number


class Visitors:
    """Ask again and again, two over a connection per request and two over one that they keep; remember what was no page."""

    def __init__(self, cluster: LocalCluster, host: str) -> None:
        self._cluster, self._host = cluster, host
        self._stop = threading.Event()
        self.pages: set[str] = set()
        self.failures: list[object] = []
        self._threads = [threading.Thread(target=self._run, args=(keeps,)) for keeps in (False, False, True, True)]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, keeps: bool) -> None:
        kept = http.client.HTTPConnection(self._cluster.description.gateway, 80, timeout=10)
        while not self._stop.wait(0.005):
            status, body, _ = get(self._cluster, self._host, kept=kept if keeps else None)
            if status == 200:
                self.pages.add(body)
            else:
                self.failures.append((status, body))
        kept.close()


def test_a_rolling_update_loses_no_request(cluster: LocalCluster) -> None:
    """A pod that ends gets its signal when haproxy has taken it out, as the nodes have."""
    cluster.apply(ingress("web", {"rules": [rule("www.test", ("/", "Prefix"))]}))
    until(lambda: get(cluster, "www.test")[0] == 200)
    before = {pod["metadata"]["name"] for pod in cluster.pods("app=web")}

    def replaced() -> bool:
        pods = cluster.json("pods", "-l", "app=web")["items"]
        return len(pods) == 2 and all(is_ready(pod) and pod["metadata"]["name"] not in before for pod in pods)

    with Visitors(cluster, "www.test") as visitors:
        cluster.ok("rollout", "restart", "deployment/web")
        until(replaced)
    assert not visitors.failures
    assert visitors.pages > before


HELD_S = 0.5  # long for a pod that waits for nobody, and well within what it waits


def test_a_pod_waits_for_an_ingress_that_is_slow(cluster: LocalCluster) -> None:
    controller = launch.running_ingress(cluster.description)
    assert controller is not None
    victim = cluster.pods("app=web")[0]["metadata"]["name"]

    async def delete() -> None:
        """Returns a while after the pod has left its endpoints."""
        client = cluster.client()
        try:
            await client.delete(core_v1_pb2.Pod, victim, "default")
            while True:
                found = (await client.list(discovery_v1_pb2.EndpointSlice, Selection("default"))).items
                endpoints = [endpoint for item in found for endpoint in item.endpoints]
                if not any(item.target_ref.name == victim and item.conditions.ready for item in endpoints):
                    break
            await asyncio.sleep(HELD_S)
        finally:
            await client.close()

    with Visitors(cluster, "www.test") as visitors:
        controller.signal(signal.SIGSTOP)
        try:
            asyncio.run(delete())
        finally:
            controller.signal(signal.SIGCONT)
        until(lambda: victim not in {pod["metadata"]["name"] for pod in cluster.json("pods")["items"]})
    assert not visitors.failures
    until(lambda: len([pod for pod in cluster.pods("app=web") if is_ready(pod)]) == 2)


def test_nothing_is_lost_while_endpoints_and_rules_change(cluster: LocalCluster) -> None:
    cluster.apply(ingress("web", {"rules": [rule("www.test", ("/", "Prefix"))]}))
    until(lambda: get(cluster, "www.test")[0] == 200)
    with Visitors(cluster, "www.test") as visitors:
        cluster.ok("scale", "deployment/web", "--replicas=6")  # more than there were slots: a reload
        until(lambda: len(visitors.pages) == 6)
        for number in range(3):  # each a reload
            cluster.apply(ingress(f"extra-{number}", {"rules": [rule(f"extra-{number}.test", ("/", "Prefix"))]}))
            until(lambda number=number: get(cluster, f"extra-{number}.test")[0] == 200)
        cluster.ok("delete", "ingress", "extra-0")
        until(lambda: get(cluster, "extra-0.test")[0] == 404)
    assert not visitors.failures


def test_the_controller_and_haproxy_are_killed(cluster: LocalCluster) -> None:
    cluster.apply(ingress("web", {"rules": [rule("www.test", ("/", "Prefix"))]}))
    until(lambda: get(cluster, "www.test")[0] == 200)
    controller = launch.running_ingress(cluster.description)
    haproxy = process.running(cluster.description.ingress_data)
    assert controller is not None
    assert haproxy is not None
    with Visitors(cluster, "www.test") as visitors:
        os.kill(controller.pid, signal.SIGKILL)
        until(lambda: launch.running_ingress(cluster.description) is None)
        assert get(cluster, "www.test")[0] == 200  # nobody needs the controller for this
        cluster.up()
        cluster.apply(ingress("after", {"rules": [rule("after.test", ("/", "Prefix"))]}))
        until(lambda: get(cluster, "after.test")[0] == 200)
    assert not visitors.failures
    assert process.running(cluster.description.ingress_data) == haproxy  # taken up, not started anew
    haproxy.signal(signal.SIGKILL)
    until(lambda: process.running(cluster.description.ingress_data) not in (None, haproxy))
    until(lambda: get(cluster, "www.test")[0] == 200)
