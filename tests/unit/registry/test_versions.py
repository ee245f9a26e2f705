"""Second versions of kinds: the same objects in two shapes, through every verb."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry import versions
from controlplane.registry.base import ListOptions, WatchOptions
from controlplane.registry.registry import Registry
from controlplane.registry.versions import autoscaling
from wherry.api import codec, kinds
from wherry.api.context import Env
from wherry.api.errors import BadRequest, Invalid
from wherry.pb import autoscaling_v1_pb2, autoscaling_v2_pb2, meta_v1_pb2
from wherry.testing.registries import admin, obj, open_registry

V1 = kinds.by_name("autoscaling/v1", "HorizontalPodAutoscaler")
V2 = kinds.by_name("autoscaling/v2", "HorizontalPodAutoscaler")
NEW_EVENTS = kinds.by_name("events.k8s.io/v1", "Event")
OLD_EVENTS = kinds.by_name("v1", "Event")
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


def autoscaler_v1(**spec: Any) -> Any:
    return obj("autoscaling/v1", "HorizontalPodAutoscaler", "a", spec={
        "scaleTargetRef": TARGET, "maxReplicas": 5, **spec,
    })  # fmt: skip


async def test_one_autoscaler_in_two_versions(registry: Registry) -> None:
    made = await registry.create(admin(), V1, "default", autoscaler_v1(targetCPUUtilizationPercentage=60))
    assert made.kind is V1
    assert made.message().spec.target_cpu_utilization_percentage == 60
    newer = (await registry.get(admin(), V2, "default", "a")).message()
    assert [metric.resource.target.average_utilization for metric in newer.spec.metrics] == [60]
    patch = json.dumps({"spec": {"targetCPUUtilizationPercentage": 70}}).encode()
    patched = await registry.patch(admin(), V1, "default", "a", "application/merge-patch+json", patch)
    assert patched.message().spec.target_cpu_utilization_percentage == 70
    listed = await registry.list(admin(), V1, ListOptions(namespace="default"))
    assert [stored.message().spec.target_cpu_utilization_percentage for stored in listed.items] == [70]
    assert registry.table(V1, listed.items).rows[0].cells[2].text == "cpu: <unknown>/70%"
    config = {"apiVersion": "autoscaling/v1", "kind": V1.kind, "metadata": {"name": "a"}, "spec": {"maxReplicas": 9,
        "scaleTargetRef": TARGET,
    }}  # fmt: skip
    ctx = admin()
    ctx.field_manager = "me"
    applied, created = await registry.apply(ctx, V1, "default", "a", json.dumps(config).encode(), force=True)
    assert (created, applied.kind, applied.message().spec.max_replicas) == (False, V1, 9)
    whole = applied.message()
    whole.spec.max_replicas = 4
    assert (await registry.update(admin(), V1, "default", "a", whole)).message().spec.max_replicas == 4
    await registry.delete(admin(), V1, "default", "a", meta_v1_pb2.DeleteOptions())
    assert (await registry.list(admin(), V2, ListOptions(namespace="default"))).items == []


async def test_a_watch_shows_the_version_that_was_asked_for(registry: Registry) -> None:
    await registry.create(admin(), V1, "default", autoscaler_v1())
    batches: Any = registry.watch(admin(), V1, WatchOptions(namespace="default"))
    batch = await anext(batches)
    await batches.aclose()
    assert [(event.type, event.stored.kind) for event in batch.events] == [("ADDED", V1)]


FULL = {
    "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a", "annotations": {"k": "v"}},
    "spec": {
        "scaleTargetRef": TARGET, "minReplicas": 2, "maxReplicas": 7,
        "metrics": [
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
            {"type": "ContainerResource", "containerResource": {
                "name": "cpu", "container": "c", "target": {"type": "Utilization", "averageUtilization": 30}}},
            {"type": "Pods", "pods": {"metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}},
                                      "target": {"type": "AverageValue", "averageValue": "5"}}},
            {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"},
                                          "metric": {"name": "r"}, "target": {"type": "Value", "value": "10"}}},
            {"type": "External", "external": {"metric": {"name": "e", "selector": {"matchLabels": {"c": "d"}}},
                                              "target": {"type": "AverageValue", "averageValue": "3"}}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60, "selectPolicy": "Min",
                                   "policies": [{"type": "Pods", "value": 1, "periodSeconds": 30}]}},
    },
    "status": {
        "observedGeneration": 1, "currentReplicas": 3, "desiredReplicas": 4, "lastScaleTime": "2026-01-02T03:04:05Z",
        "currentMetrics": [{"type": "Resource", "resource": {
            "name": "cpu", "current": {"averageUtilization": 20, "averageValue": "20m"}}}],
        "conditions": [{"type": "AbleToScale", "status": "True", "reason": "R", "message": "m",
                        "lastTransitionTime": "2026-01-02T03:04:05Z"}],
    },
}  # fmt: skip


def test_nothing_is_lost_on_the_way_to_the_older_version_and_back() -> None:
    primary = codec.from_dict(FULL, autoscaling_v2_pb2.HorizontalPodAutoscaler)
    older = autoscaling.from_primary(primary)
    assert older.spec.target_cpu_utilization_percentage == 50
    assert older.status.current_cpu_utilization_percentage == 20
    annotations = older.metadata.annotations
    assert json.loads(annotations[autoscaling.METRICS])[0] == {
        "type": "Resource", "resource": {"name": "memory", "targetAverageValue": "1Gi"},
    }  # fmt: skip
    assert json.loads(annotations[autoscaling.METRICS])[3]["object"] == {
        "target": {"kind": "Service", "name": "s", "apiVersion": "v1"}, "metricName": "r", "targetValue": "10",
    }  # fmt: skip
    assert json.loads(annotations[autoscaling.BEHAVIOR])["ScaleDown"]["StabilizationWindowSeconds"] == 60
    assert json.loads(annotations[autoscaling.CONDITIONS])[0]["type"] == "AbleToScale"
    back = autoscaling.to_primary(older)
    assert codec.to_dict(back) == codec.to_dict(primary)
    assert dict(back.metadata.annotations) == {"k": "v"}


@pytest.mark.parametrize("text", ["x", "{}", "[1]", '[{"type": 5}]', '[{"type": "Pods", "pods": {"selector": 3}}]'])
def test_an_annotation_that_no_server_wrote(text: str) -> None:
    given = autoscaling_v1_pb2.HorizontalPodAutoscaler()
    given.metadata.annotations[autoscaling.METRICS] = text
    with pytest.raises(BadRequest, match=r"metadata.annotations\[autoscaling.alpha.kubernetes.io/metrics\]"):
        autoscaling.to_primary(given)


async def test_one_event_in_two_versions(registry: Registry) -> None:
    event = obj("events.k8s.io/v1", "Event", "e", regarding={"kind": "Pod", "name": "p", "namespace": "default"},
                note="n", reason="R", action="A", type="Normal", eventTime="2026-01-02T03:04:05.000006Z",
                reportingController="example.com/c", reportingInstance="i")  # fmt: skip
    await registry.create(admin(), NEW_EVENTS, "default", event)
    older = (await registry.get(admin(), OLD_EVENTS, "default", "e")).message()
    assert (older.message, older.involved_object.name, older.reporting_component) == ("n", "p", "example.com/c")
    chosen = ListOptions(namespace="default", field_selector="regarding.name=p,reason=R")
    listed = await registry.list(admin(), NEW_EVENTS, chosen)
    assert [stored.message().note for stored in listed.items] == ["n"]
    with pytest.raises(BadRequest, match=r"field label not supported: involvedObject\.name"):
        await registry.list(admin(), NEW_EVENTS, ListOptions(field_selector="involvedObject.name=p"))
    event.metadata.name = "other"
    event.ClearField("action")
    with pytest.raises(Invalid, match="action: Required value"):
        await registry.create(admin(), NEW_EVENTS, "default", event)


def test_every_view_is_of_a_kind_that_is_served() -> None:
    assert {kind.api_version for kind in versions.everything()} == {"autoscaling/v1", "events.k8s.io/v1"}
