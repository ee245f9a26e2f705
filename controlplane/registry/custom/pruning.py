"""Pruning: fields that a schema does not name are dropped, unless it says that they are to be kept.

Pure; called by `strategy`. Along the way numbers take the form in which they are kept: 3.0 is 3, as in Kubernetes.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
PRESERVE = "x-kubernetes-preserve-unknown-fields"
EMBEDDED = "x-kubernetes-embedded-resource"
INT_OR_STRING = "x-kubernetes-int-or-string"
_TYPE_META = ("apiVersion", "kind", "metadata")
_EXACT = 1 << 53  # floats up to here tell every integer apart


def pruned(value: Any, schema: Schema, unknown: list[str], *, root: bool = False) -> Any:
    """The value without what the schema does not know; `unknown` collects the paths of what was dropped. `root`: apiVersion,
    kind and metadata are known, as in every object."""
    return _pruned(value, schema, "", unknown, root)


def normal(value: Any) -> Any:
    """With every number in its kept form."""
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, float) and abs(value) <= _EXACT and value == int(value):
        return int(value)
    return value


def _pruned(value: Any, schema: Schema | None, path: str, unknown: list[str], root: bool) -> Any:
    if isinstance(value, dict):
        return _pruned_object(value, schema or {}, path, unknown, root or bool((schema or {}).get(EMBEDDED)))
    if isinstance(value, list):
        items = (schema or {}).get("items")
        if not isinstance(items, dict):
            items = {PRESERVE: True} if (schema or {}).get(PRESERVE) else {}
        return [_pruned(item, items, f"{path}[{index}]", unknown, False) for index, item in enumerate(value)]
    return normal(value)


def _pruned_object(value: dict[str, Any], schema: Schema, path: str, unknown: list[str], whole: bool) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    preserve = schema.get(PRESERVE)
    out: dict[str, Any] = {}
    for key, item in value.items():
        below = f"{path}.{key}" if path else key
        if whole and key in _TYPE_META:
            out[key] = normal(item)  # a copy, as everything here is
        elif key in properties:
            out[key] = _pruned(item, properties[key], below, unknown, False)
        elif isinstance(others, dict):
            out[key] = _pruned(item, others, below, unknown, False)
        elif others is True or preserve:
            out[key] = normal(item)
        else:
            unknown.append(below)
    return out
