"""From client-side apply to server-side apply and back: the annotation, and who is in whose way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wherry.api import apply as server_apply
from wherry.api import codec, lastapplied
from wherry.api.apply import ApplyConflict
from wherry.pb import apps_v1_pb2

Deployment = apps_v1_pb2.Deployment
CLIENT_SIDE = "kubectl-client-side-apply"


def configuration(image: str = "a:1", replicas: int | None = 2, **labels: str) -> dict[str, Any]:
    container = {"name": "c", "image": image, "args": ["<&>"], "ports": [{"containerPort": 80}]}
    spec: dict[str, Any] = {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}},
    }
    if replicas is not None:
        spec["replicas"] = replicas
    meta = {"name": "web", "namespace": "default", "labels": labels}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def made(config: dict[str, Any], annotation: str | None = None) -> Any:
    """What `kubectl apply` creates, with the server's defaults."""
    text = lastapplied.text_of(config) if annotation is None else annotation
    obj = codec.from_dict(
        {**config, "metadata": {**config["metadata"], "annotations": {lastapplied.ANNOTATION: text}}}, Deployment
    )
    obj.spec.template.spec.containers[0].ports[0].protocol = "TCP"
    server_apply.track(None, obj, manager=CLIENT_SIDE, now=1.0)
    return obj


def applied(live: Any, config: dict[str, Any], manager: str = "kubectl") -> Any:
    return lastapplied.apply(live, config, Deployment, manager=manager, now=2.0)


def owners(obj: Any) -> list[tuple[str, str]]:
    return [(entry.manager, entry.operation) for entry in obj.metadata.managed_fields]


def test_the_text_is_as_go_writes_it() -> None:
    config = {"b": "<a> & \u2028", "a": {"é": 1}, "metadata": {"annotations": {lastapplied.ANNOTATION: "x", "k": "v"}}}
    assert lastapplied.text_of(config) == (
        '{"a":{"é":1},"b":"\\u003ca\\u003e \\u0026 \\u2028","metadata":{"annotations":{"k":"v"}}}\n'
    )


def test_kubectl_goes_on_server_side_where_it_applied() -> None:
    live = made(configuration(color="red"))
    now = applied(live, configuration("a:2", color="blue"))
    assert now.spec.template.spec.containers[0].image == "a:2"
    assert dict(now.metadata.labels) == {"color": "blue"}
    assert set(owners(now)) == {("kubectl", "Apply"), (CLIENT_SIDE, "Update")}
    # The annotation says what is applied now: going back to client-side apply loses nothing.
    assert json.loads(now.metadata.annotations[lastapplied.ANNOTATION]) == configuration("a:2", color="blue")


def test_what_somebody_has_changed_since_is_theirs() -> None:
    live = made(configuration())
    scaled = type(live)()
    scaled.CopyFrom(live)
    scaled.spec.replicas = 5
    server_apply.track(live, scaled, manager="scaler", now=1.5)
    with pytest.raises(ApplyConflict) as caught:
        applied(scaled, configuration("a:2", replicas=3))
    assert [cause.field for cause in caught.value.causes] == [".spec.replicas"]
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "scaler" using apps/v1: .spec.replicas'
    assert applied(scaled, configuration("a:2", replicas=None)).spec.replicas == 5


@pytest.mark.parametrize(
    ("manager", "annotation"),
    [
        pytest.param("other", None, id="another manager"),
        pytest.param("kubectl", "", id="no annotation"),
        pytest.param("kubectl", "{", id="no JSON"),
        pytest.param("kubectl", "[]", id="no object"),
        pytest.param("kubectl", "[" * 100_000, id="brackets without end"),
        pytest.param("kubectl", '{"a":' * 100_000, id="objects without end"),
        pytest.param("kubectl", '{"apiVersion":"apps/v1","spec":[1]}', id="no Deployment"),
        pytest.param("kubectl", '{"apiVersion":"apps/v1beta1","kind":"Deployment"}', id="another version"),
    ],
)
def test_others_meet_a_conflict(manager: str, annotation: str | None) -> None:
    with pytest.raises(ApplyConflict, match=r"containers\[name=\"c\"\]\.image"):
        applied(made(configuration(), annotation), configuration("a:2"), manager)


def test_an_annotation_that_grows_too_large_goes() -> None:
    live = made(configuration())
    live.metadata.annotations["note"] = "x" * (lastapplied.MAX_ANNOTATIONS_BYTES - 700)
    assert lastapplied.ANNOTATION in applied(live, configuration("a:2")).metadata.annotations
    assert lastapplied.ANNOTATION not in applied(live, configuration("a" * 600)).metadata.annotations
