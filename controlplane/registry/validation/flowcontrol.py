"""FlowSchema and PriorityLevelConfiguration."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes

MAX_PRECEDENCE = 10000
_EXEMPT = "exempt"
_SUBJECTS = {"Group": "group", "ServiceAccount": "service_account", "User": "user"}


def flow_schema(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    precedence = spec.matching_precedence
    if precedence <= 0:
        causes.append(violations.invalid("spec.matchingPrecedence", precedence, "must be a positive value"))
    if precedence > MAX_PRECEDENCE:
        detail = f"must not be greater than {MAX_PRECEDENCE}"
        causes.append(violations.invalid("spec.matchingPrecedence", precedence, detail))
    if precedence == 1 and obj.metadata.name != _EXEMPT:
        detail = "only the schema named 'exempt' may have matchingPrecedence 1"
        causes.append(violations.invalid("spec.matchingPrecedence", precedence, detail))
    if spec.HasField("distinguisher_method"):
        allowed = ("ByNamespace", "ByUser")
        causes += common.one_of(spec.distinguisher_method.type, allowed, "spec.distinguisherMethod")
    if not spec.priority_level_configuration.name:
        detail = "must reference a priority level"
        causes.append(violations.required("spec.priorityLevelConfiguration.name", detail))
    for index, rule in enumerate(spec.rules):
        causes += _rule(rule, f"spec.rules[{index}]")
    return causes


def _rule(rule: Any, path: str) -> Causes:
    causes: Causes = []
    if not rule.subjects:
        causes.append(violations.required(f"{path}.subjects", "subjects must contain at least one value"))
    for index, subject in enumerate(rule.subjects):
        field = _SUBJECTS.get(subject.kind)
        if field is None:
            causes.append(violations.unsupported(f"{path}.subjects[{index}].kind", subject.kind, tuple(_SUBJECTS)))
        elif not subject.HasField(field):
            name = {"service_account": "serviceAccount"}.get(field, field)
            detail = f"{name} is required when subject kind is '{subject.kind}'"
            causes.append(violations.required(f"{path}.subjects[{index}].{name}", detail))
    if not rule.resource_rules and not rule.non_resource_rules:
        detail = "at least one of resourceRules and nonResourceRules has to be non-empty"
        causes.append(violations.required(path, detail))
    for index, each in enumerate(rule.resource_rules):
        for field, name in (("verbs", "verbs"), ("api_groups", "apiGroups"), ("resources", "resources")):
            if not getattr(each, field):
                detail = f"{name} must contain at least one value"
                causes.append(violations.required(f"{path}.resourceRules[{index}].{name}", detail))
        if not each.namespaces and not each.cluster_scope:
            detail = "resource rules that are not cluster scoped must supply at least one namespace"
            causes.append(violations.required(f"{path}.resourceRules[{index}].namespaces", detail))
    for index, each in enumerate(rule.non_resource_rules):
        for field, name in (("verbs", "verbs"), ("non_resource_urls", "nonResourceURLs")):
            if not getattr(each, field):
                detail = f"{name} must contain at least one value"
                causes.append(violations.required(f"{path}.nonResourceRules[{index}].{name}", detail))
    return causes


def priority_level(obj: Any) -> Causes:
    spec = obj.spec
    if spec.type == "Exempt":
        if spec.HasField("limited"):
            return [violations.forbidden("spec.limited", "must be nil if the type is not Limited")]
        return []
    if spec.type != "Limited":
        return [violations.unsupported("spec.type", spec.type, ("Exempt", "Limited"))]
    causes: Causes = []
    if spec.HasField("exempt"):
        causes.append(violations.forbidden("spec.exempt", "must be nil if the type is Limited"))
    if not spec.HasField("limited"):
        return [*causes, violations.required("spec.limited", "must not be empty when type is Limited")]
    limited = spec.limited
    if limited.nominal_concurrency_shares < 0:
        detail = "must be a non-negative integer"
        value = limited.nominal_concurrency_shares
        causes.append(violations.invalid("spec.limited.nominalConcurrencyShares", value, detail))
    if not 0 <= limited.lendable_percent <= 100:
        detail = "must be between 0 and 100, inclusive"
        causes.append(violations.invalid("spec.limited.lendablePercent", limited.lendable_percent, detail))
    return causes + _limit_response(limited.limit_response, "spec.limited.limitResponse")


def _limit_response(response: Any, path: str) -> Causes:
    if response.type == "Reject":
        if response.HasField("queuing"):
            detail = "must be nil if limited.limitResponse.type is not Limited"
            return [violations.forbidden(f"{path}.queuing", detail)]
        return []
    if response.type != "Queue":
        return [violations.unsupported(f"{path}.type", response.type, ("Queue", "Reject"))]
    if not response.HasField("queuing"):
        detail = "must not be empty if limited.limitResponse.type is Limited"
        return [violations.required(f"{path}.queuing", detail)]
    queuing = response.queuing
    causes: Causes = []
    for field, name in (("queue_length_limit", "queueLengthLimit"), ("queues", "queues"), ("hand_size", "handSize")):
        if getattr(queuing, field) <= 0:
            causes.append(violations.invalid(f"{path}.queuing.{name}", getattr(queuing, field), "must be positive"))
    if queuing.hand_size > queuing.queues:
        detail = f"should not be greater than queues ({queuing.queues})"
        causes.append(violations.invalid(f"{path}.queuing.handSize", queuing.hand_size, detail))
    return causes
