"""Query parameters, as Kubernetes reads them: unknown ones are ignored, bad numbers refused. Pure; called by `resources`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from controlplane.fronts.http.paths import Target, flag
from controlplane.registry import violations
from controlplane.registry.base import ListOptions, WatchOptions
from wherry.api.errors import BadRequest
from wherry.pb import meta_v1_pb2

if TYPE_CHECKING:
    from wherry.api.errors import Cause

Query = Mapping[str, str]

_INT64 = 1 << 63


def integer(query: Query, name: str) -> int | None:
    """None when it is absent or empty. Raises BadRequest in the words of Go's parser."""
    text = query.get(name, "")
    if not text:
        return None
    digits = text[1:] if text[0] in "+-" else text
    if not (digits.isascii() and digits.isdigit()):
        raise BadRequest(f"strconv.ParseInt: parsing {violations.quote(text)}: invalid syntax")
    number = int(text[:40])
    if not -_INT64 <= number < _INT64:
        raise BadRequest(f"strconv.ParseInt: parsing {violations.quote(text)}: value out of range")
    return number


def list_options(target: Target, query: Query) -> ListOptions:
    integer(query, "timeoutSeconds")
    if "sendInitialEvents" in query:
        _refuse([violations.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")])
    return ListOptions(
        namespace=target.namespace,
        label_selector=query.get("labelSelector", ""),
        field_selector=query.get("fieldSelector", ""),
        limit=max(integer(query, "limit") or 0, 0),
        continue_token=query.get("continue", ""),
        resource_version=query.get("resourceVersion", ""),
        resource_version_match=query.get("resourceVersionMatch", ""),
    )


def watch_options(target: Target, query: Query, default_timeout_s: float) -> WatchOptions:
    """Raises BadRequest, Invalid. A watch of one name (the legacy path) is one with a field selector."""
    integer(query, "limit")
    timeout_s = integer(query, "timeoutSeconds") or 0
    initial = query.get("sendInitialEvents")
    _check_watch(query, initial)
    field_selector = query.get("fieldSelector", "")
    if target.name:
        field_selector = ",".join(filter(None, (field_selector, f"metadata.name={target.name}")))
    revision = query.get("resourceVersion", "")
    if initial is not None and not flag(initial) and revision in ("", "0"):
        revision = ""
    return WatchOptions(
        namespace=target.namespace,
        label_selector=query.get("labelSelector", ""),
        field_selector=field_selector,
        resource_version=revision,
        bookmarks="allowWatchBookmarks" in query and flag(query["allowWatchBookmarks"]),
        send_initial_events=initial is not None and flag(initial),
        timeout_s=float(timeout_s) if timeout_s > 0 else default_timeout_s,
    )


def _check_watch(query: Query, initial: str | None) -> None:
    """Raises Invalid in Kubernetes' words."""
    match, path = query.get("resourceVersionMatch", ""), "resourceVersionMatch"
    causes: list[Cause] = []
    if initial is not None:
        if match != "NotOlderThan":
            detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            causes.append(violations.forbidden(path, detail))
            if match:
                causes.append(violations.unsupported(path, match, ("NotOlderThan",)))
    elif match:
        detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        causes.append(violations.forbidden(path, detail))
    if query.get("continue"):
        causes.append(violations.forbidden(path, "resourceVersionMatch is forbidden when continue is provided"))
    _refuse(causes)


def _refuse(causes: list[Cause]) -> None:
    if causes:
        raise violations.invalid_object("meta.k8s.io", "ListOptions", "", causes)


def dry_run(values: Sequence[str], what: str) -> bool:
    """Of all values of the parameter; `what` is the options' kind, for the refusal of any but All."""
    wanted = [value for value in values if value]
    if any(value != "All" for value in wanted):
        cause = violations.unsupported("dryRun", wanted, ("All",))
        raise violations.invalid_object("meta.k8s.io", what, "", [cause])
    return bool(wanted)


def check_validation(query: Query, what: str) -> None:
    """The registry looks at this too, but a body is decoded by it before that. Raises Invalid."""
    allowed = ("", "Ignore", "Strict", "Warn")
    asked = query.get("fieldValidation", "")
    if asked not in allowed:
        cause = violations.unsupported("fieldValidation", asked, allowed)
        raise violations.invalid_object("meta.k8s.io", what, "", [cause])


def delete_options(query: Query) -> meta_v1_pb2.DeleteOptions:
    """Of a DELETE without a body."""
    options = meta_v1_pb2.DeleteOptions()
    grace = integer(query, "gracePeriodSeconds")
    if grace is not None:
        options.grace_period_seconds = grace
    if "propagationPolicy" in query:
        options.propagation_policy = query["propagationPolicy"]
    if "orphanDependents" in query:
        options.orphan_dependents = flag(query["orphanDependents"])
    if query.get("dryRun"):
        options.dry_run.append(query["dryRun"])
    return options
