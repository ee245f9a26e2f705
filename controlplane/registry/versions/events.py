"""events.k8s.io/v1 Event: the newer shape of v1 Event. Pure."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.violations import Causes
from wherry.api import names
from wherry.pb import core_v1_pb2, events_v1_pb2

# Newer -> older names, of fields that are carried over as they are.
_SCALARS = {
    "reporting_controller": "reporting_component",
    "reporting_instance": "reporting_instance",
    "action": "action",
    "reason": "reason",
    "note": "message",
    "type": "type",
    "deprecated_count": "count",
}
_MESSAGES = {
    "metadata": "metadata",
    "event_time": "event_time",
    "regarding": "involved_object",
    "related": "related",
    "deprecated_source": "source",
    "deprecated_first_timestamp": "first_timestamp",
    "deprecated_last_timestamp": "last_timestamp",
}
FIELD_NAMES = {
    "reason": "reason",
    "type": "type",
    "reportingController": "reportingComponent",
    **{
        f"regarding.{name}": f"involvedObject.{name}"
        for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    },
}
_MAX_WORD = 128
_MAX_NOTE = 1024


def to_primary(obj: events_v1_pb2.Event) -> core_v1_pb2.Event:
    out = core_v1_pb2.Event()
    _carry(obj, out, _SCALARS, _MESSAGES)
    return out


def from_primary(obj: core_v1_pb2.Event) -> events_v1_pb2.Event:
    scalars = {old: new for new, old in _SCALARS.items()}
    messages = {old: new for new, old in _MESSAGES.items()}
    out = events_v1_pb2.Event()
    _carry(obj, out, scalars, messages)
    return out


def _carry(source: Any, target: Any, scalars: dict[str, str], messages: dict[str, str]) -> None:
    for name, other in scalars.items():
        setattr(target, other, getattr(source, name))
    for name, other in messages.items():
        if source.HasField(name):
            getattr(target, other).CopyFrom(getattr(source, name))
    if source.HasField("series"):
        target.series.count = source.series.count
        if source.series.HasField("last_observed_time"):
            target.series.last_observed_time.CopyFrom(source.series.last_observed_time)


def check(obj: Any) -> Causes:
    """Who writes events in this version says all that belongs to one, and nothing of the old shape."""
    causes: Causes = []
    if not obj.HasField("event_time"):
        causes.append(violations.required("eventTime"))
    if not obj.reporting_controller:
        causes.append(violations.required("reportingController"))
    causes += (
        violations.invalid("reportingController", obj.reporting_controller, text)
        for text in names.qualified_name(obj.reporting_controller)
    )
    for name, value in (("reportingInstance", obj.reporting_instance), ("action", obj.action), ("reason", obj.reason)):
        if not value:
            causes.append(violations.required(name))
        if len(value) > _MAX_WORD:
            causes.append(violations.invalid(name, "", f"can have at most {_MAX_WORD} characters"))
    if len(obj.note) > _MAX_NOTE:
        causes.append(violations.invalid("message", "", f"can have at most {_MAX_NOTE} characters"))
    if obj.type not in ("Normal", "Warning"):
        causes.append(violations.invalid("type", "", f"has invalid value: {obj.type}"))
    for field, name in (
        ("deprecated_first_timestamp", "firstTimestamp"),
        ("deprecated_last_timestamp", "lastTimestamp"),
    ):
        if obj.HasField(field):
            causes.append(violations.invalid(name, "", "needs to be unset"))
    if obj.deprecated_count:
        causes.append(violations.invalid("count", "", "needs to be unset"))
    if obj.deprecated_source.component or obj.deprecated_source.host:
        causes.append(violations.invalid("source", "", "needs to be unset"))
    return causes
