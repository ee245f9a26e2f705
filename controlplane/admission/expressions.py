"""CEL over requests: what match conditions of webhooks and the expressions of policies can speak of. Pure; called by
`webhooks.select`, `policies` and the validation of their kinds. Imported only where there is an expression.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.admission.attributes import View
from wherry.api.cel import program
from wherry.api.cel import types as cel
from wherry.api.cel.budget import Budget
from wherry.api.cel.overloads import Functions
from wherry.api.cel.program import Program
from wherry.api.cel.syntax import CompileError
from wherry.api.cel.values import EvaluationError
from wherry.api.errors import Cause

# Of all conditions of one webhook or policy together, as in Kubernetes.
CONDITIONS_BUDGET = 2_500_000
POLICY_BUDGET = 10_000_000

_GVK = cel.object_of("kubernetes.GroupVersionKind", {"group": cel.STRING, "version": cel.STRING, "kind": cel.STRING})
_GVR = cel.object_of(
    "kubernetes.GroupVersionResource", {"group": cel.STRING, "version": cel.STRING, "resource": cel.STRING}
)
_USER = cel.object_of(
    "kubernetes.UserInfo",
    {
        "username": cel.STRING,
        "uid": cel.STRING,
        "groups": cel.list_of(cel.STRING),
        "extra": cel.map_of(cel.STRING, cel.list_of(cel.STRING)),
    },
)
_REQUEST = cel.object_of(
    "kubernetes.AdmissionRequest",
    {
        "uid": cel.STRING, "kind": _GVK, "resource": _GVR, "subResource": cel.STRING, "requestKind": _GVK,
        "requestResource": _GVR, "requestSubResource": cel.STRING, "name": cel.STRING, "namespace": cel.STRING,
        "operation": cel.STRING, "userInfo": _USER, "dryRun": cel.BOOL, "options": cel.DYN,
    },
)  # fmt: skip

# Of a condition, which has no parameters and no variables.
CONDITION: Mapping[str, cel.Type] = {"object": cel.DYN, "oldObject": cel.DYN, "request": _REQUEST}
# Of a policy.
POLICY: Mapping[str, cel.Type] = {**CONDITION, "namespaceObject": cel.DYN, "params": cel.DYN}


class ConditionError(Exception):
    """A condition that could not be decided."""


def check(
    source: str,
    path: str,
    allowed: tuple[str, ...],
    variables: Mapping[str, cel.Type] = CONDITION,
    functions: Functions | None = None,
) -> list[Cause]:
    """What is wrong with an expression, in Kubernetes' words; `allowed` are the kinds of type that it may have."""
    from controlplane.registry import violations

    try:
        compiled = program.compile(source, variables, functions=functions)
    except CompileError as error:
        return [violations.invalid(path, source, f"compilation failed: {error}")]
    if compiled.type.kind not in (*allowed, "dyn"):
        wanted = allowed[0] if len(allowed) == 1 else f"one of {{{', '.join(allowed)}}}"
        return [violations.invalid(path, source, f"must evaluate to {wanted} but got {compiled.type}")]
    return []


def values(view: View, namespace: Any | None = None, params: Any | None = None) -> dict[str, Any]:
    return {
        "object": view.object,
        "oldObject": view.old,
        "request": view.request,
        "namespaceObject": namespace,
        "params": params,
    }


class Conditions:
    """matchConditions: all must hold. One that does not compile any more (it was stored by another version) fails each time."""

    def __init__(
        self,
        conditions: Iterable[Any],
        variables: Mapping[str, cel.Type] = CONDITION,
        functions: Functions | None = None,
    ) -> None:
        self._programs: list[tuple[str, str, Program | None]] = []
        for condition in conditions:
            try:
                compiled: Program | None = program.compile(
                    condition.expression, variables, result=cel.BOOL, functions=functions
                )
            except CompileError:
                compiled = None
            self._programs.append((condition.name, condition.expression, compiled))

    def hold(self, given: Mapping[str, Any]) -> bool:
        """Raises ConditionError when none says no and one fails."""
        budget = Budget(CONDITIONS_BUDGET)
        failed: list[str] = []
        for _, expression, compiled in self._programs:
            if compiled is None:
                failed.append(f"expression '{expression}' resulted in error: it does not compile")
                continue
            try:
                value = budget.run(compiled, given)
            except EvaluationError as error:
                failed.append(f"expression '{expression}' resulted in error: {error}")
                continue
            if value is not True:
                return False
        if failed:
            raise ConditionError(failed[0] if len(failed) == 1 else f"[{', '.join(failed)}]")
        return True
