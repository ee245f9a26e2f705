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
from wherry.api.cel.syntax import CompileError
from wherry.api.context import Env
from wherry.api.errors import APIError

_V1 = "admissionregistration.k8s.io/v1"


class Mutator:
    """What is compiled of a policy is kept as long as it stays the same revision."""

    def __init__(self, lookup: Lookup, env: Env, decide: Decide) -> None:
        self._lookup = lookup
        self._env = env
        self._decide = decide
        self._kept: dict[str, tuple[Any, Mutations | str]] = {}

    async def mutate(self, request: Request, seen: dict[str, bytes]) -> bool:
        """Whether the object has changed. `seen`: what each policy left behind; when it is not empty, only those run that want
        to, again, and since which the object has changed."""
        again = bool(seen)
        if matching.exempt(request) or request.obj is None:
            return False
        policies = await self._lookup.all(_V1, "MutatingAdmissionPolicy")
        bindings = await self._lookup.all(_V1, "MutatingAdmissionPolicyBinding")
        if not policies or not bindings:
            return False
        if len(self._kept) > len(policies):
            names = {found.metadata.name for found in policies}
            self._kept = {name: kept for name, kept in self._kept.items() if name in names}
        namespace = None
        if request.kind.namespaced:
            namespace = await self._lookup.find("v1", "Namespace", "", request.namespace)
        served = self._lookup.versions(request.kind.group, request.kind.plural)
        asked = Asked(request, namespace, self._env.uuid(), served)
        changed = False
        for policy in policies:
            name = policy.metadata.name
            if again and (policy.spec.reinvocation_policy != "IfNeeded" or seen.get(name) == _bytes(request.obj)):
                continue
            mine = [found for found in bindings if found.spec.policy_name == name]
            if mine and asked.concerns(policy.spec.match_constraints):
                changed = await self._policy(policy, mine, asked) or changed
                seen[name] = _bytes(request.obj)
        return changed

    async def _policy(self, policy: Any, bindings: list[Any], asked: Asked) -> bool:
        name = policy.metadata.name
        insists = policy.spec.failure_policy != "Ignore"
        compiled = self._compiled(policy)
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
                for params in given:
                    changed = await self._apply(compiled, asked, params) or changed
            except BadParams as error:
                if insists:
                    raise _refusal(asked, f"{head}: failed to configure binding: {error}") from error
            except (MutationFailed, ConditionError) as error:
                if insists:
                    raise _refusal(asked, f"{head}: {error}") from error
        return changed

    def _compiled(self, policy: Any) -> Mutations | str:
        kept = self._kept.get(policy.metadata.name)
        if kept is None or kept[0] is not policy:
            try:
                made: Mutations | str = Mutations(policy.spec)
            except CompileError as error:
                made = f"compilation failed: {error}"
            kept = self._kept[policy.metadata.name] = policy, made
        return kept[1]

    async def _apply(self, compiled: Mutations, asked: Asked, params: dict[str, Any] | None) -> bool:
        """Again and again, as long as the expressions ask the authorizer something new. Raises MutationFailed, ConditionError."""
        given = asked.values(params)
        request = asked.request
        for _ in range(MAX_ROUNDS):
            failure: Exception | None = None
            made: dict[str, Any] | None = None
            try:
                if compiled.holds(given):
                    made = compiled.apply(given, request.merge_type())
            except (MutationFailed, ConditionError) as error:
                failure = error
            pending = list(asked.answers.pending)
            if not pending:
                break
            asked.answers.pending.clear()
            for question in pending:
                asked.answers.known[question] = await self._decide(question)
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
