"""The Kubernetes REST API over real TLS: who may ask, what a request can look like, and what comes back."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from controlplane.fronts.flow import Limits as FlowLimits
from controlplane.fronts.http.bodies import MAGIC
from controlplane.fronts.http.encoding import envelope
from controlplane.registry.base import Identity
from controlplane.server import Options
from wherry.api.context import Env
from wherry.pb import core_v1_pb2, meta_runtime_pb2
from wherry.testing.https import Caller, Https, https

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PROTOBUF = "application/vnd.kubernetes.protobuf"


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def test_health_and_version_are_for_everybody_and_nothing_else_is(front: Https) -> None:
    async with front.caller("") as nobody:
        for path in ("/healthz", "/readyz", "/livez", "/livez/ping", "/version"):
            assert (await nobody.ask("GET", path)).status == 200, path
        for path in ("/api", "/apis", "/metrics", "/nope", CONFIG_MAPS):
            answer = await nobody.ask("GET", path)
            assert (answer.status, answer.json["reason"]) == (403, "Forbidden"), path
            assert "system:anonymous" in answer.json["message"]


async def test_a_certificate_names_the_user_and_its_groups(front: Https) -> None:
    async with front.caller("alice", ("devs",)) as alice:
        assert (await alice.ask("GET", "/api")).status == 200
        answer = await alice.ask("GET", CONFIG_MAPS)
        assert answer.json["message"] == (
            'configmaps is forbidden: User "alice" cannot list resource "configmaps" in API group "" '
            'in the namespace "default"'
        )
        answer = await alice.ask("GET", "/version", Impersonate_User="bob")
        assert 'User "alice" cannot impersonate resource "users"' in answer.json["message"]


async def test_an_administrator_may_speak_for_others(admin: Caller) -> None:
    answer = await admin.ask("GET", CONFIG_MAPS, Impersonate_User="bob")
    assert answer.status == 403
    assert '"bob"' in answer.json["message"]


async def test_an_unknown_token_is_nobody(front: Https) -> None:
    async with front.caller("") as nobody:
        answer = await nobody.ask("GET", "/version", Authorization="Bearer x")
        assert (answer.status, answer.json["message"]) == (401, "Unauthorized")


async def test_an_object_lives_and_dies(admin: Caller) -> None:
    made = await admin.ask("POST", CONFIG_MAPS, config_map("a", k="1"))
    assert (made.status, made.json["data"]) == (201, {"k": "1"})
    got = await admin.ask("GET", f"{CONFIG_MAPS}/a")
    assert got.json == made.json
    changed = await admin.ask("PUT", f"{CONFIG_MAPS}/a", {**got.json, "data": {"k": "2"}})
    assert changed.json["data"] == {"k": "2"}
    stale = await admin.ask("PUT", f"{CONFIG_MAPS}/a", got.json)
    assert (stale.status, stale.json["reason"]) == (409, "Conflict")
    merged = await admin.ask(
        "PATCH", f"{CONFIG_MAPS}/a", {"data": {"x": "y"}}, content_type="application/merge-patch+json"
    )
    assert merged.json["data"] == {"k": "2", "x": "y"}
    gone = await admin.ask("DELETE", f"{CONFIG_MAPS}/a")
    assert (gone.status, gone.json["status"], gone.json["details"]["name"]) == (200, "Success", "a")
    assert (await admin.ask("GET", f"{CONFIG_MAPS}/a")).status == 404


async def test_what_a_put_that_creates_and_a_delete_answer(admin: Caller) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l"
    lease = {"metadata": {"name": "l"}, "spec": {}}
    assert (await admin.ask("PUT", path, lease)).status == 201
    again = (await admin.ask("GET", path)).json
    assert (await admin.ask("PUT", path, again)).status == 200
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "a"}]}}
    assert (await admin.ask("POST", "/api/v1/namespaces/default/pods", pod)).status == 201
    gone = await admin.ask("DELETE", "/api/v1/namespaces/default/pods/p")
    assert (gone.status, gone.json["kind"], gone.json["metadata"]["name"]) == (200, "Pod", "p")


async def test_apply_owns_its_fields(admin: Caller) -> None:
    path = f"{CONFIG_MAPS}/a?fieldManager=one"
    body = "apiVersion: v1\nkind: ConfigMap\ndata: {k: '1'}\n"
    first = await admin.ask("PATCH", path, body, content_type="application/apply-patch+yaml")
    again = await admin.ask("PATCH", path, body, content_type="application/apply-patch+yaml")
    assert (first.status, again.status) == (201, 200)
    assert again.json["metadata"]["resourceVersion"] == first.json["metadata"]["resourceVersion"]
    other = path.replace("one", "two")
    conflict = await admin.ask("PATCH", other, body.replace("1'", "2'"), content_type="application/apply-patch+yaml")
    assert (conflict.status, conflict.json["details"]["causes"][0]["field"]) == (409, ".data.k")
    forced = await admin.ask(
        "PATCH", f"{other}&force=true", body.replace("1'", "2'"), content_type="application/apply-patch+yaml"
    )
    assert forced.json["data"] == {"k": "2"}


async def test_protobuf_goes_both_ways(admin: Caller) -> None:
    message = core_v1_pb2.ConfigMap(data={"k": "v"})
    message.metadata.name = "p"
    message.metadata.creation_timestamp.SetInParent()  # as Go writes it
    made = await admin.ask(
        "POST", CONFIG_MAPS, envelope("v1", "ConfigMap", message.SerializeToString()), content_type=PROTOBUF,
        Accept=PROTOBUF,
    )  # fmt: skip
    assert (made.status, made.content[:4]) == (201, MAGIC)
    listed = await admin.ask("GET", CONFIG_MAPS, Accept=PROTOBUF)
    unknown = meta_runtime_pb2.Unknown.FromString(listed.content[4:])
    assert unknown.type_meta.kind == "ConfigMapList"
    items = core_v1_pb2.ConfigMapList.FromString(unknown.raw).items
    assert [dict(item.data) for item in items if item.metadata.name == "p"] == [{"k": "v"}]


async def test_empty_messages_of_a_protobuf_body_are_no_difference(admin: Caller) -> None:
    pod = core_v1_pb2.Pod()
    pod.metadata.name = "p"
    pod.metadata.creation_timestamp.SetInParent()
    container = pod.spec.containers.add(name="c", image="i")
    container.resources.SetInParent()
    path = "/api/v1/namespaces/default/pods?dryRun=All"
    wire = await admin.ask(
        "POST", path, envelope("v1", "Pod", pod.SerializeToString()), content_type=PROTOBUF, Accept=PROTOBUF
    )
    text = await admin.ask(
        "POST",
        path,
        {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        Accept=PROTOBUF,
    )
    specs = [
        core_v1_pb2.Pod.FromString(meta_runtime_pb2.Unknown.FromString(answer.content[4:]).raw).spec
        for answer in (wire, text)
    ]
    for spec in specs:
        spec.containers[0].volume_mounts[0].name = "some"  # the token's volume has a name of its own each time
    assert specs[0].containers == specs[1].containers


async def test_yaml_goes_both_ways(admin: Caller) -> None:
    body = "kind: ConfigMap\nmetadata: {name: in-yaml}\ndata: {k: v}\n"
    made = await admin.ask("POST", CONFIG_MAPS, body, content_type="application/yaml", Accept="application/yaml")
    assert made.status == 201
    assert "kind: ConfigMap\n" in made.text


async def test_a_watch_sees_what_happens_and_ends_in_time(admin: Caller) -> None:
    start = (await admin.ask("GET", CONFIG_MAPS)).json["metadata"]["resourceVersion"]
    watching = asyncio.create_task(
        admin.ask("GET", f"{CONFIG_MAPS}?watch=true&resourceVersion={start}&timeoutSeconds=1&labelSelector=!x")
    )
    await admin.ask("POST", CONFIG_MAPS, config_map("a"))
    await admin.ask(
        "PATCH", f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"x": "y"}}}, content_type="application/merge-patch+json"
    )
    events = [json.loads(line) for line in (await watching).text.splitlines()]
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
        ("ADDED", "a"),
        ("DELETED", "a"),
    ]
    assert events[0]["object"]["kind"] == "ConfigMap"


async def test_initial_events_end_with_a_bookmark(admin: Caller) -> None:
    await admin.ask("POST", CONFIG_MAPS, config_map("a"))
    answer = await admin.ask(
        "GET",
        f"{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        "&timeoutSeconds=1",
    )
    events = [json.loads(line) for line in answer.text.splitlines()]
    assert [event["type"] for event in events[:2]] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_watcher_that_goes_away_leaves_nothing_behind(front: Https, admin: Caller) -> None:
    await admin.ask("POST", CONFIG_MAPS, config_map("a"))
    async with front.caller() as caller, caller.session.get(f"{caller.base}{CONFIG_MAPS}?watch=true") as response:
        assert b"ADDED" in await response.content.readany()
        assert connections() == 2
    for _ in range(500):
        if connections() == 1:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the watch goes on without its client")


def connections() -> int:
    """That the front holds, each with its task."""
    return sum("RequestHandler.start" in str(task.get_coro()) for task in asyncio.all_tasks())


async def test_long_answers_are_compressed_for_those_who_can_read_that(front: Https, admin: Caller) -> None:
    for number in range(4):
        await admin.ask("POST", CONFIG_MAPS, config_map(f"a{number}", k="x" * 50_000))
    import aiohttp

    connector = aiohttp.TCPConnector(ssl=front.context("admin"))
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        async with session.get(admin.base + CONFIG_MAPS, headers=headers) as response:
            packed = await response.read()
            assert response.headers["Content-Encoding"] == "gzip"
        headers["Accept-Encoding"] = "identity"
        async with session.get(admin.base + CONFIG_MAPS, headers=headers) as response:
            plain = await response.read()
            assert "Content-Encoding" not in response.headers
    assert json.loads(gzip.decompress(packed))["items"] == json.loads(plain)["items"]
    assert len(packed) < len(plain) / 10


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "reason"),
    [
        ("GET", "/api/v9", None, {}, 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/nopes", None, {}, 404, "NotFound"),
        ("GET", f"{CONFIG_MAPS}/a/nope", None, {}, 404, "NotFound"),
        ("GET", f"{CONFIG_MAPS}/a/b/c", None, {}, 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/nodes", None, {}, 404, "NotFound"),
        ("POST", f"{CONFIG_MAPS}/a", {}, {}, 405, "MethodNotAllowed"),
        ("PUT", CONFIG_MAPS, {}, {}, 405, "MethodNotAllowed"),
        ("TRACE", CONFIG_MAPS, None, {}, 405, "MethodNotAllowed"),
        ("GET", CONFIG_MAPS, None, {"Accept": "text/html"}, 406, "NotAcceptable"),
        ("POST", CONFIG_MAPS, b"x=1", {"content_type": "application/x-www-form-urlencoded"}, 415, "UnsupportedMediaType"),
        ("POST", CONFIG_MAPS, b"{x", {}, 400, "BadRequest"),
        ("POST", CONFIG_MAPS, b"", {}, 400, "BadRequest"),
        ("POST", CONFIG_MAPS, b"k8s\x00\xff\xff", {"content_type": PROTOBUF}, 400, "BadRequest"),
        ("POST", CONFIG_MAPS, b"[" * 100_000, {}, 400, "BadRequest"),
        ("POST", CONFIG_MAPS, b"x" * (3 * 1024 * 1024 + 1), {}, 413, "RequestEntityTooLarge"),
        ("POST", f"{CONFIG_MAPS}?fieldValidation=Strict", {"metadata": {"name": "a"}, "x": 1}, {}, 400, "BadRequest"),
        ("POST", f"{CONFIG_MAPS}?dryRun=Some", config_map("a"), {}, 422, "Invalid"),
        ("GET", f"{CONFIG_MAPS}?limit=x", None, {}, 400, "BadRequest"),
        ("GET", f"{CONFIG_MAPS}?watch=1&fieldSelector=nope%3Dx", None, {}, 400, "BadRequest"),
        ("PATCH", f"{CONFIG_MAPS}/a", {}, {}, 415, "UnsupportedMediaType"),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, dict) else "",
)  # fmt: skip
async def test_a_bad_request_is_refused_in_words(
    admin: Caller, method: str, path: str, body: object, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = await admin.ask(method, path, body, **headers)
    assert (answer.status, answer.json["kind"], answer.json["reason"], answer.json["code"]) == (
        status, "Status", reason, status,
    )  # fmt: skip
    assert answer.json["message"]


async def test_unknown_fields_are_warned_of(admin: Caller) -> None:
    answer = await admin.ask("POST", CONFIG_MAPS, {**config_map("a"), "nope": {}})
    assert (answer.status, answer.warnings) == (201, ['299 - "unknown field \\"nope\\""'])


async def test_openapi_documents_agree_with_each_other(admin: Caller) -> None:
    index = (await admin.ask("GET", "/openapi/v3")).json["paths"]
    v3 = await admin.ask("GET", index["apis/apps/v1"]["serverRelativeURL"])
    assert v3.headers["Cache-Control"] == "public, immutable"
    again = await admin.ask("GET", "/openapi/v3/apis/apps/v1", If_None_Match=v3.headers["ETag"])
    assert (again.status, again.content) == (304, b"")
    containers = v3.json["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    patch = v3.json["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert {"dryRun", "fieldValidation", "force"} <= {parameter["name"] for parameter in patch["parameters"]}
    v2 = (await admin.ask("GET", "/openapi/v2")).json
    assert set(v3.json["components"]["schemas"]) <= set(v2["definitions"])
    for name, found in v2["definitions"].items():
        for reference in json.dumps(found).split('"#/definitions/')[1:]:
            assert reference.partition('"')[0] in v2["definitions"], name
    wire = await admin.ask("GET", "/openapi/v2", Accept="application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
    assert wire.headers["Content-Type"] == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    assert b"io.k8s.api.core.v1.PodSpec" in wire.content
    assert (await admin.ask("GET", "/openapi/v3/apis/nope/v1")).status == 404


async def test_too_many_requests_are_refused_and_nodes_are_not() -> None:
    """A client that has all the seats that it may have waits, then is told to come back; nodes have seats of their own."""
    flow = FlowLimits(reads=1, writes=1)
    async with https(Env(), Options(scheduler=False, controllers=False, flow=flow)) as front, front.caller() as caller:
        seat = await front.plane.flow.enter(Identity("admin"), writes=False)
        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("controlplane.fronts.flow.MAX_WAIT_S", 0.01)
                answer = await caller.ask("GET", "/api/v1/namespaces")
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            assert (answer.json["reason"], answer.json["message"]) == (
                "TooManyRequests", "Too many requests, please try again later.",
            )  # fmt: skip
            assert (await caller.ask("GET", "/readyz")).status == 200
            async with front.caller("system:node:n", ("system:nodes",)) as node:
                assert (await node.ask("GET", "/api/v1/nodes/n")).status == 404
        finally:
            seat.leave()
        # A watch has a seat only until it stands.
        url = f"https://{front.address}/api/v1/namespaces?watch=true"
        async with caller.session.get(url) as watch:
            assert watch.status == 200
            assert (await caller.ask("GET", "/api/v1/namespaces")).status == 200
            metrics = (await caller.ask("GET", "/metrics")).text
        labels = '{priority_level="workload",request_kind="readOnly"}'
        assert f"apiserver_flowcontrol_rejected_requests_total{labels} 1.0" in metrics
        front.plane.flow.check_invariants()
