"""Messages as JSON schemas, with Kubernetes' extensions: how lists merge, which fields are required, which kind it is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from controlplane.fronts.http.openapi import custom
from wherry.api import schema
from wherry.api.kinds import CustomKind
from wherry.pb import meta_v1_pb2, options_pb2

Schema = dict[str, Any]

_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
}
_STRINGS: Schema = {"type": "array", "items": {"type": "string"}}
_ANY: Schema = {}
# Messages whose JSON is not an object of their fields.
_SPECIAL: dict[str, Schema] = {
    "Time": {"type": "string", "format": "date-time"},
    "MicroTime": {"type": "string", "format": "date-time"},
    "Duration": {"type": "string"},
    "FieldsV1": {"type": "object"},
    "Verbs": _STRINGS,
    "GroupVersion": {"type": "string"},
    "Quantity": {"type": "string"},
    "QuantityValue": {"type": "string"},
    "IntOrString": {"type": "string", "format": "int-or-string"},
    "RawExtension": {"type": "object"},
    "JSON": _ANY,
    "JSONSchemaPropsOrArray": _ANY,
    "JSONSchemaPropsOrBool": _ANY,
    "JSONSchemaPropsOrStringArray": _ANY,
    "AttestationValue": _STRINGS,
    "ExtraValue": _STRINGS,
    "Unstructured": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
}
# In OpenAPI v3 a type can be one of several.
_SPECIAL_V3: dict[str, Schema] = {
    "Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "QuantityValue": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "IntOrString": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
}
_PREFIXES = {
    "wherry.meta.resource": "io.k8s.apimachinery.pkg.api.resource",
    "wherry.meta.intstr": "io.k8s.apimachinery.pkg.util.intstr",
    "wherry.meta.runtime": "io.k8s.apimachinery.pkg.runtime",
    "wherry.meta.v1": "io.k8s.apimachinery.pkg.apis.meta.v1",
    "wherry.apiextensions.v1": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    "wherry.apiregistration.v1": "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
}


def name_of(descriptor: Descriptor) -> str:
    """The name of its definition, as in Kubernetes' documents."""
    package = descriptor.file.package
    prefix = _PREFIXES.get(package) or f"io.k8s.api.{package.removeprefix('wherry.')}"
    return f"{prefix}.{descriptor.name}"


class Definitions:
    """Collects what the roots refer to. `refs` is what stands before a definition's name: that of v2 or of v3.

    Each definition is encoded as soon as it is made: all of them at once as dicts would be many megabytes for a moment, and a
    process does not give those back.
    """

    def __init__(self, refs: str, encode: Callable[[Schema], bytes], *, v3: bool) -> None:
        self._refs = refs
        self._encode = encode
        self._v3 = v3
        self.found: dict[str, bytes] = {}

    def add(self, roots: Iterable[Descriptor]) -> None:
        waiting = list(roots)
        while waiting:
            descriptor = waiting.pop()
            name = name_of(descriptor)
            if name not in self.found:
                self.found[name] = self._encode(self._definition(descriptor, waiting))

    def add_custom(self, kind: CustomKind) -> None:
        name = custom.name_of(kind)
        if name in self.found:
            return
        meta: list[Any] = [meta_v1_pb2.ObjectMeta.DESCRIPTOR, meta_v1_pb2.ListMeta.DESCRIPTOR]
        self.add(meta)
        own = {"$ref": self._refs + name}
        self.found[name] = self._encode(custom.definition(kind, self.ref(meta[0]), v3=self._v3))
        listed = custom.name_of(kind, listed=True)
        self.found[listed] = self._encode(custom.list_definition(kind, own, self.ref(meta[1])))

    def ref_custom(self, kind: CustomKind, *, listed: bool = False) -> Schema:
        self.add_custom(kind)
        return {"$ref": self._refs + custom.name_of(kind, listed=listed)}

    def ref(self, descriptor: Descriptor) -> Schema:
        return {"$ref": self._refs + name_of(descriptor)}

    def _definition(self, descriptor: Descriptor, waiting: list[Descriptor]) -> Schema:
        if descriptor.full_name in schema.SPECIAL:
            special = _SPECIAL_V3.get(descriptor.name) if self._v3 else None
            return dict(special or _SPECIAL[descriptor.name])
        properties: dict[str, Schema] = {}
        required = []
        meta = schema.type_meta_of(descriptor)
        if meta is not None:
            properties["apiVersion"] = {"type": "string"}
            properties["kind"] = {"type": "string"}
        for member in schema.members(descriptor):
            properties[member.key] = self._property(member.field, waiting)
            if schema.rules(member.field).required:
                required.append(member.key)
        out: Schema = {"type": "object", "properties": dict(sorted(properties.items()))}
        if required:
            out["required"] = sorted(required)
        if schema.is_atomic(descriptor):
            out["x-kubernetes-map-type"] = "atomic"
        if meta is not None:
            group, _, version = meta[0].rpartition("/")
            out["x-kubernetes-group-version-kind"] = [{"group": group, "kind": meta[1], "version": version}]
        return out

    def _property(self, field: FieldDescriptor, waiting: list[Descriptor]) -> Schema:
        rules = schema.rules(field)
        if schema.is_map(field):
            out: Schema = {"type": "object", "additionalProperties": self._value(schema.map_value(field), waiting)}
            if rules.map_atomic:
                out["x-kubernetes-map-type"] = "atomic"
            return out
        value = self._value(field, waiting)
        if not field.is_repeated:
            if rules.patch_strategy and "$ref" in value:
                return {"allOf": [value], "x-kubernetes-patch-strategy": rules.patch_strategy} if self._v3 else {
                    **value, "x-kubernetes-patch-strategy": rules.patch_strategy
                }  # fmt: skip
            return value
        out = {"type": "array", "items": value, "x-kubernetes-list-type": "atomic"}
        if rules.list_type == options_pb2.LIST_TYPE_MAP:
            out["x-kubernetes-list-type"] = "map"
            out["x-kubernetes-list-map-keys"] = list(rules.list_map_keys)
        elif rules.list_type == options_pb2.LIST_TYPE_SET:
            out["x-kubernetes-list-type"] = "set"
        if rules.patch_strategy:
            out["x-kubernetes-patch-strategy"] = rules.patch_strategy
        if rules.patch_merge_key:
            out["x-kubernetes-patch-merge-key"] = rules.patch_merge_key
        return out

    def _value(self, field: FieldDescriptor, waiting: list[Descriptor]) -> Schema:
        if field.message_type is None:
            return dict(_SCALARS[field.type])
        waiting.append(field.message_type)
        return self.ref(field.message_type)
