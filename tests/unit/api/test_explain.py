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
