"""The API under bodies, patches and clients that nobody means well with: never a 500, never a loop that stands still, memory
bounded, limits in Kubernetes' words. Against a real server process, so that what it does to the process shows.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.pb import apps_v1_pb2, core_v1_pb2, meta_runtime_pb2
from wherry.testing.fuzzing import (
    APPLY,
    CONFIG_MAPS,
    CONTAINER,
    DEPLOYMENTS,
    JSON_PATCH,
    MEBI,
    MERGE,
    OPERATIONS,
    PODS,
    PROTOBUF,
    SEEDS,
    SERVICES,
    STRATEGIC,
    VALUES,
    Front,
    a_config_map,
    a_pod,
    fine,
    fuzzing,
    spoiled,
)  # fmt: skip

pytestmark = pytest.mark.timeout(300)

fuzzed = fuzzing(150)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    made = Front(tmp_path_factory.mktemp("fuzz"))
    try:
        for path, name in ((PODS, "p"), (DEPLOYMENTS, "d"), (CONFIG_MAPS, "c"), (SERVICES, "s")):
            status, text = made.ask("POST", path, json.dumps(SEEDS[path](name)).encode())
            assert status == 201, text
        yield made
        log = made.server.log.read_text()
        assert "Traceback" not in log, log[-5000:]
    finally:
        made.stop()


NAMES = {PODS: "p", DEPLOYMENTS: "d", CONFIG_MAPS: "c", SERVICES: "s"}


@fuzzed
@given(
    path=st.sampled_from(sorted(SEEDS)), data=st.data(), validation=st.sampled_from(["", "Strict", "Warn", "Ignore"])
)
def test_objects(front: Front, path: str, data: st.DataObject, validation: str) -> None:
    body = data.draw(spoiled(st.just(SEEDS[path]("x"))))
    url = f"{path}?dryRun=All&fieldValidation={validation}"
    fine(*front.ask("POST", url, json.dumps(body).encode()), path, body)
    body = data.draw(spoiled(st.just(SEEDS[path](NAMES[path]))))
    fine(*front.ask("PUT", f"{path}/{NAMES[path]}?dryRun=All", json.dumps(body).encode()), path, body)


@fuzzed
@given(path=st.sampled_from(sorted(SEEDS)), kind=st.sampled_from([MERGE, STRATEGIC, APPLY]), data=st.data())
def test_patches(front: Front, path: str, kind: str, data: st.DataObject) -> None:
    api_version, object_kind = {
        PODS: ("v1", "Pod"), DEPLOYMENTS: ("apps/v1", "Deployment"), CONFIG_MAPS: ("v1", "ConfigMap"),
        SERVICES: ("v1", "Service"),
    }[path]  # fmt: skip
    whole = {"apiVersion": api_version, "kind": object_kind, **SEEDS[path](NAMES[path])}
    body = data.draw(VALUES | spoiled(st.just(whole)))
    query = {"dryRun": "All"} | ({"fieldManager": "fuzz", "force": "true"} if kind == APPLY else {})
    sub = data.draw(st.sampled_from(["", "", "", "/status", "/scale", "/ephemeralcontainers", "/finalize"]))
    url = f"{path}/{NAMES[path]}{sub}?{urlencode(query)}"
    fine(*front.ask("PATCH", url, json.dumps(body).encode(), kind), url, body)


@fuzzed
@given(path=st.sampled_from(sorted(SEEDS)), operations=OPERATIONS | VALUES)
def test_json_patches(front: Front, path: str, operations: Any) -> None:
    url = f"{path}/{NAMES[path]}?dryRun=All"
    fine(*front.ask("PATCH", url, json.dumps(operations).encode(), JSON_PATCH), url, operations)


@fuzzed
@given(
    body=st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
    | st.builds(lambda value, cut: json.dumps(value).encode()[:cut], spoiled(st.just(a_pod("x"))), st.integers(0, 400)),
    content_type=st.sampled_from(
        ["application/json", "application/yaml", PROTOBUF, "", "text/plain", "application/json;;", MERGE, APPLY]
    ),
    method=st.sampled_from(["POST", "PUT", "PATCH", "DELETE"]),
)
def test_bytes(front: Front, body: bytes, content_type: str, method: str) -> None:
    url = f"{PODS}?dryRun=All" if method == "POST" else f"{PODS}/p?dryRun=All&fieldManager=f"
    fine(*front.ask(method, url, body, content_type), method, content_type, body)


def envelope(raw: bytes, kind: str, api_version: str) -> bytes:
    unknown = meta_runtime_pb2.Unknown(raw=raw)
    unknown.type_meta.kind, unknown.type_meta.api_version = kind, api_version
    return b"k8s\x00" + unknown.SerializeToString()


def whole_pod() -> core_v1_pb2.Pod:
    pod = core_v1_pb2.Pod()
    pod.metadata.name = "x"
    container = pod.spec.containers.add(name="c", image="i")
    container.resources.limits["cpu"].string = "1"
    container.ports.add(container_port=80)
    pod.spec.volumes.add(name="v").volume_source.empty_dir.SetInParent()
    return pod


@fuzzed
@given(cut=st.integers(0, 10**6), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
       inner=st.booleans())  # fmt: skip
def test_protobuf(front: Front, cut: int, flips: list[tuple[int, int]], inner: bool) -> None:
    """Cut off anywhere, with bytes that are others: in the object, or in the envelope around it."""
    deployment = apps_v1_pb2.Deployment()
    deployment.metadata.name = "x"
    deployment.spec.template.spec.CopyFrom(whole_pod().spec)
    for path, message, api_version in ((PODS, whole_pod(), "v1"), (DEPLOYMENTS, deployment, "apps/v1")):
        kind, raw = type(message).DESCRIPTOR.name, message.SerializeToString()
        body = bytearray(raw if inner else envelope(raw, kind, api_version))
        for at, value in flips:
            body[at % len(body)] = value
        body = body[: cut % (len(body) + 1)] if cut % 3 else body
        sent = envelope(bytes(body), kind, api_version) if inner else bytes(body)
        fine(*front.ask("POST", f"{path}?dryRun=All", sent, PROTOBUF, Accept="application/json"), path, sent)


QUERY_VALUES = st.text(max_size=30) | st.sampled_from(
    ["0", "-1", "1", "true", "99999999999999999999", "a=b", "a in (b", "!a", "metadata.name=p", "x=y", ",", "All", "Exact",
     "NotOlderThan", "Strict", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0", "\x00", "é"]
)  # fmt: skip
QUERIES = st.dictionaries(
    st.sampled_from(
        ["limit", "continue", "resourceVersion", "resourceVersionMatch", "labelSelector", "fieldSelector", "timeoutSeconds",
         "pretty", "dryRun", "fieldManager", "fieldValidation", "gracePeriodSeconds", "propagationPolicy", "includeObject",
         "sendInitialEvents", "allowWatchBookmarks", "orphanDependents", "force"]
    ),
    QUERY_VALUES,
    max_size=4,
)  # fmt: skip
SEGMENTS = st.lists(
    st.sampled_from(["api", "apis", "v1", "apps", "namespaces", "default", "pods", "deployments", "p", "status", "log", "watch",
                     "openapi", "v3", "healthz", "..", "%2e", "proxy", "token", "exec"]) | st.text(max_size=5),
    max_size=8,
)  # fmt: skip


@fuzzed
@given(query=QUERIES, path=st.sampled_from(sorted(SEEDS)), method=st.sampled_from(["GET", "DELETE", "PATCH", "HEAD"]))
def test_queries(front: Front, query: dict[str, str], path: str, method: str) -> None:
    body = b"{}" if method == "PATCH" else None
    query = {**query, "dryRun": "All"} if method != "GET" else query
    url = f"{path}{'' if method == 'GET' else '/' + NAMES[path]}?{urlencode(query)}"
    status, text = front.ask(method, url, body, MERGE)
    if status == 504:  # a revision that is not there yet is waited for a while, and then said to be too large
        assert b"Too large resource version" in text
    elif method != "HEAD":
        fine(status, text, url)


@fuzzed
@given(segments=SEGMENTS, method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]))
def test_paths(front: Front, segments: list[str], method: str) -> None:
    url = "/" + "/".join(quote(segment, safe="%.") for segment in segments)
    query = "?dryRun=All&timeoutSeconds=1"
    status, text = front.ask(method, url + query, b"{}" if method in ("POST", "PUT") else None)
    assert status < 500 or b"healthz check failed" in text, (status, text[:2000], method, url)


# sizes, depths, and clients that take their time


def status_of(answer: tuple[int, bytes]) -> tuple[int, str, str]:
    code, text = answer
    body = json.loads(text)
    return code, body.get("reason", ""), body.get("message", "")


def test_a_request_is_at_most_3_mebibytes(front: Front) -> None:
    big = json.dumps({**a_config_map("big"), "data": {"k": "v" * (3 * MEBI)}}).encode()
    wanted = (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")
    for method, path, kind in (
        ("POST", CONFIG_MAPS, "application/json"), ("PUT", f"{CONFIG_MAPS}/c", "application/json"),
        ("PATCH", f"{CONFIG_MAPS}/c", MERGE), ("DELETE", f"{CONFIG_MAPS}/c", "application/json"),
        ("PATCH", f"{CONFIG_MAPS}/c?fieldManager=f", APPLY), ("POST", CONFIG_MAPS, PROTOBUF),
    ):  # fmt: skip
        assert status_of(front.ask(method, path, big, kind)) == wanted
        front.close()


def test_a_request_that_does_not_say_how_long_it_is(front: Front) -> None:
    connection = front.connect()
    connection.request("POST", CONFIG_MAPS, (b"x" * MEBI for _ in range(4)), {"Content-Type": "application/json"},
                       encode_chunked=True)  # fmt: skip
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["reason"]) == (413, "RequestEntityTooLarge")
    connection.close()


def test_an_object_is_at_most_what_the_store_takes(front: Front) -> None:
    big = json.dumps({**a_config_map("big"), "data": {f"k{number}": "v" * MEBI for number in range(2)}}).encode()
    code, reason, message = status_of(front.ask("POST", CONFIG_MAPS, big))
    # A ConfigMap has a limit of its own, below the store's.
    assert (code, reason) == (422, "Invalid")
    assert "Too long: may not be more than 1048576 bytes" in message
    env = [{"name": f"N{number}", "value": "v" * 1000} for number in range(1600)]
    pod = json.dumps({"metadata": {"name": "big"}, "spec": {"containers": [{**CONTAINER, "env": env}]}}).encode()
    code, reason, message = status_of(front.ask("POST", PODS, pod))
    assert (code, reason) == (413, "RequestEntityTooLarge")
    assert "too large" in message


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"[" * MEBI),
        ("application/json", b'{"metadata":' * 100_000),
        ("application/json", b'{"a":' + b"[" * 150 + b"]" * 150 + b"}"),
        ("application/json", b'{"metadata":{"name":"x"},"spec":{"containers":[' + b"{}," * 300_000 + b"{}]}}"),
        ("application/json", b'{"metadata":{"labels":{' + b'"a":"b",' * 60_000 + b'"c":"d"}}}'),
        ("application/json", b'{"metadata":{"name":"x","finalizers":[' + b'"",' * 900_000 + b'""]},"spec":{}}'),
        ("application/json", b'{"metadata":{"name":"x","labels":{' + b",".join(
            b'"a%d":"!"' % number for number in range(190_000)
        ) + b'}},"spec":{}}'),
        (PROTOBUF, envelope(b"\x12\xf0\x93\x09" + b"\x12\x00" * 75_000, "Pod", "v1")),
        ("application/json", b'{"metadata":{"generation":' + b"9" * MEBI + b"}}"),
        ("application/yaml", b"a: &a [" + b"x," * 20 + b"]\n" + b"".join(
            b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 20)) for n in range(12)
        )),
        ("application/yaml", b"- " * 100_000),
        ("application/yaml", b"{" * 100_000),
        ("application/yaml", b"? " * 100_000),
        (PROTOBUF, b"k8s\x00" + b"\x12\x80\x80\x80\x80\x08" + b"x" * 100),
        (PROTOBUF, envelope(b"\x12" + b"\x0a" * 50_000, "Pod", "v1")),
    ],
    ids=["brackets", "objects", "within the limit", "many containers", "one label", "finalizers",
         "labels", "packed containers", "one number", "aliases",
         "lists", "flow", "keys", "a length", "levels"],
)  # fmt: skip
def test_bombs(front: Front, kind: str, body: bytes) -> None:
    """Refused, and soon; with the memory that it took given back."""
    asked = [("POST", f"{PODS}?dryRun=All", kind)]
    if kind != PROTOBUF:
        asked += [("PATCH", f"{PODS}/p?dryRun=All&fieldManager=f", APPLY), ("PATCH", f"{PODS}/p?dryRun=All", STRATEGIC)]
        asked += [("PATCH", f"{PODS}/p?dryRun=All", MERGE)]
    for method, url, content_type in asked:
        status, text = front.ask(method, url, body, content_type)
        fine(status, text)
        assert len(text) < MEBI, "an answer is not to be many times what was asked"
    assert front.ask("GET", "/livez")[0] == 200


def test_memory_after_large_requests(front: Front) -> None:
    """Many large ones cost no more than a few: nothing of them is kept."""
    body = json.dumps({**a_config_map("x"), "data": {f"k{n}": "v" * 100 for n in range(8000)}}).encode()

    def burst(count: int) -> float:
        for _ in range(count):
            fine(*front.ask("POST", f"{CONFIG_MAPS}?dryRun=All", body))
            fine(*front.ask("POST", f"{PODS}?dryRun=All", b'{"a":[' + b"{}," * 100_000 + b"{}]}"))
        return front.rss_mib

    first = burst(3)
    assert burst(6) < first + 40


def test_slow_clients_wait_alone(front: Front) -> None:
    """Headers, bodies and handshakes that never end hold up nobody else."""
    held: list[socket.socket] = []
    request = f"POST {PODS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    try:
        for _ in range(30):
            held.append(socket.create_connection(("127.0.0.1", front.port), 60))  # not even a handshake
            half = front.raw()
            half.sendall(request.encode())  # not the end of its headers
            held.append(half)
            waiting = front.raw()
            waiting.sendall(f"{request}Content-Length: 1000000\r\n\r\n{{".encode())
            held.append(waiting)
            deaf = front.raw()  # asks a lot, and reads nothing
            for _ in range(5):
                deaf.sendall(b"GET /openapi/v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            held.append(deaf)
        for _ in range(20):
            assert front.ask("GET", PODS)[0] == 200
    finally:
        for each in held:
            each.close()


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.full)])
def test_idle_watches(front: Front, count: int) -> None:
    """They cost memory by the connection and no time; each hears of a change."""
    before = front.rss_mib
    watches = []
    try:
        for _ in range(count):
            watch = front.raw()
            watch.sendall(f"GET {CONFIG_MAPS}?watch=1&resourceVersion=0 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            watches.append(watch)
        for watch in watches:
            _read_until(watch, b'"ADDED"')
        assert (front.rss_mib - before) / count < 0.25
        status, text = front.ask("POST", CONFIG_MAPS, json.dumps(a_config_map(f"told-{count}")).encode())
        assert status == 201, text
        for watch in watches:
            _read_until(watch, f'"told-{count}"'.encode())
    finally:
        for watch in watches:
            watch.close()
    assert front.ask("GET", PODS)[0] == 200


def _read_until(stream: ssl.SSLSocket, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        chunk = stream.recv(65536)
        assert chunk, seen[-1000:]
        seen = seen[-1000:] + chunk
