"""JSONPath as kubectl reads it."""

import pytest

from wherry.api import jsonpath

PODS = {
    "kind": "List",
    "items": [
        {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "status": {"ready": True, "n": 3}},
        {"metadata": {"name": "b", "labels": {}}, "status": {"ready": False, "n": 10}},
    ],
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param("{.kind}", "List", id="field"),
        pytest.param(".kind", "List", id="without-braces"),
        pytest.param("{.items[*].metadata.name}", "a b", id="all-items"),
        pytest.param("{.items[0].metadata.name}", "a", id="index"),
        pytest.param("{.items[-1].metadata.name}", "b", id="from-the-end"),
        pytest.param("{.items[0:1].metadata.name}", "a", id="slice"),
        pytest.param("{.items[0,1].metadata.name}", "a b", id="union"),
        pytest.param("{..name}", "a b", id="anywhere"),
        pytest.param(r"{.items[0].metadata.labels.app\.kubernetes\.io/name}", "x", id="escaped-dots"),
        pytest.param("{.items[0].metadata.labels['app.kubernetes.io/name']}", "x", id="quoted-key"),
        pytest.param("{.items[?(@.status.n>5)].metadata.name}", "b", id="filter-number"),
        pytest.param('{.items[?(@.metadata.name=="a")].status.n}', "3", id="filter-text"),
        pytest.param("{.items[?(@.status.ready)].metadata.name}", "a b", id="filter-exists"),
        pytest.param('{range .items[*]}{.metadata.name}={.status.n}{"\\n"}{end}', "a=3\nb=10\n", id="range"),
        pytest.param("{range .nothing[*]}{.x}{end}done", "done", id="empty-range"),
        pytest.param("{.absent}", "", id="absent"),
        pytest.param("{.items[0].status}", '{"ready":true,"n":3}', id="object"),
        pytest.param("name: {.items[0].metadata.name}!", "name: a!", id="text-around"),
    ],
)
def test_renders(template: str, expected: str) -> None:
    assert jsonpath.render(template, PODS) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param("{.items[5]}", "out of bounds", id="index"),
        pytest.param("{.items[x]}", "invalid array index", id="no-number"),
        pytest.param("{.items[?(@.a==b)]}", "quote strings", id="bare-word"),
        pytest.param("{range .nothing[*]}x", "without its {end}", id="open-range"),
    ],
)
def test_refuses(template: str, message: str) -> None:
    with pytest.raises(jsonpath.JSONPathError, match=message):
        jsonpath.render(template, PODS)
