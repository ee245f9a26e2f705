"""Defaults of a schema, filled in. Pure; called by `strategy` on what clients send and on what the store gives.

A null where the schema allows none counts as not given: it is dropped first, so that the default takes its place.
"""

from __future__ import annotations

import copy
from typing import Any

Schema = dict[str, Any]


def has_defaults(schema: Any) -> bool:
    """Whether there is anything to do at all."""
    if isinstance(schema, list):
        return any(has_defaults(item) for item in schema)
    if not isinstance(schema, dict):
        return False
    if "default" in schema:
        return True
    inner = [*(schema.get("properties") or {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return any(has_defaults(item) for item in inner)


def without_nulls(value: Any, schema: Schema) -> None:
    """Drops, in place, the nulls of fields that are not nullable."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        others = schema.get("additionalProperties")
        for key in list(value):
            inner = properties.get(key)
            if inner is None and isinstance(others, dict):
                inner = others
            if inner is None:
                continue
            if value[key] is None:
                if not inner.get("nullable") and _typed(inner):
                    del value[key]
            else:
                without_nulls(value[key], inner)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            without_nulls(item, schema["items"])


def _typed(schema: Schema) -> bool:
    """A field of no type that keeps what it is given keeps a null too."""
    return bool(schema.get("type") or schema.get("x-kubernetes-int-or-string") or "default" in schema)


def fill(value: Any, schema: Schema) -> None:
    """Puts defaults, in place, where nothing is."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for key, inner in properties.items():
            if key not in value and "default" in inner:
                if inner["default"] is None and not inner.get("nullable"):
                    continue
                value[key] = copy.deepcopy(inner["default"])
                without_nulls(value[key], inner)
        others = schema.get("additionalProperties")
        for key, item in value.items():
            found = properties.get(key)
            if found is None and isinstance(others, dict):
                found = others
                if item is None and not others.get("nullable") and "default" in others:
                    value[key] = item = copy.deepcopy(others["default"])
                    without_nulls(item, others)
            if found is not None:
                fill(item, found)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        items = schema["items"]
        for index, item in enumerate(value):
            if item is None and not items.get("nullable") and "default" in items:
                value[index] = item = copy.deepcopy(items["default"])
                without_nulls(item, items)
            fill(item, items)
