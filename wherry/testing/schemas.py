"""Schemas and definitions of custom resources, in few words."""

from __future__ import annotations

from typing import Any

from wherry.api import codec
from wherry.pb import apiextensions_v1_pb2

S, I, O = {"type": "string"}, {"type": "integer"}, {"type": "object"}  # noqa: E741
KEEP = {"x-kubernetes-preserve-unknown-fields": True}


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def array(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def keyed(*keys: str, **properties: Any) -> dict[str, Any]:
    return array(obj(**properties), **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)})


def definition(schema: Any) -> Any:
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.a", "statusReplicasPath": ".status.a"}},
        "additionalPrinterColumns": [{"name": "A", "type": "integer", "jsonPath": ".spec.a"}],
    }
    spec = {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [version],
    }
    body = {"metadata": {"name": "things.example.com"}, "spec": spec}
    return codec.from_dict(body, apiextensions_v1_pb2.CustomResourceDefinition)
