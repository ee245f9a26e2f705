"""The front answers as a real API server did: the recordings of discovery, of what HTTP itself can refuse, of tables and watches.

What the registry answers is compared by tests/unit/registry/test_recordings.py; here it is paths, methods, media types, query
parameters, bodies that do not decode, and the shapes of answers. A difference that is meant is listed with its reason; one that
is listed and no longer there fails too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from wherry.testing import recorded_exceptions as exceptions
from wherry.testing import recordings
from wherry.testing.eventually import eventually
from wherry.testing.https import Answer, Caller, Https

pytestmark = pytest.mark.skipif(
    not recordings.GOLDEN.is_dir() and not os.environ.get("CI"),
    reason="no recordings of an API server beside the checkout",
)

Recorded = dict[str, Any]

VARYING = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "lastTransitionTime", "description")


def recorded(file: str) -> list[tuple[int, Recorded]]:
    if not recordings.GOLDEN.is_dir():
        return []
    lines = (recordings.GOLDEN / f"{file}.jsonl").read_text().splitlines()
    return [(number, json.loads(line)) for number, line in enumerate(lines, 1)]


@pytest.fixture
async def admin(front: Https) -> AsyncIterator[Caller]:
    async with front.caller() as caller:
        for body in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "golden"}},
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "golden-q"}},
        ):
            assert (await caller.ask("POST", "/api/v1/namespaces", body)).status == 201
        yield caller


async def ask(caller: Caller, found: Recorded, **headers: str) -> Answer:
    request = found["request"]
    body = request.get("body")
    if found["name"].startswith("too large body"):
        body = "x" * (4 << 20)
    content_type = request.get("contentType") or ""
    return await caller.ask(
        request["method"],
        request["path"],
        body,
        content_type=content_type,
        Accept=request.get("accept") or "*/*",
        **headers,
    )


def difference(expected: Recorded, answer: Answer, *, words: bool = True) -> str:
    """By meaning: the status code, and of an error its reason, message, causes and whether there are details."""
    if answer.status != expected["status"]:
        return f"status {answer.status} instead of {expected['status']}: {answer.text[:200]}"
    kind, wanted_kind = (text.partition(";")[0] for text in (answer.headers["Content-Type"], expected["contentType"]))
    if kind != wanted_kind:
        return f"{kind} instead of {wanted_kind}"
    wanted = expected.get("body")
    if not isinstance(wanted, dict):
        return ""
    got = answer.json
    if expected["status"] < 400:
        keys = ("kind", "apiVersion", "status") if wanted.get("kind") == "Status" else ("kind", "apiVersion")
        return "; ".join(f"{key}: {got.get(key)}" for key in keys if got.get(key) != wanted.get(key))
    keys = ["kind", "apiVersion", "status", "reason", "code"] + (["message", "details"] if words else [])
    if "current: " in str(wanted.get("message")):
        keys.remove("message")
    return "; ".join(
        f"{key}: {got.get(key)} instead of {wanted.get(key)}" for key in keys if got.get(key) != wanted.get(key)
    )


def verdict(file: str, found: dict[int, str]) -> None:
    known = exceptions.HTTP[file]
    wrong = [f"{number}: {text}" for number, text in found.items() if text and number not in known]
    wrong += [
        f"{number}: listed as an exception ({known[number]}), and yet as recorded"
        for number in known
        if number in found and not found[number]
    ]
    assert found, f"nothing of {file} was asked"
    assert not wrong, "\n".join(wrong)


async def test_refusals(admin: Caller) -> None:
    pod = {"metadata": {"name": "upd"}, "spec": {"containers": [{"name": "c", "image": "a"}]}}
    assert (await admin.ask("POST", "/api/v1/namespaces/golden/pods", pod)).status == 201
    await admin.ask("POST", "/api/v1/namespaces/golden/configmaps", {"metadata": {"name": "page0"}})
    found = {}
    for number, record in recorded("validation"):
        if number in recordings.DECIDED_BY_HTTP:
            answer = await ask(admin, record)
            found[number] = difference(record["response"], answer, words=number not in exceptions.OWN_WORDS)
    verdict("validation", found)


def _names(resources: list[Recorded]) -> dict[str, Recorded]:
    return {str(item.get("name") or item.get("resource")): item for item in resources}


async def test_discovery(admin: Caller) -> None:
    """What is served is described as there. That nothing is missing: tests/contract/test_http_discovery.py."""
    wrong = []
    for _, record in recorded("discovery"):
        if "response" not in record or not isinstance(record["response"].get("body"), dict):
            continue
        expected = record["response"]["body"]
        kind = expected.get("kind")
        if kind not in ("APIResourceList", "APIGroup", "APIGroupList", "APIVersions", "APIGroupDiscoveryList"):
            continue
        answer = await ask(admin, record)
        assert answer.status == 200, f"{record['name']}: {answer.status}"
        got = answer.json
        wrong += [
            f"{record['name']}: {text}"
            for text in _document_differences(kind, expected, got)
            if not text.startswith(tuple(exceptions.DISCOVERY))
        ]
        assert answer.headers["Content-Type"] == record["response"]["contentType"]
    assert not wrong, "\n".join(wrong)


def _document_differences(kind: str, expected: Recorded, got: Recorded) -> list[str]:
    if kind == "APIResourceList":
        wanted, found = _names(expected["resources"]), _names(got["resources"])
        return [
            f"{name}: {found[name]} instead of {wanted.get(name)}" for name in found if found[name] != wanted.get(name)
        ]
    if kind == "APIGroupList":
        names = [group["name"] for group in got["groups"]]
        order = [group["name"] for group in expected["groups"] if group["name"] in names]
        return [] if names[: len(order)] == order else [f"groups {names} instead of {order}"]
    if kind == "APIGroupDiscoveryList":
        groups = {group["metadata"].get("name", ""): group for group in expected["items"]}
        out = []
        for group in got["items"]:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                there = next(
                    (
                        each
                        for each in groups.get(name, {}).get("versions", ())
                        if each["version"] == version["version"]
                    ),
                    None,
                )
                if there is None:
                    continue
                wanted = _names(there["resources"])
                for resource in version["resources"]:
                    if resource["resource"] not in wanted:
                        out.append(f"{resource['resource']}: served, and not there")
                        continue
                    served = {each["subresource"] for each in resource.get("subresources", ())}
                    one = dict(wanted[resource["resource"]])
                    below = [each for each in one.pop("subresources", ()) if each["subresource"] in served]
                    if {**one, **({"subresources": below} if below else {})} != resource:
                        out.append(f"{resource['resource']}: {resource} instead of {one}")
        return out
    wanted = {key: value for key, value in expected.items() if key != "serverAddressByClientCIDRs"}
    return [f"{key}: {got.get(key)} instead of {value}" for key, value in wanted.items() if got.get(key) != value]


# discovery.jsonl: documents that say what else there is, which differs in what is served.
OTHER_PATHS = ("openapi-v3-index", "path /", "path /.well-known/openid-configuration")


async def test_paths(admin: Caller) -> None:
    """Health, version, and what lies nowhere."""
    found = {}
    for number, record in recorded("discovery"):
        if not record["name"].startswith(("path ", "accept-", "version")) or record["name"] in OTHER_PATHS:
            continue
        response = record["response"]
        answer = await ask(admin, record)
        same_text = isinstance(response["body"], dict) or "verbose" in record["name"] or answer.text == response["body"]
        found[number] = difference(response, answer) or ("" if same_text else f"{answer.text} for {response['body']}")
    assert len(found) > 10
    verdict("discovery", found)


async def test_what_every_cluster_has(admin: Caller) -> None:
    """The objects of a new cluster, name for name; its roles are compared by tests/unit/auth/test_rbac.py."""
    wrong = []
    for number, record in recorded("builtins")[4:]:
        await eventually(lambda: ready(admin))
        answer = await ask(admin, record)
        wanted, got = (
            {item["metadata"]["name"]: plain(item) for item in body["items"]}
            for body in (record["response"]["body"], answer.json)
        )
        more = exceptions.BUILTINS_MORE.get(number, ())
        known = exceptions.BUILTINS_MISSING.get(number)
        if set(got) - set(wanted) - {"golden", "golden-q"} != set(more):
            wrong.append(f"{number}: {sorted(set(got) - set(wanted))} are there too")
        if bool(set(wanted) - set(got)) != bool(known):
            wrong.append(f"{number}: {sorted(set(wanted) - set(got))} are missing, listed is {known!r}")
        wrong += [
            f"{number} {name}: {got[name]} instead of {wanted[name]}"
            for name in wanted
            if name in got and wanted[name] != got[name]
        ]
    assert not wrong, "\n".join(wrong)


def plain(value: Any) -> Any:
    """Without what differs from run to run, and with the words of descriptions left out, which are our own."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VARYING}
    return [plain(item) for item in value] if isinstance(value, list) else value


async def test_openapi(admin: Caller) -> None:
    """What recorded documents say of schemas, paths and parameters, and which documents there are."""
    facts = next(record["facts"] for _, record in recorded("discovery") if "facts" in record)
    found: dict[str, str] = {}
    for fact in facts.values():
        document = (await admin.ask("GET", fact["document"])).json
        for name, wanted in fact["schemas"].items():
            ours = document["components"]["schemas"].get(name, {})
            got = {**{key: ours.get(key) for key in wanted}, "properties": sorted(ours.get("properties", ()))}
            found |= {f"{name}.{key}": _both(wanted[key], got[key]) for key in wanted}
        for path, methods in fact["paths"].items():
            item = document["paths"].get(path, {})
            found[path] = _both(sorted(methods), sorted(method for method in item if method != "parameters"))
            for method, wanted in methods.items() if not found[path] else ():
                got = _facts(item[method], item.get("parameters", ()))
                found |= {f"{path} {method} {key}": _both(wanted[key], got[key]) for key in wanted}
    index = next(
        record["response"]["body"] for _, record in recorded("discovery") if record["name"] == "openapi-v3-index"
    )
    ours = (await admin.ask("GET", "/openapi/v3")).json["paths"]
    for path in index["paths"]:
        found[f"index {path}"] = "" if path in ours else "missing"
        assert path not in ours or ours[path]["serverRelativeURL"].startswith(f"/openapi/v3/{path}?hash=")
    root = next(record["response"]["body"] for _, record in recorded("discovery") if record["name"] == "path /")
    ours = (await admin.ask("GET", "/")).json["paths"]
    found |= {f"root {path}": "" if path in ours else "missing" for path in root["paths"]}
    wrong, used = [], set()
    for place, text in found.items():
        reason = (
            next((pattern for pattern in exceptions.OPENAPI if re.search(pattern, f"{place}: {text}")), None)
            if text
            else None
        )
        used.add(reason)
        if text and reason is None:
            wrong.append(f"{place}: {text}")
    assert not wrong, "\n".join(wrong)
    assert not set(exceptions.OPENAPI) - used, "listed as exceptions, and yet as recorded"


def _facts(operation: Recorded, shared: Any) -> Recorded:
    return {
        "x-kubernetes-action": operation["x-kubernetes-action"],
        "gvk": operation["x-kubernetes-group-version-kind"],
        "parameters": sorted(item["name"] for item in (*operation["parameters"], *shared)),
        "consumes": sorted(operation.get("requestBody", {}).get("content", ())),
    }


def _both(wanted: Any, got: Any) -> str:
    if wanted == got:
        return ""
    if isinstance(wanted, list) and isinstance(got, list):
        less, more = ([item for item in one if item not in other] for one, other in ((wanted, got), (got, wanted)))
        return " ".join(
            [f"without {','.join(map(str, less))}"] * bool(less) + [f"with {','.join(map(str, more))}"] * bool(more)
        )
    return f"{got} instead of {wanted}"


async def test_issuer(admin: Caller) -> None:
    record = next(record for _, record in recorded("discovery") if record["name"].endswith("openid-configuration"))
    answer = await ask(admin, record)
    wanted = record["response"]["body"]
    # Another algorithm, for the sake of the time that signing takes; and the address of this server.
    wanted |= {"id_token_signing_alg_values_supported": ["ES256"], "jwks_uri": f"{admin.base}/openid/v1/jwks"}
    assert answer.json == wanted


async def ready(admin: Caller) -> bool:
    """The defaults are made after the server serves."""
    return bool((await admin.ask("GET", "/apis/scheduling.k8s.io/v1/priorityclasses")).json["items"])


GUARDED = {
    "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]
}
VALIDATIONS = [
    {"expression": "!object.metadata.name.startsWith('denied')", "message": "denied by our policy"},
    {
        "expression": "object.metadata.name != 'denied-expr'", "messageExpression": "'name ' + object.metadata.name",
        "reason": "Forbidden",
    },
]  # fmt: skip
REGISTRATIONS = "/apis/admissionregistration.k8s.io/v1"


async def test_policies_and_webhooks_that_do_not_answer(admin: Caller) -> None:
    records = dict(recorded("flows"))
    matched = {"namespaceSelector": {}, "objectSelector": {}, "matchPolicy": "Equivalent", **GUARDED}
    policy = {"metadata": {"name": "gpol"}, "spec": {"matchConstraints": matched, "validations": VALIDATIONS}}
    assert (await admin.ask("POST", f"{REGISTRATIONS}/validatingadmissionpolicies", policy)).status == 201
    for name, action in (("gpolb", "Deny"), ("gpolw", "Warn")):
        spec = {"policyName": "gpol", "validationActions": [action]}
        binding = {"metadata": {"name": name}, "spec": spec}
        assert (await admin.ask("POST", f"{REGISTRATIONS}/validatingadmissionpolicybindings", binding)).status == 201
    found = {}
    for number in (77, 78, 79):
        answer = await ask(admin, records[number])
        wanted = records[number]["response"]
        same = sorted(answer.warnings) == sorted(wanted["warnings"])
        found[number] = difference(wanted, answer) or ("" if same else f"{answer.warnings}")
    clients = {
        80: {"url": "https://127.0.0.1:9/h"},
        81: {"service": {"namespace": "golden", "name": "absent"}},
        82: {"service": {"namespace": "golden", "name": "absent"}},
    }
    for number, client in clients.items():
        hook = {
            "name": "h.golden.example", "clientConfig": client, "rules": GUARDED["resourceRules"], "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 1, "objectSelector": {"matchLabels": {"hook": "y"}},
        }  # fmt: skip
        made = {"metadata": {"name": f"h{number}"}, "webhooks": [hook]}
        path = f"{REGISTRATIONS}/validatingwebhookconfigurations"
        assert (await admin.ask("POST", path, made)).status == 201
        found[number] = difference(records[number]["response"], await ask(admin, records[number]))
        assert (await admin.ask("DELETE", f"{path}/h{number}")).status == 200
    verdict("flows", found)


async def test_refused_logs(admin: Caller) -> None:
    for name, node in (("bd", "none"), ("bdg", "")):
        spec = {"nodeName": node, "containers": [{"name": "c", "image": "a"}]}
        await admin.ask("POST", "/api/v1/namespaces/golden/pods", {"metadata": {"name": name}, "spec": spec})
    found = {number: await ask(admin, record) for number, record in recorded("flows") if number in (51, 52, 53, 54)}
    records = dict(recorded("flows"))
    # There the one is an error of the server's, and the other no answer at all.
    assert (found[51].status, found[52].status, found[52].text) == (503, 200, "")
    verdict("flows", {number: difference(records[number]["response"], found[number]) for number in (53, 54)})


RBAC = "rbac.authorization.k8s.io"


def headers_of(caller: str) -> dict[str, str]:
    found = re.fullmatch(r"impersonated user (\S+), group (\S+)", caller)
    if found:
        return {"Impersonate-User": found[1], "Impersonate-Group": found[2]}
    return {"Authorization": "Bearer of.no.use"} if caller == "unknown token" else {}


async def test_who_may_ask(front: Https, admin: Caller) -> None:
    """Each caller's requests, word by word: users, nodes, service accounts, somebody with a bad token, and nobody."""
    pod = {"metadata": {"name": "upd"}, "spec": {"containers": [{"name": "c", "image": "a"}]}}
    binding = {
        "metadata": {"name": "carol"}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": "carol"}],
    }  # fmt: skip
    for path, body in (
        ("/api/v1/namespaces/golden/configmaps", {"metadata": {"name": "page0"}}),
        ("/api/v1/namespaces/golden/pods", pod),
        ("/api/v1/nodes", {"metadata": {"name": "flow-node"}}),
        (f"/apis/{RBAC}/v1/namespaces/golden/rolebindings", binding),
    ):
        made = await admin.ask("POST", path, body)
        assert made.status == 201, made.text
    found = {}
    async with front.caller("") as nobody:
        for number, record in recorded("auth"):
            if number in recordings.REVIEWS:
                continue
            caller = record.get("caller") or ""
            who = nobody if caller in ("anonymous", "unknown token") else admin
            answer = await ask(who, record, **headers_of(caller))
            found[number] = difference(record["response"], answer)
    verdict("auth", found)


async def test_tables_and_metadata(admin: Caller) -> None:
    """The forms of answers, without their rows: of whole lists, and of single objects."""
    pod = {"metadata": {"name": "min"}, "spec": {"containers": [{"name": "c", "image": "a"}]}}
    assert (await admin.ask("POST", "/api/v1/namespaces/golden/pods", pod)).status == 201
    found = {}
    for number, record in recorded("tables"):
        expected = record["response"]
        if record["name"].startswith("table /") or "golden.example" in record["request"]["path"]:
            continue  # the others are compared by `test_columns`, and by test_custom_recordings.py
        answer = await ask(admin, record)
        if answer.status == 404 and expected["status"] == 200:
            continue  # not served
        found[number] = difference(expected, answer) or _form_difference(expected["body"], answer.json)
    verdict("tables", found)


def _form_difference(wanted: Recorded, got: Recorded) -> str:
    def form(body: Recorded) -> list[Any]:
        items = (body.get("items") or ()) if "items" in body else [row.get("object") for row in body.get("rows") or ()]
        kinds = {(item or {}).get("kind") for item in items}
        return [body["kind"], body["apiVersion"], *sorted(map(str, kinds))]

    if got.get("kind") == "Status":
        return ""
    ours, theirs = form(got), form(wanted)
    # A list that is empty here says nothing of its items.
    same = ours == theirs if len(ours) > 2 else ours == theirs[:2]
    columns = [[column["name"] for column in body.get("columnDefinitions") or ()] for body in (wanted, got)]
    return "" if same and columns[0] == columns[1] else f"{ours} {columns[1]} instead of {theirs} {columns[0]}"


async def test_columns(admin: Caller) -> None:
    found = {}
    for number, record in recorded("tables"):
        expected = record["response"]
        if not record["name"].startswith("table /") or expected["status"] != 200:
            continue
        answer = await ask(admin, record)
        if answer.status == 404:
            continue  # not served
        wanted, got = expected["body"]["columnDefinitions"], answer.json["columnDefinitions"]
        for columns in (wanted, got):
            for column in columns:
                column.pop("description")
        found[number] = "" if wanted == got else f"{record['name']}: {got} instead of {wanted}"
    verdict("tables", found)


async def test_watches(admin: Caller) -> None:
    """The changes of the file, and then each watch from before them: types, names and shapes of the events, in order."""
    path = "/api/v1/namespaces/golden/configmaps"
    for number in range(3):
        await admin.ask("POST", path, {"metadata": {"name": f"page{number}", "labels": {"page": "y"}}})
    start = (await admin.ask("GET", path)).json["metadata"]["resourceVersion"]
    found = {}
    watches = []
    for number, record in recorded("watch"):
        request = record["request"]
        if "/configmaps" not in request["path"] or ("watch", number) in exceptions.UNCOMPARED:
            continue
        if "events" not in record:
            answer = await ask(admin, record)
            found[number] = difference(record["response"], answer)
        else:
            path = re.sub(r"timeoutSeconds=\d+", "timeoutSeconds=1", request["path"])
            request["path"] = path.replace("resourceVersion=597", f"resourceVersion={start}")
            watches.append((number, record))
    answers = await asyncio.gather(*(ask(admin, record) for _, record in watches))
    for (number, record), answer in zip(watches, answers, strict=True):
        got = [_shape(json.loads(line)) for line in answer.text.splitlines()]
        wanted = [_shape(event) for event in record["events"]]
        # When bookmarks come is each server's own affair, but for the one that ends the initial events.
        ours, theirs = ([event for event in events if event[0] != "BOOKMARK"] for events in (got, wanted))
        initial = "sendInitialEvents=true" in record["request"]["path"]
        same = ours == theirs and (not initial or got[len(ours)] == wanted[len(theirs)])
        found[number] = "" if same else f"{record['name']}: {got} instead of {wanted}"
    verdict("watch", found)


def _shape(event: Recorded) -> tuple[Any, ...]:
    obj = event["object"]
    meta = obj["metadata"]
    if obj["kind"] == "Table":
        row = obj["rows"][0]
        meta = row["object"]["metadata"]
        columns = None if obj["columnDefinitions"] is None else [column["name"] for column in obj["columnDefinitions"]]
        return event["type"], "Table", columns, row["cells"][:-1], meta.get("name"), meta.get("annotations")
    return (
        event["type"],
        obj["kind"],
        obj["apiVersion"],
        meta.get("name"),
        meta.get("labels"),
        obj.get("data"),
        meta.get("annotations"),
    )
