"""What hostile writes leave behind: nothing here is a dry run. Built-in kinds and custom resources with CEL rules are written by
every method and in every encoding over HTTPS; whatever was accepted must be readable, listable and deletable afterwards.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wherry.testing.fuzzing import (
    APPLY,
    CONFIG_MAPS,
    CONTAINER,
    DEPLOYMENTS,
    JSON_PATCH,
    KEYS,
    MERGE,
    ODD,
    OPERATIONS,
    PODS,
    SEEDS,
    SERVICES,
    STRATEGIC,
    VALUES,
    Front,
    a_deployment,
    fine,
    fuzzing,
    looked_after,
    spoiled,
)  # fmt: skip

pytestmark = pytest.mark.timeout(300)
fuzzed = fuzzing(60)

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BOATS = "/apis/fuzz.example/v1/namespaces/default/boats"
SPEC = {
    "type": "object",
    "properties": {
        "crew": {"type": "integer", "minimum": 0, "default": 2, "format": "int32"},
        "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        "cargo": {"type": "string", "maxLength": 20, "pattern": "^[a-z]*$"},
        "depth": {"x-kubernetes-int-or-string": True, "maxLength": 9},
        "built": {"type": "string", "format": "date-time"},
        "card": {"type": "string", "format": "creditcard"},
        "load": {"type": "number", "multipleOf": 0.5},
        "names": {"type": "array", "maxItems": 9, "x-kubernetes-list-type": "set", "items": {"type": "string", "maxLength": 9}},
        "anything": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "labels": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "string", "maxLength": 9}},
        "template": {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
        "oars": {
            "type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["side"],
            "items": {
                "type": "object", "required": ["side"],
                "properties": {"side": {"type": "string", "maxLength": 9, "default": "left"}, "length": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "!has(self.length) || 100 / self.length > 1"}],
            },
        },
    },
    "x-kubernetes-validations": [
        {"rule": "!has(self.oars) || self.oars.size() <= self.crew", "fieldPath": ".oars",
         "messageExpression": "'%d oars for a crew of %d'.format([self.oars.size(), self.crew])"},
        {"rule": "!has(self.depth) || type(self.depth) == string || self.depth > 0"},
        {"rule": "!has(self.built) || self.built > timestamp('2000-01-01T00:00:00Z')"},
        {"rule": "self.color == oldSelf.color || self.crew > 0"},
        {"rule": "!has(self.labels) || self.labels.all(k, self.labels[k] != k)"},
        {"rule": "!has(self.cargo) || !self.cargo.matches('x+y') || quantity(self.cargo).isGreaterThan(quantity('1'))"},
    ],
}  # fmt: skip
DEFINITION = {
    "metadata": {"name": "boats.fuzz.example"},
    "spec": {
        "group": "fuzz.example", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
        "versions": [{
            "name": "v1", "served": True, "storage": True,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.crew", "statusReplicasPath": ".status.crew"}},
            "additionalPrinterColumns": [
                {"name": "Crew", "type": "integer", "jsonPath": ".spec.crew"},
                {"name": "Built", "type": "date", "jsonPath": ".spec.built"},
                {"name": "First", "type": "string", "jsonPath": ".spec.oars[0].side"},
            ],
            "selectableFields": [{"jsonPath": ".spec.color"}],
            "schema": {"openAPIV3Schema": {
                "type": "object", "required": ["spec"],
                "properties": {"spec": SPEC, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }},
        }],
    },
}  # fmt: skip


def a_boat(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "fuzz.example/v1", "kind": "Boat", "metadata": {"name": name, "labels": {"a": "b"}},
        "spec": {
            "crew": 3, "cargo": "coal", "depth": "2m", "built": "2020-01-01T00:00:00Z", "load": 1.5, "names": ["a", "b"],
            "anything": {"a": [1]}, "labels": {"a": "b"}, "oars": [{"side": "left"}, {"side": "right", "length": 4}],
            "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}},
        },
    }  # fmt: skip


MAKERS = {**SEEDS, BOATS: a_boat}
TYPES = {
    PODS: ("v1", "Pod"), DEPLOYMENTS: ("apps/v1", "Deployment"), CONFIG_MAPS: ("v1", "ConfigMap"), SERVICES: ("v1", "Service"),
    BOATS: ("fuzz.example/v1", "Boat"),
}  # fmt: skip
PATHS = st.sampled_from([*sorted(SEEDS), BOATS, BOATS, BOATS])
KNOWN = KEYS | st.sampled_from([*SPEC["properties"], "side", "length", "status", "crew"])  # type: ignore[list-item]

# Whoever applies may say what belongs to whom, in a form of fields that is read again at every later apply.
FIELDS = st.recursive(
    st.just({}) | ODD.map(copy.deepcopy),
    lambda inner: st.dictionaries(
        st.sampled_from([
            ".", "f:spec", "f:metadata", "f:labels", "f:a", "f:oars", 'k:{"side":"left"}', 'k:{"side":1}', "k:{", "k:null",
            'k:{"name":"c"}', "f:containers", "f:crew", "f:names", 'v:"a"', "v:1e400", "v:", "i:0", "i:-1", "i:x", "x:y",
            "f:", "",
        ]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "manager": st.sampled_from(["fuzz", "other", "", "m" * 200, 7]),
            "operation": st.sampled_from(["Apply", "Update", "No", 1]),
            "apiVersion": st.sampled_from(["v1", "apps/v1", "fuzz.example/v1", "nope/v9", "", "///"]),
            "time": st.sampled_from(["2020-01-01T00:00:00Z", "never", None, 5]),
            "fieldsType": st.sampled_from(["FieldsV1", "FieldsV2", ""]), "fieldsV1": FIELDS,
            "subresource": st.sampled_from(["", "status", "scale", "x"]),
        },
    ),
    max_size=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    made = Front(tmp_path_factory.mktemp("fuzz"))
    try:
        assert made.ask("POST", DEFINITIONS, json.dumps(DEFINITION).encode())[0] == 201
        while made.ask("GET", BOATS)[0] != 200:
            pass  # served within a second; the test's timeout is the guard
        with looked_after(made):
            yield made
    finally:
        made.stop()


def text_of(draw: st.DrawFn, body: Any) -> tuple[bytes, str]:
    """As JSON or as YAML, which says the same."""
    if draw(st.booleans()):
        return json.dumps(body).encode(), "application/json"
    try:
        text = yaml.safe_dump(body, allow_unicode=True)
        return text.encode("utf-8", "surrogatepass"), "application/yaml"
    except (yaml.YAMLError, ValueError):
        return json.dumps(body).encode(), "application/json"


def step(front: Front, data: st.DataObject, path: str) -> None:
    """One write that is really done, of an object that may be there or not."""
    name = data.draw(st.sampled_from(["x", "y"]))
    whole = {**dict(zip(("apiVersion", "kind"), TYPES[path], strict=True)), **MAKERS[path](name)}
    method = data.draw(st.sampled_from(["POST", "PUT", MERGE, STRATEGIC, JSON_PATCH, APPLY, APPLY]))
    query: dict[str, str] = {"fieldValidation": data.draw(st.sampled_from(["", "Strict", "Warn", "Ignore"]))}
    sub = data.draw(st.sampled_from(["", "", "", "", "/status", "/scale"])) if method != "POST" else ""
    if method in ("POST", "PUT"):
        body = data.draw(spoiled(st.just(whole), KNOWN))
        if data.draw(st.booleans()) and isinstance(body, dict) and isinstance(body.get("metadata"), dict):
            body["metadata"]["managedFields"] = data.draw(ENTRIES)
        sent, kind = data.draw(st.composite(text_of)(body))
    elif method == JSON_PATCH:
        body = data.draw(OPERATIONS | VALUES)
        sent, kind = json.dumps(body).encode(), JSON_PATCH
    else:
        body = data.draw(VALUES | spoiled(st.just(whole), KNOWN))
        if isinstance(body, dict) and data.draw(st.booleans()):
            body["metadata"] = {"name": name, "managedFields": data.draw(ENTRIES)}
        sent, kind = json.dumps(body).encode(), method
    if kind == APPLY:
        query["fieldManager"] = data.draw(st.sampled_from(["fuzz", "other"]))
        query["force"] = data.draw(st.sampled_from(["true", "false"]))
    verb = method if method in ("POST", "PUT") else "PATCH"
    url = f"{path}{'' if verb == 'POST' else '/' + name}{sub}?{urlencode(query)}"
    fine(*front.ask(verb, url, sent, kind), verb, url, kind, sent)


TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@fuzzed
@given(path=PATHS, count=st.integers(1, 6), data=st.data())
def test_writes_that_are_done(front: Front, path: str, count: int, data: st.DataObject) -> None:
    for _ in range(count):
        step(front, data, path)
    for accept in ("application/json", TABLE, "application/yaml"):
        status, text = front.ask("GET", path, Accept=accept)
        assert status == 200, (status, text[:2000])
    names = [item["metadata"]["name"] for item in json.loads(front.ask("GET", path)[1])["items"]]
    for name in names:
        # What it has become can still be changed by somebody who means well, and got rid of.
        url = f"{path}/{quote(name)}"
        mended = json.dumps({"metadata": {"finalizers": None, "labels": {"mended": "yes"}}}).encode()
        fine(*front.ask("PATCH", url, mended, MERGE), "mend", name)
        status, text = front.ask("DELETE", f"{url}?gracePeriodSeconds=0")
        assert status == 200, (status, text[:2000], name)


# what people write into single fields, which something reads as a number, as JSON or as a name


MANY = "9" * 5000  # more digits than Python reads
DEEP = "[" * 20_000
SECRETS = "/api/v1/namespaces/default/secrets"
CRON_JOBS = "/apis/batch/v1/namespaces/default/cronjobs"
SCALERS = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def continued(value: Any) -> str:
    return f"{CONFIG_MAPS}?limit=1&continue={base64.urlsafe_b64encode(json.dumps(value).encode()).decode()}"


def a_cron_job(schedule: str) -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [CONTAINER]}
    return {
        "metadata": {"name": "t"},
        "spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": {"spec": pod}}}},
    }


def surging(percent: str) -> dict[str, Any]:
    made = a_deployment("t")
    made["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": percent}}
    return made


def scaled(name: str, text: str) -> dict[str, Any]:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    annotations = {f"autoscaling.alpha.kubernetes.io/{name}": text}
    return {"metadata": {"name": "t", "annotations": annotations}, "spec": {"maxReplicas": 2, "scaleTargetRef": target}}


TEXTS: list[tuple[str, str, Any]] = [
    ("POST", SECRETS, {"metadata": {"name": "t"}, "type": "kubernetes.io/dockerconfigjson",
                       "data": {".dockerconfigjson": base64_of(DEEP)}}),
    ("POST", SECRETS, {"metadata": {"name": "t"}, "type": "kubernetes.io/dockercfg", "data": {".dockercfg": base64_of(MANY)}}),
    *(("PUT", f"{CONFIG_MAPS}/t", {"metadata": {"name": "t", "resourceVersion": text}}) for text in ("²", "٣", MANY, "-1")),
    *(("GET", f"{CONFIG_MAPS}?resourceVersion={quote(text)}", None) for text in (MANY, "²")),
    *(("GET", f"{CONFIG_MAPS}?limit={quote(text)}", None) for text in (MANY, "²")),
    *(("POST", CRON_JOBS, a_cron_job(text)) for text in (
        f"{MANY} * * * *", f"*/{MANY} * * * *", f"1-{MANY} * * * *", "*/² * * * *", "² * * * *", f"@every {MANY}h")),
    *(("POST", SCALERS, scaled(name, text)) for name in ("metrics", "behavior") for text in (DEEP, f"[{MANY}]")),
    ("POST", BUDGETS, {"metadata": {"name": "t"}, "spec": {"minAvailable": f"{MANY}%"}}),
    *(("POST", DEPLOYMENTS, surging(text)) for text in (f"{MANY}%", "²%")),
    *(("GET", continued({"v": "meta.k8s.io/v1", "rv": 1, "start": text}), None)
      for text in ("\ud800\0", "a\ue000", "\0", "\x01")),
    ("GET", f"{CONFIG_MAPS}?limit=1&continue={base64.urlsafe_b64encode(DEEP.encode()).decode()}", None),
    *(("POST", BOATS, {**a_boat("t"), "spec": {"card": text}}) for text in ("²" * 16, "٣" * 16, "4" * 16, MANY)),
    *(("GET", f"{PODS}/none:{quote(port)}/proxy/", None) for port in ("²", MANY)),
]  # fmt: skip


def test_texts_in_fields(front: Front) -> None:
    """Digits that are none, more of them than a number has, and brackets without end."""
    assert front.ask("POST", CONFIG_MAPS, json.dumps({"metadata": {"name": "t"}}).encode())[0] == 201
    for method, url, body in TEXTS:
        status, text = front.ask(method, url, None if body is None else json.dumps(body).encode())
        fine(status, text, method, url[:200], str(body)[:200])
        if status == 201:
            assert front.ask("DELETE", f"{url}/{json.loads(text)['metadata']['name']}")[0] == 200
