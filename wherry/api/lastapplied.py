"""The annotation in which client-side apply keeps what it was given, and how server-side apply takes over from it.

Pure. `text_of` is called by `wherry apply`, `apply` by the registry in place of `wherry.api.apply.apply`. As in Kubernetes, only
kubectl (the manager of that name) is led over: what it has applied client-side and nobody has changed since is no conflict, and
the annotation follows what it applies, so that it may go back to applying client-side.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from google.protobuf.message import Message

from wherry.api import apply as server_apply
from wherry.api import codec, fieldsets, jsontext, typed
from wherry.api.apply import ApplyConflict
from wherry.api.fieldsets import PathSet

ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
MANAGER = "kubectl"
MAX_ANNOTATIONS_BYTES = 256 << 10
# Go's JSON has them like this; written otherwise, the annotation would seem to have changed.
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
M = TypeVar("M", bound=Message)


def text_of(value: dict[str, Any]) -> str:
    """Of a configuration, byte by byte as kubectl writes it; without an annotation that it has."""
    annotations = (value.get("metadata") or {}).get("annotations") or {}
    if ANNOTATION in annotations:
        rest = {key: text for key, text in annotations.items() if key != ANNOTATION}
        value = {**value, "metadata": {**value["metadata"], "annotations": rest}}
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False) + "\n"
    return text.translate(_ESCAPED)


def apply(
    live: M | None, config: dict[str, Any], cls: type[M], *, manager: str, kind: typed.Type | None = None,
    force: bool = False, **facts: Any,
) -> M:  # fmt: skip
    """As `wherry.api.apply.apply`, whose other arguments are `facts`."""
    facts |= {"manager": manager, "kind": kind}
    try:
        out = server_apply.apply(live, config, cls, force=force, **facts)
    except ApplyConflict as error:
        if manager != MANAGER or live is None:
            raise
        allowed = _still_as_applied(live, config, kind or server_apply.type_of(cls))
        left = {key: paths - allowed for key, paths in error.conflicts.items() if paths - allowed}
        if left:
            raise ApplyConflict(left) from error
        out = server_apply.apply(live, config, cls, force=True, **facts)
    if manager == MANAGER and live is not None:
        _follow(out, config)
    return out


def _still_as_applied(live: Any, config: dict[str, Any], kind: typed.Type) -> PathSet:
    """What the annotation has and the object has just so; whoever changed the rest owns it."""
    try:
        last = jsontext.read(live.metadata.annotations.get(ANNOTATION, ""))
        if last.get("apiVersion") != config.get("apiVersion"):
            return fieldsets.EMPTY
        found = typed.compare(last, codec.to_dict(live), kind)
        return typed.to_set(last, kind) - found.modified - found.added - found.removed
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return fieldsets.EMPTY  # anybody may write anything into it


def _follow(out: Any, config: dict[str, Any]) -> None:
    annotations = out.metadata.annotations
    if ANNOTATION not in annotations:
        return
    annotations[ANNOTATION] = text_of(config)
    if sum(len(key.encode()) + len(text.encode()) for key, text in annotations.items()) > MAX_ANNOTATIONS_BYTES:
        del annotations[ANNOTATION]
