"""The audit log of a real HTTPS server, as lines in a file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controlplane.audit import events, sink
from controlplane.audit.recorder import Options as AuditOptions
from controlplane.audit.sink import FileOptions, Sink, backups
from controlplane.server import Options
from wherry.api.context import Env
from wherry.api.errors import NotFound
from wherry.pb import core_v1_pb2
from wherry.testing.https import Caller, https
from wherry.testing.serving import serving

CONFIGS = "/api/v1/namespaces/default/configmaps"
POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, resources: [{group: "", resources: [serviceaccounts]}]}
- {level: RequestResponse, resources: [{group: "", resources: [configmaps]}], omitManagedFields: true,
   omitStages: [RequestReceived]}
- {level: Metadata}
"""


@dataclass
class Audited:
    path: Path
    admin: Caller

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
async def audited(tmp_path: Path) -> AsyncIterator[Audited]:
    path = tmp_path / "audit.log"
    options = Options(
        scheduler=False, controllers=False, audit=AuditOptions(POLICY, FileOptions(str(path), blocking=True))
    )
    async with https(Env(), options) as front, front.caller() as admin:
        yield Audited(path, admin)


async def test_a_request_with_its_objects(audited: Audited) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}}
    answer = await audited.admin.ask("POST", f"{CONFIGS}?fieldManager=me", body, Audit_Id="my-id", User_Agent="test/1")
    assert (answer.status, answer.headers["Audit-Id"]) == (201, "my-id")
    (event,) = audited.events()
    assert (event["kind"], event["apiVersion"], event["level"]) == ("Event", "audit.k8s.io/v1", "RequestResponse")
    assert (event["stage"], event["auditID"], event["verb"]) == ("ResponseComplete", "my-id", "create")
    assert event["requestURI"] == f"{CONFIGS}?fieldManager=me"
    assert event["user"]["username"] == "admin"
    assert "system:masters" in event["user"]["groups"]
    assert (event["sourceIPs"], event["userAgent"]) == (["127.0.0.1"], "test/1")
    assert event["objectRef"] == {"resource": "configmaps", "namespace": "default", "apiVersion": "v1"}
    assert event["responseStatus"] == {"metadata": {}, "code": 201}
    assert event["requestObject"] == body
    assert event["responseObject"]["metadata"]["uid"]
    assert "managedFields" not in event["responseObject"]["metadata"]
    assert event["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert event["requestReceivedTimestamp"] <= event["stageTimestamp"]


async def test_refusals_and_strangers(audited: Audited) -> None:
    assert (await audited.admin.ask("GET", "/api/v1/namespaces/nope")).status == 404
    received, complete = audited.events()
    assert (received["stage"], complete["stage"]) == ("RequestReceived", "ResponseComplete")
    assert complete["responseStatus"]["reason"] == "NotFound"
    assert complete["responseStatus"]["code"] == 404
    assert "responseObject" not in complete
    wrong = await audited.admin.ask("GET", "/api/v1/namespaces", Authorization="Bearer nope", Impersonate_User="eve")
    assert wrong.status in (200, 401, 403)
    last = audited.events()[-1]
    assert last["responseStatus"]["code"] == wrong.status


async def test_impersonation_shows_both(audited: Audited) -> None:
    answer = await audited.admin.ask("GET", "/api/v1/namespaces/default", Impersonate_User="eve")
    assert answer.status == 403
    event = audited.events()[-1]
    assert (event["user"]["username"], event["impersonatedUser"]["username"]) == ("admin", "eve")
    assert event["annotations"]["authorization.k8s.io/decision"] == "forbid"


async def test_a_watch_is_noted_when_it_begins(audited: Audited) -> None:
    url = f"{audited.admin.base}/api/v1/namespaces?watch=true&timeoutSeconds=1"
    async with audited.admin.session.get(url) as response:
        await response.read()
    await audited.admin.ask("GET", "/version")
    stages = [event["stage"] for event in audited.events() if event["verb"] == "watch"]
    assert stages == ["RequestReceived", "ResponseStarted", "ResponseComplete"]


async def test_what_the_policy_leaves_out_and_what_admission_adds(audited: Audited) -> None:
    await audited.admin.ask("GET", "/api/v1/namespaces/default/serviceaccounts")
    assert not audited.events()
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/audit": "baseline"}}}
    await audited.admin.ask("PATCH", "/api/v1/namespaces/default", label, content_type="application/merge-patch+json")
    pod = {"metadata": {"name": "p"}, "spec": {"hostPID": True, "containers": [{"name": "c", "image": "x"}]}}
    assert (await audited.admin.ask("POST", "/api/v1/namespaces/default/pods", pod)).status == 201
    violation = audited.events()[-1]["annotations"]["pod-security.kubernetes.io/audit-violations"]
    assert violation == 'would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)'


async def test_grpc_is_in_the_log_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = AuditOptions(POLICY, FileOptions(str(path), blocking=True))
    async with serving(Env(), Options(scheduler=False, controllers=False, audit=audit)) as running:
        client = running.client()
        made = core_v1_pb2.ConfigMap(data={"a": "b"})
        made.metadata.name, made.metadata.namespace = "c", "default"
        await client.create(made)
        with pytest.raises(NotFound):
            await client.get(core_v1_pb2.Namespace, "nope")
        await client.close()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    create, received, complete = (found[0], found[-2], found[-1])
    assert (create["verb"], create["requestURI"], create["user"]["username"]) == (
        "create", "/wherry.v1.Resources/Create", "tester",
    )  # fmt: skip
    assert create["objectRef"] == {"resource": "configmaps", "namespace": "default", "apiVersion": "v1"}
    assert create["requestObject"]["data"] == create["responseObject"]["data"] == {"a": "b"}
    assert create["sourceIPs"] == ["127.0.0.1"]
    assert (received["stage"], complete["responseStatus"]["code"]) == ("RequestReceived", 404)


async def test_each_of_a_batch_has_its_own_events(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = AuditOptions(POLICY, FileOptions(str(path), blocking=True))
    async with serving(Env(), Options(scheduler=False, controllers=False, audit=audit)) as running:
        client = running.client()
        made = []
        for name in ("one", "one", "two"):
            made.append(core_v1_pb2.ConfigMap(data={"a": name}))
            made[-1].metadata.name, made[-1].metadata.namespace = name, "default"
        await client.create_batch(made)
        await client.close()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted((event["objectRef"]["name"], event["responseStatus"]["code"]) for event in found) == [
        ("one", 200), ("one", 409), ("two", 200),
    ]  # fmt: skip
    assert {event["objectRef"]["namespace"] for event in found} == {"default"}
    assert {event["requestObject"]["data"]["a"] for event in found} == {"one", "two"}


async def test_files_are_rotated_and_old_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    clock = iter(range(1_900_000_000, 1_900_000_100))
    env = Env(now=lambda: float(next(clock)))
    found = Sink(FileOptions(str(path), max_size_bytes=100, max_age_days=0, max_backups=2, blocking=True), env)
    found.start()
    for number in range(8):
        await found.write(b"%02d" % number + b"x" * 58)
    await found.stop()
    kept = backups(path)
    assert len(kept) == 2
    lines = [line[:2] for file in (*reversed(kept), path) for line in file.read_bytes().splitlines()]
    assert lines == [b"05", b"06", b"07"]


async def test_the_buffer_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "MAX_BUFFER_LINES", 3)
    found = Sink(FileOptions(str(tmp_path / "audit.log")), Env())
    for _ in range(5):
        await found.write(b"x")  # nobody writes them yet
    assert found.dropped == 2
    found.start()
    await found.stop()
    assert (tmp_path / "audit.log").read_text() == "x\nx\nx\n"


def test_an_event_that_is_too_long_goes_without_its_objects() -> None:
    from controlplane.audit.events import Request
    from controlplane.audit.policy import Subject
    from controlplane.registry.base import ADMIN

    request = Request("id", Subject(ADMIN, "create", resource="configmaps"), "/x", 0.0)
    line = events.event(request, "Request", "ResponseComplete", 1.0, request_object={"a": "x" * (2 << 20)})
    found = json.loads(line)
    assert "requestObject" not in found
    assert found["annotations"] == {"audit.k8s.io/truncated": "true"}
