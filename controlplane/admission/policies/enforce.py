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
from controlplane.admission.policies.source import PolicySource
from wherry.api.context import Env
from wherry.api.errors import APIError
from wherry.api.turns import in_turns

_FAILURE = "validation.policy.admission.k8s.io/validation_failure"


class Enforcer:
    def __init__(self, lookup: Lookup, env: Env, decide: Decide) -> None:
        self._lookup = lookup
        self._source = PolicySource(lookup, env, decide, "ValidatingAdmissionPolicy", Policy.made)

    async def validate(self, request: Request) -> None:
        if matching.exempt(request):
            return
        found = await self._source.find(request)
        if found is None:
            return
        asked, policies, bindings = found
        denied: APIError | None = None
        for policy in policies:
            mine = [each for each in bindings if each.spec.policy_name == policy.metadata.name]
            if mine and asked.concerns(policy.spec.match_constraints):
                error = await self._policy(policy, mine, asked)
                denied = denied or error
        if denied is not None:
            raise denied

    async def _policy(self, policy: Any, bindings: list[Any], asked: Asked) -> APIError | None:
        """The first denial. Publishes what else its bindings want said."""
        name, request = policy.metadata.name, asked.request
        insists = policy.spec.failure_policy != "Ignore"
        compiled = await self._source.compiled(policy)
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

    async def _evaluate(self, compiled: Policy, asked: Asked, params: dict[str, Any] | None) -> Outcome:
        """Again and again, as long as the expressions ask the authorizer something new."""
        given = asked.values(params)
        for _ in range(MAX_ROUNDS):
            outcome = await in_turns(compiled.evaluate(given))
            if not await self._source.answer(asked):
                break
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
