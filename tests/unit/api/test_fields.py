"""Field selectors, and fields by path."""

from __future__ import annotations

import pytest

from wherry.api import codec, fields
from wherry.pb import core_v1_pb2, resources_pb2

POD = codec.from_dict(
    {
        "metadata": {"name": "p", "namespace": "ns", "labels": {"a.b/c": "d", "app": "x"}},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 0,
        },
        "status": {"phase": "Running"},
    },
    core_v1_pb2.Pod,
)
WIDGET = resources_pb2.Unstructured(api_version="x.io/v1", kind="Widget", body=b'{"spec":{"size":3}}')
WIDGET.metadata.name = "w"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        (".metadata.name", "p"),
        ("metadata.labels['a.b/c']", "d"),
        ("metadata.labels[a.b/c]", "d"),
        ("metadata.labels.app", "x"),
        ("metadata.labels.none", None),
        ("metadata.annotations.none", None),
        ("spec.nodeName", "n1"),
        ("spec.hostNetwork", True),
        ("spec.hostPID", False),
        ("spec.terminationGracePeriodSeconds", 0),
        ("spec.activeDeadlineSeconds", None),
        ("spec.containers[0].name", "c"),
        ("spec.containers[0].resources.limits.cpu", "500m"),
        ("spec.containers[7].name", None),
        ("status.podIP", ""),
        ("status.startTime", None),
        ("spec.securityContext.runAsUser", None),
        ("apiVersion", "v1"),
        ("kind", "Pod"),
    ],
)
def test_get(path: str, value: object) -> None:
    assert fields.get(POD, path) == value


def test_get_of_a_custom_resource() -> None:
    assert fields.get(WIDGET, "spec.size") == 3
    assert fields.get(WIDGET, "metadata.name") == "w"
    assert fields.get(WIDGET, "kind") == "Widget"
    assert fields.get(WIDGET, "spec.none.deeper") is None


def test_a_field_that_does_not_exist() -> None:
    with pytest.raises(KeyError, match="nodeNam"):
        fields.get(POD, "spec.nodeNam")
    assert fields.text(POD, "spec.nodeNam") == ""


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("spec.nodeName=n1", True),
        ("spec.nodeName==n1,status.phase!=Failed", True),
        ("spec.nodeName=n2", False),
        ("spec.nodeName!=n1", False),
        ("status.podIP=", True),
        ("spec.hostNetwork=true", True),
    ],
)
def test_selectors(selector: str, matches: bool) -> None:
    parsed = fields.parse(selector)
    assert parsed.matches_object(POD) is matches
    assert fields.parse(str(parsed)) == parsed


def test_escapes_and_exact_values() -> None:
    parsed = fields.parse(r"metadata.name=a\,b\=c,x!=y")
    assert parsed.exact("metadata.name") == "a,b=c"
    assert parsed.exact("x") is None
    assert fields.parse(str(parsed)) == parsed


@pytest.mark.parametrize("selector", ["metadata.name", "a in (b)"])
def test_errors_in_the_words_of_kubernetes(selector: str) -> None:
    with pytest.raises(fields.BadFieldSelector) as error:
        fields.parse(selector)
    assert error.value.message == f"invalid selector: '{selector}'; can't understand '{selector}'"
