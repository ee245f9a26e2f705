"""Messages that differ in nothing that JSON could tell become the same."""

from __future__ import annotations

import pytest

from wherry.api import codec, kinds, normal
from wherry.api.errors import BadRequest
from wherry.pb import apps_v1_pb2, core_v1_pb2
from wherry.testing.builders import make_pod


def test_what_go_sends_is_what_json_says() -> None:
    deployment = apps_v1_pb2.Deployment()
    deployment.spec.template.spec.containers.add(name="c", image="a")
    plain = deployment.SerializeToString(deterministic=True)
    # Structs by value, which Go writes even when they are empty.
    deployment.metadata.creation_timestamp.SetInParent()
    deployment.spec.strategy.SetInParent()
    deployment.spec.template.metadata.creation_timestamp.SetInParent()
    deployment.spec.template.spec.containers[0].resources.SetInParent()
    deployment.status.SetInParent()
    normal.normalise(deployment)
    assert deployment.SerializeToString(deterministic=True) == plain


def test_what_is_empty_and_means_something_stays() -> None:
    pod = make_pod("p").build()
    pod.spec.volumes.add(name="v").volume_source.empty_dir.SetInParent()
    pod.spec.affinity.SetInParent()  # a pointer: {} there too
    normal.normalise(pod)
    assert pod.spec.volumes[0].volume_source.HasField("empty_dir")
    assert pod.spec.HasField("affinity")


def test_values_are_written_in_one_way() -> None:
    pod = make_pod("p").request("cpu", "1").build()
    pod.spec.containers[0].resources.requests["cpu"].string = "0.5"
    pod.metadata.creation_timestamp.seconds, pod.metadata.creation_timestamp.nanos = 5, 123
    normal.normalise(pod)
    assert pod.spec.containers[0].resources.requests["cpu"].string == "500m"
    assert pod.metadata.creation_timestamp.nanos == 0


def test_it_does_what_the_way_through_json_does() -> None:
    for kind in kinds.all_kinds():
        message = kind.message()
        for field in message.DESCRIPTOR.fields:
            if field.message_type is not None and not field.is_repeated:
                getattr(message, field.name).SetInParent()
        expected = codec.from_dict(codec.to_dict(message), kind.message, strict=False)
        normal.normalise(message)
        assert message == expected, kind


@pytest.mark.parametrize(
    ("break_it", "wanted"),
    [
        (lambda pod: setattr(pod.spec.containers[0].resources.limits["cpu"], "string", "x"), r"limits\[cpu\]: bad quantity"),
        (lambda pod: setattr(pod.status.start_time, "seconds", 1 << 60), "status.startTime: .* are no time"),
        (lambda pod: setattr(pod.metadata.managed_fields.add().fields_v1, "raw", b"{"), r"managedFields\[0\].fieldsV1: no JSON"),
        (lambda pod: setattr(pod.metadata.managed_fields.add().fields_v1, "raw", b'{"a":NaN}'), r"fieldsV1: no JSON: NaN"),
        (lambda pod: setattr(pod.metadata.managed_fields.add().fields_v1, "raw", b"[" * 9999), r"fieldsV1: no JSON: "),
    ],
    ids=["quantity", "time", "raw", "not a number", "deep"],
)  # fmt: skip
def test_what_has_no_json_form_is_refused(break_it: object, wanted: str) -> None:
    pod: core_v1_pb2.Pod = make_pod("p").build()
    break_it(pod)  # type: ignore[operator]
    with pytest.raises(BadRequest, match=wanted):
        normal.normalise(pod)
