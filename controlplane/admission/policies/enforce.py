"""Puts a request before the policies whose bindings concern it. Made by `chain` when there is a policy.

Every policy and binding is asked; what they say goes where the binding's actions lead: the first denial is the answer, warnings
go to the client, the rest into the audit log.
"""

from __future__ import annotations

import json
from typing import Any

from controlplane.admission import matching
from controlplane.admission.base import Lookup, Request
from controlplane.admission.policies.asked import MAX_ROUNDS, Asked
from controlplane.admission.policies.authorizer import Decide
from controlplane.admission.policies.compiled import Outcome, Policy, Verdict
from controlplane.admission.policies.params import BadParams, collect
from wherry.api.cel.syntax import CompileError
from wherry.api.context import Env
from wherry.api.errors import APIError

_V1 = "admissionregistration.k8s.io/v1"
_FAILURE = "validation.policy.admission.k8s.io/validation_failure"


class Enforcer:
    """What is compiled of a policy is kept as long as it stays the same revision."""

    def __init__(self, lookup: Lookup, env: Env, decide: Decide) -> None:
        self._lookup = lookup
        self._env = env
        self._decide = decide
        self._kept: dict[str, tuple[Any, Policy | str]] = {}

    async def validate(self, request: Request) -> None:
        if matching.exempt(request):
            return
        policies = await self._lookup.all(_V1, "ValidatingAdmissionPolicy")
        bindings = await self._lookup.all(_V1, "ValidatingAdmissionPolicyBinding")
        if not policies or not bindings:
            return
        if len(self._kept) > len(policies):
            names = {found.metadata.name for found in policies}
            self._kept = {name: kept for name, kept in self._kept.items() if name in names}
        namespace = None
        if request.kind.namespaced:
            namespace = await self._lookup.find("v1", "Namespace", "", request.namespace)
        served = self._lookup.versions(request.kind.group, request.kind.plural)
        asked = Asked(request, namespace, self._env.uuid(), served)
        denied: APIError | None = None
        for policy in policies:
            mine = [found for found in bindings if found.spec.policy_name == policy.metadata.name]
            if mine and asked.concerns(policy.spec.match_constraints):
                error = await self._policy(policy, mine, asked)
                denied = denied or error
        if denied is not None:
            raise denied

    async def _policy(self, policy: Any, bindings: list[Any], asked: Asked) -> APIError | None:
        """The first denial. Publishes what else its bindings want said."""
        name, request = policy.metadata.name, asked.request
        insists = policy.spec.failure_policy != "Ignore"
        compiled = self._compiled(policy)
        if isinstance(compiled, str):
            detail = f"failed to configure policy: {compiled}"
            return asked.deny(f"ValidatingAdmissionPolicy '{name}' denied request: {detail}") if insists else None
        denied: APIError | None = None
        annotations: dict[str, list[str]] = {}
        for binding in bindings:
            if not asked.concerns(binding.spec.match_resources, rules=False):
                continue
            head = f"ValidatingAdmissionPolicy '{name}' with binding '{binding.metadata.name}'"
            try:
                given = await collect(policy.spec, binding.spec, request.namespace, self._lookup)
            except BadParams as error:
                if insists:
                    denied = denied or asked.deny(f"{head} denied request: failed to configure binding: {error}")
                continue
            for params in given:
                outcome = await self._evaluate(compiled, asked, params)
                for verdict in outcome.verdicts:
                    if verdict.error and not insists:
                        continue
                    error_ = self._said(asked, policy, binding, verdict, head)
                    denied = denied or error_
                if insists:
                    for text in outcome.annotation_errors:
                        denied = denied or asked.deny(f"{head} denied request: {text}")
                for key, text in outcome.annotations.items():
                    texts = annotations.setdefault(f"{name}/{key}", [])
                    if text not in texts:
                        texts.append(text)
        request.annotations.update((key, ", ".join(texts)) for key, texts in annotations.items())
        return denied

    def _compiled(self, policy: Any) -> Policy | str:
        kept = self._kept.get(policy.metadata.name)
        if kept is None or kept[0] is not policy:
            try:
                made: Policy | str = Policy(policy.spec)
            except CompileError as error:
                made = f"compilation failed: {error}"
            kept = self._kept[policy.metadata.name] = policy, made
        return kept[1]

    async def _evaluate(self, compiled: Policy, asked: Asked, params: dict[str, Any] | None) -> Outcome:
        """Again and again, as long as the expressions ask the authorizer something new."""
        given = asked.values(params)
        for _ in range(MAX_ROUNDS):
            outcome = compiled.evaluate(given)
            pending = list(asked.answers.pending)
            if not pending:
                break
            asked.answers.pending.clear()
            for question in pending:
                asked.answers.known[question] = await self._decide(question)
        return outcome

    def _said(self, asked: Asked, policy: Any, binding: Any, verdict: Verdict, head: str) -> APIError | None:
        """Where the binding's actions lead a no; the denial, when one of them is to deny."""
        actions = list(binding.spec.validation_actions)
        denial = None
        for action in actions:
            if action == "Deny":
                denial = asked.deny(f"{head} denied request: {verdict.message}", verdict.reason)
            elif action == "Warn":
                asked.request.warnings.append(f"Validation failed for {head}: {verdict.message}")
            elif action == "Audit":
                failure = {
                    "message": verdict.message, "policy": policy.metadata.name, "binding": binding.metadata.name,
                    "expressionIndex": verdict.index, "validationActions": actions,
                }  # fmt: skip
                asked.request.annotations[_FAILURE] = json.dumps([failure], separators=(",", ":"))
        return denial
