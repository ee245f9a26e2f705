"""A request as webhooks and expressions see it: the fields of an AdmissionRequest, as JSON. Pure; called by `webhooks` and
`policies`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controlplane.admission import matching
from controlplane.admission.base import Request

_OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions", "CONNECT": ""}


@dataclass(slots=True)
class View:
    """`request` lacks the objects; `object` is None for what goes, `old` for what is new."""

    request: dict[str, Any]
    object: dict[str, Any] | None
    old: dict[str, Any] | None


def view(request: Request, uid: str, in_version: str = "") -> View:
    """`in_version`: as it is in another version of its kind."""
    kind = request.kind
    operation = matching.operation(request)
    group, version, name = kind.group, in_version or kind.version, kind.kind
    obj, old = matching.plain(request.obj), matching.plain(request.old)
    body_version, body_kind = matching.body_type(request)
    if (body_version, body_kind) == (kind.api_version, kind.kind):
        obj, old = _in_version(obj, group, version), _in_version(old, group, version)
    else:
        group, _, version = body_version.rpartition("/")
        name = body_kind
    if request.subresource == "scale":
        group, version, name = "autoscaling", "v1", "Scale"
        obj, old = _scale(request.obj, request.read_scale), _scale(request.old, request.read_scale)
    elif request.subresource == "eviction":
        group, version, name = "policy", "v1", "Eviction"
        meta = {"name": request.name, "namespace": request.namespace}
        obj, old = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}, None
    elif request.session is not None:
        group, version, name = "", "v1", str(request.session["kind"])
        obj, old = request.session, None
    identity = request.identity
    user: dict[str, Any] = {"username": identity.user, "groups": list(identity.groups)}
    if identity.uid:
        user["uid"] = identity.uid
    if identity.extra:
        user["extra"] = {key: list(values) for key, values in sorted(identity.extra.items())}
    gvk = {"group": group, "version": version, "kind": name}
    gvr = {"group": kind.group, "version": kind.version, "resource": kind.plural}
    asked = {**gvk, "version": kind.version} if group == kind.group else gvk
    found: dict[str, Any] = {"uid": uid, "kind": gvk, "resource": {**gvr, "version": in_version or kind.version}}
    below = {"subResource": request.subresource} if request.subresource else {}
    found |= {**below, "requestKind": asked, "requestResource": gvr}
    if request.subresource:
        found["requestSubResource"] = request.subresource
    if request.name:
        found["name"] = request.name
    if request.namespace:
        found["namespace"] = request.namespace
    found |= {"operation": operation, "userInfo": user, "dryRun": request.dry_run}
    options = _OPTIONS[operation]
    if options:
        found["options"] = {"apiVersion": "meta.k8s.io/v1", "kind": options, **request.options}
        if request.dry_run:
            found["options"]["dryRun"] = ["All"]
    return View(found, obj, old)


def _in_version(obj: dict[str, Any] | None, group: str, version: str) -> dict[str, Any] | None:
    """All versions of a kind have the same fields here: nothing is converted but the name."""
    if obj is None or "apiVersion" not in obj:
        return obj
    return {**obj, "apiVersion": f"{group}/{version}" if group else version}


def _scale(obj: Any | None, read: Callable[[Any], Any]) -> dict[str, Any] | None:
    if obj is None:
        return None
    from controlplane.registry import scale

    return matching.plain(scale.of(obj, read))
