"""Roles and bindings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.registry import violations
from controlplane.registry.defaults.rbac import GROUP
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes
from wherry.api import codec, names


def segment(name: str, prefix: bool) -> Sequence[str]:
    """Names of roles need only be possible in a path: `system:node` is one."""
    if name in (".", ".."):
        return [f"may not be '{name}'"]
    return [f"may not contain '{char}'" for char in ("/", "%") if char in name]


def role(obj: Any) -> Causes:
    return _rules(obj.rules, namespaced=True)


def cluster_role(obj: Any) -> Causes:
    causes = _rules(obj.rules, namespaced=False)
    if not obj.HasField("aggregation_rule"):
        return causes
    path = "aggregationRule.clusterRoleSelectors"
    selectors = obj.aggregation_rule.cluster_role_selectors
    if not selectors:
        detail = "at least one clusterRoleSelector required if aggregationRule is non-nil"
        causes.append(violations.required(path, detail))
    for index, selector in enumerate(selectors):
        causes += common.label_selector(selector, f"{path}[{index}]")
    return causes


def _rules(rules: Any, *, namespaced: bool) -> Causes:
    causes: Causes = []
    for index, rule in enumerate(rules):
        path = f"rules[{index}]"
        if not rule.verbs:
            causes.append(violations.required(f"{path}.verbs", "verbs must contain at least one value"))
        if rule.non_resource_urls:
            urls = list(rule.non_resource_urls)
            if namespaced:
                detail = "namespaced rules cannot apply to non-resource URLs"
                causes.append(violations.invalid(f"{path}.nonResourceURLs", urls, detail))
            if rule.api_groups or rule.resources or rule.resource_names:
                detail = "rules cannot apply to both regular resources and non-resource URLs"
                causes.append(violations.invalid(f"{path}.nonResourceURLs", urls, detail))
            continue
        if not rule.api_groups:
            detail = "resource rules must supply at least one api group"
            causes.append(violations.required(f"{path}.apiGroups", detail))
        if not rule.resources:
            detail = "resource rules must supply at least one resource"
            causes.append(violations.required(f"{path}.resources", detail))
    return causes


def binding(obj: Any) -> Causes:
    return _binding(obj, ("Role", "ClusterRole"))


def cluster_binding(obj: Any) -> Causes:
    return _binding(obj, ("ClusterRole",))


def _binding(obj: Any, kinds: tuple[str, ...]) -> Causes:
    ref = obj.role_ref
    causes: Causes = []
    if ref.api_group != GROUP:
        causes.append(violations.unsupported("roleRef.apiGroup", ref.api_group, (GROUP,)))
    if ref.kind not in kinds:
        causes.append(violations.unsupported("roleRef.kind", ref.kind, kinds))
    if not ref.name:
        causes.append(violations.required("roleRef.name"))
    else:
        causes += (violations.invalid("roleRef.name", ref.name, text) for text in segment(ref.name, False))
    for index, subject in enumerate(obj.subjects):
        causes += _subject(subject, f"subjects[{index}]", namespaced=len(kinds) > 1)
    return causes


def _subject(subject: Any, path: str, *, namespaced: bool) -> Causes:
    causes: Causes = []
    if not subject.name:
        causes.append(violations.required(f"{path}.name"))
    if subject.kind == "ServiceAccount":
        if subject.name:
            causes += (
                violations.invalid(f"{path}.name", subject.name, text) for text in names.dns1123_subdomain(subject.name)
            )
        if subject.api_group:
            causes.append(violations.unsupported(f"{path}.apiGroup", subject.api_group, ("",)))
        if not namespaced and not subject.namespace:
            causes.append(violations.required(f"{path}.namespace"))
    elif subject.kind in ("User", "Group"):
        if subject.api_group != GROUP:
            causes.append(violations.unsupported(f"{path}.apiGroup", subject.api_group, (GROUP,)))
    else:
        allowed = ("ServiceAccount", "User", "Group")
        causes.append(violations.unsupported(f"{path}.kind", subject.kind, allowed))
    return causes


def binding_update(obj: Any, old: Any) -> Causes:
    if obj.role_ref == old.role_ref:
        return []
    value = codec.to_dict(obj.role_ref)
    shown = {"APIGroup": value.get("apiGroup", ""), "Kind": value.get("kind", ""), "Name": value.get("name", "")}
    return [violations.invalid("roleRef", shown, "cannot change roleRef")]
