"""Names of proxied pods and Services, and what is written anew on the way: tables."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable

import pytest

from controlplane.fronts.http.proxy import places, rewrite
from controlplane.fronts.http.proxy.places import Backend, Name
from controlplane.fronts.http.proxy.pods import split_path
from wherry.api import codec
from wherry.api.errors import APIError
from wherry.pb import core_v1_pb2, discovery_v1_pb2

PREFIX = "/api/v1/namespaces/n/services/y:80/proxy"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", Name("http", "a", "")),
        ("a:80", Name("http", "a", "80")),
        ("https:a:", Name("https", "a", "")),
        (":a:web", Name("http", "a", "web")),
        ("ftp:a:80", None),
        ("https::80", None),
        ("a:b:c:d", None),
        (":80", None),
    ],
)
def test_names(text: str, wanted: Name | None) -> None:
    if wanted is None:
        with pytest.raises(APIError, match=f'invalid pod request "{text}"'):
            places.split(text, "pod")
    else:
        assert places.split(text, "pod") == wanted


@pytest.mark.parametrize(
    ("port", "ip", "ports", "scheme", "wanted"),
    [
        ("", "10.0.0.1", [8080, 9090], "http", 8080),
        ("", "10.0.0.1", [], "http", 80),
        ("", "10.0.0.1", [], "https", 443),
        ("9", "10.0.0.1", [8080], "http", 9),
        ("web", "10.0.0.1", [8080], "http", "error trying to reach service: dial tcp: lookup tcp/web: unknown port"),
        ("70000", "10.0.0.1", [], "http", "error trying to reach service: dial tcp: address 70000: invalid port"),
        ("", "", [], "http", "address not allowed"),
        ("", "127.0.0.1", [], "http", "address not allowed"),
        ("", "169.254.1.1", [], "http", "address not allowed"),
    ],
)
def test_the_port_of_a_pod(port: str, ip: str, ports: list[int], scheme: str, wanted: int | str) -> None:
    pod = core_v1_pb2.Pod()
    pod.status.pod_ip = ip
    container = pod.spec.containers.add(name="c")
    for number in ports:
        container.ports.add(container_port=number)
    if isinstance(wanted, int):
        assert places.pod_port(pod, Name(scheme, "a", port)) == wanted
    else:
        with pytest.raises(APIError) as caught:
            places.pod_port(pod, Name(scheme, "a", port))
        assert caught.value.message == wanted


SERVICE = codec.from_json(
    b'{"metadata": {"name": "y"}, "spec": {"ports": [{"name": "web", "port": 80}, {"port": 90}]}}',
    core_v1_pb2.Service,
)


@pytest.mark.parametrize(("port", "wanted"), [("80", "web"), ("90", ""), ("web", "web"), ("", "")])
def test_the_port_of_a_service(port: str, wanted: str) -> None:
    assert places.service_port(SERVICE, Name("http", "y", port), f"y:{port}") == wanted


def test_a_port_that_a_service_does_not_have() -> None:
    with pytest.raises(APIError) as caught:
        places.service_port(SERVICE, Name("http", "y", "81"), "y:81")
    assert (caught.value.code, caught.value.message) == (503, 'no service port 81 found for service "y:81"')


def test_backends_are_ready_pods_behind_the_port() -> None:
    found = codec.from_json(
        b"""{"addressType": "IPv4", "ports": [{"name": "web", "port": 8080}, {"name": "other", "port": 1}], "endpoints": [
          {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "b"}},
          {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}, "conditions": {"ready": true}},
          {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Pod", "name": "c"}, "conditions": {"ready": false}},
          {"addresses": ["192.0.2.1"]}]}""",
        discovery_v1_pb2.EndpointSlice,
    )
    assert places.backends([found], "web") == [Backend("a", "10.0.0.1", 8080), Backend("b", "10.0.0.2", 8080)]
    assert places.backends([found], "nope") == []


@pytest.mark.parametrize(
    ("path", "prefix", "url"),
    [
        (f"{PREFIX}/a%2Fb/?x=/1", PREFIX, "/a%2Fb/?x=/1"),
        (PREFIX, PREFIX, ""),
        (f"{PREFIX}/", PREFIX, "/"),
        (f"{PREFIX}?x=1", PREFIX, "?x=1"),
        ("//api/v1//namespaces/n/pods/p/proxy//a", "//api/v1//namespaces/n/pods/p/proxy", "//a"),
        (
            f"{PREFIX}/caf\udce9?\u00e9",
            PREFIX,
            "/caf%E9?%C3%A9",
        ),  # as aiohttp shows bytes that are not UTF-8, and that are
    ],
)
def test_paths(path: str, prefix: str, url: str) -> None:
    assert split_path(path) == (prefix, url)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("/login", f"{PREFIX}/login"),
        ("https://api:6443/login?a=1", f"https://api:6443{PREFIX}/login?a=1"),
        ("https://elsewhere/login", "https://elsewhere/login"),
        ("login", "login"),
        (f"{PREFIX}/x", f"{PREFIX}/x"),
        ("http://[", "http://["),
    ],
)
def test_locations(url: str, wanted: str) -> None:
    assert rewrite.location(url, PREFIX, "api:6443") == wanted


def test_headers_of_one_connection_and_secrets_stay_behind() -> None:
    given = [
        (b"Host", b"api"), (b"Authorization", b"Bearer x"), (b"Impersonate-User", b"u"), (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"), (b"Transfer-Encoding", b"chunked"), (b"X-Forwarded-For", b"1.1.1.1"), (b"Cookie", b"c"),
    ]  # fmt: skip
    assert rewrite.request_headers(given, peer="2.2.2.2", host="api", uri="/u") == [
        (b"Host", b"api"), (b"Cookie", b"c"), (b"X-Forwarded-For", b"1.1.1.1, 2.2.2.2"), (b"X-Forwarded-Host", b"api"),
        (b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Uri", b"/u"),
    ]  # fmt: skip
    assert rewrite.response_headers(
        [(b"Keep-Alive", b"1"), (b"Access-Control-Allow-Origin", b"*"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")],
        PREFIX, "api",
    ) == [("Set-Cookie", "a"), ("Set-Cookie", "b")]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        (b"X-Name", b"caf\xc3\xa9", "caf\u00e9"),
        (b"X-Name", b"caf\xe9", "caf\u00e9"),
        (b"Location", b"/caf\xe9", f"{PREFIX}/caf%E9"),
        (b"Location", b"/caf\xc3\xa9", f"{PREFIX}/caf%C3%A9"),
    ],
)
def test_headers_beyond_ascii(name: bytes, value: bytes, wanted: str) -> None:
    ((_, text),) = rewrite.response_headers([(name, value)], PREFIX, "api")
    assert text == wanted
    text.encode()


def test_a_request_that_is_not_utf8_is_passed_on() -> None:
    made = dict(rewrite.request_headers([], peer="", host="\udce9", uri="/\udce9"))
    assert (made[b"X-Forwarded-Host"], made[b"X-Forwarded-Uri"]) == (b"\xe9", b"/\xe9")


PAGE = (
    b'<html><a href="/x">/x</a><img src=\'/i.png\'><a href="rel">r</a><a href="//cdn/x">c</a><form action=/go>'
    b'<p title="/no">1 < 2 /x</p></html>'
)
SEEN = PAGE.replace(b'"/x"', f'"{PREFIX}/x"'.encode()).replace(b"'/i", f"'{PREFIX}/i".encode())
SEEN = SEEN.replace(b"=/go", f"={PREFIX}/go".encode())


HTML = ("Content-Type", "text/html; charset=utf-8")


def passed(pieces: Iterable[bytes], encoding: str) -> bytes:
    body = rewrite.body_of([HTML, ("Content-Encoding", encoding)], PREFIX)
    return b"".join([*(part for piece in pieces for part in body.feed(piece)), *body.end()])


def cut(page: bytes, size: int) -> list[bytes]:
    return [page[at : at + size] for at in range(0, len(page), size)]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_links_of_a_page(size: int, encoding: str) -> None:
    page = gzip.compress(PAGE) if encoding == "gzip" else PAGE
    assert passed(cut(page, size), encoding) == SEEN
    assert "content-length" in rewrite.body_of([HTML, ("Content-Encoding", encoding)], PREFIX).taken


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_page_of_several_members(size: int) -> None:
    page = b"".join(gzip.compress(part) for part in (PAGE[:20], b"", PAGE[20:]))
    assert passed(cut(page, size), "gzip") == SEEN


def test_no_body_is_no_page() -> None:
    assert passed([], "gzip") == passed([], "identity") == b""


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (gzip.compress(PAGE)[:-1], "ends in its middle"),
        (gzip.compress(PAGE) + gzip.compress(PAGE)[:12], "ends in its middle"),
        (gzip.compress(PAGE) + b"more", "malformed"),
        (zlib.compress(PAGE), "malformed"),
        (PAGE, "malformed"),
    ],
)
def test_a_page_that_is_not_packed_as_it_says_breaks_off(page: bytes, why: str) -> None:
    with pytest.raises(rewrite.BadBody, match=why):
        passed([page], "gzip")


def test_a_page_is_unpacked_in_slices() -> None:
    page = b'<a href="/x">some text</a>' * 40_000
    body = rewrite.body_of([HTML, ("Content-Encoding", "gzip")], "/p")
    packed = gzip.compress(page)
    assert len(packed) < rewrite.SLICE_BYTES
    parts = [*body.feed(packed), *body.end()]
    assert b"".join(parts) == page.replace(b"/x", b"/p/x")
    assert max(map(len, parts)) <= 2 * rewrite.SLICE_BYTES


def test_a_page_that_grows_beyond_reason_breaks_off() -> None:
    body = rewrite.body_of([HTML, ("Content-Encoding", "gzip")], "/p")
    sizes: list[int] = []
    with pytest.raises(rewrite.BadBody, match="bytes of gzip unpack to more than"):
        sizes.extend(map(len, body.feed(gzip.compress(bytes(rewrite.MIN_RATED_BYTES * 2)))))
    size = sum(sizes)
    assert rewrite.MIN_RATED_BYTES - rewrite.SLICE_BYTES <= size <= rewrite.MIN_RATED_BYTES


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Type", "text/css")],
        [],
        [("Content-Type", "text/html"), ("Content-Encoding", "br")],
        [("Content-Type", "text/html"), ("Content-Encoding", "deflate")],
    ],
)
def test_what_is_no_page_stays_as_it_is(headers: list[tuple[str, str]]) -> None:
    body = rewrite.body_of(headers, PREFIX)
    assert [*body.feed(b'<a href="/x">'), *body.end()] == [b'<a href="/x">']
    assert not body.taken
