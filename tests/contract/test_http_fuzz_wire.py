"""What is not HTTP, or hardly: lies about lengths, floods of headers, compressed bombs, requests without pause, and clients that
read a long list or a watch slowly or not at all. Whoever looks after the process is answered all the while.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
from collections.abc import Iterator

import pytest

from wherry.testing.fuzzing import APPLY, CONFIG_MAPS, MEBI, PODS, Front, a_config_map, looked_after

pytestmark = pytest.mark.timeout(300)

HOST = b"Host: x\r\n"
LAST = b"GET /livez HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n"
STATUS = re.compile(rb"HTTP/[\d.]+ (\d{3}) ")
POST = f"POST {CONFIG_MAPS}?dryRun=All HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
BODY = json.dumps(a_config_map("x")).encode()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    made = Front(tmp_path_factory.mktemp("fuzz"))
    try:
        with looked_after(made):
            yield made
    finally:
        made.stop()


def answers(front: Front, sent: bytes, *, timeout_s: float = 30) -> bytes:
    """All that comes back for these bytes and a last request that ends the connection, until it ends."""
    with front.raw() as stream:
        stream.settimeout(timeout_s)
        received = b""
        try:
            stream.sendall(sent + (b"" if b" HTTP/1.0\r\n" in sent else LAST))
            while (part := stream.recv(65536)) and b"Too Large" not in part:  # the rest of such a body is waited for
                received += part
            received += part
        except (ConnectionError, OSError):
            pass  # refused in the middle of what was sent
        return received


def chunked(*chunks: bytes) -> bytes:
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks)


BOMB = gzip.compress(b'{"a":"' + b"a" * (100 * MEBI) + b'"}', 9)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + b"\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 200_000 + b"\r\n\r\n", 400),
        (b"GET /api/v1/pods?labelSelector=" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (bytes(range(256)) * 20, 400),
        (b"GET /api/v1/\x00 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (POST + b"Content-Length: -5\r\n\r\n{}", 400),
        (POST + b"Content-Length: 5\r\nContent-Length: 2\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
        (POST + b"Content-Length: %d\r\n\r\n" % (2**70) + BODY, 400),
        (POST + b"Content-Length: %d\r\n\r\n" % (4 * MEBI) + BODY, 413),
        (chunked(b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"), 400),
        (chunked(b"2\r\n{}garbage\r\n0\r\n\r\n"), 400),
        (chunked(b"-2\r\n{}\r\n0\r\n\r\n"), 400),
        (chunked(b"zz\r\n{}\r\n0\r\n\r\n"), 400),
        (chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"), 400),
        (chunked(*(b"1\r\n%c\r\n" % byte for byte in BODY), b"0\r\n\r\n"), 201),
        (POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB, 400),
        (POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY, 201),
        (POST.replace(b"application/json", b"text/html") + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY, 415),
        (b"GET /api/v1/namespaces HTTP/1.0\r\n\r\n", 200),
        (b"GET /api/v1/namespaces?watch=1&timeoutSeconds=1 HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /livez HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"TRACE /api/v1/pods HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"GET http://elsewhere/livez HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    ],
    ids=["headers", "a header", "a path", "no host", "HTTP/2", "bytes", "NUL", "negative", "twice", "both", "huge", "too long",
         "a chunk's size", "after a chunk", "a negative chunk", "no size", "trailers", "byte by byte", "a gzip bomb", "expected",
         "a type", "HTTP/1.0", "an old watch", "HEAD", "TRACE", "CONNECT", "a whole URL"],
)  # fmt: skip
def test_requests(front: Front, sent: bytes, status: int) -> None:
    received = answers(front, sent)
    codes = [int(code) for code in STATUS.findall(received)]
    assert status in codes, received[:500]
    assert not [code for code in codes if code >= 500], received[:2000]


def test_nothing_is_unpacked(front: Front) -> None:
    """Of a compressed body; so a bomb costs what was sent."""
    before = front.rss_mib
    for _ in range(5):
        answers(front, POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB)
    assert front.rss_mib < before + 40


def test_many_requests_at_once_on_one_connection(front: Front) -> None:
    """Pipelined: each is answered, in its order, writes too."""
    write = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    received = answers(front, (b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" + write) * 200)
    codes = STATUS.findall(received)
    assert codes == [b"200", b"201"] * 200 + [b"200"]


DEEP = 100_000


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"metadata":{"managedFields":[{"fieldsV1":' + b'{"f:a":'])
def test_levels(front: Front, opening: bytes) -> None:
    """A hundred thousand of them, as JSON and as YAML, for creates and patches."""
    body = opening * DEEP if len(opening) * DEEP < 3 * MEBI else opening + b'{"f:a":' * DEEP
    for method, path, kind in (
        ("POST", CONFIG_MAPS, "application/json"), ("POST", CONFIG_MAPS, "application/yaml"),
        ("PATCH", f"{CONFIG_MAPS}/x?fieldManager=f", APPLY),
    ):  # fmt: skip
        status, text = front.ask(method, path, body, kind)
        assert status == 400, text[:500]
        assert len(text) < 10_000


@pytest.mark.parametrize("megabytes", [12, pytest.param(20, marks=pytest.mark.full)])
def test_slow_readers(front: Front, megabytes: int) -> None:
    """Of a long list and of a watch, who stop after the first bytes: they hold up nobody, and what waits for them is not a
    copy of the list for each."""
    value = "v" * 900_000
    for number in range(megabytes + 1):
        made = json.dumps(
            {"metadata": {"name": f"big-{number}", "labels": {"big": "yes"}}, "data": {"k": value}}
        ).encode()
        assert front.ask("POST", CONFIG_MAPS, made)[0] == 201
    assert len(front.ask("GET", f"{CONFIG_MAPS}?labelSelector=big")[1]) > megabytes * 900_000
    before = front.rss_mib
    held: list[socket.socket] = []
    try:
        for query in ("?labelSelector=big", "?labelSelector=big&pretty=true", "?watch=1&resourceVersion=0") * 6:
            slow = front.raw()
            slow.sendall(f"GET {CONFIG_MAPS}{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert slow.recv(1000).startswith(b"HTTP/1.1 200")
            held.append(slow)
        for number in range(5):
            change = json.dumps({"data": {"k": value[:-1] + str(number)}}).encode()
            status, text = front.ask("PATCH", f"{CONFIG_MAPS}/big-{number}", change, "application/merge-patch+json")
            assert status == 200, text[:500]
        assert front.ask("GET", PODS)[0] == 200
        # About 60, an object or so for each on its way, however long the list; with a copy for each it would be 216 or 360.
        assert front.rss_mib < before + 150
    finally:
        for each in held:
            each.close()
    assert front.ask("DELETE", f"{CONFIG_MAPS}?labelSelector=big")[0] == 200


def test_random_bytes(front: Front) -> None:
    for _ in range(20):
        assert b"HTTP/1.1 5" not in answers(front, os.urandom(2000))
