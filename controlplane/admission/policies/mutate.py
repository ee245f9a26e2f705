"""Lets the mutating policies whose bindings concern a request change its object. Made by `chain` when there is a binding.

Policies run in the order of their names, before the mutating webhooks; one that asks for it runs once more when somebody after it
has changed the object.
"""

from __future__ import annotations

from typing import Any

from controlplane.admission import matching
from controlplane.admission.base import Lookup, Request
from controlplane.admission.expressions import ConditionError
from controlplane.admission.policies.asked import MAX_ROUNDS, Asked
from controlplane.admission.policies.authorizer import Decide
from controlplane.admission.policies.mutations import MutationFailed, Mutations
from controlplane.admission.policies.params import BadParams, collect
from controlplane.admission.policies.source import PolicySource
from wherry.api.context import Env
from wherry.api.errors import APIError
from wherry.api.turns import in_turns


class Mutator:
    def __init__(self, lookup: Lookup, env: Env, decide: Decide) -> None:
        self._lookup = lookup
        self._source = PolicySource(lookup, env, decide, "MutatingAdmissionPolicy", Mutations.made)

    async def mutate(self, request: Request, seen: dict[str, bytes]) -> bool:
        """Whether the object has changed. `seen`: what each policy left behind; when it is not empty, only those run that want
        to, again, and since which the object has changed."""
        again = bool(seen)
        if matching.exempt(request) or request.obj is None:
            return False
        found = await self._source.find(request)
        if found is None:
            return False
        asked, policies, bindings = found
        changed = False
        for policy in policies:
            name = policy.metadata.name
            if again and (policy.spec.reinvocation_policy != "IfNeeded" or seen.get(name) == _bytes(request.obj)):
                continue
            mine = [each for each in bindings if each.spec.policy_name == name]
            if mine and asked.concerns(policy.spec.match_constraints):
                changed = await self._policy(policy, mine, asked) or changed
                seen[name] = _bytes(request.obj)
        return changed

    async def _policy(self, policy: Any, bindings: list[Any], asked: Asked) -> bool:
        name = policy.metadata.name
        insists = policy.spec.failure_policy != "Ignore"
        compiled = await self._source.compiled(policy)
        if isinstance(compiled, str):
            if insists:
                raise _refusal(asked, f"policy '{name}' denied request: failed to configure policy: {compiled}")
            return False
        changed = False
        for binding in bindings:
            if not asked.concerns(binding.spec.match_resources, rules=False):
                continue
            head = f"policy '{name}' with binding '{binding.metadata.name}' denied request"
            try:
                given = await collect(policy.spec, binding.spec, asked.request.namespace, self._lookup)
            except BadParams as error:
                if insists:
                    raise _refusal(asked, f"{head}: failed to configure binding: {error}") from error
                continue
            for params in given:
                try:
                    changed = await self._apply(compiled, asked, params) or changed
                except (MutationFailed, ConditionError) as error:
                    if insists:
                        raise _refusal(asked, f"{head}: {error}") from error
        return changed

    async def _apply(self, compiled: Mutations, asked: Asked, params: dict[str, Any] | None) -> bool:
        """Again and again, as long as the expressions ask the authorizer something new. Raises MutationFailed, ConditionError."""
        given = asked.values(params)
        request = asked.request
        for _ in range(MAX_ROUNDS):
            failure: Exception | None = None
            made: dict[str, Any] | None = None
            try:
                if compiled.holds(given):
                    made = await in_turns(compiled.apply(given, request.object_type()))
            except (MutationFailed, ConditionError) as error:
                failure = error
            if not await self._source.answer(asked):
                break
        if failure is not None:
            raise failure
        if made is None:
            return False
        try:
            changed = matching.accept(request, made)
        except (APIError, ValueError, TypeError, AttributeError) as error:
            raise MutationFailed(f"the changed object does not fit its kind: {error}") from error
        if changed:
            asked.look()
        return changed


def _bytes(obj: Any) -> bytes:
    return bytes(obj.SerializeToString(deterministic=True))


def _refusal(asked: Asked, message: str) -> APIError:
    return asked.request.forbid(message)
