"""Where a pod wants to be: affinity to nodes and pods, and spreading."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes
from wherry.api import names

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_NODE_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")


def affinity(obj: Any, path: str) -> Causes:
    causes: Causes = []
    if obj.HasField("node_affinity"):
        place = f"{path}.nodeAffinity"
        node = obj.node_affinity
        if node.HasField("required_during_scheduling_ignored_during_execution"):
            causes += _node_selector(node.required_during_scheduling_ignored_during_execution, f"{place}.{_REQUIRED}")
        for index, preferred in enumerate(node.preferred_during_scheduling_ignored_during_execution):
            at = f"{place}.{_PREFERRED}[{index}]"
            causes += _weight(preferred.weight, at)
            causes += _term(preferred.preference, f"{at}.preference")
    for field, name in (("pod_affinity", "podAffinity"), ("pod_anti_affinity", "podAntiAffinity")):
        if obj.HasField(field):
            causes += _pod_affinity(getattr(obj, field), f"{path}.{name}")
    return causes


def _weight(weight: int, path: str) -> Causes:
    return [] if 1 <= weight <= 100 else [violations.invalid(f"{path}.weight", weight, "must be in the range 1-100")]


def _node_selector(selector: Any, path: str) -> Causes:
    if not selector.node_selector_terms:
        return [violations.required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")]
    causes: Causes = []
    for index, term in enumerate(selector.node_selector_terms):
        causes += _term(term, f"{path}.nodeSelectorTerms[{index}]")
    return causes


def _term(term: Any, path: str) -> Causes:
    causes: Causes = []
    for index, expression in enumerate(term.match_expressions):
        causes += _expression(expression, f"{path}.matchExpressions[{index}]")
        for number, value in enumerate(expression.values):
            place = f"{path}.matchExpressions[{index}].values[{number}]"
            causes += (violations.invalid(place, value, text) for text in names.label_value(value))
    for index, expression in enumerate(term.match_fields):
        place = f"{path}.matchFields[{index}]"
        if expression.operator in ("In", "NotIn"):
            if len(expression.values) != 1:
                detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
                causes.append(violations.required(f"{place}.values", detail))
        else:
            detail = "not a valid selector operator"
            causes.append(violations.invalid(f"{place}.operator", expression.operator, detail))
        if expression.key != "metadata.name":
            causes.append(violations.invalid(f"{place}.key", expression.key, "not a valid field selector key"))
    return causes


def _expression(expression: Any, path: str) -> Causes:
    causes: Causes = []
    match expression.operator:
        case "In" | "NotIn":
            if not expression.values:
                detail = "must be specified when `operator` is 'In' or 'NotIn'"
                causes.append(violations.required(f"{path}.values", detail))
        case "Exists" | "DoesNotExist":
            if expression.values:
                detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                causes.append(violations.forbidden(f"{path}.values", detail))
        case "Gt" | "Lt":
            if len(expression.values) != 1:
                detail = "must be specified single value when `operator` is 'Lt' or 'Gt'"
                causes.append(violations.required(f"{path}.values", detail))
        case other:
            causes.append(violations.invalid(f"{path}.operator", other, "not a valid selector operator"))
    causes += (violations.invalid(f"{path}.key", expression.key, text) for text in names.qualified_name(expression.key))
    return causes


def _pod_affinity(obj: Any, path: str) -> Causes:
    causes: Causes = []
    for index, term in enumerate(obj.required_during_scheduling_ignored_during_execution):
        causes += _pod_term(term, f"{path}.{_REQUIRED}[{index}]")
    for index, weighted in enumerate(obj.preferred_during_scheduling_ignored_during_execution):
        place = f"{path}.{_PREFERRED}[{index}]"
        causes += _weight(weighted.weight, place)
        causes += _pod_term(weighted.pod_affinity_term, f"{place}.podAffinityTerm")
    return causes


def _pod_term(term: Any, path: str) -> Causes:
    causes: Causes = []
    if term.HasField("label_selector"):
        causes += common.label_selector(term.label_selector, f"{path}.labelSelector")
    if term.HasField("namespace_selector"):
        causes += common.label_selector(term.namespace_selector, f"{path}.namespaceSelector")
    for name in term.namespaces:
        causes += (violations.invalid(f"{path}.namespace", name, text) for text in names.dns1123_label(name))
    if not term.topology_key:
        causes.append(violations.required(f"{path}.topologyKey", "can not be empty"))
    causes += (
        violations.invalid(f"{path}.topologyKey", term.topology_key, text)
        for text in names.qualified_name(term.topology_key)
    )
    return causes


def spread(constraints: Any, path: str) -> Causes:
    causes: Causes = []
    pairs = [(constraint.topology_key, constraint.when_unsatisfiable) for constraint in constraints]
    for index, constraint in enumerate(constraints):
        place = f"{path}[{index}]"
        if constraint.max_skew <= 0:
            causes.append(violations.invalid(f"{place}.maxSkew", constraint.max_skew, "must be greater than zero"))
        if not constraint.topology_key:
            causes.append(violations.required(f"{place}.topologyKey", "can not be empty"))
        causes += (
            violations.invalid(f"{place}.topologyKey", constraint.topology_key, text)
            for text in names.qualified_name(constraint.topology_key)
            if constraint.topology_key
        )
        allowed = ("DoNotSchedule", "ScheduleAnyway")
        if constraint.when_unsatisfiable not in allowed:
            causes.append(violations.unsupported(f"{place}.whenUnsatisfiable", constraint.when_unsatisfiable, allowed))
        if pairs[index] in pairs[index + 1 :]:
            shown = "{" + f"{constraint.topology_key}, {constraint.when_unsatisfiable}" + "}"
            causes.append(violations.duplicate(f"{place}.{{topologyKey, whenUnsatisfiable}}", shown))
        if constraint.HasField("min_domains"):
            if constraint.min_domains <= 0:
                causes.append(
                    violations.invalid(f"{place}.minDomains", constraint.min_domains, "must be greater than zero")
                )
            elif constraint.when_unsatisfiable != "DoNotSchedule":
                detail = (
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not " + constraint.when_unsatisfiable
                )
                causes.append(violations.invalid(f"{place}.minDomains", constraint.min_domains, detail))
        for field, json_name in (
            ("node_affinity_policy", "nodeAffinityPolicy"),
            ("node_taints_policy", "nodeTaintsPolicy"),
        ):
            if constraint.HasField(field) and getattr(constraint, field) not in ("Honor", "Ignore"):
                causes.append(
                    violations.unsupported(f"{place}.{json_name}", getattr(constraint, field), ("Honor", "Ignore"))
                )
        if constraint.HasField("label_selector"):
            causes += common.label_selector(constraint.label_selector, f"{place}.labelSelector")
    return causes
