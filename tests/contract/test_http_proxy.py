"""pods/proxy and services/proxy over real TLS, with a real HTTP server in place of the pod: methods, bodies, errors, upgrades.

How the agent leads there is shown with real containers in tests/kubectl.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import StreamReader, web

from controlplane.nodelink.podports import PodPorts
from wherry.api.context import Env
from wherry.testing.https import Caller, Https, https

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"


class Direct:
    """In place of the node link: every pod is on this machine. `port` is that of the server, whatever was asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[tuple[str, int]] = []
        self.problem = ""
        self.more = asyncio.Event()

    def connection(self) -> Any:
        return Connection(self)


class Connection:
    def __init__(self, direct: Direct) -> None:
        self.problem = direct.problem
        self.socket, far = socket.socketpair()
        far.close()
        if not direct.problem:
            self.socket.close()
            self.socket = socket.create_connection(("127.0.0.1", direct.port))
        self.socket.setblocking(False)

    async def close(self) -> None:
        self.socket.close()


async def answer(request: web.Request) -> web.StreamResponse:
    if request.path == "/socket":
        socket = web.WebSocketResponse()
        socket.headers["X-Price"] = "1 \u20ac"  # no Latin-1
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"heard {message.data}")
        return socket
    if request.path == "/moved":
        raise web.HTTPFound("/there")
    if request.path == "/page":
        return web.Response(text='<a href="/there">', content_type="text/html")
    if request.path == "/bomb":
        page = gzip.compress(b"<a href=/x>" * ((15 << 20) // 11))
        return web.Response(body=page, content_type="text/html", headers={"Content-Encoding": "gzip"})
    if request.path == "/torn":
        page = gzip.compress(b"first")[:-1]
        return web.Response(body=page, content_type="text/html", headers={"Content-Encoding": "gzip"})
    if request.path == "/cut":
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        assert request.transport is not None
        request.transport.close()
        return response
    if request.path == "/drip":
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await request.app[DIRECT].more.wait()
        await response.write(b" second")
        return response
    seen = {
        "method": request.method, "path": request.raw_path, "body": len(await request.read()),
        "secret": request.headers.get("Authorization"), "type": request.headers.get("Content-Type"),
    }  # fmt: skip
    return web.json_response(seen, status=418 if request.path == "/teapot" else 200, headers={"X-Pod": "yes"})


DIRECT = web.AppKey("direct", Direct)


@pytest.fixture
async def pods(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Direct]:
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", answer)
    app[DIRECT] = direct = Direct(0)
    runner = web.AppRunner(app, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    direct.port = runner.addresses[0][1]

    async def connect(_: PodPorts, pod: Any, port: int) -> Any:
        direct.asked.append((pod.metadata.name, port))
        return direct.connection()

    monkeypatch.setattr(PodPorts, "connect", connect)
    try:
        yield direct
    finally:
        direct.more.set()
        await runner.cleanup()


@pytest.fixture
async def front(pods: Direct) -> AsyncIterator[Https]:
    async with https(Env()) as found:
        yield found


@pytest.fixture
async def admin(front: Https) -> AsyncIterator[Caller]:
    """With a pod that has an address, a Service that leads there and one that leads nowhere."""
    async with front.caller() as caller:
        spec = {"nodeName": "n", "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 8080}]}]}
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
        made = await caller.ask("POST", PODS, body)
        assert made.status == 201, made.text
        status = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
        told = await caller.ask("PUT", f"{PODS}/p/status", {**made.json, "status": status})
        assert told.status == 200, told.text
        for name in ("s", "empty"):
            body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}}
            body["spec"] = {"ports": [{"name": "web", "port": 80}]}
            assert (await caller.ask("POST", SERVICES, body)).status == 201
        endpoints = [
            {"addresses": ["10.0.0.9"], "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"}},
            {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"}},
        ]
        body = {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "web", "port": 8081}],
        }  # fmt: skip
        made = await caller.ask("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", body)
        assert made.status == 201, made.text
        yield caller


async def test_requests_and_answers_are_passed_on(admin: Caller, pods: Direct) -> None:
    got = await admin.ask("GET", f"{PODS}/p/proxy/a%2Fb/?x=/1", Authorization="Basic abc")
    assert got.json == {"method": "GET", "path": "/a%2Fb/?x=/1", "body": 0, "secret": None, "type": None}
    assert got.headers["X-Pod"] == "yes"
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        got = await admin.ask(method, f"{SERVICES}/s:80/proxy/teapot", b"x" * (4 << 20), content_type="text/x")
        assert (got.status, got.json["method"], got.json["body"]) == (418, method, 4 << 20)
        assert got.json["type"] == "text/x"
    assert (await admin.ask("HEAD", f"{PODS}/p:99/proxy/")).headers["X-Pod"] == "yes"
    assert pods.asked == [("p", 8080), *[("p", 8081)] * 5, ("p", 99)]


async def test_a_packed_body_is_passed_on_packed(admin: Caller) -> None:
    packed = gzip.compress(b"x" * 100_000)
    got = await admin.ask("POST", f"{PODS}/p/proxy/packed", packed, Content_Encoding="gzip")
    assert got.json["body"] == len(packed)


async def test_pages_find_their_way_back(admin: Caller) -> None:
    place = f"{SERVICES}/s:web/proxy"
    async with admin.session.get(f"{admin.base}{place}", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (301, f"{place}/")
    async with admin.session.get(f"{admin.base}{place}/moved", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, f"{place}/there")
    assert (await admin.ask("GET", f"{place}/page")).text == f'<a href="{place}/there">'


async def test_an_answer_comes_as_it_is_given(admin: Caller, pods: Direct) -> None:
    async with admin.session.get(f"{admin.base}{PODS}/p/proxy/drip") as answer:
        assert await answer.content.read(5) == b"first"
        pods.more.set()
        assert await answer.content.read() == b" second"


async def test_an_answer_that_breaks_off_breaks_off(admin: Caller) -> None:
    async with admin.session.get(f"{admin.base}{PODS}/p/proxy/cut") as answer:
        assert await answer.content.read(5) == b"first"
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()


async def test_a_page_that_was_torn_breaks_off(admin: Caller) -> None:
    async with admin.session.get(f"{admin.base}{PODS}/p/proxy/torn") as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_others_are_answered_while_a_page_is_unpacked(admin: Caller) -> None:
    """A page of 20 KiB that becomes 100 MiB: read by nobody until others have been answered."""
    async with admin.session.get(f"{admin.base}{PODS}/p/proxy/bomb") as answer:
        size = 0
        while size < 1 << 20:
            size += len(await answer.content.readany())
        assert (await admin.ask("GET", "/version")).status == 200
        assert not answer.content.is_eof()
        assert size < 8 << 20, "it comes as it is read"


async def raw(front: Https, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """For what no client library would send."""
    host, _, port = front.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=front.context("admin"))
    writer.write(request)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("path", [f"{PODS}/p/proxy/", PODS])
async def test_a_malformed_body_is_the_clients_mistake(
    admin: Caller, front: Https, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()
    waiting = StreamReader._wait

    async def wait(self: StreamReader, name: str) -> None:
        begun.set()
        await waiting(self, name)

    monkeypatch.setattr(StreamReader, "_wait", wait)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    reader, writer = await raw(front, head.encode() + b"2\r\n{}\r\n")
    await begun.wait()  # what is malformed from the start is refused by aiohttp, before anybody looks at the path
    writer.write(b"nonsense\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"the body of the request is malformed" in answer
    assert answer.count(b"HTTP/1.") == 1, "one answer, and the connection ends"
    writer.close()


async def test_a_host_that_is_not_utf8(admin: Caller, front: Https) -> None:
    head = f"GET {PODS}/p/proxy/x HTTP/1.1\r\nConnection: close\r\n"
    reader, writer = await raw(front, head.encode() + b"Host: \xe9\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    writer.close()


async def test_a_websocket_goes_through(admin: Caller) -> None:
    async with admin.session.ws_connect(f"{admin.base}{SERVICES}/s:80/proxy/socket") as socket:
        await socket.send_str("a")
        assert (await socket.receive()).data == "heard a"
        await socket.send_str("b" * 200_000)
        assert (await socket.receive()).data == "heard " + "b" * 200_000


async def test_what_goes_wrong_is_said_in_kubernetes_words(admin: Caller, pods: Direct) -> None:
    async def refusal(path: str) -> tuple[int, str]:
        got = await admin.ask("GET", path)
        return got.status, got.json["message"]

    assert await refusal(f"{SERVICES}/empty/proxy/") == (503, 'no endpoints available for service "empty"')
    assert await refusal(f"{SERVICES}/s:81/proxy/") == (503, 'no service port 81 found for service "s:81"')
    assert await refusal(f"{SERVICES}/nope/proxy/") == (404, 'services "nope" not found')
    assert await refusal(f"{PODS}/ftp:p:1/proxy/") == (400, 'invalid pod request "ftp:p:1"')
    assert await refusal(f"{PODS}/nope:1/proxy/") == (404, 'pods "nope" not found')
    code, message = await refusal(f"{PODS}/https:p:1/proxy/")
    assert (code, message.partition(": ")[0]) == (503, "error trying to reach service")
    pods.problem = "dial tcp 10.0.0.1:1: connect: connection refused"
    assert await refusal(f"{PODS}/p:1/proxy/") == (503, f"error trying to reach service: {pods.problem}")


async def test_the_method_is_the_verb_that_must_be_allowed(front: Https, admin: Caller) -> None:
    async with front.caller("reader", ("readers",)) as reader:
        await grant(admin, ["get"])
        assert (await reader.ask("GET", f"{SERVICES}/s:80/proxy/")).status == 200
        refused = await reader.ask("POST", f"{SERVICES}/s:80/proxy/", b"x")
        assert refused.status == 403
        assert (
            'cannot create resource "services/proxy" in API group "" in the namespace "default"'
            in refused.json["message"]
        )
        assert (await reader.ask("GET", f"{PODS}/p/proxy/")).status == 403


async def grant(admin: Caller, verbs: list[str]) -> None:
    group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    meta = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "reader"}}
    rules = [{"apiGroups": [""], "resources": ["services/proxy"], "resourceNames": ["s:80"], "verbs": verbs}]
    assert (await admin.ask("POST", f"{group}/roles", {**meta, "kind": "Role", "rules": rules})).status == 201
    to = {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}}
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}]
    body = {**meta, **to, "kind": "RoleBinding", "subjects": subjects}
    assert (await admin.ask("POST", f"{group}/rolebindings", body)).status == 201
