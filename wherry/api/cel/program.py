"""`compile` makes a program of an expression; `Program.run` evaluates it. The face of this package.

An expression is parsed, checked against the declared variables, and turned into closures, once; it runs as often as needed, each
time with the values of its variables (plain JSON, or what `values` has) and a budget. Neither does any I/O.

    program = compile("self.min <= self.max", {"self": object_of("Object", {"min": INT, "max": INT})}, result=BOOL)
    program.run({"self": {"min": 1, "max": 2}}, limit=1_000_000).value
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from wherry.api.cel import cost as costs
from wherry.api.cel.check import Checker, Structs, Typed
from wherry.api.cel.evaluate import Frame, Run, build
from wherry.api.cel.overloads import Functions
from wherry.api.cel.syntax import CompileError, parse
from wherry.api.cel.types import Type
from wherry.api.cel.values import BudgetExceeded, EvaluationError

# Kubernetes' limits: of one expression when it runs, and of what it may be estimated at.
RUN_LIMIT = 1_000_000
ESTIMATE_LIMIT = 10_000_000


@dataclass(frozen=True, slots=True)
class Result:
    value: Any
    cost: int


@dataclass(frozen=True, slots=True)
class Program:
    """`type` is that of its result, `used` the variables that it mentions."""

    source: str
    type: Type
    used: frozenset[str]
    _typed: Typed = field(repr=False)
    _run: Run = field(repr=False)
    _variables: tuple[tuple[str, Type], ...] = field(repr=False)
    _slots: int = field(repr=False)

    def run(self, values: Mapping[str, Any], *, limit: float = RUN_LIMIT) -> Result:
        """Raises EvaluationError (BudgetExceeded when it costs more than `limit`). Variables that the expression does not
        use may be left out."""
        slots: list[Any] = [None] * self._slots
        for index, (name, kind) in enumerate(self._variables):
            if name in self.used:
                value = values[name]
                slots[index] = value if kind.convert is None else kind.convert(value)
        frame = Frame(slots, limit)
        try:
            value = self._run(frame)
        except EvaluationError as error:
            error.cost = frame.cost
            raise
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            # A value that is not of the type that was declared for it.
            failed = EvaluationError("no such overload")
            failed.cost = frame.cost
            raise failed from error
        if frame.cost > limit:
            exceeded = BudgetExceeded()
            exceeded.cost = frame.cost
            raise exceeded
        return Result(value, frame.cost)

    def estimate(self, unknown_size: int = costs.DEFAULT_UNKNOWN_SIZE) -> int:
        """What it can cost at most, by the sizes that the types of its variables promise."""
        return costs.estimate(self._typed, unknown_size)


@lru_cache(maxsize=1)
def kubernetes_functions() -> Functions:
    """CEL's own functions and those that Kubernetes adds."""
    from wherry.api.cel import addresses, libraries, quantities, standard

    return Functions(standard.FUNCTIONS, libraries.FUNCTIONS, addresses.FUNCTIONS, quantities.FUNCTIONS)


def compile(
    source: str,
    variables: Mapping[str, Type],
    *,
    result: Type | None = None,
    functions: Functions | None = None,
    structs: Structs | None = None,
) -> Program:
    """Raises CompileError. `result`: what it must give (an unknown type passes, and is the caller's to check). `functions`:
    those of `kubernetes_functions()` unless the caller has more (`Functions(kubernetes_functions(), own)`). `structs`:
    the types of which an expression may make values (`Name{field: value}`)."""
    checker = Checker(source, functions or kubernetes_functions(), variables, structs)
    try:
        typed = checker.check(parse(source))
    except RecursionError as error:
        raise CompileError(source, 0, "expression recursion limit exceeded") from error
    if result is not None and typed.type.kind not in (result.kind, "dyn"):
        raise CompileError(source, 0, f"must evaluate to a {result}")
    return Program(
        source, typed.type, frozenset(checker.used), typed, build(typed), tuple(variables.items()), checker.slots
    )
