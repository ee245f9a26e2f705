"""What people may call a resource on the command line."""

import pytest

from wherry.cli.resources import Catalogue, UsageError, full_name
from wherry.pb import resources_pb2

CATALOGUE = Catalogue(
    [
        resources_pb2.APIResource(
            version="v1", plural="pods", singular="pod", kind="Pod", namespaced=True, short_names=["po"], categories=["all"]
        ),
        resources_pb2.APIResource(version="v1", plural="nodes", singular="node", kind="Node", short_names=["no"]),
        resources_pb2.APIResource(
            group="apps", version="v1", plural="deployments", singular="deployment", kind="Deployment", namespaced=True,
            short_names=["deploy"], categories=["all"],
        ),
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["deployments", "deployment", "Deployment", "deploy", "deployments.apps", "deployments.v1.apps", "deploy.apps"],
)
def test_every_name_of_a_resource(name: str) -> None:
    assert full_name(CATALOGUE.find(name)) == "deployment.apps"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["po"], [("pod", "")], id="type"),
        pytest.param(["po", "a", "b"], [("pod", "a"), ("pod", "b")], id="names"),
        pytest.param(["po/a", "deploy/b"], [("pod", "a"), ("deployment.apps", "b")], id="slashed"),
        pytest.param(["po,deploy", "a"], [("pod", "a"), ("deployment.apps", "a")], id="two-types"),
        pytest.param(["all"], [("pod", ""), ("deployment.apps", "")], id="category"),
    ],
)
def test_targets(words: list[str], expected: list[tuple[str, str]]) -> None:
    assert [(full_name(target.resource), target.name) for target in CATALOGUE.targets(words)] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param([], "must specify the type", id="nothing"),
        pytest.param(["podz"], r'resource type "podz" \(did you mean "pods?', id="misspelt"),
        pytest.param(["po/a", "b"], "no need to specify a resource type", id="mixed"),
        pytest.param(["po/"], "single resource and name", id="no-name"),
        pytest.param(["po/a/b"], "single resource and name", id="two-slashes"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CATALOGUE.targets(words)


def test_a_bare_name_takes_the_default_type() -> None:
    target = CATALOGUE.one(["web"], default="pods")
    assert (target.resource.kind, target.name) == ("Pod", "web")
