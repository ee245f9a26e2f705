"""The question put to a webhook and the answer read from it: AdmissionReview v1. Pure; called by `dispatch`."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from controlplane.admission.attributes import View
from controlplane.admission.webhooks.base import CallFailed
from wherry.api import jsontext
from wherry.api.errors import BY_REASON, APIError, BadRequest, Cause

_KIND = ("admission.k8s.io/v1", "AdmissionReview")
_WARNING_CHARS = 256
_WARNINGS_CHARS = 4096
_BY_CODE = {cls.code: cls for cls in reversed(list(BY_REASON.values()))}


@dataclass(slots=True)
class Answer:
    """`patch`: JSON patch operations, None when there are none. `status` is the refusal's own, as it came."""

    allowed: bool
    patch: list[Any] | None = None
    status: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)


def question(view: View) -> bytes:
    request = {**view.request, "object": view.object, "oldObject": view.old}
    request.setdefault("options", None)
    body = {"kind": _KIND[1], "apiVersion": _KIND[0], "request": request}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def answer(body: bytes, uid: str, *, mutating: bool) -> Answer:
    """Raises CallFailed for what is no answer to this question."""
    try:
        review = jsontext.read(body)
    except ValueError as error:
        raise CallFailed(f"failed decoding the response of the webhook: {error}") from error
    if not isinstance(review, dict) or not isinstance(review.get("response"), dict):
        raise CallFailed("webhook response is absent" if isinstance(review, dict) else "webhook response is no object")
    if (review.get("apiVersion"), review.get("kind")) != _KIND:
        got = f"{review.get('apiVersion')}, Kind={review.get('kind')}"
        raise CallFailed(f"expected webhook response of {_KIND[0]}, Kind={_KIND[1]}, got {got}")
    response = review["response"]
    if response.get("uid") != uid:
        raise CallFailed(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    status = response.get("status")
    found = Answer(
        response.get("allowed") is True,
        status=status if isinstance(status, dict) else {},
        warnings=_warnings(response.get("warnings")),
        annotations=_texts(response.get("auditAnnotations")),
    )
    if response.get("patch"):
        if not mutating:
            raise CallFailed("validating webhook may not return a patch")
        found.patch = _patch(response)
    return found


def _patch(response: dict[str, Any]) -> list[Any]:
    if response.get("patchType") != "JSONPatch":
        raise CallFailed(f'expected response.patchType to be "JSONPatch", got "{response.get("patchType", "")}"')
    try:
        operations = jsontext.read(base64.b64decode(response["patch"], validate=True))
    except (TypeError, ValueError, binascii.Error) as error:
        raise CallFailed(f"response.patch is no JSON patch in base64: {error}") from error
    if not isinstance(operations, list):
        raise CallFailed("response.patch is no list of operations")
    return operations


def _warnings(value: Any) -> list[str]:
    """As much as a header takes."""
    found: list[str] = []
    room = _WARNINGS_CHARS
    for text in value if isinstance(value, list) else ():
        if isinstance(text, str) and text and room > 0:
            found.append(text[: min(_WARNING_CHARS, room)])
            room -= len(found[-1])
    return found


def _texts(value: Any) -> dict[str, str]:
    return {key: text for key, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}


def refusal(hook: str, status: dict[str, Any]) -> APIError:
    """What the client sees of a hook's no."""
    denied = f'admission webhook "{hook}" denied the request'
    message, reason = status.get("message") or "", status.get("reason") or ""
    text = f"{denied}: {message or reason}" if message or reason else f"{denied} without explanation"
    code = status.get("code")
    number = code if isinstance(code, int) and 400 <= code <= 599 else 400
    details = status.get("details")
    if not isinstance(details, dict):
        details = {}
    causes = [
        Cause(str(item.get("reason", "")), str(item.get("message", "")), str(item.get("field", "")))
        for item in details.get("causes") or ()
        if isinstance(item, dict)
    ]
    cls = BY_REASON.get(reason) or _BY_CODE.get(number, BadRequest)
    group, kind, name, uid = (str(details.get(key, "")) for key in ("group", "kind", "name", "uid"))
    error = cls(text, group=group, kind=kind, name=name, uid=uid, causes=causes)
    error.code, error.reason = number, reason
    return error
