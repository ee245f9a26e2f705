"""Tables have the columns, and the cells, of a real API server."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry import versions
from controlplane.registry.base import Stored
from controlplane.registry.kinds import table
from controlplane.registry.registry import Registry
from controlplane.registry.tables.render import render
from wherry.api import codec, kinds, times
from wherry.api.context import Env
from wherry.api.kinds import Kind
from wherry.pb import resources_pb2
from wherry.testing import recorded_exceptions, recordings
from wherry.testing.registries import obj, open_registry, pod


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


def table_of(registry: Registry, *items: Any) -> resources_pb2.Table:
    kind = kinds.of(type(items[0]))
    stored = [Stored(kind, item.SerializeToString(deterministic=True), 1, {}) for item in items]
    return registry.table(kind, stored)


def cells(shown: resources_pb2.Table) -> list[dict[str, Any]]:
    names = [column.name for column in shown.columns]
    return [
        {name: getattr(cell, cell.WhichOneof("value")) for name, cell in zip(names, row.cells, strict=True)}
        for row in shown.rows
    ]


# When the tables were recorded, and what controllers had written by then into the statuses of objects whose bodies were
# recorded before: by kind, and where it differs by name.
RECORDED_AT = "2026-11-22T21:36:23Z"
SCHEDULED = {"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 2}
STATUSES: dict[str, dict[str, dict[str, Any]]] = {
    "DaemonSet": {"": SCHEDULED},
    "Deployment": {"": {"updatedReplicas": 1}, "ap": {}, "pt": {}},
    "Job": {"": {"active": 1, "startTime": "2026-11-22T21:36:20Z"}, "upd": {"active": 1, "startTime": "2026-11-22T21:35:48Z"}},
    "PersistentVolume": {"": {"phase": "Bound"}, "rich": {"phase": "Available"}},
    "PersistentVolumeClaim": {
        "min": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}, "rich": {"phase": "Pending"},
    },
    "ReplicationController": {"": {"replicas": 1}},
    "ResourceQuota": {"": {"hard": {"count/nothing.example": "3"}, "used": {"count/nothing.example": "0"}}},
}  # fmt: skip
# Specs that were written by then too.
SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("Deployment", "ap"): {"replicas": 0},
    ("Deployment", "min"): {"selector": {"matchLabels": {"app": "deployment"}}},
    ("Deployment", "rec"): {"selector": {"matchLabels": {"app": "deployment"}}},
    ("ReplicationController", "min"): {"selector": {"app": "replicationcontroller"}},
    ("Service", "cip"): {"clusterIP": "10.96.212.120", "clusterIPs": ["10.96.212.120"]},
    ("Service", "ds"): {"clusterIP": "10.96.134.48", "clusterIPs": ["10.96.134.48"]},
    ("PersistentVolumeClaim", "min"): {"volumeName": "min"},
    ("PersistentVolume", "min"): {"claimRef": {"namespace": "golden", "name": "min"}},
}


def recorded_objects() -> dict[tuple[str, str, str], dict[str, Any]]:
    """The newest recorded body of each object, as it was answered; a dry run has none that is newer."""
    found: dict[tuple[str, str, str], tuple[int, dict[str, Any]]] = {}
    for file in ("defaults", "validation", "patch", "apply", "flows", "builtins", "auth"):
        for record in recordings.records(file):
            if not isinstance(record.answer, dict) or record.status >= 400:
                continue
            answer = record.answer
            types = {"apiVersion": answer.get("apiVersion"), "kind": str(answer.get("kind")).removesuffix("List")}
            for body in answer.get("items") or [answer]:
                if not isinstance(body, dict) or "name" not in body.get("metadata", {}):
                    continue
                body = {**types, **body}
                meta = body["metadata"]
                key = body["kind"], meta.get("namespace", ""), meta["name"]
                revision = int(meta.get("resourceVersion") or 0)
                if key not in found or found[key][0] < revision:
                    found[key] = revision, body
    return {key: body for key, (_, body) in found.items()}


@pytest.mark.skipif(
    not recordings.GOLDEN.is_dir() and not os.environ.get("CI"),
    reason="no recordings of an API server beside the checkout",
)
async def test_columns_and_cells_are_as_recorded(registry: Registry) -> None:
    """Of every object whose body was recorded anywhere, cell by cell, ages too."""
    bodies = recorded_objects()
    wrong, compared = [], 0
    for record in recordings.records("tables"):
        where = recordings.target(registry, record.path)
        if where is None or not isinstance(record.answer, dict) or record.answer.get("kind") != "Table":
            continue
        if where.kind.plural in recorded_exceptions.ROWS:
            continue
        columns = record.answer["columnDefinitions"]
        shown = registry.table(where.kind, [])
        assert [
            (column.name, column.type, column.format, column.priority) for column in shown.columns
        ] == [(c["name"], c["type"], c["format"], c["priority"]) for c in columns], record.id  # fmt: skip
        for row in record.answer["rows"]:
            item = item_of(where.kind, row.get("object") or {}, bodies)
            if item is None:
                continue
            compared += 1
            kind = kinds.of(type(item))
            stored = Stored(kind, item.SerializeToString(deterministic=True), 1, {})
            view = versions.of(kind)
            stored = stored if view is None else view.hidden(stored)
            strategy = registry._of(where.kind, "table").strategy
            (ours,) = cells(render(strategy, [stored], times.parse_rfc3339(RECORDED_AT)[0]))
            wanted = dict(zip((column["name"] for column in columns), row["cells"], strict=True))
            wrong += [
                f"{record.name} {item.metadata.name} {name}: {ours[name]!r} instead of {cell!r}"
                for name, cell in wanted.items()
                if ours[name] != cell
            ]
            # What is kept of a row is what does not change by itself.
            (later,) = cells(render(strategy, [stored], times.parse_rfc3339(RECORDED_AT)[0] + 4e7))
            wrong += [
                f"{record.name} {item.metadata.name} {column.name}: changes as time goes by"
                for column in strategy.columns
                if not column.ages and not column.passes(stored.message()) and ours[column.name] != later[column.name]
            ]
    assert not wrong, "\n".join(wrong)
    assert compared > 100


def item_of(kind: Kind, shown: dict[str, Any], bodies: dict[tuple[str, str, str], dict[str, Any]]) -> Any:
    """A row's object: its metadata as the table has them, the rest from where it was recorded. None: nowhere."""
    if shown.get("kind") == kind.kind:
        return codec.from_dict(shown, kind.message, strict=False)
    meta = shown.get("metadata") or {}
    body = bodies.get((kind.kind, meta.get("namespace", ""), meta.get("name", "")))
    if body is None:
        return None
    written = STATUSES.get(kind.kind, {})
    status = written.get(meta["name"], written.get(""))
    if kind.kind == "Job":  # selects by its own uid
        body = json.loads(json.dumps(body).replace(body["metadata"]["uid"], meta["uid"]))
    body = {**body, "metadata": meta}
    if status is not None:
        body["status"] = status
    if (kind.kind, meta["name"]) in SPECS:
        body["spec"] = {**body["spec"], **SPECS[kind.kind, meta["name"]]}
    return codec.from_dict(body, kinds.by_name(body["apiVersion"], kind.kind).message, strict=False)


def waiting(name: str, reason: str, **facts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": {"waiting": {"reason": reason}},
        "ready": False,
        "restartCount": 0,
        "image": "",
        "imageID": "",
        **facts,
    }


def ended(name: str, code: int, reason: str = "", **facts: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, **({"reason": reason} if reason else {})}}
    return {"name": name, "state": state, "ready": False, "restartCount": 0, "image": "", "imageID": "", **facts}


def running(name: str, **facts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": {"running": {}},
        "ready": True,
        "restartCount": 0,
        "image": "",
        "imageID": "",
        **facts,
    }


INIT = [{"name": "i", "image": "x"}, {"name": "j", "image": "x"}]


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        pytest.param({}, {"phase": "Pending"}, ("0/1", "Pending", "0"), id="pending"),
        pytest.param({}, {"phase": "Running", "containerStatuses": [running("c")]}, ("1/1", "Running", "0"), id="running"),
        pytest.param(
            {}, {"phase": "Running", "containerStatuses": [waiting("c", "CrashLoopBackOff", restartCount=3)]},
            ("0/1", "CrashLoopBackOff", "3"), id="crash loop",
        ),
        pytest.param(
            {}, {"phase": "Succeeded", "containerStatuses": [ended("c", 0, "Completed")]}, ("0/1", "Completed", "0"),
            id="completed",
        ),
        pytest.param(
            {}, {"phase": "Failed", "containerStatuses": [ended("c", 3)]}, ("0/1", "ExitCode:3", "0"), id="exit code"
        ),
        pytest.param(
            {}, {"phase": "Failed", "reason": "Evicted"}, ("0/1", "Evicted", "0"), id="evicted"
        ),
        pytest.param(
            {"initContainers": INIT}, {"phase": "Pending", "initContainerStatuses": [ended("i", 0), running("j")]},
            ("0/1", "Init:1/2", "0"), id="initialising",
        ),
        pytest.param(
            {"initContainers": INIT},
            {"phase": "Pending", "initContainerStatuses": [waiting("i", "CrashLoopBackOff", restartCount=2)]},
            ("0/1", "Init:CrashLoopBackOff", "2"), id="init fails",
        ),
        pytest.param(
            {"initContainers": [{"name": "side", "image": "x", "restartPolicy": "Always"}]},
            {"phase": "Running", "initContainerStatuses": [running("side", started=True)], "containerStatuses": [running("c")]},
            ("2/2", "Running", "0"), id="sidecar",
        ),
    ],
)  # fmt: skip
async def test_the_story_of_a_pod(
    registry: Registry, spec: dict[str, Any], status: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    item = pod("p", **spec)
    item.status.CopyFrom(codec.from_dict({"metadata": {}, "status": status}, type(item)).status)
    (row,) = cells(table_of(registry, item))
    assert (row["Ready"], row["Status"], row["Restarts"]) == expected


async def test_restarts_say_when(registry: Registry, env: Env) -> None:
    item = pod("p")
    item.status.phase = "Running"
    status = item.status.container_statuses.add(name="c", restart_count=2, ready=True)
    status.state.running.SetInParent()
    status.last_state.terminated.finished_at.seconds = int(env.now()) - 90
    assert cells(table_of(registry, item))[0]["Restarts"] == "2 (90s ago)"


async def test_a_deleted_pod_terminates(registry: Registry, env: Env) -> None:
    item = pod("p")
    item.status.phase = "Running"
    item.metadata.deletion_timestamp.seconds = int(env.now())
    assert cells(table_of(registry, item))[0]["Status"] == "Terminating"


@pytest.mark.parametrize(
    ("ready", "unschedulable", "expected"),
    [("True", False, "Ready"), ("False", False, "NotReady"), ("Unknown", True, "NotReady,SchedulingDisabled")],
)
async def test_a_node_is_ready(registry: Registry, ready: str, unschedulable: bool, expected: str) -> None:
    item = obj(
        "v1", "Node", "n", spec={"unschedulable": unschedulable}, meta={"labels": {"node-role.kubernetes.io/edge": ""}}
    )
    item.status.conditions.add(type="Ready", status=ready)
    (row,) = cells(table_of(registry, item))
    assert (row["Status"], row["Roles"]) == (expected, "edge")


SELECTOR = {"matchLabels": {"app": "a", "x": "y"}}
TEMPLATE = {
    "metadata": {"labels": {"app": "a", "x": "y"}},
    "spec": {"containers": [{"name": "z", "image": "z:1"}, {"name": "a", "image": "a:1"}]},
}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param(
            obj("v1", "Service", "cip", spec={
                "type": "ClusterIP", "clusterIP": "10.96.212.120", "selector": {"app": "a"},
                "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "nodePort": 30053}],
            }),
            {"Type": "ClusterIP", "Cluster-IP": "10.96.212.120", "External-IP": "<none>", "Port(s)": "80/TCP,53:30053/UDP",
             "Selector": "app=a"},
            id="service",
        ),
        pytest.param(
            obj("v1", "Service", "en", spec={"type": "ExternalName", "externalName": "x.example"}),
            {"Type": "ExternalName", "Cluster-IP": "<none>", "External-IP": "x.example", "Port(s)": "<none>",
             "Selector": "<none>"},
            id="external name",
        ),
        pytest.param(
            obj("v1", "Service", "lb", spec={"type": "LoadBalancer", "clusterIP": "10.96.0.9"}),
            {"Type": "LoadBalancer", "Cluster-IP": "10.96.0.9", "External-IP": "<pending>", "Port(s)": "<none>",
             "Selector": "<none>"},
            id="load balancer",
        ),
        pytest.param(
            obj("apps/v1", "Deployment", "d", spec={"replicas": 3, "selector": SELECTOR, "template": TEMPLATE},
                status={"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}),
            {"Ready": "1/3", "Up-to-date": 2, "Available": 1, "Containers": "z,a", "Images": "z:1,a:1",
             "Selector": "app=a,x=y"},
            id="deployment",
        ),
        pytest.param(
            obj("apps/v1", "ReplicaSet", "r", spec={"replicas": 3, "selector": SELECTOR, "template": TEMPLATE},
                status={"replicas": 2, "readyReplicas": 1}),
            {"Desired": 3, "Current": 2, "Ready": 1, "Containers": "z,a", "Images": "z:1,a:1", "Selector": "app=a,x=y"},
            id="replica set",
        ),
        pytest.param(
            obj("v1", "Secret", "s", type="Opaque", data={"a": "", "b": ""}), {"Type": "Opaque", "Data": 2}, id="secret"
        ),
        pytest.param(
            obj("v1", "ConfigMap", "c", data={"a": ""}, binaryData={"b": ""}), {"Data": 2}, id="config map"
        ),
        pytest.param(
            obj("v1", "Event", "e", involvedObject={"kind": "Node", "name": "n"}, type="Normal", reason="R", message="m\n",
                source={"component": "node-controller"}, firstTimestamp="2026-01-01T00:00:00Z"),
            {"Last Seen": "60s", "Type": "Normal", "Reason": "R", "Object": "node/n", "Subobject": "",
             "Source": "node-controller", "Message": "m", "First Seen": "60s", "Count": 1},
            id="event",
        ),
        pytest.param(
            obj("v1", "Event", "e", involvedObject={"kind": "Pod", "name": "p"}, count=3,
                firstTimestamp="2025-12-31T23:56:00Z", lastTimestamp="2026-01-01T00:00:00Z"),
            {"Last Seen": "60s (x3 over 5m)", "Type": "", "Reason": "", "Object": "pod/p", "Subobject": "", "Source": "",
             "Message": "", "First Seen": "5m", "Count": 3},
            id="repeated event",
        ),
        pytest.param(
            obj("coordination.k8s.io/v1", "Lease", "l", spec={"holderIdentity": "h"}), {"Holder": "h"}, id="lease"
        ),
        pytest.param(
            obj("certificates.k8s.io/v1", "CertificateSigningRequest", "c",
                spec={"request": "", "signerName": "x.example/s", "username": "u", "expirationSeconds": 3600},
                status={"conditions": [{"type": "Approved", "status": "True"}], "certificate": "eA=="}),
            {"SignerName": "x.example/s", "Requestor": "u", "RequestedDuration": "60m", "Condition": "Approved,Issued"},
            id="certificate request",
        ),
        pytest.param(obj("v1", "Namespace", "n", status={"phase": "Active"}), {"Status": "Active"}, id="namespace"),
    ],
)  # fmt: skip
async def test_cells(item: Any, expected: dict[str, Any]) -> None:
    kind = kinds.of(type(item))
    strategy = next(served.strategy for served in table(event_ttl_s=1) if served.kind is kind)
    stored = Stored(kind, item.SerializeToString(deterministic=True), 1, {})
    (row,) = cells(render(strategy, [stored], now=times.parse_rfc3339("2026-01-01T00:01:00Z")[0]))
    assert row.pop("Name") == item.metadata.name
    row.pop("Age", None)
    assert row == expected
