"""Recorded answers of a real API server, replayed against the registry. Used by tests/unit/registry/test_recordings.py.

`perform` does what an HTTP front would do with a recorded request; what comes back is compared by meaning: status code, reason,
causes, warnings and the object, without what varies between runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from controlplane.registry.base import ADMIN, ListOptions, RequestContext
from controlplane.registry.registry import Registry
from wherry.api import codec, errors
from wherry.api.kinds import Kind
from wherry.pb import autoscaling_v1_pb2, core_v1_pb2, meta_v1_pb2, policy_v1_pb2

GOLDEN = Path(__file__).parents[3] / "shared" / "kubernetes-api" / "golden"
# validation.jsonl: what HTTP's own part of the work decides; tests/contract/test_http_recordings.py asks it.
DECIDED_BY_HTTP = (
    419, *range(492, 497), *range(498, 501), 503, 504, 506, *range(510, 517), 540, 541, 547, *range(556, 574),
    *range(577, 580), *range(581, 584), *range(585, 599), *range(606, 623),
)  # fmt: skip
# auth.jsonl: what is asked of the reviews; tests/unit/auth/test_reviews.py asks it.
REVIEWS = (*range(1, 13), 71)
_BODIES = {
    "scale": autoscaling_v1_pb2.Scale,
    "binding": core_v1_pb2.Binding,
    "eviction": policy_v1_pb2.Eviction,
}
# What Wherry says of kinds that nothing acts on yet; tests/unit/registry/test_stored_only.py is about that.
_STORED_ONLY = re.compile(r"^\w+ is stored, but .* yet$")
# Up to where owners are compared: objects of the other records are made by the tests, and not by recorded requests.
_OWNED = {"defaults": 1000, "validation": 428, "patch": 1000, "apply": 1000}
_UNOWNED = (("v1", "Event"), ("autoscaling/v1", "HorizontalPodAutoscaler"), ("events.k8s.io/v1", "Event"))
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VARYING = ("uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")
# Ran beside the recorded server, and made entries of their own.
_CONTROLLERS = ("kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True)
class Record:
    file: str
    number: int
    name: str
    method: str
    path: str
    content_type: str
    body: Any
    status: int
    answer: Any
    warnings: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.file}-{self.number}-" + re.sub(r"[^\w.=-]+", "_", self.name)[:60]


@dataclass(frozen=True)
class Target:
    kind: Kind
    namespace: str
    name: str
    subresource: str
    query: dict[str, str]


@dataclass
class Answer:
    status: int
    body: Any
    warnings: list[str]


def records(file: str) -> Iterator[Record]:
    if not GOLDEN.exists():
        return
    for number, line in enumerate((GOLDEN / f"{file}.jsonl").read_text().splitlines(), 1):
        found = json.loads(line)
        request, response = found["request"], found["response"]
        warnings = tuple(
            json.loads(text.partition(" - ")[2]) if " - " in text else text for text in response.get("warnings") or ()
        )
        yield Record(
            file, number, found["name"], request["method"], request["path"], request.get("contentType") or "",
            request.get("body"), response["status"], response.get("body"), warnings,
        )  # fmt: skip


def target(registry: Registry, path: str) -> Target | None:
    """None when the path is not one of a kind that is served."""
    split = urlsplit(path)
    parts = split.path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    try:
        kind = registry.kind(group, version, rest[0])
    except errors.NotFound:
        return None
    query = {key: values[-1] for key, values in parse_qs(split.query, keep_blank_values=True).items()}
    return Target(kind, namespace, rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else "", query)


def with_body(record: Record, body: Any) -> Record:
    return replace(record, body=body)


def note_revision(record: Record, answer: Answer, revisions: dict[str, str]) -> None:
    """Revisions and uids: recorded -> ours."""
    if isinstance(record.answer, dict) and isinstance(answer.body, dict):
        for name in ("resourceVersion", "uid"):
            recorded = (record.answer.get("metadata") or {}).get(name)
            ours = (answer.body.get("metadata") or {}).get(name)
            if recorded and ours:
                revisions[recorded] = ours


def with_revision(record: Record, revisions: dict[str, str]) -> Record:
    """A request that names a revision from an earlier answer names ours."""
    meta = record.body.get("metadata") if isinstance(record.body, dict) else None
    if not isinstance(meta, dict):
        return record
    named = {name: revisions[meta[name]] for name in ("resourceVersion", "uid") if meta.get(name) in revisions}
    return with_body(record, {**record.body, "metadata": {**meta, **named}}) if named else record


async def make(registry: Registry, kind: Kind, body: dict[str, Any]) -> tuple[str, str]:
    """Creates the object of a recorded body; its uid and resourceVersion."""
    body = json.loads(json.dumps(body))
    for name in ("resourceVersion", "uid", "managedFields", "creationTimestamp"):
        body["metadata"].pop(name, None)
    spec = body.get("spec") or {}
    if kind.kind == "Pod":
        spec.pop("priority", None)
        spec.pop("preemptionPolicy", None)
        if "tolerations" not in spec:
            spec["tolerations"] = []
    obj: Any = codec.from_dict(body, kind.message)
    stored = await registry.create(RequestContext(ADMIN, field_manager="unknown"), kind, obj.metadata.namespace, obj)
    if "status" in body:
        live: Any = stored.message()
        live.status.CopyFrom(obj.status)
        ctx = RequestContext(ADMIN, field_manager=_CONTROLLERS[1])
        stored = await registry.update(
            ctx, kind, live.metadata.namespace, live.metadata.name, live, subresource="status"
        )
    made: Any = stored.message()
    return made.metadata.uid, made.metadata.resource_version


async def delete_pod(registry: Registry, namespace: str, name: str) -> None:
    kind = registry.kind("", "v1", "pods")
    await registry.delete(RequestContext(ADMIN), kind, namespace, name, meta_v1_pb2.DeleteOptions())


async def perform(registry: Registry, record: Record, where: Target) -> Answer:
    query = where.query
    ctx = RequestContext(
        ADMIN,
        dry_run="dryRun" in query,
        field_manager=query.get("fieldManager", "") or ("" if "apply" in record.content_type else "unknown"),
        field_validation=query.get("fieldValidation", "Warn"),
    )
    try:
        status, body = await _dispatch(registry, record, where, ctx)
    except errors.APIError as error:
        causes = [
            {key: value for key, value in (("reason", c.reason), ("message", c.message), ("field", c.field)) if value}
            for c in error.causes
        ]
        details = {"name": error.name, "group": error.group, "kind": error.kind, "causes": causes}
        return Answer(
            error.code,
            {
                "kind": "Status",
                "reason": error.reason,
                "message": error.message,
                "code": error.code,
                "details": details,
            },
            ctx.warnings,
        )
    return Answer(status, body, [text for text in ctx.warnings if not _STORED_ONLY.search(text)])


def _bytes(record: Record) -> bytes:
    return record.body.encode() if isinstance(record.body, str) else json.dumps(record.body).encode()


async def _dispatch(registry: Registry, record: Record, where: Target, ctx: RequestContext) -> tuple[int, Any]:
    kind, namespace, name, sub, query = where.kind, where.namespace, where.name, where.subresource, where.query
    if record.method == "GET" and name:
        stored = await registry.get(ctx, kind, namespace, name, subresource=sub)
        return 200, codec.to_dict(stored.message())
    if record.method == "GET":
        options = ListOptions(
            namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""), int(query.get("limit", "0")),
            query.get("continue", ""), query.get("resourceVersion", ""), query.get("resourceVersionMatch", ""),
        )  # fmt: skip
        listed = await registry.list(ctx, kind, options)
        return 200, {"kind": f"{kind.kind}List", "items": [codec.to_dict(item.message()) for item in listed.items]}
    if record.method == "DELETE":
        delete = meta_v1_pb2.DeleteOptions()
        if record.body:
            delete = codec.from_dict(
                {key: item for key, item in record.body.items() if key not in ("apiVersion", "kind")},
                meta_v1_pb2.DeleteOptions,
                strict=False,
            )
        if "gracePeriodSeconds" in query:
            delete.grace_period_seconds = int(query["gracePeriodSeconds"])
        if "propagationPolicy" in query:
            delete.propagation_policy = query["propagationPolicy"]
        if not name:
            selection = ListOptions(namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            gone = await registry.delete_collection(ctx, kind, selection, delete)
            return 200, {"items": [codec.to_dict(item.message()) for item in gone.items]}
        result = await registry.delete(ctx, kind, namespace, name, delete)
        found = result.stored or result.last
        if found is not None:
            return 200, codec.to_dict(found.message())
        assert result.status is not None
        return 200, {"kind": "Status", **codec.to_dict(result.status)}
    if record.method == "PATCH":
        if record.content_type.startswith("application/apply-patch"):
            stored, created = await registry.apply(
                ctx, kind, namespace, name, _bytes(record), force=query.get("force") == "true", subresource=sub
            )
            return 201 if created else 200, codec.to_dict(stored.message())
        stored = await registry.patch(ctx, kind, namespace, name, record.content_type, _bytes(record), subresource=sub)
        return 200, codec.to_dict(stored.message())
    cls: Any = _BODIES.get(sub, kind.message)
    body = record.body
    if isinstance(body, dict) and cls is not kind.message:
        body = {key: item for key, item in body.items() if key not in ("apiVersion", "kind")}
    decode = codec.from_dict if isinstance(body, dict) else codec.from_yaml
    strict = ctx.field_validation == "Strict"
    obj = decode(body, cls, strict=strict, warnings=ctx.warnings if ctx.field_validation == "Warn" else None)
    if record.method == "PUT":
        stored = await registry.update(ctx, kind, namespace, name, obj, subresource=sub)
        return 201 if ctx.created else 200, codec.to_dict(stored.message())
    stored = await registry.create(ctx, kind, namespace, obj, name=name, subresource=sub)
    return 201, codec.to_dict(stored.message())


def normal_object(value: Any, *, owners: bool = False) -> Any:
    """Without what varies between runs, and without the service account token, which depends on an option. `owners`: with the
    managed fields."""
    text = json.dumps(value)
    value = json.loads(_UUID.sub("some", text) if value.get("kind") == "Job" else text)
    meta = value.get("metadata", {})
    for key in _VARYING:
        meta.pop(key, None)
    entries = [
        {key: item for key, item in entry.items() if key != "time"}
        for entry in meta.pop("managedFields", None) or ()
        if entry.get("manager") not in _CONTROLLERS
    ]
    if owners and entries:
        meta["managedFields"] = entries
    if "generateName" in meta:
        meta.pop("name", None)
    spec = value.get("spec") or {}
    if value.get("kind") in ("Deployment", "Pod", "ReplicaSet"):
        # Controllers and the scheduler ran beside the recorded server.
        value.pop("status", None)
        annotations = meta.get("annotations", {})
        annotations.pop("deployment.kubernetes.io/revision", None)
        if not annotations:
            meta.pop("annotations", None)
    if value.get("kind") == "Service":
        for key in ("clusterIP", "clusterIPs", "healthCheckNodePort"):
            if spec.get(key) not in (None, "None", ["None"]):
                spec[key] = "some"
        for port in spec.get("ports", ()):
            if "nodePort" in port:
                port["nodePort"] = "some"
    if value.get("kind") == "Pod":
        _drop_token(spec)
    return value


def _drop_token(spec: dict[str, Any]) -> None:
    def is_token(item: dict[str, Any]) -> bool:
        return str(item.get("name", "")).startswith("kube-api-access-")

    spec["volumes"] = [volume for volume in spec.get("volumes", ()) if not is_token(volume)]
    for container in (*spec.get("containers", ()), *spec.get("initContainers", ())):
        container["volumeMounts"] = [mount for mount in container.get("volumeMounts", ()) if not is_token(mount)]
        if not container["volumeMounts"]:
            del container["volumeMounts"]
    if not spec["volumes"]:
        del spec["volumes"]


_DUMP = re.compile(r'value: [\[{]+"[A-Z]')
_OBJECT = re.compile(r"value: [\[{].*[\]}]")


def _same_causes(expected: Any, got: Any) -> bool:
    """As sets, since validation of the same thing twice is no meaning. Bad values that are dumps of another
    implementation's structures do not count."""
    wanted, found = normal_causes(expected), normal_causes(got)
    if len(wanted) != len(found):
        return False
    for one, other in zip(wanted, found, strict=True):
        if _DUMP.search(one[2]):
            one, other = (*one[:2], _OBJECT.sub("", one[2])), (*other[:2], _OBJECT.sub("", other[2]))
        if one != other:
            return False
    return True


def normal_causes(body: Any) -> list[tuple[str, str, str]]:
    causes = (body.get("details") or {}).get("causes") or ()
    return sorted(
        {
            # What follows a line break is a dump of differences.
            (
                cause.get("reason", ""),
                cause.get("field", ""),
                _UUID.sub("some", cause.get("message", "")).partition("\n")[0],
            )
            for cause in causes
        }
    )


def _words(body: Any) -> str:
    """The message without revisions and uids."""
    text = re.sub(r"in record \([^)]*\)", "in record", body.get("message", ""))
    text = re.sub(r"current: \d+", "current", text)
    return re.sub(r"UID in object meta: \S+", "UID in object meta", text)


def differences(record: Record, answer: Answer) -> list[str]:
    """What differs by meaning; empty when nothing does."""
    found = []
    if record.status != answer.status:
        return [f"status {answer.status} instead of {record.status}: {str(answer.body)[:400]}"]
    expected = record.answer if isinstance(record.answer, dict) else {}
    if record.status >= 400:
        # Errors that nobody there gave a reason come out as plain 500s.
        if expected.get("reason", "") != answer.body.get("reason", "") and expected.get("reason"):
            found.append(f"reason {answer.body.get('reason')} instead of {expected.get('reason')}")
        if not _same_causes(expected, answer.body):
            found.append(f"causes {normal_causes(answer.body)} instead of {normal_causes(expected)}")
        elif record.status not in (400, 422) and _words(expected) != _words(answer.body):
            found.append(f"message {answer.body.get('message')!r} instead of {expected.get('message')!r}")
        return found
    if sorted(record.warnings) != sorted(answer.warnings):
        found.append(f"warnings {answer.warnings} instead of {list(record.warnings)}")
    if isinstance(expected.get("items"), list):
        types = {"apiVersion": expected["apiVersion"], "kind": str(expected["kind"]).removesuffix("List")}
        return found + _listed([{**types, **item} for item in expected["items"]], answer.body["items"])
    if expected.get("kind") == "Status":
        # A binding and an eviction answer with a Status, which is the front's to say.
        wanted, got = (
            {key: each.get(key) for key in ("kind", "status", "details")} for each in (expected, answer.body)
        )
        for each in (wanted, got):
            (each["details"] or {}).pop("uid", None)
        if answer.body.get("kind") == "Status" and wanted != got:
            found.append("status: " + "; ".join(_paths(wanted, got, "")))
        return found
    owners = record.number < _OWNED.get(record.file, 0) and not _is_unowned(expected)
    wanted, got = normal_object(expected, owners=owners), normal_object(answer.body, owners=owners)
    if wanted != got:
        found.append("object: " + "; ".join(_paths(wanted, got, "")))
    return found


def _is_unowned(body: dict[str, Any]) -> bool:
    """Of a kind's second version (fields are owned in the version that is stored), or an event (nobody keeps books on those)."""
    return (body.get("apiVersion"), body.get("kind")) in _UNOWNED


def _listed(wanted: list[Any], got: list[Any]) -> list[str]:
    """By name, since other objects lie beside: those of controllers there, those of the test here. The order is that of names."""
    names = [item["metadata"]["name"] for item in got]

    def key(item: dict[str, Any]) -> str:
        meta = item["metadata"]
        return str(meta["name"] if meta["name"] in recorded else meta.get("generateName") or meta["name"])

    recorded = {item["metadata"]["name"] for item in wanted} & set(names)
    one, other = ({key(item): normal_object(item) for item in items} for items in (wanted, got))
    found = [
        f"{name}: {text}"
        for name in sorted(one.keys() & other.keys())
        if one[name] != other[name]
        for text in _paths(one[name], other[name], "")
    ]
    if names != sorted(names) or (one and not one.keys() & other.keys()):
        found.append(f"items {list(other)} instead of {list(one)}")
    return found


def _paths(wanted: Any, got: Any, path: str) -> list[str]:
    if isinstance(wanted, dict) and isinstance(got, dict):
        return [
            text
            for key in sorted({*wanted, *got})
            if wanted.get(key) != got.get(key)
            for text in _paths(wanted.get(key), got.get(key), f"{path}.{key}")
        ]
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        return [
            text
            for index, (one, other) in enumerate(zip(wanted, got, strict=True))
            if one != other
            for text in _paths(one, other, f"{path}[{index}]")
        ]
    return [f"{path}: {str(got)[:150]} instead of {str(wanted)[:150]}"]
