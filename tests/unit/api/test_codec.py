"""The codec: special forms, presence, inlining, every kind of problem with its words and place, and bombs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wherry.api import codec
from wherry.api.problems import MAX_PROBLEMS
from wherry.pb import (
    apiextensions_v1_pb2,
    apps_v1_pb2,
    authorization_v1_pb2,
    coordination_v1_pb2,
    core_v1_pb2,
    meta_v1_pb2,
    resources_pb2,
)

Pod = core_v1_pb2.Pod


def problems(value: Any, cls: Any = Pod) -> dict[str, str]:
    with pytest.raises(codec.DecodeError) as error:
        codec.from_dict(value, cls)
    return {problem.path: problem.message for problem in error.value.problems}


# What goes in, and what comes out (None: the same).
FORMS: dict[str, tuple[Any, Any, Any]] = {
    "time": (
        meta_v1_pb2.ObjectMeta,
        {"creationTimestamp": "2026-01-02T05:04:05.9+02:00"},
        {"creationTimestamp": "2026-01-02T03:04:05Z"},
    ),
    "null time": (meta_v1_pb2.ObjectMeta, {"creationTimestamp": None}, {}),
    "kept time": (
        meta_v1_pb2.Condition,
        {"type": "A", "status": "True", "reason": "", "message": "", "lastTransitionTime": None},
        None,
    ),
    "micro time": (coordination_v1_pb2.LeaseSpec, {"renewTime": "2026-01-02T03:04:05.123456Z"}, None),
    "quantity": (
        core_v1_pb2.ResourceRequirements,
        {"limits": {"cpu": "0.5", "memory": "1024Mi", "x.io/y": 3}},
        {"limits": {"cpu": "500m", "memory": "1Gi", "x.io/y": "3"}},
    ),
    "quantity as a float": (core_v1_pb2.ResourceRequirements, {"limits": {"cpu": 0.1}}, {"limits": {"cpu": "100m"}}),
    "int or string": (core_v1_pb2.HTTPGetAction, {"port": "http"}, None),
    "int or string: 0": (core_v1_pb2.HTTPGetAction, {"port": 0}, None),
    "duration": (apiextensions_v1_pb2.JSONSchemaProps, {"maxLength": 9007199254740993}, None),
    "number": (apiextensions_v1_pb2.JSONSchemaProps, {"maximum": 5.0, "minimum": 0.5}, {"maximum": 5, "minimum": 0.5}),
    "raw JSON": (
        apiextensions_v1_pb2.JSONSchemaProps,
        {"default": {"a": [1, None, "x"]}, "enum": [1, "a", None, {"b": 2}]},
        None,
    ),
    "schema or array: object": (apiextensions_v1_pb2.JSONSchemaProps, {"items": {"type": "string"}}, None),
    "schema or array: array": (
        apiextensions_v1_pb2.JSONSchemaProps,
        {"items": [{"type": "string"}, {"$ref": "x"}]},
        None,
    ),
    "schema or bool: false": (apiextensions_v1_pb2.JSONSchemaProps, {"additionalProperties": False}, None),
    "schema or bool: schema": (apiextensions_v1_pb2.JSONSchemaProps, {"additionalProperties": {"type": "x"}}, None),
    "schema or strings": (
        apiextensions_v1_pb2.JSONSchemaProps,
        {"dependencies": {"a": ["b", "c"], "d": {"type": "x"}}},
        None,
    ),
    "array of strings": (authorization_v1_pb2.SubjectAccessReviewSpec, {"extra": {"scopes": ["a", "b"]}}, None),
    "fields": (meta_v1_pb2.ManagedFieldsEntry, {"fieldsV1": {"f:spec": {"f:x": {}}}}, None),
    "inline": (core_v1_pb2.Volume, {"name": "v", "emptyDir": {}}, None),
    "inline, required": (core_v1_pb2.SecretKeySelector, {"name": "s", "key": "k", "optional": False}, None),
    "probe": (core_v1_pb2.Probe, {"exec": {"command": ["a"]}, "periodSeconds": 5}, None),
    "presence": (
        core_v1_pb2.PodSpec,
        {"containers": None, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False},
        None,
    ),
    "no presence": (
        core_v1_pb2.PodSpec,
        {"containers": [], "hostNetwork": False, "nodeName": ""},
        {"containers": None},
    ),
    "null in lists and maps": (
        meta_v1_pb2.ObjectMeta,
        {"finalizers": ["a", None], "labels": {"a": None}},
        {"finalizers": ["a", ""], "labels": {"a": ""}},
    ),
    "deployment without a selector": (
        apps_v1_pb2.DeploymentSpec,
        {"selector": None},
        {"selector": None, "template": {"metadata": {}, "spec": {"containers": None}}, "strategy": {}},
    ),
    "bytes": (
        core_v1_pb2.Secret,
        {"data": {"a": "aGk=", "b": ""}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"a": "aGk=", "b": ""}},
    ),
    "int64": (meta_v1_pb2.ObjectMeta, {"generation": 9223372036854775807}, None),
    "integral float": (meta_v1_pb2.ObjectMeta, {"generation": 3.0}, {"generation": 3}),
    "empty list": (core_v1_pb2.PodList, {}, {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": []}),
    "non-BMP text": (meta_v1_pb2.ObjectMeta, {"name": "🚣\u2028"}, None),
}


@pytest.mark.parametrize(("cls", "value", "expected"), FORMS.values(), ids=FORMS.keys())
def test_forms(cls: Any, value: Any, expected: Any) -> None:
    message = codec.from_dict(value, cls)
    out = codec.to_dict(message)
    assert out == (value if expected is None else expected)
    assert codec.from_dict(out, cls) == message
    assert codec.from_json(codec.to_json(message), cls) == message
    assert codec.from_yaml(codec.to_yaml(message), cls) == message


def test_kind_and_version_come_first_and_may_be_absent() -> None:
    assert list(codec.to_dict(Pod()))[:2] == ["apiVersion", "kind"]
    assert codec.from_dict({}, Pod) == Pod()
    assert problems({"apiVersion": "v2", "kind": "Node"}) == {
        "apiVersion": 'expected "v1", got "v2"',
        "kind": 'expected "Pod", got "Node"',
    }


def test_claim_templates_say_their_kind_and_list_items_do_not() -> None:
    value = codec.to_dict(apps_v1_pb2.StatefulSetSpec(volume_claim_templates=[{"metadata": {"name": "d"}}]))
    assert value["volumeClaimTemplates"][0]["kind"] == "PersistentVolumeClaim"
    assert "kind" not in codec.to_dict(core_v1_pb2.PodList(items=[Pod()]))["items"][0]


PROBLEMS: dict[str, tuple[Any, str, str]] = {
    "unknown": (
        {"spec": {"containers": [{"imge": "x"}]}},
        "spec.containers[0].imge",
        'unknown field (did you mean "image"?)',
    ),
    "unknown case": ({"spec": {"nodename": "x"}}, "spec.nodename", 'unknown field (did you mean "nodeName"?)'),
    "unknown, nothing near": ({"spec": {"zzzzqqq": 1}}, "spec.zzzzqqq", "unknown field"),
    "integer": ({"spec": {"priority": "three"}}, "spec.priority", 'expected an integer, got "three"'),
    "fraction": ({"spec": {"priority": 1.5}}, "spec.priority", "expected an integer, got 1.5"),
    "bool as integer": ({"spec": {"priority": True}}, "spec.priority", "expected an integer, got true"),
    "int32": ({"spec": {"priority": 99999999999}}, "spec.priority", "99999999999 is out of range for an int32"),
    "int64": ({"metadata": {"generation": 2**63}}, "metadata.generation", f"{2**63} is out of range for an int64"),
    "string": ({"metadata": {"name": 5}}, "metadata.name", "expected a string, got 5"),
    "bool": ({"spec": {"hostPID": "yes"}}, "spec.hostPID", 'expected true or false, got "yes"'),
    "label": ({"metadata": {"labels": {"a.b/c": 1}}}, "metadata.labels[a.b/c]", "expected a string, got 1"),
    "list": ({"spec": {"containers": {}}}, "spec.containers", "expected a list of objects, got {}"),
    "object": ({"spec": []}, "spec", "expected an object, got []"),
    "string list": (
        {"spec": {"containers": [{"args": "x"}]}},
        "spec.containers[0].args",
        'expected a list of strings, got "x"',
    ),
    "string in a list": (
        {"spec": {"containers": [{"args": [1]}]}},
        "spec.containers[0].args[0]",
        "expected a string, got 1",
    ),
    "time": (
        {"metadata": {"creationTimestamp": "nope"}},
        "metadata.creationTimestamp",
        'expected a time such as "2026-01-02T15:04:05Z", got "nope"',
    ),
    "int or string": (
        {"spec": {"containers": [{"livenessProbe": {"httpGet": {"port": 1.5}}}]}},
        "spec.containers[0].livenessProbe.httpGet.port",
        "expected an integer or a string, got 1.5",
    ),
    "root": ([], "", "expected an object, got []"),
    "long value": (
        {"metadata": {"generation": "x" * 500}},
        "metadata.generation",
        f'expected an integer, got "{"x" * 56}...',
    ),
}


@pytest.mark.parametrize(("value", "path", "message"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_problems(value: Any, path: str, message: str) -> None:
    assert problems(value) == {path: message}


def test_bad_quantity_and_base64() -> None:
    found = problems({"spec": {"containers": [{"resources": {"limits": {"cpu": "1x"}}}]}})
    assert found["spec.containers[0].resources.limits.cpu"].startswith('bad quantity "1x": quantities must match')
    found = problems({"data": {"k": "!!"}}, core_v1_pb2.Secret)
    assert found["data.k"].startswith('expected base64, got "!!"')
    assert "hunter2" not in str(problems({"data": {"k": "hunter2-hunter2"}}, core_v1_pb2.Secret))


def test_all_problems_are_named_and_their_number_is_bounded() -> None:
    found = problems({"metadata": {"name": 1, "nope": 2}, "spec": {"priority": "x", "containers": [{"image": 1}, 5]}})
    assert list(found) == [
        "metadata.name",
        "metadata.nope",
        "spec.priority",
        "spec.containers[0].image",
        "spec.containers[1]",
    ]
    with pytest.raises(codec.DecodeError) as error:
        codec.from_dict({"metadata": {"labels": {str(number): number for number in range(1000)}}}, Pod)
    assert len(error.value.problems) == MAX_PROBLEMS
    assert "... and 900 more" in str(error.value)


def test_validation_can_be_lax() -> None:
    body = b'{"metadata":{"name":"a","name":"b"},"spec":{"containers":[{"imag":"x"}],"nope":1}}'
    warnings: list[str] = []
    assert codec.from_json(body, Pod, strict=False, warnings=warnings).metadata.name == "b"
    assert warnings == [
        'duplicate field "metadata.name"',
        'unknown field "spec.containers[0].imag"',
        'unknown field "spec.nope"',
    ]
    with pytest.raises(codec.DecodeError) as error:
        codec.from_json(body, Pod)
    assert error.value.strict_message() == (
        'strict decoding error: duplicate field "metadata.name", unknown field "spec.containers[0].imag", '
        'unknown field "spec.nope"'
    )
    assert error.value.code == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{x", "not JSON: expecting property name enclosed in double quotes at line 1 column 2"),
        (b'{"a":NaN}', "NaN is no number in JSON"),
        (b'{"a":1e999}', "out of range"),
        (b'{"metadata":{"name":"\xff"}}', "not UTF-8: byte 0xff at offset 21"),
        (b"[" * 10_000_000, "nested more than 200 levels deep"),
        (b'{"a":' * 1_000_000, "nested more than 200 levels deep"),
        (b'{"metadata":{"generation":' + b"9" * 10_000 + b"}}", "not JSON"),
        (b'{"metadata":{"generation":' + b"9" * 100 + b"}}", "out of range for an int64"),
    ],
    ids=["empty", "syntax", "NaN", "infinite", "bytes", "lists", "objects", "digits", "big integer"],
)
@pytest.mark.timeout(5)
def test_bad_json(body: bytes, message: str) -> None:
    with pytest.raises(codec.DecodeError) as error:
        codec.from_json(body, Pod)
    assert message in str(error.value)


def test_lone_surrogates_become_the_replacement_character() -> None:
    assert codec.from_json(b'{"metadata":{"name":"a\\ud800b"}}', Pod).metadata.name == "a\ufffdb"
    assert codec.from_json('{"metadata":{"name":"🚣"}}'.encode(), Pod).metadata.name == "🚣"
    assert codec.from_json(b'{"metadata":{"name":"\\ud83d\\udea3"}}', Pod).metadata.name == "🚣"
    assert codec.from_dict({"metadata": {"name": "a\ud800b"}}, Pod).metadata.name == "a\ufffdb"


def test_schemas_nest_only_as_deep_as_they_can_be_stored() -> None:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(39):
        value = {"properties": {"a": value}}
    message = codec.from_dict(value, apiextensions_v1_pb2.JSONSchemaProps)
    crd = apiextensions_v1_pb2.CustomResourceDefinition()
    crd.spec.versions.add().schema.open_api_v3_schema.CopyFrom(message)
    assert apiextensions_v1_pb2.CustomResourceDefinition.FromString(crd.SerializeToString()) == crd
    assert "nested more than 40 levels" in str(
        problems({"properties": {"a": value}}, apiextensions_v1_pb2.JSONSchemaProps)
    )


def test_custom_resources_keep_everything() -> None:
    value = {
        "apiVersion": "x.io/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "labels": {"a": "b"}},
        "spec": {"big": 9007199254740993, "z": [1, None, 2.5], "a": "é"},
        "status": {},
    }
    (message,) = codec.decode_manifest(json.dumps(value))
    assert isinstance(message, resources_pb2.Unstructured)
    assert codec.to_dict(message) == value
    assert codec.from_json(codec.to_json(message), resources_pb2.Unstructured) == message
    assert problems({**value, "metadata": {"nam": "x"}}, resources_pb2.Unstructured) == {
        "metadata.nam": 'unknown field (did you mean "name"?)'
    }
