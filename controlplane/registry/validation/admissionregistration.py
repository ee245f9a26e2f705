"""Webhook configurations and admission policies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from controlplane.registry import violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes
from wherry.api import names
from wherry.api.turns import Slices, at_once

_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_FAILURE = ("Fail", "Ignore")
_MAX_CONDITIONS = 64
_REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL_FORM = "desired format: https://host[/path]"


def webhooks(obj: Any) -> Causes:
    mutating = obj.DESCRIPTOR.name == "MutatingWebhookConfiguration"
    causes: Causes = []
    seen: set[str] = set()
    for index, hook in enumerate(obj.webhooks):
        path = f"webhooks[{index}]"
        causes += _hook_name(hook.name, f"{path}.name")
        if hook.name in seen:
            causes.append(violations.duplicate(f"{path}.name", hook.name))
        seen.add(hook.name)
        for number, rule in enumerate(hook.rules):
            causes += _rule(rule, f"{path}.rules[{number}]")
        causes += common.one_of(hook.failure_policy, _FAILURE, f"{path}.failurePolicy")
        causes += common.one_of(hook.match_policy, ("Equivalent", "Exact"), f"{path}.matchPolicy")
        if not hook.HasField("side_effects"):
            causes.append(violations.required(f"{path}.sideEffects", "must specify one of None, NoneOnDryRun"))
        else:
            causes += common.one_of(hook.side_effects, ("None", "NoneOnDryRun"), f"{path}.sideEffects")
        if not 1 <= hook.timeout_seconds <= 30:
            detail = "the timeout value must be between 1 and 30 seconds"
            causes.append(violations.invalid(f"{path}.timeoutSeconds", hook.timeout_seconds, detail))
        causes += _versions(hook.admission_review_versions, f"{path}.admissionReviewVersions")
        if mutating:
            allowed = ("IfNeeded", "Never")
            causes += common.one_of(hook.reinvocation_policy, allowed, f"{path}.reinvocationPolicy")
        causes += common.label_selector(hook.namespace_selector, f"{path}.namespaceSelector")
        causes += common.label_selector(hook.object_selector, f"{path}.objectSelector")
        causes += _conditions(hook.match_conditions, f"{path}.matchConditions")
        causes += _client(hook.client_config, f"{path}.clientConfig")
    return causes


def _hook_name(name: str, path: str) -> Causes:
    if not name:
        return [violations.required(path)]
    causes = [violations.invalid(path, name, text) for text in names.dns1123_subdomain(name)]
    if not causes and name.count(".") < 2:
        detail = "should be a domain with at least three segments separated by dots"
        causes.append(violations.invalid(path, name, detail))
    return causes


def _rule(rule: Any, path: str) -> Causes:
    causes: Causes = []
    if not rule.operations:
        causes.append(violations.required(f"{path}.operations"))
    for index, operation in enumerate(rule.operations):
        causes += common.one_of(operation, _OPERATIONS, f"{path}.operations[{index}]")
    for name, values in (
        ("apiGroups", rule.rule.api_groups), ("apiVersions", rule.rule.api_versions), ("resources", rule.rule.resources),
    ):  # fmt: skip
        if not values:
            causes.append(violations.required(f"{path}.{name}"))
        elif "*" in values and len(values) > 1 and name != "resources":
            causes.append(
                violations.invalid(f"{path}.{name}", list(values), "if '*' is present, must not specify others")
            )
    return [*causes, *common.one_of(rule.rule.scope, ("*", "Cluster", "Namespaced"), f"{path}.scope")]


def _versions(versions: Any, path: str) -> Causes:
    if not versions:
        return [violations.required(path, "must specify one of v1, v1beta1")]
    if not any(version in ("v1", "v1beta1") for version in versions):
        detail = "must include at least one of v1, v1beta1"
        return [violations.invalid(path, list(versions), detail)]
    return []


def _conditions(conditions: Any, path: str, *, policy: bool = False) -> Causes:
    if not conditions:
        return []
    from controlplane.admission import expressions

    check = _policy_check({}) if policy else expressions.check
    causes: Causes = []
    if len(conditions) > _MAX_CONDITIONS:
        causes.append(violations.too_many(path, len(conditions), _MAX_CONDITIONS))
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        where = f"{path}[{index}]"
        if not condition.name:
            causes.append(violations.required(f"{where}.name"))
        else:
            causes += (
                violations.invalid(f"{where}.name", condition.name, text)
                for text in names.qualified_name(condition.name)
            )
        if condition.name in seen:
            causes.append(violations.duplicate(f"{where}.name", condition.name))
        seen.add(condition.name)
        if not condition.expression.strip():
            causes.append(violations.required(f"{where}.expression"))
        else:
            causes += check(condition.expression, f"{where}.expression", ("bool",))
    return causes


def _client(config: Any, path: str) -> Causes:
    if config.HasField("url") == config.HasField("service"):
        return [violations.required(path, "exactly one of url or service is required")]
    if config.HasField("service"):
        given = (("name", config.service.name), ("namespace", config.service.namespace))
        return [violations.required(f"{path}.service.{name}") for name, value in given if not value]
    parts = urlsplit(config.url)
    if parts.scheme != "https":
        detail = f"'https' is the only allowed URL scheme; {_URL_FORM}"
        return [violations.invalid(f"{path}.url", parts.scheme, detail)]
    if not parts.netloc:
        return [violations.invalid(f"{path}.url", parts.netloc, f"host must be specified; {_URL_FORM}")]
    causes: Causes = []
    for part, what in (
        (parts.netloc.rpartition("@")[0], "user information is"),
        (parts.fragment, "fragments are"),
        (parts.query, "query parameters are"),
    ):
        if part:
            causes.append(violations.invalid(f"{path}.url", part, f"{what} not permitted in the URL"))
    return causes


def policy(obj: Any) -> Causes:
    return at_once(policy_in_slices(obj))


def policy_in_slices(obj: Any) -> Slices[Causes]:
    """Of either kind; its expressions are compiled one at a time."""
    spec = obj.spec
    causes = common.one_of(spec.failure_policy, _FAILURE, "spec.failurePolicy")
    if not spec.HasField("match_constraints"):
        causes.append(violations.required("spec.matchConstraints"))
    else:
        causes += _matching(spec.match_constraints, "spec.matchConstraints")
    if obj.DESCRIPTOR.name == "ValidatingAdmissionPolicy":
        if not spec.validations and not spec.audit_annotations:
            detail = "validations or auditAnnotations must contain at least one item"
            causes += (violations.required(f"spec.{name}", detail) for name in ("validations", "auditAnnotations"))
        causes += _conditions(spec.match_conditions, "spec.matchConditions", policy=True)
        causes += yield from _expressions(spec)
    else:
        causes += _conditions(spec.match_conditions, "spec.matchConditions", policy=True)
        causes += yield from _mutations(spec)
    return causes


def _mutations(spec: Any) -> Slices[Causes]:
    """Of a MutatingAdmissionPolicy: what it makes compiles, and is of the right type."""
    from controlplane.admission.policies import mutations
    from wherry.api.cel.syntax import CompileError

    causes: Causes = []
    if not spec.mutations:
        causes.append(violations.required("spec.mutations", "mutations must contain at least one item"))
    if not spec.reinvocation_policy:
        causes.append(violations.required("spec.reinvocationPolicy"))
    else:
        causes += common.one_of(spec.reinvocation_policy, ("IfNeeded", "Never"), "spec.reinvocationPolicy")
    wrong = _variable_names(spec.variables)
    if wrong:
        return [*causes, *wrong]
    types = yield from _variable_types(spec, causes, mutations.compile_one)
    for index, item in enumerate(spec.mutations):
        yield
        path = f"spec.mutations[{index}]"
        if not item.patch_type:
            causes.append(violations.required(f"{path}.patchType"))
            continue
        name, field, other = _MUTATIONS.get(item.patch_type, ("", "", ""))
        if not name:
            causes += common.one_of(item.patch_type, tuple(sorted(_MUTATIONS)), f"{path}.patchType")
            continue
        if item.HasField(other):
            detail = f"must not be specified when patchType is {item.patch_type}"
            causes.append(violations.invalid(f"{path}.{_MUTATION_NAMES[other]}", "", detail))
        source = getattr(item, field).expression
        if not item.HasField(field):
            detail = f"must be specified when patchType is {item.patch_type}"
            causes.append(violations.required(f"{path}.{name}", detail))
        elif not source.strip():
            causes.append(violations.required(f"{path}.{name}.expression", "expression is not specified"))
        else:
            try:
                mutations.compile_mutation(item, types)
            except CompileError as error:
                causes.append(violations.invalid(f"{path}.{name}.expression", source, f"compilation failed: {error}"))
    return [*causes, *_param_kind(spec)]


_MUTATIONS = {
    "ApplyConfiguration": ("applyConfiguration", "apply_configuration", "json_patch"),
    "JSONPatch": ("jsonPatch", "json_patch", "apply_configuration"),
}
_MUTATION_NAMES = {"apply_configuration": "applyConfiguration", "json_patch": "jsonPatch"}


def _policy_check(variables: Any) -> Callable[[str, str, tuple[str, ...]], Causes]:
    """For expressions of a policy, which may speak of more."""
    from controlplane.admission import expressions
    from controlplane.admission.policies import authorizer, compiled
    from wherry.api.cel import types as cel

    given = {**compiled.BASE, "variables": cel.object_of("kubernetes.variables", variables)}
    return lambda source, path, allowed: expressions.check(source, path, allowed, given, authorizer.functions())


def _expressions(spec: Any) -> Slices[Causes]:
    """Of a ValidatingAdmissionPolicy: its variables, validations and annotations compile and are of the right type."""
    from controlplane.admission.policies import compiled

    causes = _variable_names(spec.variables)
    if causes:
        return causes
    types = yield from _variable_types(spec, causes, compiled.compile_one)
    check = _policy_check(types)
    for index, item in enumerate(spec.validations):
        yield
        path = f"spec.validations[{index}]"
        if not item.expression.strip():
            causes.append(violations.required(f"{path}.expression", "expression is not specified"))
        else:
            causes += check(item.expression, f"{path}.expression", ("bool",))
        if item.message_expression:
            causes += check(item.message_expression, f"{path}.messageExpression", ("string",))
        if item.HasField("reason"):
            causes += common.one_of(item.reason, _REASONS, f"{path}.reason")
    keys: set[str] = set()
    for index, item in enumerate(spec.audit_annotations):
        yield
        path = f"spec.auditAnnotations[{index}]"
        causes += (violations.invalid(f"{path}.key", item.key, text) for text in names.qualified_name(item.key))
        if item.key in keys:
            causes.append(violations.duplicate(f"{path}.key", item.key))
        keys.add(item.key)
        causes += check(item.value_expression, f"{path}.valueExpression", ("string", "null"))
    return [*causes, *_param_kind(spec)]


def _variable_names(variables: Any) -> Causes:
    causes: Causes = []
    seen: set[str] = set()
    for index, variable in enumerate(variables):
        path = f"spec.variables[{index}].name"
        if not variable.name:
            causes.append(violations.required(path, "name is not specified"))
        elif not _IDENTIFIER.fullmatch(variable.name):
            causes.append(violations.invalid(path, variable.name, "name is not a valid CEL identifier"))
        elif variable.name in seen:
            causes.append(violations.duplicate(path, variable.name))
        seen.add(variable.name)
    return causes


def _variable_types(spec: Any, causes: Causes, compile: Any) -> Slices[dict[str, Any]]:
    """Adds to `causes` those that do not compile."""
    from controlplane.admission.policies import compiled

    def wrong(index: int, text: str) -> None:
        path, expression = f"spec.variables[{index}].expression", spec.variables[index].expression
        causes.append(violations.invalid(path, expression, f"compilation failed: {text}"))

    types, _ = yield from compiled.compile_variables(spec.variables, wrong, compile)
    return types


def _param_kind(spec: Any) -> Causes:
    if not spec.HasField("param_kind"):
        return []
    given = (("apiVersion", spec.param_kind.api_version), ("kind", spec.param_kind.kind))
    return [violations.required(f"spec.paramKind.{name}") for name, value in given if not value]


def _matching(matching: Any, path: str) -> Causes:
    causes: Causes = []
    if not matching.resource_rules:
        causes.append(violations.required(f"{path}.resourceRules"))
    for index, rule in enumerate(matching.resource_rules):
        causes += _rule(rule.rule_with_operations, f"{path}.resourceRules[{index}]")
    return causes


def policy_binding(obj: Any) -> Causes:
    causes = [] if obj.spec.policy_name else [violations.required("spec.policyName")]
    return [*causes, *(_param_ref(obj.spec.param_ref, "spec.paramRef") if obj.spec.HasField("param_ref") else ())]


def _param_ref(ref: Any, path: str) -> Causes:
    causes: Causes = []
    if ref.name and ref.HasField("selector"):
        detail = "name and selector are mutually exclusive"
        causes += (violations.forbidden(f"{path}.{name}", detail) for name in ("name", "selector"))
    elif not ref.name and not ref.HasField("selector"):
        causes.append(violations.required(path, "one of name or selector must be specified"))
    if ref.HasField("selector"):
        causes += common.label_selector(ref.selector, f"{path}.selector")
    action, where = ref.parameter_not_found_action, f"{path}.parameterNotFoundAction"
    if not action:
        causes.append(violations.required(where))
    elif action not in ("Deny", "Allow"):
        causes.append(violations.unsupported(where, action, ("Deny", "Allow")))
    return causes


def validating_binding(obj: Any) -> Causes:
    actions, path = list(obj.spec.validation_actions), "spec.validationActions"
    causes = policy_binding(obj)
    if not actions:
        causes.append(violations.required(path, "at least one validation action is required"))
    for index, action in enumerate(actions):
        causes += common.one_of(action, ("Audit", "Deny", "Warn"), f"{path}[{index}]")
    if "Deny" in actions and "Warn" in actions:
        detail = (
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response "
            "and headers serves no purpose)"
        )
        causes.append(violations.invalid(path, actions, detail))
    return causes
