"""Whether a CustomResourceDefinition can be: names, versions, schemas, columns, subresources.

Pure; called by the strategy of the kind. Where all versions say the same, Kubernetes speaks of it once
(`spec.validation` and not `spec.versions[0].schema`), and so does this.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from controlplane.registry import violations
from controlplane.registry.custom import rules, structural
from controlplane.registry.custom.defaulting import has_defaults
from wherry.api import codec, jsonpath, names
from wherry.api.errors import Cause

Schema = dict[str, Any]

APPROVED = "api-approved.kubernetes.io"
_PROTECTED = re.compile(r"(?:^|\.)(?:k8s\.io|kubernetes\.io)$")
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_SIMPLE_PATH = re.compile(r"(?:\.[a-zA-Z_][a-zA-Z0-9_\-]*|\[['\"][^'\"\]]+['\"]\])+")
_STEP = re.compile(r"\.([a-zA-Z_][a-zA-Z0-9_\-]*)|\[['\"]([^'\"\]]+)['\"]\]")
MAX_SELECTABLE = 8


def schema_of(version: Any) -> Schema | None:
    """The schema of a version as plain values."""
    if not version.HasField("schema") or not version.schema.HasField("open_api_v3_schema"):
        return None
    return codec.to_dict(version.schema.open_api_v3_schema)


def steps(path: str) -> list[str] | None:
    """`.spec.a['b-c']` as field names; None for anything that is more than a chain of fields."""
    if _SIMPLE_PATH.fullmatch(path) is None:
        return None
    return [match[1] or match[2] for match in _STEP.finditer(path)]


def find(value: Any, path: list[str]) -> Any:
    """The value at a chain of fields, or None."""
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def validate(obj: Any) -> list[Cause]:
    spec = obj.spec
    causes: list[Cause] = []
    if obj.metadata.name != f"{spec.names.plural}.{spec.group}":
        detail = 'must be spec.names.plural+"."+spec.group'
        causes.append(violations.invalid("metadata.name", obj.metadata.name, detail))
    causes += _group(spec.group)
    if spec.scope not in ("Cluster", "Namespaced"):
        if spec.scope:
            causes.append(violations.unsupported("spec.scope", spec.scope, ("Cluster", "Namespaced")))
        else:
            causes.append(violations.required("spec.scope"))
    causes += _versions(spec)
    causes += _names(spec.names, "spec.names", required=True)
    causes += _conversion(spec)
    causes += stored_versions(obj)
    if _PROTECTED.search(spec.group) and not obj.metadata.annotations.get(APPROVED):
        detail = (
            'protected groups must have approval annotation "api-approved.kubernetes.io", see '
            "https://github.com/kubernetes/enhancements/pull/1111"
        )
        causes.append(violations.required(f"metadata.annotations[{APPROVED}]", detail))
    return causes


def _group(group: str) -> list[Cause]:
    if not group:
        return [violations.required("spec.group")]
    wrong = names.dns1123_subdomain(group)
    if wrong:
        return [violations.invalid("spec.group", group, message) for message in wrong]
    if "." not in group:
        return [violations.invalid("spec.group", group, "should be a domain with at least one dot")]
    return []


def _labels(path: str, value: str, causes: list[Cause]) -> None:
    causes += (violations.invalid(path, value, message) for message in names.dns1035_label(value))


def _names(given: Any, path: str, *, required: bool) -> list[Cause]:
    causes: list[Cause] = []
    for field, value in (
        ("plural", given.plural),
        ("singular", given.singular),
        ("kind", given.kind),
        ("listKind", given.list_kind),
    ):
        if not value:
            if required:
                causes.append(violations.required(f"{path}.{field}"))
            continue
        wrong = names.dns1035_label(value.lower())
        mixed = "may have mixed case, but should otherwise match: " if field in ("kind", "listKind") else ""
        if not mixed:
            wrong = names.dns1035_label(value)
        causes += (violations.invalid(f"{path}.{field}", value, mixed + message) for message in wrong)
    for field, values in (("shortNames", given.short_names), ("categories", given.categories)):
        for index, value in enumerate(values):
            _labels(f"{path}.{field}[{index}]", value, causes)
    if given.kind and given.kind == given.list_kind:
        detail = "kind and listKind may not be the same"
        causes.append(violations.invalid(f"{path}.listKind", given.list_kind, detail))
    return causes


# versions


def _versions(spec: Any) -> list[Cause]:
    causes: list[Cause] = []
    found = [schema_of(version) for version in spec.versions]
    stored = [version.name for version in spec.versions if version.storage]
    for index, version in enumerate(spec.versions):
        _labels(f"spec.versions[{index}].name", version.name, causes)
        if version.HasField("deprecation_warning"):
            causes += _deprecation(version, f"spec.versions[{index}]")
    if len(stored) != 1:
        shown = [codec.to_dict(version) for version in spec.versions]
        detail = "must have exactly one version marked as storage version"
        causes.append(violations.invalid("spec.versions", shown, detail))
    if len({version.name for version in spec.versions}) != len(spec.versions):
        shown = [version.name for version in spec.versions]
        causes.append(violations.invalid("spec.versions", shown, "must contain unique version names"))
    if spec.versions:
        _labels("spec.version", spec.versions[0].name, causes)
    if spec.preserve_unknown_fields:
        path = "spec.preserveUnknownFields"
        if any(schema is not None and has_defaults(schema) for schema in found):
            causes.append(violations.invalid(path, True, "must be false in order to use defaults in the schema"))
        detail = (
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        )
        causes.append(violations.invalid(path, True, detail))
    for read, check, place in _PARTS:
        parts = [read(version) for version in spec.versions]
        shared = bool(parts) and all(part == parts[0] for part in parts)
        for index, part in enumerate(parts[:1] if shared else parts):
            causes += check(part, found[index], f"spec.{place[0]}" if shared else f"spec.versions[{index}].{place[1]}")
    return causes


def _deprecation(version: Any, path: str) -> list[Cause]:
    warning, place = version.deprecation_warning, f"{path}.deprecationWarning"
    if not version.deprecated:
        return [violations.invalid(place, warning, "can only be set for deprecated versions")]
    if not warning:
        return [violations.invalid(place, warning, "must not be empty")]
    if len(warning.encode()) > 256:
        return [violations.too_long(place, 256)]
    return []


def _check_schema(_: Any, schema: Schema | None, path: str) -> list[Cause]:
    place = f"{path}.openAPIV3Schema"
    if schema is None:
        return [violations.required(place)]
    causes = structural.check(schema, place)
    if rules.has_rules(schema) and not causes:
        compiler = rules.Compiler()
        compiler.compile(schema, place)
        causes += compiler.causes
    return causes


def _check_columns(columns: list[Any], _: Schema | None, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, column in enumerate(columns):
        place = f"{path}[{index}]"
        if not column.get("name"):
            causes.append(violations.required(f"{place}.name"))
        if not column.get("type"):
            detail = f"must be one of {', '.join(_COLUMN_TYPES)}"
            causes.append(violations.required(f"{place}.type", detail))
        elif column["type"] not in _COLUMN_TYPES:
            detail = f"must be one of {', '.join(_COLUMN_TYPES)}"
            causes.append(violations.invalid(f"{place}.type", column["type"], detail))
        if column.get("format") and column["format"] not in _COLUMN_FORMATS:
            detail = f"must be one of {', '.join(_COLUMN_FORMATS)}"
            causes.append(violations.invalid(f"{place}.format", column["format"], detail))
        found = column.get("jsonPath", "")
        if not found:
            causes.append(violations.required(f"{place}.jsonPath"))
            continue
        try:
            jsonpath.find(found, {})
        except jsonpath.JSONPathError as error:
            causes.append(violations.invalid(f"{place}.jsonPath", found, str(error)))
    return causes


def _check_scale(given: dict[str, Any], schema: Schema | None, path: str) -> list[Cause]:
    scale = given.get("scale")
    if scale is None:
        return []
    causes: list[Cause] = []
    for field, roots in (
        ("specReplicasPath", (".spec.",)), ("statusReplicasPath", (".status.",)), ("labelSelectorPath", (".spec.", ".status.")),
    ):  # fmt: skip
        found, place = scale.get(field, ""), f"{path}.scale.{field}"
        if not found:
            if field != "labelSelectorPath":
                causes.append(violations.required(place))
        elif steps(found) is None:
            causes.append(
                violations.invalid(place, found, "must be a simple json path of fields, such as .spec.replicas")
            )
        elif not found.startswith(roots):
            what = " or ".join(f"{root[:-1]}." for root in roots)
            causes.append(violations.invalid(place, found, f"should be a json path under {what.rstrip('.')}"))
    return causes


def _check_selectable(given: list[Any], schema: Schema | None, path: str) -> list[Cause]:
    causes: list[Cause] = []
    if given and schema is None:
        detail = "may only be set when `version.schema.openAPIV3Schema` is not included"
        return [violations.invalid(path, "", detail)]
    if len(given) > MAX_SELECTABLE:
        causes.append(violations.too_many(path, len(given), MAX_SELECTABLE))
    seen: list[str] = []
    for index, field in enumerate(given):
        found, place = field.get("jsonPath", ""), f"{path}[{index}].jsonPath"
        if not found:
            causes.append(violations.required(place))
            continue
        chain = steps(found)
        inner: Any = schema
        for step in chain or ():
            inner = (inner.get("properties") or {}).get(step) if isinstance(inner, dict) else None
        if chain is None or inner is None:
            causes.append(violations.invalid(place, found, "is an invalid path: does not refer to a valid field"))
        elif inner.get("type") not in ("string", "boolean", "integer"):
            detail = (
                "must point to a field of type string, boolean or integer. Enum string fields and strings with allowed formats "
                "are supported."
            )
            causes.append(violations.invalid(place, found, detail))
        elif chain[0] == "metadata":
            causes.append(violations.invalid(place, found, "must not point to fields in metadata"))
        if found in seen:
            causes.append(violations.duplicate(place, found))
        seen.append(found)
    return causes


def _plain(version: Any, name: str) -> Any:
    return codec.to_dict(version).get(name)


Check = Callable[[Any, "Schema | None", str], list[Cause]]
# What a version says, its check, and where: in common, and in each version.
_PARTS: tuple[tuple[Callable[[Any], Any], Check, tuple[str, str]], ...] = (
    (schema_of, _check_schema, ("validation", "schema")),
    (lambda version: _plain(version, "selectableFields") or [], _check_selectable, ("selectableFields", "selectableFields")),
    (lambda version: _plain(version, "additionalPrinterColumns") or [], _check_columns,
     ("additionalPrinterColumns", "additionalPrinterColumns")),
    (lambda version: _plain(version, "subresources") or {}, _check_scale, ("subresources", "subresources")),
)  # fmt: skip


# the rest


def _conversion(spec: Any) -> list[Cause]:
    given = spec.conversion
    if given.strategy == "None":
        if given.HasField("webhook"):
            detail = "should not be set when strategy is not set to Webhook"
            return [violations.forbidden("spec.conversion.webhookClientConfig", detail)]
        return []
    if given.strategy != "Webhook":
        return [violations.unsupported("spec.conversion.strategy", given.strategy, ("None",))]
    causes = []
    if not given.webhook.HasField("client_config"):
        detail = "required when strategy is set to Webhook"
        causes.append(violations.required("spec.conversion.webhookClientConfig", detail))
    if not given.webhook.conversion_review_versions:
        causes.append(violations.required("spec.conversion.conversionReviewVersions"))
    # No webhook is asked yet: objects of another version would be given out unconverted.
    return causes or [violations.unsupported("spec.conversion.strategy", given.strategy, ("None",))]


def stored_versions(obj: Any) -> list[Cause]:
    """Of `status.storedVersions`: no version may go in which objects may still be stored."""
    known = [version.name for version in obj.spec.versions]
    causes = []
    if not obj.status.stored_versions:
        causes.append(violations.invalid("status.storedVersions", None, "must have at least one stored version"))
    for version in obj.spec.versions:
        if version.storage and version.name not in obj.status.stored_versions and obj.status.stored_versions:
            shown = list(obj.status.stored_versions)
            causes.append(
                violations.invalid("status.storedVersions", shown, f"must have the storage version {version.name}")
            )
    for index, name in enumerate(obj.status.stored_versions):
        if name not in known:
            causes.append(violations.invalid(f"status.storedVersions[{index}]", name, "must appear in spec.versions"))
    return causes


def validate_update(obj: Any, old: Any) -> list[Cause]:
    causes = []
    fixed = [
        ("spec.group", obj.spec.group, old.spec.group),
        ("spec.names.plural", obj.spec.names.plural, old.spec.names.plural),
    ]
    if is_true(old, "Established"):
        fixed += [
            ("spec.scope", obj.spec.scope, old.spec.scope),
            ("spec.names.kind", obj.spec.names.kind, old.spec.names.kind),
        ]
    for path, now, before in fixed:
        if now != before:
            causes.append(violations.invalid(path, now, "field is immutable"))
    return causes


def is_true(obj: Any, kind: str) -> bool:
    return any(condition.type == kind and condition.status == "True" for condition in obj.status.conditions)
