"""`explain`: fields, types, what is required, and paths that do not exist."""

from __future__ import annotations

import pytest

from wherry.api import explain, kinds

POD = kinds.by_name("v1", "Pod")


def test_a_kind() -> None:
    text = explain.explain(kinds.by_name("apps/v1", "Deployment"))
    assert text.startswith(
        "GROUP:      apps\nKIND:       Deployment\nVERSION:    v1\n\nFIELDS:\n  apiVersion\t<string>\n"
    )
    assert "  spec\t<DeploymentSpec> -required-\n" in text


def test_a_field() -> None:
    assert explain.explain(POD, "spec.containers").splitlines()[:6] == [
        "KIND:       Pod",
        "VERSION:    v1",
        "",
        "FIELD: containers\t<[]Container> -required- (merged by name)",
        "",
        "FIELDS:",
    ]
    assert explain.explain(POD, "spec.containers.image").endswith("FIELD: image\t<string>\n")
    assert "FIELD: limits\t<map[string]Quantity>" in explain.explain(POD, "spec.containers.resources.limits")
    assert "  emptyDir\t<EmptyDirVolumeSource>" in explain.explain(POD, "spec.volumes")  # inlined


def test_everything_below_ends_for_types_inside_themselves() -> None:
    text = explain.explain(kinds.by_name("apiextensions.k8s.io/v1", "CustomResourceDefinition"), recursive=True)
    assert "openAPIV3Schema\t<JSONSchemaProps>" in text
    assert len(text.splitlines()) < 400


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("spec.nodenme", 'field "nodenme" does not exist in pods.spec (did you mean "nodeName"?)'),
        ("spec.nodeName.x", 'field "x" does not exist in pods.spec.nodeName'),
    ],
)
def test_no_such_field(path: str, message: str) -> None:
    with pytest.raises(KeyError) as error:
        explain.explain(POD, path)
    assert error.value.args[0] == message


SCHEMA = {
    "type": "object",
    "description": "A boat of the harbour.",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["crew"],
            "properties": {
                "crew": {"type": "integer", "description": "How many row."},
                "colour": {"type": "string", "enum": ["red", "blue"]},
                "oars": {
                    "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["side"],
                    "items": {
                        "type": "object",
                        "properties": {"side": {"type": "string"}, "size": {"x-kubernetes-int-or-string": True}},
                    },
                },
                "flags": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
            },
        },
    },
}  # fmt: skip


def boat(path: str = "", *, recursive: bool = False) -> str:
    return explain.explain_custom("example.com", "v1", "Boat", "boats", SCHEMA, path, recursive=recursive)


def test_a_custom_resource() -> None:
    assert boat().splitlines()[:9] == [
        "GROUP:      example.com", "KIND:       Boat", "VERSION:    v1", "", "DESCRIPTION:", "    A boat of the harbour.", "",
        "FIELDS:", "  apiVersion\t<string>",
    ]  # fmt: skip
    assert boat("spec").splitlines()[7:] == [
        "  colour\t<string> (one of red, blue)", "  crew\t<integer> -required-", "    How many row.",
        "  flags\t<map[string][]string>", "  oars\t<[]Object> (merged by side)",
    ]  # fmt: skip
    assert boat("spec.oars.size").endswith("FIELD: size\t<IntOrString>\n")
    assert boat("metadata.labels").endswith("FIELD: labels\t<map[string]string>\n")
    assert "      side\t<string>\n" in boat(recursive=True)
    with pytest.raises(KeyError, match="cruw"):
        boat("spec.cruw")
