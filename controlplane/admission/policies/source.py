"""Which policies a request meets, compiled, and who answers what their expressions ask of the authorizer: the common part of
`enforce` (validating policies) and `mutate`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from controlplane.admission.base import Lookup, Request
from controlplane.admission.policies.asked import Asked
from controlplane.admission.policies.authorizer import Decide
from wherry.api.cel.syntax import CompileError
from wherry.api.context import Env
from wherry.api.turns import Slices, in_turns

C = TypeVar("C")

_V1 = "admissionregistration.k8s.io/v1"


class PolicySource(Generic[C]):
    """Of one kind of policy and its bindings. What is compiled of a policy is kept as long as it stays the same revision."""

    def __init__(
        self, lookup: Lookup, env: Env, decide: Decide, kind: str, compile: Callable[[Any], Slices[C]]
    ) -> None:
        """`compile` takes a policy's spec, and raises CompileError."""
        self._compiling = asyncio.Lock()  # of many requests that meet a new policy one compiles it
        self._lookup = lookup
        self._env = env
        self._decide = decide
        self._kind = kind
        self._compile = compile
        self._kept: dict[str, tuple[Any, C | str]] = {}

    async def find(self, request: Request) -> tuple[Asked, Sequence[Any], Sequence[Any]] | None:
        """The question to all of them, the policies and the bindings; None when there are none."""
        policies = await self._lookup.all(_V1, self._kind)
        bindings = await self._lookup.all(_V1, f"{self._kind}Binding")
        if not policies or not bindings:
            return None
        if len(self._kept) > len(policies):
            names = {found.metadata.name for found in policies}
            self._kept = {name: kept for name, kept in self._kept.items() if name in names}
        namespace = None
        if request.kind.namespaced:
            namespace = await self._lookup.find("v1", "Namespace", "", request.namespace)
        served = self._lookup.versions(request.kind.group, request.kind.plural)
        return Asked(request, namespace, self._env.uuid(), served), policies, bindings

    async def compiled(self, policy: Any) -> C | str:
        """Or why it cannot be."""
        kept = self._kept.get(policy.metadata.name)
        if kept is not None and kept[0] is policy:
            return kept[1]
        async with self._compiling:
            kept = self._kept.get(policy.metadata.name)
            if kept is None or kept[0] is not policy:
                try:
                    made: C | str = await in_turns(self._compile(policy.spec))
                except CompileError as error:
                    made = f"compilation failed: {error}"
                kept = self._kept[policy.metadata.name] = policy, made
        return kept[1]

    async def answer(self, asked: Asked) -> bool:
        """Whether the expressions have asked the authorizer something new, which they know now."""
        pending = list(asked.answers.pending)
        asked.answers.pending.clear()
        for question in pending:
            asked.answers.known[question] = await self._decide(question)
        return bool(pending)
