"""The schemas of custom resources as definitions of the documents. Pure; called by `schemas`.

OpenAPI v3 can say all that a schema of a definition says; for v2 what it has no words for is left out.
"""

from __future__ import annotations

from typing import Any

from wherry.api.kinds import CustomKind

Schema = dict[str, Any]
_NOT_IN_V2 = ("nullable", "oneOf", "anyOf", "allOf", "not", "default")


def name_of(kind: CustomKind, *, listed: bool = False) -> str:
    """`com.example.v1.Widget` of `widgets.example.com`."""
    group = ".".join(reversed(kind.group.split(".")))
    return f"{group}.{kind.version}.{kind.list_kind if listed else kind.kind}"


def _gvk(kind: CustomKind, name: str) -> list[dict[str, str]]:
    return [{"group": kind.group, "kind": name, "version": kind.version}]


def definition(kind: CustomKind, metadata: Schema, *, v3: bool) -> Schema:
    """Of one object; `metadata` refers to that of every object."""
    out = dict(kind.openapi) if v3 else _v2(dict(kind.openapi))
    head = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": metadata}
    out["properties"] = dict(sorted({**(out.get("properties") or {}), **head}.items()))
    out["x-kubernetes-group-version-kind"] = _gvk(kind, kind.kind)
    return out


def list_definition(kind: CustomKind, item: Schema, metadata: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "items": {"type": "array", "items": item},
            "kind": {"type": "string"},
            "metadata": metadata,
        },
        "x-kubernetes-group-version-kind": _gvk(kind, kind.list_kind),
    }


def _v2(schema: Schema) -> Schema:
    out = {key: value for key, value in schema.items() if key not in _NOT_IN_V2}
    if schema.get("nullable"):
        # A null would be refused by whoever checks the type.
        for key in ("type", "format", "items", "properties", "required", "additionalProperties"):
            out.pop(key, None)
        return out
    if out.get("x-kubernetes-preserve-unknown-fields") and not out.get("properties"):
        out.pop("items", None)
    if isinstance(out.get("properties"), dict):
        out["properties"] = {name: _v2(inner) for name, inner in out["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = _v2(out[key])
    if out.get("additionalProperties") is True:
        out["additionalProperties"] = {}
    return out
