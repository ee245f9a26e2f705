"""apiregistration.k8s.io/v1: APIService, an API that another server has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.registry import violations
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, name_column
from controlplane.registry.violations import Causes
from wherry.api import names


def _fill(obj: Any) -> None:
    if obj.spec.HasField("service") and not obj.spec.service.HasField("port"):
        obj.spec.service.port = 443


def _name(name: str, prefix: bool) -> list[str]:
    """`v1.` is the version of the core group."""
    return names.dns1123_subdomain(name.removesuffix("."))


def _check(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    wanted = f"{spec.version}.{spec.group}"
    if obj.metadata.name != wanted:
        detail = f'must be `spec.version+"."+spec.group`: "{wanted}"'
        causes.append(violations.invalid("metadata.name", obj.metadata.name, detail))
    if not spec.version:
        causes.append(violations.required("spec.version"))
    else:
        causes += (violations.invalid("spec.version", spec.version, text) for text in names.dns1035_label(spec.version))
    for field, name, most in (
        ("group_priority_minimum", "groupPriorityMinimum", 20000), ("version_priority", "versionPriority", 1000),
    ):  # fmt: skip
        value = getattr(spec, field)
        if not 0 < value <= most:
            detail = f"must be positive and less than {most}"
            causes.append(violations.invalid(f"spec.{name}", value, detail))
    if not spec.HasField("service"):
        if spec.ca_bundle or spec.insecure_skip_tls_verify:
            detail = "local APIServices may not have a caBundle or skip the verification"
            causes.append(violations.invalid("spec.caBundle", "", detail))
        return causes
    for value, name in ((spec.service.namespace, "namespace"), (spec.service.name, "name")):
        if not value:
            causes.append(violations.required(f"spec.service.{name}"))
    if spec.insecure_skip_tls_verify and spec.ca_bundle:
        detail = "may not be true if caBundle is present"
        causes.append(violations.invalid("spec.insecureSkipTLSVerify", True, detail))
    return causes


def _service(obj: Any, now: float) -> str:
    spec = obj.spec
    return f"{spec.service.namespace}/{spec.service.name}" if spec.HasField("service") else "Local"


def _available(obj: Any, now: float) -> str:
    for condition in obj.status.conditions:
        if condition.type == "Available":
            return "True" if condition.status == "True" else f"{condition.status} ({condition.reason})"
    return "Unknown"


_COLUMNS = (name_column(), Column("Service", _service), Column("Available", _available), age_column())


def kinds() -> Iterator[Served]:
    yield entry(
        "apiregistration.k8s.io/v1", "APIService", columns=_COLUMNS, fill=_fill, check=_check, name_rule=_name,
        stored_only="requests are not passed on to it",
    )  # fmt: skip
