"""A policy as programs, and what they say of a request. Pure; called by `enforce`, and by validation when a policy is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from controlplane.admission import expressions
from controlplane.admission.expressions import ConditionError, Conditions
from controlplane.admission.policies import authorizer
from wherry.api.cel import program
from wherry.api.cel import types as cel
from wherry.api.cel.budget import Budget
from wherry.api.cel.program import Program
from wherry.api.cel.syntax import CompileError
from wherry.api.cel.values import EvaluationError
from wherry.api.turns import Slices, at_once

MAX_MESSAGE = 5 * 1024
MAX_ANNOTATION = 10 * 1024

# What conditions and expressions of a policy can speak of, before its own variables.
BASE: Mapping[str, cel.Type] = {**expressions.POLICY, "authorizer": authorizer.AUTHORIZER}


# Of an expression and the variables that it sees. Raises CompileError.
Compile = Callable[[str, Mapping[str, cel.Type]], Program]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A no: `index` is that of the validation (-1: it is about the policy as a whole). `error`: nothing was found out."""

    message: str
    index: int = -1
    reason: str = ""
    error: bool = False


@dataclass(slots=True)
class Outcome:
    verdicts: list[Verdict] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    annotation_errors: list[str] = field(default_factory=list)


def compile_variables(
    variables: Any, wrong: Callable[[int, str], None] | None = None, compile: Compile | None = None
) -> Slices[tuple[dict[str, cel.Type], list[tuple[str, Program]]]]:
    """The types that further expressions see, and the programs in order; each variable sees those before it. Raises
    CompileError, or tells `wrong` the index and what it is. `compile`: for those that may make more than values of CEL."""
    known: dict[str, cel.Type] = {}
    programs: list[tuple[str, Program]] = []
    for index, variable in enumerate(variables):
        try:
            compiled = (compile or compile_one)(variable.expression, known)
        except CompileError as error:
            if wrong is None:
                raise
            wrong(index, str(error))
            known[variable.name] = cel.DYN
            continue
        known[variable.name] = compiled.type
        programs.append((variable.name, compiled))
        yield
    return known, programs


def compile_one(source: str, variables: Mapping[str, cel.Type]) -> Program:
    """Raises CompileError."""
    given = {**BASE, "variables": cel.object_of("kubernetes.variables", dict(variables))}
    return program.compile(source, given, functions=authorizer.functions())


class _Variables(dict[str, Any]):
    """Each is worked out when an expression first asks for it."""

    def __init__(self, programs: list[tuple[str, Program]], given: dict[str, Any], budget: Budget) -> None:
        super().__init__((name, None) for name, _ in programs)
        self._programs = dict(programs)
        self._given = given
        self._budget = budget

    def __getitem__(self, name: str) -> Any:
        pending = self._programs.get(name)
        if pending is not None:
            self[name] = self._budget.run(pending, self._given)
            del self._programs[name]
        return super().__getitem__(name)


class Definition:
    """What policies of both kinds have. An expression takes most of a millisecond, and there may be hundreds: so it is `made` in
    slices. Raises CompileError for one that another version has stored and this one can't read."""

    def __init__(self, spec: Any) -> None:
        at_once(self._compile(spec))

    @classmethod
    def made(cls, spec: Any) -> Slices[Self]:
        self = cls.__new__(cls)
        yield from self._compile(spec)
        return self

    def _compile(self, spec: Any, compile: Compile | None = None) -> Slices[None]:
        self.spec = spec
        self._conditions = None
        if spec.match_conditions:
            self._conditions = Conditions(spec.match_conditions, BASE, authorizer.functions())
        yield
        self.types, self._variables = yield from compile_variables(spec.variables, compile=compile)

    def holds(self, given: Mapping[str, Any]) -> bool:
        """Whether it wants the request at all. Raises ConditionError."""
        return self._conditions is None or self._conditions.hold(given)

    def with_variables(self, given: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
        out = dict(given)
        out["variables"] = _Variables(self._variables, out, budget)
        return out


class Policy(Definition):
    """A ValidatingAdmissionPolicy."""

    def _compile(self, spec: Any, compile: Compile | None = None) -> Slices[None]:
        yield from super()._compile(spec, compile)
        types = self.types
        self._validations = []
        for item in spec.validations:
            message = compile_one(item.message_expression, types) if item.message_expression else None
            self._validations.append((item, compile_one(item.expression, types), message))
            yield
        self._annotations = []
        for item in spec.audit_annotations:
            self._annotations.append((item.key, compile_one(item.value_expression, types)))
            yield

    def evaluate(self, given: dict[str, Any]) -> Slices[Outcome]:
        """What the policy says; a failure counts or not by its failurePolicy."""
        outcome = Outcome()
        try:
            if not self.holds(given):
                return outcome
        except ConditionError as error:
            outcome.verdicts.append(Verdict(str(error), error=True))
            return outcome
        budget = Budget(expressions.POLICY_BUDGET)
        given = self.with_variables(given, budget)
        for index, (item, compiled, message) in enumerate(self._validations):
            if budget.is_others_turn():
                yield
            try:
                value = budget.run(compiled, given)
            except EvaluationError as error:
                outcome.verdicts.append(Verdict(_failed(item.expression, error), index, error=True))
                continue
            if value is not True:
                reason = item.reason or "Invalid"
                outcome.verdicts.append(Verdict(_message(item, message, given, budget), index, reason))
        for key, compiled in self._annotations:
            if budget.is_others_turn():
                yield
            self._annotate(key, compiled, given, budget, outcome)
        return outcome

    def _annotate(
        self, key: str, compiled: Program, given: Mapping[str, Any], budget: Budget, outcome: Outcome
    ) -> None:
        try:
            value = budget.run(compiled, given)
        except EvaluationError as error:
            outcome.annotation_errors.append(_failed(compiled.source, error))
            return
        if isinstance(value, str):
            if value.strip():
                outcome.annotations[key] = value.strip()[:MAX_ANNOTATION]
        elif value is not None:
            outcome.annotation_errors.append(
                f"valueExpression '{compiled.source}' resulted in unsupported return type. "
                "Return type must be either string or null."
            )


def _failed(expression: str, error: EvaluationError) -> str:
    return f"expression '{expression}' resulted in error: {error}"


def _message(item: Any, compiled: Program | None, given: Mapping[str, Any], budget: Budget) -> str:
    """Of the message expression, else the message, else the expression itself."""
    if compiled is not None:
        try:
            value = budget.run(compiled, given)
        except EvaluationError:
            value = None
        text = value.strip() if isinstance(value, str) else ""
        if text and len(text.encode()) <= MAX_MESSAGE and "\n" not in text:
            return text
    return item.message.strip() or f"failed expression: {item.expression.strip()}"
