"""Field violations in Kubernetes' words: one constructor per type of error, and the `Invalid` they add up to. Pure.

Every validation function appends to a list of `Cause`. A path is plain text ("spec.containers[0].name"), built on the
way down, since almost every object is valid and text is the cheapest thing to carry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from wherry.api.errors import Cause, Invalid
from wherry.api.kinds import Kind

Causes = list[Cause]

_MAX_SHOWN = 8  # causes written into the message; the others are in the details
_MAX_VALUE_CHARS = 20_000
_MAX_CAUSES = 1000  # in the details: an answer must not be a hundred times as long as what was asked


def quote(text: str) -> str:
    """As Go's %q, of which the bell is the one difference from JSON that is ever seen."""
    return json.dumps(text, ensure_ascii=False).replace("\\u0007", "\\a")


def show(value: Any) -> str:
    """A bad value as Go's field.Error prints it: quoted text, bare numbers, JSON for the rest."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Message):
        from wherry.api import codec

        return json.dumps(codec.to_dict(value), separators=(",", ":"), ensure_ascii=False)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def required(path: str, detail: str = "") -> Cause:
    return Cause("FieldValueRequired", f"Required value: {detail}" if detail else "Required value", path)


def invalid(path: str, value: Any, detail: str) -> Cause:
    shown = show(value)
    if len(shown) > _MAX_VALUE_CHARS:
        shown = shown[:_MAX_VALUE_CHARS] + "..."
    return Cause("FieldValueInvalid", f"Invalid value: {shown}: {detail}", path)


def unsupported(path: str, value: Any, supported: Iterable[str]) -> Cause:
    names = ", ".join(quote(name) for name in supported)
    return Cause("FieldValueNotSupported", f"Unsupported value: {show(value)}: supported values: {names}", path)


def duplicate(path: str, value: Any, detail: str = "") -> Cause:
    message = f"Duplicate value: {show(value)}"
    return Cause("FieldValueDuplicate", f"{message}: {detail}" if detail else message, path)


def forbidden(path: str, detail: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {detail}", path)


def not_found(path: str, value: Any, detail: str = "") -> Cause:
    message = f"Not found: {show(value)}"
    return Cause("FieldValueNotFound", f"{message}: {detail}" if detail else message, path)


def too_long(path: str, limit: int) -> Cause:
    return Cause("FieldValueTooLong", f"Too long: may not be more than {limit} bytes", path)


def too_many(path: str, actual: int, limit: int) -> Cause:
    return Cause("FieldValueTooMany", f"Too many: {actual}: must have at most {limit} items", path)


def invalid_object(group: str, kind_name: str, name: str, causes: Sequence[Cause]) -> Invalid:
    """`Pod "x" is invalid: [spec.a: Required value, ...]`."""
    shown = [f"{cause.field}: {cause.message}" for cause in causes]
    body = shown[0] if len(shown) == 1 else "[" + ", ".join(shown[:_MAX_SHOWN]) + "]"
    if len(shown) > _MAX_SHOWN:
        body = f"{body[:-1]}, ... and {len(shown) - _MAX_SHOWN} more]"
    full = f"{kind_name}.{group}" if group else kind_name
    return Invalid(
        f'{full} "{name}" is invalid: {body}', group=group, kind=kind_name, name=name, causes=causes[:_MAX_CAUSES]
    )


def raise_for(group: str, kind_name: str, name: str, causes: Sequence[Cause]) -> None:
    if causes:
        raise invalid_object(group, kind_name, name, causes)


def raise_if(kind: Kind, name: str, causes: Sequence[Cause]) -> None:
    raise_for(kind.group, kind.kind, name, causes)
