"""LimitRange and ResourceQuota."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.violations import Causes
from wherry.api import names, quantity

_STANDARD = (
    "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage",
    "requests.storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods", "services",
    "replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims",
    "services.nodeports", "services.loadbalancers", "storage",
)  # fmt: skip
_SCOPES = (
    "Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
)  # fmt: skip
_COMPUTE = (
    "cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "pods",
)  # fmt: skip
_TYPES = ("Pod", "Container", "PersistentVolumeClaim")


def limit_range(obj: Any) -> Causes:
    causes: Causes = []
    seen: set[str] = set()
    for index, item in enumerate(obj.spec.limits):
        path = f"spec.limits[{index}]"
        if ("/" not in item.type and item.type not in _TYPES) or "/" in item.type:
            wrong = names.qualified_name(item.type)
            causes += (violations.invalid(f"{path}.type", item.type, text) for text in wrong)
            if not wrong and "/" not in item.type:
                detail = "must be a standard limit type or fully qualified"
                causes.append(violations.invalid(f"{path}.type", item.type, detail))
        if item.type in seen:
            causes.append(violations.duplicate(f"{path}.type", item.type))
        seen.add(item.type)
        if item.type == "Pod":
            for name, amounts in (("default", item.default), ("defaultRequest", item.default_request)):
                if amounts:
                    causes.append(violations.forbidden(f"{path}.{name}", "may not be specified when `type` is 'Pod'"))
            causes += _bounds(item, path, pod=True)
        else:
            causes += _bounds(item, path, pod=False)
    return causes


def _bounds(item: Any, path: str, *, pod: bool) -> Causes:
    """min <= default request <= default <= max, as far as each is given."""
    causes: Causes = []
    kept = {*item.min, *item.max} if pod else {*item.min, *item.max, *item.default, *item.default_request}
    for name in sorted(kept):
        low, high = _text(item.min, name), _text(item.max, name)
        request = "" if pod else _text(item.default_request, name)
        limit = "" if pod else _text(item.default, name)
        for field, lower, lower_word, upper, upper_word, value in (
            ("min", low, "min", high, "max", low),
            ("defaultRequest", low, "min", request, "default request", request),
            ("defaultRequest", request, "default request", high, "max", request),
            ("defaultRequest", request, "default request", limit, "default limit", request),
            ("default", low, "min", limit, "default", low),
            ("default", limit, "default", high, "max", limit),
        ):
            if lower and upper and quantity.compare(lower, upper) > 0:
                detail = f"{lower_word} value {lower} is greater than {upper_word} value {upper}"
                causes.append(violations.invalid(f"{path}.{field}[{name}]", value, detail))
    return causes


def _text(amounts: Any, name: str) -> str:
    return str(amounts[name].string) if name in amounts else ""


def resource_quota(obj: Any) -> Causes:
    causes: Causes = []
    for name, amount in sorted(obj.spec.hard.items()):
        path = f"spec.hard[{name}]"
        causes += (violations.invalid(path, name, text) for text in names.qualified_name(name))
        if "/" not in name and name not in _STANDARD and not name.startswith(("hugepages-", "requests.hugepages-")):
            causes.append(violations.invalid(path, name, "must be a standard resource for quota"))
        if quantity.amount(amount) < 0:
            causes.append(violations.invalid(path, amount.string, "must be greater than or equal to 0"))
    causes += _scope_selector(obj)
    scopes = list(obj.spec.scopes)
    if not scopes:
        return causes
    if any(scope not in _SCOPES for scope in scopes):
        causes.append(violations.invalid("spec.scopes", scopes, "unsupported scope"))
    elif any(name in _STANDARD and name not in _COMPUTE for name in obj.spec.hard) or (
        "BestEffort" in scopes and any(name != "pods" for name in obj.spec.hard)
    ):
        causes.append(violations.invalid("spec.scopes", scopes, "unsupported scope applied to resource"))
    for one, other in (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")):
        if one in scopes and other in scopes:
            causes.append(violations.invalid("spec.scopes", scopes, "conflicting scopes"))
    return causes


def _scope_selector(obj: Any) -> Causes:
    causes: Causes = []
    for index, term in enumerate(obj.spec.scope_selector.match_expressions):
        path = f"spec.scopeSelector.matchExpressions[{index}]"
        if term.scope_name not in _SCOPES:
            causes.append(violations.invalid(f"{path}.scopeName", term.scope_name, "unsupported scope"))
        if term.scope_name in _SCOPES[:4] + _SCOPES[5:6] and term.operator != "Exists":
            detail = (
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
                "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or "
                "ResourceQuotaScopeCrossNamespacePodAffinity"
            )
            causes.append(violations.invalid(f"{path}.operator", term.operator, detail))
        if term.operator in ("In", "NotIn"):
            if not term.values:
                detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
                causes.append(violations.required(f"{path}.values", detail))
        elif term.operator in ("Exists", "DoesNotExist"):
            if term.values:
                detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
                causes.append(violations.invalid(f"{path}.values", list(term.values), detail))
        else:
            causes.append(violations.invalid(f"{path}.operator", term.operator, "not a valid selector operator"))
    return causes


def resource_quota_update(obj: Any, old: Any) -> Causes:
    if sorted(obj.spec.scopes) == sorted(old.spec.scopes):
        return []
    return [violations.invalid("spec.scopes", list(obj.spec.scopes), "field is immutable")]
