"""Defaults of webhook configurations and admission policies. Called by their strategies."""

from __future__ import annotations

from typing import Any

_HTTPS = 443
_TIMEOUT_S = 10


def webhooks(obj: Any) -> None:
    mutating = obj.DESCRIPTOR.name == "MutatingWebhookConfiguration"
    for hook in obj.webhooks:
        if not hook.HasField("failure_policy"):
            hook.failure_policy = "Fail"
        if not hook.HasField("match_policy"):
            hook.match_policy = "Equivalent"
        if not hook.HasField("timeout_seconds"):
            hook.timeout_seconds = _TIMEOUT_S
        if mutating and not hook.HasField("reinvocation_policy"):
            hook.reinvocation_policy = "Never"
        hook.namespace_selector.SetInParent()
        hook.object_selector.SetInParent()
        if hook.client_config.HasField("service") and not hook.client_config.service.HasField("port"):
            hook.client_config.service.port = _HTTPS
        for rule in hook.rules:
            if not rule.rule.HasField("scope"):
                rule.rule.scope = "*"


def policy(obj: Any) -> None:
    if not obj.spec.HasField("failure_policy"):
        obj.spec.failure_policy = "Fail"
    if obj.spec.HasField("match_constraints"):
        _matching(obj.spec.match_constraints)


def policy_binding(obj: Any) -> None:
    if obj.spec.HasField("match_resources"):
        _matching(obj.spec.match_resources)


def _matching(matching: Any) -> None:
    if not matching.HasField("match_policy"):
        matching.match_policy = "Equivalent"
    matching.namespace_selector.SetInParent()
    matching.object_selector.SetInParent()
    for rule in (*matching.resource_rules, *matching.exclude_resource_rules):
        if not rule.rule_with_operations.rule.HasField("scope"):
            rule.rule_with_operations.rule.scope = "*"
