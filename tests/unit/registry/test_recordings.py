"""The registry answers as a real API server did, for every recorded request on a kind that is served.

Each file of recordings is replayed in order. A difference that is meant, or that is not the registry's to make, is listed in
`wherry.testing.recorded_exceptions` with its reason; one that is listed and no longer there fails too.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from controlplane.admission.chain import Options as AdmissionOptions
from controlplane.controllers.disruption import plan as disruption
from controlplane.registry.registry import Options, Registry
from wherry.api import kinds, meta, times
from wherry.api.context import Env
from wherry.testing import recorded_exceptions, recordings
from wherry.testing.builders import make_pod
from wherry.testing.recordings import Record, Target
from wherry.testing.registries import admin, obj, open_registry, pod

pytestmark = pytest.mark.skipif(
    not recordings.GOLDEN.is_dir() and not os.environ.get("CI"),
    reason="no recordings of an API server beside the checkout",
)

METHODS = ("HEAD", "OPTIONS")


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    options = Options(admission=AdmissionOptions(toleration_s=300))
    async with open_registry(env, options) as found:
        for name, labels in (
            ("golden", {}), ("golden-q", {}), ("golden-ps", {"pod-security.kubernetes.io/enforce": "restricted"}),
            ("golden-pw", {"pod-security.kubernetes.io/warn": "baseline"}),
        ):  # fmt: skip
            namespace = obj("v1", "Namespace", name, meta={"labels": labels})
            await found.create(admin(field_manager="unknown"), kinds.by_name("v1", "Namespace"), "", namespace)
        # Made by controllers there; a quota counts them.
        for name in ("kube-root-ca.crt", "openshift-service-ca.crt"):
            await found.create(admin(), kinds.by_name("v1", "ConfigMap"), "golden-q", obj("v1", "ConfigMap", name))
        yield found


async def replay(registry: Registry, file: str, chosen: Iterable[tuple[Record, Target]]) -> None:
    """Fails with what differs and is not listed, and with what is listed and does not differ."""
    known = recorded_exceptions.REGISTRY[file]
    revisions: dict[str, str] = {}  # recorded -> ours
    wrong: list[str] = []
    seen = 0
    for record, target in chosen:
        if record.method in METHODS:
            continue
        seen += 1
        record = recordings.with_revision(record, revisions)
        try:
            answer = await recordings.perform(registry, record, target)
            found = recordings.differences(record, answer)
            recordings.note_revision(record, answer, revisions)
        except (ValueError, AttributeError) as error:
            if record.number not in known:
                raise
            found = [repr(error)]
        if record.number in known:
            if not found:
                wrong.append(f"{record.id}: listed as an exception ({known[record.number]}), and yet as recorded")
        else:
            wrong += [f"{record.id}: {text}" for text in found]
    assert seen, f"no recording in {file}.jsonl is of a kind that is served"
    assert not wrong, "\n".join(wrong)


def of_served_kinds(registry: Registry, file: str) -> list[tuple[Record, Target]]:
    found = []
    for record in recordings.records(file):
        target = recordings.target(registry, record.path)
        if target is not None:
            found.append((record, target))
    return found


async def test_defaults(registry: Registry) -> None:
    await replay(registry, "defaults", of_served_kinds(registry, "defaults"))


async def test_validation_of_creates(registry: Registry) -> None:
    chosen = [item for item in of_served_kinds(registry, "validation") if item[0].number < 428]
    await replay(registry, "validation", chosen)


async def test_updates_reads_and_options(registry: Registry) -> None:
    chosen = [item for item in of_served_kinds(registry, "validation") if item[0].number >= 428]
    chosen = await with_their_objects(registry, chosen)
    before = [item for item in chosen if item[0].number < 512]
    after = [item for item in chosen if item[0].number >= 512]
    await replay(registry, "validation", before)
    # There the dry run of a deletion did delete the pod that was on no node; what follows was asked without it.
    await recordings.delete_pod(registry, "golden", "upd")
    for number in (572, 603):  # lists: of what controllers had made there
        record, target = next(item for item in chosen if item[0].number == number)
        for item in record.answer["items"]:
            await recordings.make(registry, target.kind, item)
    await replay(registry, "validation", after)


async def with_their_objects(registry: Registry, chosen: list[tuple[Record, Target]]) -> list[tuple[Record, Target]]:
    """Makes the objects that the recorded updates are about: each body without what its name says it changes. Their
    uid and resourceVersion in the requests become those of the ones made."""
    config_map = kinds.by_name("v1", "ConfigMap")
    for number in range(3):
        page = obj("v1", "ConfigMap", f"page{number}", meta={"labels": {"page": "y"}})
        await registry.create(admin(), config_map, "golden", page)
    groups: dict[str, list[tuple[Record, Target]]] = {}
    for record, target in chosen:
        if (
            record.name.startswith("update ")
            and target.name in ("upd", "golden-upd")
            and "metadata" in (record.body or ())
        ):
            groups.setdefault(target.kind.kind, []).append((record, target))
    fitted: dict[int, Any] = {}
    for kind_name, items in groups.items():
        body = original(kind_name, items)
        made, revision = await recordings.make(registry, items[0][1].kind, body)
        for record, _ in items:
            changed = copy.deepcopy(record.body)
            meta = changed["metadata"]
            meta.pop("creationTimestamp", None)
            if meta.get("uid") == body["metadata"]["uid"]:
                meta["uid"] = made
            if meta.get("resourceVersion") == body["metadata"]["resourceVersion"]:
                meta["resourceVersion"] = revision
            fitted[record.number] = changed
    return [
        (recordings.with_body(record, fitted[record.number]), target) if record.number in fitted else (record, target)
        for record, target in chosen
    ]


def original(kind_name: str, items: list[tuple[Record, Target]]) -> dict[str, Any]:
    def path_of(record: Record) -> list[str]:
        match = re.search(r": ([\w.]+) =", record.name)
        assert match is not None, record.name
        return match.group(1).split(".")

    alone = {
        "ReplicaSet": {"matchLabels": {"app": "updreplicaset"}},
        "Secret": "Opaque",
        "EndpointSlice": "IPv4",
        "DaemonSet": {"matchLabels": {"app": "upddaemonset"}},
        "PersistentVolume": {"path": "/x", "type": ""},
        "RoleBinding": "r",
        "PriorityClass": 5,
        "RuntimeClass": "h",
        "PodDisruptionBudget": {"matchLabels": {"app": "a"}},
        "CSIDriver": True,
    }
    first = items[0][0]
    body: dict[str, Any] = copy.deepcopy(first.body)
    path = path_of(first)
    if kind_name == "StorageClass":
        body["provisioner"] = "x.example/p"
        return body
    if kind_name in alone:
        value: Any = alone[kind_name]
    else:
        value = next(record.body for record, _ in items if path_of(record)[:2] != path[:2])
        for step in path:
            value = value[int(step)] if step.isdigit() else value.get(step)
    place: Any = body
    for step in path[:-1]:
        place = place[int(step)] if step.isdigit() else place[step]
    place[path[-1]] = value
    return body


async def test_patches(registry: Registry) -> None:
    fin = obj("v1", "ConfigMap", "fin", meta={"finalizers": ["golden.example/a", "golden.example/b"]}, data={"a": "1"})
    await registry.create(admin(field_manager="unknown"), kinds.by_name("v1", "ConfigMap"), "golden", fin)
    await replay(registry, "patch", of_served_kinds(registry, "patch"))


async def test_apply(registry: Registry) -> None:
    await replay(registry, "apply", of_served_kinds(registry, "apply"))


async def put_budget(registry: Registry, name: str, label: str) -> None:
    """As the disruption controller left it there."""
    kind = kinds.by_name("policy/v1", "PodDisruptionBudget")
    spec = {"minAvailable": 1, "selector": {"matchLabels": {label: "y"}}}
    made = (await registry.create(admin(), kind, "golden", obj("policy/v1", kind.kind, name, spec=spec))).message()
    judged = disruption.plan(made, [make_pod("p").ready().build()], {}, times.parse_rfc3339("2026-11-22T21:36:07Z")[0])
    assert judged.status is not None
    made.status.CopyFrom(judged.status)
    await registry.update(admin(), kind, "golden", name, made, subresource="status")


async def test_flows(registry: Registry) -> None:
    """Finalizers, grace periods, generated names, collections, scale, eviction, binding, namespaces."""
    pods = kinds.by_name("v1", "Pod")
    app = {"name": "c", "image": "example.com/app:1"}
    for name, labels in (("evrs-zhcpm", {"ev": "y"}), ("ev3", {"two": "y"})):
        made = (await registry.create(admin(), pods, "golden", pod(name, meta={"labels": labels}))).message()
        made.status.phase = "Running"
        meta.set_condition(made.status.conditions, "Ready", "True", now=1.0)
        await registry.update(admin(), pods, "golden", name, made, subresource="status")
    for name, label in (("evp", "ev"), ("first", "two"), ("second", "two")):
        await put_budget(registry, name, label)
    for item in (
        pod("ev2"), pod("bd", containers=[app], schedulerName="none"),
        pod("bdg", schedulingGates=[{"name": "golden.example/g"}]),
    ):  # fmt: skip
        await registry.create(admin(), pods, "golden", item)
    template = {"metadata": {"labels": {"app": "sc"}}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "sc"}}, "template": template}
    deployment = obj("apps/v1", "Deployment", "sc", spec=spec)
    await registry.create(admin(), kinds.by_name("apps/v1", "Deployment"), "golden", deployment)
    service = obj("v1", "Service", "ap", spec={
        "selector": {"k": "v", "x": "z"}, "ports": [{"name": "b", "port": 81}, {"name": "c", "port": 82}],
    })  # fmt: skip
    await registry.create(admin(), kinds.by_name("v1", "Service"), "golden", service)
    await replay(registry, "flows", of_served_kinds(registry, "flows"))
