"""Objects inside of objects (x-kubernetes-embedded-resource): they have apiVersion, kind and metadata of their own.

Pure; called by `strategy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.registry import metadata, violations
from controlplane.registry.custom.pruning import EMBEDDED
from controlplane.registry.strategy import subdomain
from wherry.api import codec
from wherry.api.errors import Cause
from wherry.pb import meta_v1_pb2

Schema = dict[str, Any]


def has_any(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    inner = [*(schema.get("properties") or {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return bool(schema.get(EMBEDDED)) or any(has_any(item) for item in inner)


def _each(value: Any, schema: Schema, path: str) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(value, dict):
        if schema.get(EMBEDDED):
            yield value, path
        properties = schema.get("properties") or {}
        others = schema.get("additionalProperties")
        for key, item in value.items():
            inner = properties.get(key, others)
            if isinstance(inner, dict):
                yield from _each(item, inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            yield from _each(item, schema["items"], f"{path}[{index}]")


def coerce(value: Any, schema: Schema) -> None:
    """Drops, in place, what is no metadata from the metadata of embedded objects."""
    if not has_any(schema):
        return
    for inner, _ in _each(value, schema, ""):
        found = inner.get("metadata")
        if isinstance(found, dict):
            try:
                kept = codec.to_dict(codec.from_dict(found, meta_v1_pb2.ObjectMeta, strict=False))
            except codec.DecodeError:
                continue  # `validate` says what is wrong
            inner["metadata"] = kept


def validate(value: Any, schema: Schema) -> list[Cause]:
    if not has_any(schema):
        return []
    causes: list[Cause] = []
    for inner, path in _each(value, schema, ""):
        for key in ("apiVersion", "kind"):
            found = inner.get(key)
            if not found:
                causes.append(violations.required(f"{path}.{key}", "must not be empty"))
            elif not isinstance(found, str):
                causes.append(violations.invalid(f"{path}.{key}", found, "must be a string"))
        given = inner.get("metadata")
        if given is None:
            continue
        try:
            meta = codec.from_dict(given, meta_v1_pb2.ObjectMeta, strict=False)
        except codec.DecodeError as error:
            causes.append(violations.invalid(f"{path}.metadata", given, error.message))
            continue
        causes += metadata.validate_common(meta, f"{path}.metadata")
        if meta.name:
            causes += (
                violations.invalid(f"{path}.metadata.name", meta.name, text) for text in subdomain(meta.name, False)
            )
    return causes
