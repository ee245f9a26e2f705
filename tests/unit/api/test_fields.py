"""Field selectors, and paths of fields."""

from __future__ import annotations

import pytest

from wherry.api import fields

VALUES = {"metadata.name": "p", "spec.nodeName": "n1", "spec.hostNetwork": "true", "status.phase": "Running"}


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("metadata.name", ("metadata", "name")),
        (".metadata.name", ("metadata", "name")),
        ("metadata.labels['a.b/c']", ("metadata", "labels", "a.b/c")),
        ("metadata.labels[a.b/c]", ("metadata", "labels", "a.b/c")),
        ("spec.containers[0].name", ("spec", "containers", "0", "name")),
    ],
)
def test_paths(path: str, steps: tuple[str, ...]) -> None:
    assert fields.split(path) == steps


def test_a_path_that_is_none() -> None:
    with pytest.raises(ValueError, match="is no path of fields"):
        fields.split("spec..nodeName")


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
    assert parsed.matches(VALUES) is matches
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
