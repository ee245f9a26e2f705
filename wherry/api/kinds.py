"""Kinds and their names, derived from the descriptors in `wherry.pb`; nothing lists kinds twice.

A module of `wherry.pb` is imported only when one of its kinds is asked for, since each costs memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

from google.protobuf.message import Message

from wherry.pb import options_pb2, resources_pb2

# Group versions in the order in which discovery lists them, with the module of wherry.pb that defines them.
MODULES: dict[str, str] = {
    "v1": "core_v1",
    "apps/v1": "apps_v1",
    "batch/v1": "batch_v1",
    "autoscaling/v1": "autoscaling_v1",
    "autoscaling/v2": "autoscaling_v2",
    "policy/v1": "policy_v1",
    "rbac.authorization.k8s.io/v1": "rbac_v1",
    "networking.k8s.io/v1": "networking_v1",
    "discovery.k8s.io/v1": "discovery_v1",
    "coordination.k8s.io/v1": "coordination_v1",
    "events.k8s.io/v1": "events_v1",
    "scheduling.k8s.io/v1": "scheduling_v1",
    "node.k8s.io/v1": "node_v1",
    "storage.k8s.io/v1": "storage_v1",
    "authentication.k8s.io/v1": "authentication_v1",
    "authorization.k8s.io/v1": "authorization_v1",
    "admissionregistration.k8s.io/v1": "admissionregistration_v1",
    "certificates.k8s.io/v1": "certificates_v1",
    "apiextensions.k8s.io/v1": "apiextensions_v1",
    "flowcontrol.apiserver.k8s.io/v1": "flowcontrol_v1",
    "resource.k8s.io/v1": "resource_v1",
    "storagemigration.k8s.io/v1": "storagemigration_v1",
    "apiregistration.k8s.io/v1": "apiregistration_v1",
    "metrics.k8s.io/v1beta1": "metrics_v1beta1",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of one group version. `message` is its class in `wherry.pb`."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...]
    categories: tuple[str, ...]
    subresources: tuple[str, ...]
    message: type[Message]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """As in Kubernetes' messages: `pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True)
class CustomKind(Kind):
    """One version of what a CustomResourceDefinition defines. Its objects are `Unstructured`.

    `definition` changes with what defines it, so that a kind whose schema has changed is another one; `openapi` is the schema as
    plain values (not to be changed)."""

    list_kind: str = ""
    definition: str = ""
    openapi: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


class DynamicClass:
    """Stands where a client asks for a message class, for a kind that is not in the schema: its objects are `Unstructured`. All
    versions of a kind are one and the same here."""

    DESCRIPTOR = resources_pb2.Unstructured.DESCRIPTOR

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def __call__(self, **fields: Any) -> Any:
        return resources_pb2.Unstructured(**{"api_version": self.kind.api_version, "kind": self.kind.kind, **fields})

    def FromString(self, data: bytes) -> Any:
        return resources_pb2.Unstructured.FromString(data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DynamicClass) and self.kind.group_resource == other.kind.group_resource

    def __hash__(self) -> int:
        return hash(self.kind.group_resource)


def dynamic(group: str, version: str, kind: str, plural: str, singular: str = "", *, namespaced: bool) -> Kind:
    """A custom kind as a client knows it: by its names alone."""
    found = Kind(group, version, kind, plural, singular, namespaced, (), (), (), resources_pb2.Unstructured)
    return replace(found, message=cast("type[Message]", DynamicClass(found)))


def of_resource(resource: resources_pb2.APIResource) -> Kind:
    """What discovery names, whether it is in the schema or custom."""
    found = by_resource(resource.group, resource.version, resource.plural)
    if found is not None:
        return found
    return dynamic(
        resource.group,
        resource.version,
        resource.kind,
        resource.plural,
        resource.singular,
        namespaced=resource.namespaced,
    )


@cache
def kinds_of(api_version: str) -> dict[str, Kind]:
    """The kinds of a group version by kind name; empty when there is no such group version."""
    name = MODULES.get(api_version)
    if name is None:
        return {}
    module = importlib.import_module(f"wherry.pb.{name}_pb2")
    group, _, version = api_version.rpartition("/")
    found = {}
    for message_name, descriptor in module.DESCRIPTOR.message_types_by_name.items():
        options = descriptor.GetOptions()
        if not options.HasExtension(options_pb2.resource):
            continue
        facts = options.Extensions[options_pb2.resource]
        found[message_name] = Kind(
            group=group,
            version=version,
            kind=message_name,
            plural=facts.plural,
            singular=facts.singular,
            namespaced=facts.namespaced,
            short_names=tuple(facts.short_names),
            categories=tuple(facts.categories),
            subresources=tuple(facts.subresources),
            message=getattr(module, message_name),
        )
    return found


def by_name(api_version: str, kind: str) -> Kind:
    """Raises KeyError when there is none."""
    return kinds_of(api_version)[kind]


def of(message: type[Message]) -> Kind:
    """The kind of a message class. Raises KeyError for a class that is no kind (a list, a part, options)."""
    if isinstance(message, DynamicClass):
        return message.kind
    return _of_class(message)  # type: ignore[arg-type]  # classes are hashable, whatever the stubs say


@cache
def _of_class(message: type[Message]) -> Kind:
    descriptor: Any = message.DESCRIPTOR
    api_version = descriptor.file.GetOptions().Extensions[options_pb2.api_version]
    return kinds_of(api_version)[descriptor.name]


def by_resource(group: str, version: str, plural: str) -> Kind | None:
    for kind in kinds_of(f"{group}/{version}" if group else version).values():
        if kind.plural == plural:
            return kind
    return None


def all_kinds() -> Iterator[Kind]:
    """Every kind of the schema. Loads all of it: for tools and tests, not for a running server."""
    for api_version in MODULES:
        yield from kinds_of(api_version).values()
