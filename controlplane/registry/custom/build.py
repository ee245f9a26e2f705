"""From a CustomResourceDefinition to what serves its kinds.

Pure; called by `catalogue` for each definition that is new or has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from controlplane.registry.custom import columns, definitions
from controlplane.registry.custom.strategy import CustomStrategy, Scale, body_of
from controlplane.registry.state import Served
from wherry.api.kinds import CustomKind
from wherry.api.names import version_rank
from wherry.pb import apiextensions_v1_pb2, resources_pb2

_PRESERVE_ALL: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_TERMINATING = "create not allowed while custom resource definition is terminating"


def parse(value: bytes) -> Any:
    return apiextensions_v1_pb2.CustomResourceDefinition.FromString(value)


def is_served(obj: Any) -> bool:
    return definitions.is_true(obj, "Established")


def mark_of(obj: Any) -> tuple[str, ...]:
    """The uid first; then all that a change of which must be noticed."""
    conditions = (str(definitions.is_true(obj, kind)) for kind in ("Established", "Terminating"))
    names = obj.status.accepted_names.SerializeToString(deterministic=True).hex()
    return (obj.metadata.uid, str(obj.metadata.generation), names, *conditions)


def served(obj: Any, home: Served | None) -> tuple[Served, dict[str, Served]]:
    """The served versions by name, and the one that holds the cache: `home` when there was one already."""
    spec = obj.spec
    storage = next(version for version in spec.versions if version.storage)
    stored_schema = definitions.schema_of(storage) or _PRESERVE_ALL
    if home is None:
        home = _version(obj, storage, stored_schema, storage.name)
    versions: dict[str, Served] = {}
    for version in spec.versions:
        if version.served:
            found = _version(obj, version, stored_schema, storage.name)
            found.home = home
            versions[version.name] = found
    return home, versions


def _version(obj: Any, version: Any, stored_schema: dict[str, Any], stored_version: str) -> Served:
    spec = obj.spec
    names = obj.status.accepted_names if obj.status.accepted_names.kind else spec.names
    schema = definitions.schema_of(version) or _PRESERVE_ALL
    subresources = []
    if version.subresources.HasField("status"):
        subresources.append("status")
    scale = _scale(version)
    if scale is not None:
        subresources.append("scale")
    kind = CustomKind(
        group=spec.group, version=version.name, kind=names.kind, plural=spec.names.plural, singular=names.singular,
        namespaced=spec.scope == "Namespaced", short_names=tuple(names.short_names), categories=tuple(names.categories),
        subresources=tuple(subresources), message=resources_pb2.Unstructured, list_kind=names.list_kind,
        definition=f"{obj.metadata.uid}/{obj.metadata.generation}", openapi=schema,
    )  # fmt: skip
    strategy = CustomStrategy(
        kind=kind, columns=columns.of_version(version), fields=_fields(version), has_status="status" in subresources,
        schema=schema, storage_schema=stored_schema, storage_version=stored_version, scale=scale,
        deprecation=_deprecation(spec, version), frozen=_TERMINATING if definitions.is_true(obj, "Terminating") else "",
    )  # fmt: skip
    return Served(kind, strategy, look=strategy.view)


def _scale(version: Any) -> Scale | None:
    if not version.subresources.HasField("scale"):
        return None
    given = version.subresources.scale
    replicas, status = definitions.steps(given.spec_replicas_path), definitions.steps(given.status_replicas_path)
    if replicas is None or status is None:
        return None
    return Scale(replicas, status, definitions.steps(given.label_selector_path) if given.label_selector_path else None)


def _fields(version: Any) -> dict[str, Callable[[Any], str]]:
    """Selectable fields, named without the dot that their path begins with."""
    found: dict[str, Callable[[Any], str]] = {}
    for field in version.selectable_fields:
        path = definitions.steps(field.json_path)
        if path is not None:
            found[field.json_path.removeprefix(".")] = partial(_text_at, path)
    return found


def _text_at(path: list[str], obj: Any) -> str:
    value = definitions.find(body_of(obj), path)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _deprecation(spec: Any, version: Any) -> str:
    """What whoever uses the version is told."""
    if not version.deprecated:
        return ""
    if version.deprecation_warning:
        return str(version.deprecation_warning)
    text = f"{spec.group}/{version.name} {spec.names.kind} is deprecated"
    better = [other.name for other in spec.versions if other.served and not other.deprecated]
    best = min(better, key=version_rank, default="")
    newer = bool(best) and version_rank(best) < version_rank(version.name)
    return f"{text}; use {spec.group}/{best} {spec.names.kind}" if newer else text
