"""JSON patch, merge patch and strategic merge patch: rules, errors, made patches, and the recorded server's answers."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.api import codec, patch, schema, strategic, strategic_diff
from wherry.api.errors import APIError, RequestEntityTooLarge
from wherry.pb import apps_v1_pb2, core_v1_pb2

GOLDEN = Path(__file__).parents[4] / "shared" / "kubernetes-api" / "golden" / "patch.jsonl"
DEPLOYMENT = schema.descriptor_of(apps_v1_pb2.Deployment)
POD = schema.descriptor_of(core_v1_pb2.Pod)
# What defaulting adds again after a patch.
DEFAULTED = {
    "progressDeadlineSeconds", "protocol", "resources", "terminationMessagePath", "terminationMessagePolicy",
    "imagePullPolicy", "managedFields", "resourceVersion", "generation", "creationTimestamp", "type", "rollingUpdate",
}  # fmt: skip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


MERGES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a"], ["c"], ["c"]),
    ({"a": "b"}, None, None),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("value", "change", "expected"), MERGES, ids=lambda value: json.dumps(value))
def test_merge_patch(value: Any, change: Any, expected: Any) -> None:
    before = copy.deepcopy(value)
    assert patch.merge(value, change) == expected
    assert value == before


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


@given(objects.map(without_nulls), objects.map(without_nulls))
def test_made_merge_patches_make_what_they_should(original: Any, modified: Any) -> None:
    made = patch.create_merge_patch(original, modified)
    assert patch.same(patch.merge(original, made), modified)
    assert (made == {}) == patch.same(original, modified)


def test_three_way_merge_patch_leaves_what_others_added() -> None:
    made = patch.create_three_way_merge_patch({"a": 1, "b": 2}, {"a": 5}, {"a": 1, "b": 2, "theirs": 3})
    assert made == {"a": 5, "b": None}
    assert patch.create_three_way_merge_patch(None, {"a": 1}, {"a": 1, "b": 2}) == {}


DOCUMENT = {"a": {"b": [1, 2, 3]}, "c": "x", "d/e": 1, "f~g": 2}
OPERATIONS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "add": ([{"op": "add", "path": "/n", "value": 1}], {**DOCUMENT, "n": 1}),
    "add over": ([{"op": "add", "path": "/c", "value": 1}], {**DOCUMENT, "c": 1}),
    "insert": ([{"op": "add", "path": "/a/b/1", "value": 9}], {**DOCUMENT, "a": {"b": [1, 9, 2, 3]}}),
    "insert at the end": ([{"op": "add", "path": "/a/b/3", "value": 9}], {**DOCUMENT, "a": {"b": [1, 2, 3, 9]}}),
    "append": ([{"op": "add", "path": "/a/b/-", "value": 9}], {**DOCUMENT, "a": {"b": [1, 2, 3, 9]}}),
    "remove": ([{"op": "remove", "path": "/a/b/0"}], {**DOCUMENT, "a": {"b": [2, 3]}}),
    "remove last": ([{"op": "remove", "path": "/a/b/-1"}], {**DOCUMENT, "a": {"b": [1, 2]}}),
    "replace": ([{"op": "replace", "path": "/a/b/2", "value": 7}], {**DOCUMENT, "a": {"b": [1, 2, 7]}}),
    "root": ([{"op": "replace", "path": "", "value": {}}], {}),
    "move": ([{"op": "move", "from": "/c", "path": "/a/z"}], {"a": {"b": [1, 2, 3], "z": "x"}, "d/e": 1, "f~g": 2}),
    "copy": ([{"op": "copy", "from": "/a/b/0", "path": "/n"}], {**DOCUMENT, "n": 1}),
    "test": ([{"op": "test", "path": "/a/b", "value": [1.0, 2, 3]}], DOCUMENT),
    "test of nothing": ([{"op": "test", "path": "/none", "value": None}], DOCUMENT),
    "escapes": (
        [{"op": "replace", "path": "/d~1e", "value": 5}, {"op": "remove", "path": "/f~0g"}],
        {"a": {"b": [1, 2, 3]}, "c": "x", "d/e": 5},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("operations", "expected"), OPERATIONS.values(), ids=OPERATIONS.keys())
def test_json_patch(operations: list[dict[str, Any]], expected: Any) -> None:
    before = copy.deepcopy(DOCUMENT)
    assert patch.apply_json_patch(DOCUMENT, operations) == expected
    assert before == DOCUMENT


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            {"op": "add", "path": "/x/y", "value": 1},
            'add operation does not apply: doc is missing path: "/x/y": missing value',
        ),
        ({"op": "remove", "path": "/x"}, "Unable to remove nonexistent key: x"),
        (
            {"op": "replace", "path": "/x", "value": 1},
            "replace operation does not apply: doc is missing key: /x: missing value",
        ),
        ({"op": "test", "path": "/c", "value": 1}, "testing value /c failed: test failed"),
        ({"op": "add", "path": "/a/b/9", "value": 1}, "Unable to access invalid index: 9"),
        ({"op": "add", "path": "/a/b/01", "value": 1}, "no index of a list"),
        ({"op": "add", "path": "x", "value": 1}, "no JSON pointer"),
        ({"op": "add", "value": 1}, '"path" is missing'),
        ({"op": "add", "path": "/x"}, "missing value"),
        ({"op": "nope", "path": "/x"}, "Unexpected kind: nope"),
        ({"op": "move", "from": "/a", "path": "/a/b"}, "into itself"),
        ({"op": "remove", "path": ""}, "whole object"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_json_patch_that_does_not_apply(operation: dict[str, Any], message: str) -> None:
    with pytest.raises(patch.PatchFailed) as error:
        patch.apply_json_patch(DOCUMENT, [operation])
    assert message in error.value.problem
    assert error.value.code == 422


def test_json_patch_is_bounded() -> None:
    with pytest.raises(RequestEntityTooLarge):
        patch.apply_json_patch({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)
    double = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 40
    with pytest.raises(patch.PatchFailed, match="3 MiB"):
        patch.apply_json_patch({"a": ["x" * 1000]}, double)
    for body in ({}, "x", None):
        with pytest.raises(patch.BadPatch):
            patch.apply_json_patch({}, body)


def spec(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers), **more}}


A, B = {"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}
STRATEGIC: dict[str, tuple[Any, Any, Any]] = {
    "merges by key": (spec(A, B), spec({"name": "b", "image": "b:2"}), spec(A, {"name": "b", "image": "b:2"})),
    "adds in front": (spec(A), spec(B), spec(B, A)),
    "deletes by key": (spec(A, B), spec({"name": "a", "$patch": "delete"}), spec(B)),
    "replaces the list": (spec(A), spec({"$patch": "replace"}, B), spec(B)),
    "replaces a map": (
        {"metadata": {"labels": {"a": "1", "b": "2"}}},
        {"metadata": {"labels": {"$patch": "replace", "c": "3"}}},
        {"metadata": {"labels": {"c": "3"}}},
    ),
    "deletes a map": (
        spec(A, securityContext={"runAsUser": 1}),
        {"spec": {"securityContext": {"$patch": "delete"}}},
        spec(A, securityContext={}),
    ),
    "null removes": (spec(A, nodeName="n"), {"spec": {"nodeName": None}}, spec(A)),
    "atomic list is replaced": (spec({**A, "args": ["x"]}), spec({"name": "a", "args": ["y"]}), spec({**A, "args": ["y"]})),
    "volume with retainKeys": (
        spec(A, volumes=[{"name": "v", "emptyDir": {}}]),
        {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}},
        spec(A, volumes=[{"name": "v", "hostPath": {"path": "/x"}}]),
    ),
    "orders": (spec(A, B), {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}, spec(B, A)),
    "directives in new values vanish": (
        {"spec": {}},
        spec({**A, "env": [{"name": "X", "$patch": "delete"}, {"name": "Y", "value": None}]}),
        spec({**A, "env": [{"name": "Y"}]}),
    ),
    "primitives": (
        {"metadata": {"finalizers": ["a", "b"]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"]}},
        {"metadata": {"finalizers": ["c", "b"]}},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("value", "change", "expected"), STRATEGIC.values(), ids=STRATEGIC.keys())
def test_strategic(value: Any, change: Any, expected: Any) -> None:
    before, sent = copy.deepcopy(value), copy.deepcopy(change)
    assert strategic.apply(value, change, POD) == expected
    assert (value, change) == (before, sent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "an object"),
        (spec({"image": "x"}), "map: map[image:x] does not contain declared merge key: name"),
        ({"spec": {"$patch": "nope"}}, "unknown patch type: nope in map: map[$patch:nope]"),
        ({"spec": {"$retainKeys": ["a"], "nodeName": "x"}}, "invalid patch format of retainKeys"),
        (spec({"name": "a", "$patch": "merge"}), "merging lists cannot yet be specified in the patch"),
        (
            {"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b", "image": "b:2"}]}},
            "The order in patch list:\n[map[image:b:2 name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
        ),
    ],
    ids=["list", "no key", "directive", "retainKeys", "merge", "order"],
)
def test_strategic_errors(change: Any, message: str) -> None:
    with pytest.raises(APIError) as error:
        strategic.apply(spec(A, B), change, POD)
    assert message in error.value.message


def test_a_dollar_in_a_schema_is_no_directive() -> None:
    from wherry.pb import apiextensions_v1_pb2

    descriptor = schema.descriptor_of(apiextensions_v1_pb2.JSONSchemaProps)
    assert strategic.apply({}, {"items": {"$ref": "#/x"}}, descriptor) == {"items": {"$ref": "#/x"}}


names = st.sampled_from("abcd")
containers = st.lists(
    st.fixed_dictionaries(
        {"name": names},
        optional={
            "image": st.sampled_from(["x", "y"]),
            "args": st.lists(names, max_size=2),
            "env": st.lists(
                st.fixed_dictionaries({"name": names, "value": names}), max_size=3, unique_by=lambda e: e["name"]
            ),
        },
    ),
    max_size=4,
    unique_by=lambda container: container["name"],
)
pods = st.fixed_dictionaries(
    {"spec": st.fixed_dictionaries({"containers": containers}, optional={"nodeName": names, "hostPID": st.booleans()})},
    optional={
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "labels": st.dictionaries(names, names, max_size=3),
                "finalizers": st.lists(names, max_size=3, unique=True),
            },
        )
    },
)


@given(pods, pods)
def test_made_strategic_patches_make_what_they_should(original: Any, modified: Any) -> None:
    made = strategic_diff.create(original, modified, POD)
    patched = strategic.apply(original, made, POD)
    assert codec.from_dict(patched, core_v1_pb2.Pod) == codec.from_dict(modified, core_v1_pb2.Pod)


@given(pods, pods, pods)
def test_three_way_patches_reach_what_was_asked(original: Any, modified: Any, current: Any) -> None:
    patched = strategic.apply(current, strategic_diff.create_three_way(original, modified, current, POD), POD)
    again = strategic_diff.create_three_way(modified, modified, patched, POD)
    assert again == {}


def test_three_way_removes_only_what_was_applied_before() -> None:
    original = spec(A, B, nodeName="n")
    modified = spec(A)
    current = spec(
        {**A, "terminationMessagePath": "/x"}, B, {"name": "injected", "image": "i"}, nodeName="n", hostPID=True
    )
    made = strategic_diff.create_three_way(original, modified, current, POD)
    patched = strategic.apply(current, made, POD)
    assert patched == spec({**A, "terminationMessagePath": "/x"}, {"name": "injected", "image": "i"}, hostPID=True)


def test_two_protocols_of_one_port_are_told_apart() -> None:
    """Their key in patches is the number alone."""
    ports = [{"name": p, "port": 53, "protocol": p.upper()} for p in ("tcp", "udp")]
    given = [{**port, "nodePort": 30053} for port in ports]
    service = schema.descriptor_of(core_v1_pb2.Service)
    original, current = {"spec": {"ports": ports}}, {"spec": {"ports": given, "clusterIP": "10.96.0.9"}}
    assert strategic_diff.create_three_way(original, original, current, service) == {}
    for wanted in (
        [ports[0], {**ports[1], "targetPort": 5353}],
        [ports[0], {**ports[1], "port": 54}],
        [*ports, {"port": 54}],
    ):
        modified = {"spec": {"ports": wanted}}
        made = strategic_diff.create_three_way(original, modified, current, service)
        assert [item["name"] for item in strategic.apply(current, made, service)["spec"]["ports"][:2]] == ["tcp", "udp"]
        patched = strategic.apply(current, made, service)
        assert strategic_diff.create_three_way(modified, modified, patched, service) == {}


def differences(ours: Any, theirs: Any, path: str) -> list[str]:
    """Where the server's object is not ours plus what defaulting adds."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = [f"{path}.{key}: not there" for key in ours if key not in theirs and key not in DEFAULTED]
        found += [f"{path}.{key}: still there" for key in theirs if key not in ours and key not in DEFAULTED]
        shared = [key for key in ours if key in theirs and key not in DEFAULTED - {"type", "rollingUpdate"}]
        return found + [line for key in shared for line in differences(ours[key], theirs[key], f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for index, (one, other) in pairs for line in differences(one, other, f"{path}[{index}]")]
    return [] if ours == theirs else [f"{path}: {ours!r} != {theirs!r}"]


def apply_as_sent(start: Any, request: dict[str, Any]) -> Any:
    match request["contentType"].split("/")[1]:
        case "strategic-merge-patch+json":
            return strategic.apply(start, request["body"], DEPLOYMENT)
        case "merge-patch+json":
            return patch.merge(start, request["body"])
    return patch.apply_json_patch(start, request["body"])


@pytest.mark.skipif(not GOLDEN.exists() and not os.environ.get("CI"), reason="no recordings beside the checkout")
def test_recorded_patches() -> None:
    records = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    live = records[0]["response"]["body"]
    failures, checked = [], 0
    for record in records[1:]:
        name, request, response = record["name"], record["request"], record["response"]
        if "(dry run)" not in name or response["status"] == 422:
            continue
        start, body = copy.deepcopy(live), response["body"]
        annotations = body["metadata"].get("annotations", {})
        annotations.pop("deployment.kubernetes.io/revision", None)  # a controller added it meanwhile
        if not annotations:
            body["metadata"].pop("annotations", None)
        if "finalizers" in json.dumps(request["body"]):  # of another object, whose start is not recorded
            start = {"metadata": {"finalizers": ["golden.example/a", "golden.example/b"]}}
            body = {"metadata": {"finalizers": body["metadata"]["finalizers"]}}
        if response["status"] == 500:
            with pytest.raises(strategic.BadOrder) as error:
                apply_as_sent(start, request)
            assert error.value.message == body["message"]
            continue
        patched = apply_as_sent(start, request)
        for part in ("spec", "metadata"):
            found = differences(patched.get(part, {}), body.get(part, {}), part)
            failures += [f"{name}: {line}" for line in found]
        checked += 1
    assert not failures, "\n".join(failures)
    assert checked > 25
