"""An audit event as its JSON. Pure; called by `recorder`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.audit.policy import Subject
from controlplane.registry.base import Identity
from wherry.api import times

MAX_EVENT_BYTES = 1 << 20  # an event that is longer goes without its objects, which it says
TRUNCATED = "audit.k8s.io/truncated"


@dataclass(frozen=True, slots=True)
class Request:
    """What stays the same over all stages of a request."""

    audit_id: str
    subject: Subject
    uri: str
    received: float
    source: str = ""
    user_agent: str = ""
    impersonated_by: Identity | None = None  # who asks in the subject's name


def event(
    request: Request,
    level: str,
    stage: str,
    now: float,
    *,
    code: int = 0,
    status: Mapping[str, Any] | None = None,
    request_object: Any = None,
    response_object: Any = None,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """One line, without its end. `status` is the Status of a refusal."""
    subject = request.subject
    found: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": level,
        "auditID": request.audit_id,
        "stage": stage,
        "requestURI": request.uri,
        "verb": subject.verb,
        "user": _user(request.impersonated_by or subject.identity),
    }
    if request.impersonated_by is not None:
        found["impersonatedUser"] = _user(subject.identity)
    if request.source:
        found["sourceIPs"] = [request.source]
    if request.user_agent:
        found["userAgent"] = request.user_agent
    if not subject.path:
        found["objectRef"] = _reference(subject)
    if code:
        found["responseStatus"] = {"metadata": {}, **_status(status), "code": code}
    if request_object is not None:
        found["requestObject"] = request_object
    if response_object is not None:
        found["responseObject"] = response_object
    found["requestReceivedTimestamp"] = moment(request.received)
    found["stageTimestamp"] = moment(now)
    if annotations:
        found["annotations"] = dict(sorted(annotations.items()))
    line = _line(found)
    if len(line) > MAX_EVENT_BYTES:
        found.pop("requestObject", None)
        found.pop("responseObject", None)
        found["annotations"] = {**found.get("annotations", {}), TRUNCATED: "true"}
        line = _line(found)
    return line


def _line(found: Mapping[str, Any]) -> bytes:
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False, default=str).encode()


def moment(now: float) -> str:
    micros = round(now * 1_000_000)
    return times.format_micros(micros // 1_000_000, micros % 1_000_000 * 1000)


def _user(identity: Identity) -> dict[str, Any]:
    found: dict[str, Any] = {"username": identity.user}
    if identity.uid:
        found["uid"] = identity.uid
    if identity.groups:
        found["groups"] = list(identity.groups)
    if identity.extra:
        found["extra"] = {key: list(values) for key, values in sorted(identity.extra.items())}
    return found


def _reference(subject: Subject) -> dict[str, str]:
    parts = {
        "resource": subject.resource,
        "namespace": subject.namespace,
        "name": subject.name,
        "apiGroup": subject.group,
        "apiVersion": subject.version,
        "subresource": subject.subresource,
    }
    return {key: text for key, text in parts.items() if text}


def _status(status: Mapping[str, Any] | None) -> dict[str, Any]:
    if status is None:
        return {}
    names: Sequence[str] = ("status", "message", "reason", "details")
    return {name: status[name] for name in names if status.get(name)}


def without_managed_fields(value: Any) -> Any:
    """A copy of an object, or of a list of them, without metadata.managedFields."""
    if not isinstance(value, dict):
        return value
    found = dict(value)
    if isinstance(found.get("metadata"), dict):
        found["metadata"] = {key: item for key, item in found["metadata"].items() if key != "managedFields"}
    if isinstance(found.get("items"), list):
        found["items"] = [without_managed_fields(item) for item in found["items"]]
    return found
