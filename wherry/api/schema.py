"""What the machinery asks of descriptors: rules of a field, JSON shape of a message, apiVersion and kind of a class.

The codec, patch, apply and explain stand on this; nothing else reads `wherry.pb.options` of fields.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from wherry.api import kinds
from wherry.pb import options_pb2

# Messages that stand in JSON as something else than an object of their fields; `jsonforms` says what.
SPECIAL = frozenset({
    "wherry.meta.v1.Time", "wherry.meta.v1.MicroTime", "wherry.meta.v1.Duration", "wherry.meta.v1.FieldsV1",
    "wherry.meta.v1.Verbs", "wherry.meta.v1.GroupVersion", "wherry.meta.resource.Quantity",
    "wherry.meta.resource.QuantityValue", "wherry.meta.intstr.IntOrString", "wherry.meta.runtime.RawExtension",
    "wherry.apiextensions.v1.JSON", "wherry.apiextensions.v1.JSONSchemaPropsOrArray",
    "wherry.apiextensions.v1.JSONSchemaPropsOrBool", "wherry.apiextensions.v1.JSONSchemaPropsOrStringArray",
    "wherry.authentication.v1.AttestationValue", "wherry.authentication.v1.ExtraValue",
    "wherry.authorization.v1.ExtraValue", "wherry.certificates.v1.ExtraValue", "wherry.v1.Unstructured",
})  # fmt: skip

# Pointers upstream that are written even when nil: absent is null in JSON, not {}. The schema has no option for it.
NULL_WHEN_ABSENT = frozenset({
    "wherry.core.v1.NodeAllocatableMappedResources.quantity", "wherry.core.v1.ScaleIOPersistentVolumeSource.secret_ref",
    "wherry.core.v1.ScaleIOVolumeSource.secret_ref", "wherry.apps.v1.DaemonSetSpec.selector",
    "wherry.apps.v1.DeploymentSpec.selector", "wherry.apps.v1.ReplicaSetSpec.selector",
    "wherry.apps.v1.StatefulSetSpec.selector", "wherry.authentication.v1.TokenRequestSpec.bound_object_ref",
    "wherry.resource.v1.CapacityRequestPolicy.default",
})  # fmt: skip

# Bodies with apiVersion and kind that are no resource of their own (subresources, options, reviews) and no list.
_OTHER_KINDS = {
    "wherry.autoscaling.v1.Scale": "autoscaling/v1",
    "wherry.authentication.v1.TokenRequest": "authentication.k8s.io/v1",
    "wherry.policy.v1.Eviction": "policy/v1",
    "wherry.core.v1.RangeAllocation": "v1",
    "wherry.admission.v1.AdmissionReview": "admission.k8s.io/v1",
    "wherry.apiextensions.v1.ConversionReview": "apiextensions.k8s.io/v1",
    "wherry.meta.v1.PartialObjectMetadata": "meta.k8s.io/v1",
    "wherry.meta.v1.TableOptions": "meta.k8s.io/v1",
} | {
    f"wherry.core.v1.{name}": "v1"
    for name in (
        "NodeProxyOptions", "PodAttachOptions", "PodExecOptions", "PodLogOptions", "PodPortForwardOptions",
        "PodProxyOptions", "SerializedReference", "ServiceProxyOptions",
    )
} | {
    f"wherry.meta.v1.{name}": "v1"
    for name in (
        "APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "ApplyOptions", "CreateOptions", "DeleteOptions",
        "GetOptions", "ListOptions", "PatchOptions", "Status", "UpdateOptions",
    )
}  # fmt: skip
# The modules of _OTHER_KINDS by their apiVersion where `kinds.MODULES` has none.
_OTHER_MODULES = {"admission.k8s.io/v1": "admission_v1", "meta.k8s.io/v1": "meta_v1", "meta/v1": "meta_v1"}


def type_meta(cls: type[Message]) -> tuple[str, str] | None:
    """apiVersion and kind that stand in this message's JSON; None for a part."""
    return type_meta_of(descriptor_of(cls))


@cache
def type_meta_of(descriptor: Descriptor) -> tuple[str, str] | None:
    other = _OTHER_KINDS.get(descriptor.full_name)
    if other is not None:
        return other, descriptor.name
    if descriptor.GetOptions().HasExtension(options_pb2.resource) or is_list(descriptor):
        api_version: str = descriptor.file.GetOptions().Extensions[options_pb2.api_version]
        if descriptor.file.package == "wherry.meta.v1":
            api_version = "v1" if descriptor.name == "List" else "meta.k8s.io/v1"
        return api_version, descriptor.name
    return None


def is_list(descriptor: Descriptor) -> bool:
    """PodList and its like."""
    metadata = descriptor.fields_by_name.get("metadata")
    return (
        descriptor.name.endswith("List")
        and metadata is not None
        and sub(metadata).full_name == "wherry.meta.v1.ListMeta"
        and "items" in descriptor.fields_by_name
    )


def find_class(api_version: str, kind: str) -> type[Message] | None:
    """The class for a body's apiVersion and kind, lists and subresource bodies included; None when there is none."""
    known = kinds.kinds_of(api_version).get(kind)
    if known is not None:
        return known.message
    for module_name in (kinds.MODULES.get(api_version), _OTHER_MODULES.get(api_version), "meta_v1"):
        if module_name is None:
            continue
        cls = getattr(importlib.import_module(f"wherry.pb.{module_name}_pb2"), kind, None)
        if isinstance(cls, type) and issubclass(cls, Message) and type_meta(cls) == (api_version, kind):
            return cls
    return None


def class_of(descriptor: Descriptor) -> type[Message]:
    return message_factory.GetMessageClass(descriptor)


def descriptor_of(cls: type[Message]) -> Descriptor:
    descriptor: Any = cls.DESCRIPTOR
    return cast(Descriptor, descriptor)


def sub(field: FieldDescriptor) -> Descriptor:
    """The type of a message field."""
    assert field.message_type is not None
    return field.message_type


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def map_value(field: FieldDescriptor) -> FieldDescriptor:
    """The value side of a map field; keys are strings throughout the schema."""
    return sub(field).fields_by_name["value"]


@dataclass(frozen=True, slots=True)
class Member:
    """One JSON key of a message. `inline` names the fields of the inlined messages around `field`, outermost first."""

    key: str
    field: FieldDescriptor
    inline: tuple[str, ...]


def members(descriptor: Descriptor, inline: tuple[str, ...] = ()) -> Iterator[Member]:
    """The keys of a message's JSON object, those of inlined messages among them, in the order of their numbers."""
    for field in descriptor.fields:
        if rules(field).inline:
            yield from members(sub(field), (*inline, field.name))
        else:
            yield Member(field.json_name, field, inline)


@cache
def member_table(descriptor: Descriptor) -> dict[str, Member]:
    """`members` by key."""
    return {member.key: member for member in members(descriptor)}


def rules(field: FieldDescriptor) -> options_pb2.FieldRules:
    options: options_pb2.FieldRules = field.GetOptions().Extensions[options_pb2.field]
    return options


def is_atomic(descriptor: Descriptor) -> bool:
    return bool(descriptor.GetOptions().Extensions[options_pb2.atomic])
