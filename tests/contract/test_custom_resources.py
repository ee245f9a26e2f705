"""Definitions come, change and go, over HTTP: what is served follows, and objects keep their meaning."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from controlplane.server import Options
from wherry.api.context import Env
from wherry.testing.https import Answer, Caller, https

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
THINGS = "/apis/example.com/v1/namespaces/default/things"
MERGE = "application/merge-patch+json"


def definition(
    schema: Any = None, *, plural: str = "things", kind: str = "Thing", scope: str = "Namespaced", **version: Any
) -> dict[str, Any]:
    first = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema or ANY}, **version}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.com"},
        "spec": {"group": "example.com", "scope": scope, "names": {"plural": plural, "kind": kind}, "versions": [first]},
    }  # fmt: skip


def thing(name: str = "a", **body: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, **body}


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with https(Env()) as front, front.caller() as caller:
        yield caller


async def until(caller: Caller, path: str, holds: Callable[[Answer], bool]) -> Answer:
    async with asyncio.timeout(30):
        while True:
            answer = await caller.ask("GET", path)
            if holds(answer):
                return answer
            await asyncio.sleep(0.02)


def condition(answer: Answer, kind: str) -> tuple[str, str]:
    found = answer.json.get("status", {}).get("conditions") or []
    return next(((each["status"], each["reason"]) for each in found if each["type"] == kind), ("", ""))


async def made(caller: Caller, body: dict[str, Any]) -> Answer:
    answer = await caller.ask("POST", DEFINITIONS, body)
    assert answer.status == 201, answer.text
    path = f"{DEFINITIONS}/{body['metadata']['name']}"
    return await until(caller, path, lambda found: condition(found, "Established")[0] == "True")


async def changed(caller: Caller, name: str, change: Callable[[Any], None]) -> Answer:
    path = f"{DEFINITIONS}/{name}"
    body = (await caller.ask("GET", path)).json
    change(body)
    answer = await caller.ask("PUT", path, body)
    assert answer.status == 200, answer.text
    return answer


async def test_numbers_texts_and_order_keep_their_meaning(caller: Caller) -> None:
    await made(caller, definition())
    spec = {
        "big": 9223372036854775807, "small": -9223372036854775808, "half": 0.5, "tiny": 1e-7, "list": [3, 1, 2],
        "text": "ünïcode \u2028 \U0001f6a3", "null": None, "empty": {}, "none": [], "deep": {"b": [{"a": [[1]]}]},
    }  # fmt: skip
    assert (await caller.ask("POST", THINGS, thing(spec=spec))).status == 201
    found = (await caller.ask("GET", f"{THINGS}/a")).json
    assert found["spec"] == spec
    assert type(found["spec"]["big"]) is int
    assert (found["apiVersion"], found["kind"]) == ("example.com/v1", "Thing")
    assert list(found["spec"]) == sorted(spec)


async def test_a_schema_that_changes_acts_at_once(caller: Caller) -> None:
    await made(caller, definition())
    assert (await caller.ask("POST", THINGS, thing(spec={"size": 99, "old": 1}))).status == 201
    strict = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {
            "size": {"type": "integer", "maximum": 9}, "color": {"type": "string", "default": "red"},
        }}},
    }  # fmt: skip
    await changed(
        caller,
        "things.example.com",
        lambda body: body["spec"]["versions"][0].update(schema={"openAPIV3Schema": strict}),
    )
    # What is stored shows the defaults and loses what the schema no longer names.
    assert (await caller.ask("GET", f"{THINGS}/a")).json["spec"] == {"size": 99, "color": "red"}
    # A value that was there before it became wrong does not stand in the way of another change ...
    answer = await caller.ask("PATCH", f"{THINGS}/a", {"spec": {"color": "blue"}}, content_type=MERGE)
    assert answer.status == 200, answer.text
    assert answer.json["metadata"]["generation"] == 2
    # ... but a new one does.
    answer = await caller.ask("PATCH", f"{THINGS}/a", {"spec": {"size": 98}}, content_type=MERGE)
    assert answer.status == 422
    assert answer.json["details"]["causes"][0]["field"] == "spec.size"


SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"


async def test_a_version_that_is_added(caller: Caller) -> None:
    await made(caller, definition())
    assert (await caller.ask("POST", THINGS, thing(spec={"x": 1}))).status == 201
    second = {"name": "v2", "served": True, "storage": True, "schema": {"openAPIV3Schema": ANY}}

    def add(body: Any) -> None:
        body["spec"]["versions"][0]["storage"] = False
        body["spec"]["versions"].append(second)

    answer = await changed(caller, "things.example.com", add)
    assert answer.json["status"]["storedVersions"] == ["v1", "v2"]
    for version in ("v1", "v2"):
        found = await caller.ask("GET", f"/apis/example.com/{version}/namespaces/default/things/a")
        assert found.json["apiVersion"] == f"example.com/{version}"
        assert found.json["spec"] == {"x": 1}
    group = (await caller.ask("GET", "/apis/example.com")).json
    assert [each["version"] for each in group["versions"]] == ["v2", "v1"]
    watched = await caller.ask("GET", f"{THINGS}?watch=true&timeoutSeconds=1")
    assert json.loads(watched.text.splitlines()[0])["object"]["apiVersion"] == "example.com/v1"

    def drop(body: Any) -> None:
        body["spec"]["versions"][0]["served"] = False

    for version in ("v1", "v2"):
        await until(
            caller,
            f"{SERVICES}/{version}.example.com",
            lambda found: condition(found, "Available") == ("True", "Local"),
        )
    await changed(caller, "things.example.com", drop)
    assert (await caller.ask("GET", f"{THINGS}/a")).status == 404
    await until(caller, f"{SERVICES}/v1.example.com", lambda found: found.status == 404)
    assert (await caller.ask("GET", f"{SERVICES}/v2.example.com")).status == 200
    body = (await caller.ask("GET", f"{DEFINITIONS}/things.example.com")).json
    body["spec"]["versions"] = [second]
    answer = await caller.ask("PUT", f"{DEFINITIONS}/things.example.com", body)
    assert "must appear in spec.versions" in answer.text


async def test_deleting_a_definition_deletes_its_objects_first(caller: Caller) -> None:
    await made(caller, definition())
    assert (await caller.ask("POST", THINGS, thing("a"))).status == 201
    held = thing("b")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    assert (await caller.ask("POST", THINGS, held)).status == 201
    path = f"{DEFINITIONS}/things.example.com"
    answer = await caller.ask("DELETE", path)
    assert answer.json["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
    await until(caller, f"{THINGS}/a", lambda found: found.status == 404)
    await until(caller, path, lambda found: condition(found, "Terminating") == ("True", "InstanceDeletionInProgress"))
    refused = await caller.ask("POST", THINGS, thing("c"))
    assert refused.status == 405
    assert "create not allowed while custom resource definition is terminating" in refused.text
    assert (await caller.ask("GET", f"{THINGS}/b")).json["metadata"]["deletionTimestamp"]
    free = {"metadata": {"finalizers": None}}
    assert (await caller.ask("PATCH", f"{THINGS}/b", free, content_type=MERGE)).status == 200
    await until(caller, path, lambda found: found.status == 404)
    assert (await caller.ask("GET", THINGS)).status == 404
    assert (await caller.ask("GET", "/apis/example.com")).status == 404
    await until(caller, f"{SERVICES}/v1.example.com", lambda found: found.status == 404)
    assert (await caller.ask("GET", f"{SERVICES}/v1.apps")).status == 200
    # Made anew, it has no objects, and another schema may hold.
    await made(caller, definition(scope="Cluster"))
    assert (await caller.ask("GET", "/apis/example.com/v1/things")).json["items"] == []


async def test_names_that_are_taken(caller: Caller) -> None:
    await made(caller, definition())
    other = definition(plural="others", kind="Thing")
    assert (await caller.ask("POST", DEFINITIONS, other)).status == 201
    path = f"{DEFINITIONS}/others.example.com"
    answer = await until(caller, path, lambda found: condition(found, "NamesAccepted")[0] == "False")
    assert condition(answer, "NamesAccepted")[1] in ("KindConflict", "SingularConflict")
    assert condition(answer, "Established") == ("False", "NotAccepted")
    assert (await caller.ask("GET", "/apis/example.com/v1/others")).status == 404
    assert (await caller.ask("DELETE", f"{DEFINITIONS}/things.example.com")).status == 200
    await until(caller, path, lambda found: condition(found, "Established")[0] == "True")
    assert (await caller.ask("GET", "/apis/example.com/v1/others")).status == 200


async def test_discovery_and_documents_follow(caller: Caller) -> None:
    before = (await caller.ask("GET", "/openapi/v3")).json["paths"]
    assert "apis/example.com/v1" not in before
    schema = {"type": "object", "properties": {"spec": {"type": "object", "description": "What it is to be."}}}
    await made(caller, definition(schema, subresources={"status": {}}))
    aggregated = await caller.ask(
        "GET", "/apis", Accept="application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    )
    found = next(item for item in aggregated.json["items"] if item["metadata"].get("name") == "example.com")
    resource = found["versions"][0]["resources"][0]
    assert (resource["resource"], resource["singularResource"]) == ("things", "thing")
    assert [each["subresource"] for each in resource["subresources"]] == ["status"]
    index = (await caller.ask("GET", "/openapi/v3")).json["paths"]
    document = (await caller.ask("GET", index["apis/example.com/v1"]["serverRelativeURL"])).json
    found = document["components"]["schemas"]["com.example.v1.Thing"]
    assert found["properties"]["spec"]["description"] == "What it is to be."
    assert found["x-kubernetes-group-version-kind"] == [{"group": "example.com", "kind": "Thing", "version": "v1"}]
    assert "/apis/example.com/v1/namespaces/{namespace}/things" in document["paths"]
    old = (await caller.ask("GET", "/openapi/v2")).json
    assert "com.example.v1.Thing" in old["definitions"]

    def describe(body: Any) -> None:
        body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["description"] = "Other."

    await changed(caller, "things.example.com", describe)
    after = (await caller.ask("GET", "/openapi/v3")).json["paths"]
    assert after["apis/example.com/v1"] != index["apis/example.com/v1"]
    assert "Other." in (await caller.ask("GET", after["apis/example.com/v1"]["serverRelativeURL"])).text


@pytest.mark.parametrize(("rule", "says"), [
    ({"rule": "self.nope > 1"}, "undefined field 'nope'"),
    ({"rule": "self.size"}, "cel expression must evaluate to a bool"),
    ({"rule": "self.all(x, x.all(y, y.size() > 0))"}, "cannot be range of a comprehension"),
    ({"rule": "self.lists.all(x, x.all(y, self.lists.all(z, z.all(w, w.contains(y)))))"}, "exceeds budget"),
    ({"rule": "self.lists[0][0].matches('(')"}, "invalid matches argument"),
    ({"rule": "true", "messageExpression": "1"}, "messageExpression compilation failed: must evaluate to a string"),
    ({"rule": "true", "reason": "Nope"}, "Unsupported value"),
    ({"rule": "true", "fieldPath": ".nope"}, "must be a valid path"),
    ({"rule": ""}, "rule is not specified"),
    ({"rule": "true\n&& true"}, "message must be specified if rule contains line breaks"),
    ({"rule": "true", "optionalOldSelf": True}, "may not be set if oldSelf is not used in rule"),
])  # fmt: skip
async def test_a_rule_that_cannot_be_is_refused_with_its_place(caller: Caller, rule: Any, says: str) -> None:
    lists = {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}
    inner = {
        "type": "object",
        "properties": {"size": {"type": "integer"}, "lists": lists},
        "x-kubernetes-validations": [rule],
    }
    schema = {"type": "object", "properties": {"spec": inner}}
    answer = await caller.ask("POST", DEFINITIONS, definition(schema))
    assert answer.status == 422, answer.text
    causes = answer.json["details"]["causes"]
    place = "spec.validation.openAPIV3Schema"
    assert any(cause["field"].startswith(place) and says in cause["message"] for cause in causes), causes


async def test_rules_run_with_the_old_object(caller: Caller) -> None:
    rules = [
        {"rule": "self.name == oldSelf.name", "message": "name is fixed", "reason": "FieldValueForbidden", "fieldPath": ".name"},
        {"rule": "!oldSelf.hasValue() || self.step >= oldSelf.value().step", "optionalOldSelf": True, "message": "no way back"},
        {"rule": "self.parts.all(p, p.n < 10)", "messageExpression": "'parts: ' + string(self.parts.size())"},
    ]  # fmt: skip
    grows = {
        "type": "integer",
        "default": 1,
        "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "n grows"}],
    }
    properties = {"id": {"type": "string", "maxLength": 9}, "n": grows}
    part = {"type": "object", "required": ["id"], "properties": properties}
    spec = {"type": "object", "x-kubernetes-validations": rules, "properties": {
        "name": {"type": "string", "maxLength": 9}, "step": {"type": "integer", "default": 0},
        "parts": {"type": "array", "maxItems": 9, "items": part, "default": [],
                  "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"]}}}  # fmt: skip
    await made(caller, definition({"type": "object", "properties": {"spec": spec}}))
    body = thing(spec={"name": "x", "step": 2, "parts": [{"id": "p", "n": 4}]})
    assert (await caller.ask("POST", THINGS, body)).status == 201

    async def patched(change: Any) -> tuple[int, list[tuple[str, str]]]:
        answer = await caller.ask("PATCH", f"{THINGS}/a", {"spec": change}, content_type=MERGE)
        causes = answer.json.get("details", {}).get("causes", [])
        return answer.status, [(cause["field"], cause["message"]) for cause in causes]

    assert await patched({"name": "y"}) == (422, [("spec.name", "Forbidden: name is fixed")])
    assert await patched({"step": 1}) == (422, [("spec", "Invalid value: no way back")])
    assert await patched({"parts": [{"id": "q", "n": 12}]}) == (422, [("spec", "Invalid value: parts: 1")])
    assert await patched({"parts": [{"id": "q"}, {"id": "p", "n": 3}]}) == (
        422, [("spec.parts[1].n", "Invalid value: n grows")],
    )  # fmt: skip
    assert (await patched({"step": 3, "parts": [{"id": "q"}, {"id": "p", "n": 5}]}))[0] == 200


async def test_a_short_name_that_is_added(caller: Caller) -> None:
    await made(caller, definition())
    await changed(caller, "things.example.com", lambda body: body["spec"]["names"].update(shortNames=["th"]))

    def has_it(found: Answer) -> bool:
        return found.json["resources"][0].get("shortNames") == ["th"]

    await until(caller, "/apis/example.com/v1", has_it)


async def test_who_may_what_is_asked_of_rbac(caller: Caller) -> None:
    await made(caller, definition())
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {
        "group": "example.com", "resource": "things", "verb": "list", "namespace": "default"}}}  # fmt: skip
    answer = await caller.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert answer.json["status"]["allowed"]
    bob = {"Impersonate_User": "bob"}
    assert (await caller.ask("GET", THINGS, **bob)).status == 403


async def test_protobuf_is_not_spoken(caller: Caller) -> None:
    await made(caller, definition())
    proto = "application/vnd.kubernetes.protobuf"
    assert (await caller.ask("GET", THINGS, Accept=proto)).status == 406
    assert (await caller.ask("GET", THINGS, Accept=f"{proto},application/json")).status == 200
    assert (await caller.ask("POST", THINGS, b"k8s\x00", content_type=proto)).status == 415
    yaml = "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: yam}\nspec: {a: 1}\n"
    assert (await caller.ask("POST", THINGS, yaml, content_type="application/yaml")).status == 201


async def test_collectors_know_custom_kinds() -> None:
    """Owners and namespaces take custom resources along, also of a kind that came after the controllers."""
    async with https(Env(), Options(scheduler=False)) as front, front.caller() as caller:
        await made(caller, definition())
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
        assert (await caller.ask("POST", "/api/v1/namespaces", namespace)).status == 201
        shop = "/apis/example.com/v1/namespaces/shop/things"
        assert (await caller.ask("POST", shop, thing("in-shop"))).status == 201
        owner = (await caller.ask("POST", THINGS, thing("owner"))).json
        reference = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "owner", "uid": owner["metadata"]["uid"]}
        settings = "/api/v1/namespaces/default/configmaps"
        owned: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "c", "ownerReferences": [reference]},
        }
        assert (await caller.ask("POST", settings, owned)).status == 201
        child = thing("child")
        child["metadata"]["ownerReferences"] = [reference]
        assert (await caller.ask("POST", THINGS, child)).status == 201
        assert (await caller.ask("DELETE", f"{THINGS}/owner")).status == 200
        await until(caller, f"{THINGS}/child", lambda found: found.status == 404)
        await until(caller, f"{settings}/c", lambda found: found.status == 404)
        assert (await caller.ask("DELETE", "/api/v1/namespaces/shop")).status == 200
        await until(caller, "/api/v1/namespaces/shop", lambda found: found.status == 404)
        assert (await caller.ask("GET", "/apis/example.com/v1/things")).json["items"] == []


AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


async def established(stream: aiohttp.StreamReader, name: str) -> None:
    """Reads the watch until the definition says that it is."""
    while line := await stream.readline():
        seen = json.loads(line)["object"]
        found = seen.get("status", {}).get("conditions") or []
        if seen["metadata"]["name"] == name and any(
            c["type"] == "Established" and c["status"] == "True" for c in found
        ):
            return
    raise AssertionError(f"the watch ended before {name} was Established")


async def test_whoever_sees_it_established_finds_it(caller: Caller) -> None:
    """At once, the first time that they ask: in discovery, in OpenAPI, and by making an object."""
    async with asyncio.timeout(60), caller.session.get(f"{caller.base}{DEFINITIONS}?watch=true") as watch:
        for number in range(5):
            plural = f"things{number}"
            body = definition(plural=plural, kind=f"Thing{number}")
            body["spec"]["group"] = group = f"g{number}.example.com"
            body["metadata"]["name"] = name = f"{plural}.{group}"
            assert (await caller.ask("POST", DEFINITIONS, body)).status == 201
            await established(watch.content, name)
            resources = await caller.ask("GET", f"/apis/{group}/v1")
            assert resources.status == 200, resources.text
            assert [each["name"] for each in resources.json["resources"]] == [plural]
            groups = (await caller.ask("GET", "/apis")).json["groups"]
            aggregated = (await caller.ask("GET", "/apis", Accept=AGGREGATED)).json["items"]
            assert group in [each["name"] for each in groups]
            assert group in [each["metadata"]["name"] for each in aggregated]
            assert f"apis/{group}/v1" in (await caller.ask("GET", "/openapi/v3")).json["paths"]
            made = {"apiVersion": f"{group}/v1", "kind": f"Thing{number}", "metadata": {"name": "a"}}
            answer = await caller.ask("POST", f"/apis/{group}/v1/namespaces/default/{plural}", made)
            assert answer.status == 201, answer.text
