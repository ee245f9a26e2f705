"""The rules of a schema (x-kubernetes-validations): compiled once, each where it stands, and run on values. Pure.

`check` refuses, when a definition is written, a rule that does not compile, or could cost more than its budget.
`Rules` runs them: a rule that mentions `oldSelf` only where there is a value from before. Called by `definitions` and
`strategy`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from controlplane.registry import violations
from controlplane.registry.custom import celtypes
from controlplane.registry.custom.validating import ABSENT, LIST_TYPE, correlated
from wherry.api.cel.budget import Budget
from wherry.api.cel.program import ESTIMATE_LIMIT, Program, compile
from wherry.api.cel.syntax import CompileError
from wherry.api.cel.types import BOOL, STRING, Type, optional_of
from wherry.api.cel.values import NONE, BudgetExceeded, EvaluationError, Optional
from wherry.api.errors import Cause
from wherry.api.patch import same
from wherry.api.turns import Slices

Schema = dict[str, Any]
KEY = "x-kubernetes-validations"
TOTAL_ESTIMATE_LIMIT = 100_000_000  # of all rules of a definition together
BUDGET = 10_000_000  # of all rules on one object
MAX_MESSAGE_BYTES = 5 * 1024
REASONS = ("FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate")
_GO_NAMES = {
    "rule": "Rule", "message": "Message", "messageExpression": "MessageExpression", "reason": "Reason", "fieldPath": "FieldPath",
    "optionalOldSelf": "OptionalOldSelf",
}  # fmt: skip
_PATH_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_\-]*)|\['([^']+)'\]|\[\"([^\"]+)\"\]|\[(\w+)\]")


@dataclass(slots=True)
class Rule:
    given: dict[str, Any]
    program: Program
    message: Program | None
    path: str  # of the field that it is about, below the value
    transition: bool
    optional_old: bool


@dataclass(slots=True)
class Node:
    """The rules at one place of a schema, and those below it."""

    schema: Schema
    rules: list[Rule] = field(default_factory=list)
    properties: dict[str, Node] = field(default_factory=dict)
    others: Node | None = None
    items: Node | None = None

    def __bool__(self) -> bool:
        return bool(self.rules or self.properties or self.others or self.items)


def has_rules(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    if schema.get(KEY):
        return True
    inner = [*(schema.get("properties") or {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return any(has_rules(item) for item in inner)


class Compiler:
    """Turns a schema into a tree of rules; `causes` collects what is wrong, `total` what all rules may cost."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []
        self.total = 0
        self._worst: list[tuple[int, str]] = []

    def compile(self, schema: Schema, path: str) -> Node:
        node = self._node(schema, path, count=1, correlatable=True, root=True)
        if self.total > TOTAL_ESTIMATE_LIMIT:
            for cost, place in sorted(self._worst, reverse=True)[:3]:
                detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
                if cost > TOTAL_ESTIMATE_LIMIT // 100:
                    self.causes.append(violations.forbidden(place, detail))
            detail = _over(
                self.total,
                TOTAL_ESTIMATE_LIMIT,
                "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema",
            )
            self.causes.append(violations.forbidden(path, detail))
        return node

    def _node(self, schema: Schema, path: str, *, count: int, correlatable: bool, root: bool = False) -> Node:
        node = Node(schema)
        if not has_rules(schema):
            return node
        rules = schema.get(KEY) or ()
        if rules:
            kind = celtypes.of_schema(schema, root=root)
            for index, given in enumerate(rules):
                self._rule(node, given, kind, f"{path}.{KEY}[{index}]", count, correlatable)
        for name, inner in (schema.get("properties") or {}).items():
            below = self._node(inner, f"{path}.properties[{name}]", count=count, correlatable=correlatable)
            if below:
                node.properties[name] = below
        many = count * celtypes.longest(schema)
        others, items = schema.get("additionalProperties"), schema.get("items")
        if isinstance(others, dict):
            node.others = self._node(others, f"{path}.additionalProperties", count=many, correlatable=correlatable)
        if isinstance(items, dict):
            known = correlatable and schema.get(LIST_TYPE) == "map"
            node.items = self._node(items, f"{path}.items", count=many, correlatable=known)
        return node

    def _rule(
        self, node: Node, given: dict[str, Any], kind: Type | None, path: str, count: int, correlatable: bool
    ) -> None:
        if not given.get("rule", "").strip():
            self.causes.append(violations.required(f"{path}.rule", "rule is not specified"))
            return
        before = len(self.causes)
        self._texts(given, path)
        place = _relative(given.get("fieldPath", ""), node.schema)
        if place is None:
            self.causes.append(
                violations.invalid(
                    f"{path}.fieldPath", given["fieldPath"], f"fieldPath {given['fieldPath']} must be a valid path"
                )
            )
        if kind is None:
            detail = "rule cannot be attached to a value without a type"
            self.causes.append(violations.invalid(f"{path}.rule", go_form(given), detail))
            return
        optional = bool(given.get("optionalOldSelf"))
        variables = {"self": kind, "oldSelf": optional_of(kind) if optional else kind}
        program = self._program(given, "rule", variables, BOOL, path)
        message = None
        if given.get("messageExpression", "").strip():
            message = self._program(given, "messageExpression", variables, STRING, path)
        if program is None or len(self.causes) > before:
            return
        transition = "oldSelf" in program.used
        if transition and not correlatable:
            detail = "oldSelf cannot be used on the uncorrelatable portion of the schema"
            self.causes.append(violations.invalid(f"{path}.rule", go_form(given), detail))
        if optional and not transition:
            detail = "may not be set if oldSelf is not used in rule"
            self.causes.append(violations.invalid(f"{path}.optionalOldSelf", True, detail))
        for name, each in (("rule", program), ("messageExpression", message)):
            if each is None:
                continue
            cost = min(each.estimate(celtypes.MAX_REQUEST_BYTES), 1 << 62) * count
            self.total += cost
            self._worst.append((cost, f"{path}.{name}"))
            if cost > ESTIMATE_LIMIT:
                self.causes.append(
                    violations.forbidden(f"{path}.{name}", _over(cost, ESTIMATE_LIMIT, f"estimated {name} cost"))
                )
        node.rules.append(Rule(given, program, message, place or "", transition, optional))

    def _texts(self, given: dict[str, Any], path: str) -> None:
        message = given.get("message", "")
        if message and not message.strip():
            detail = "message must be non-empty if specified"
            self.causes.append(violations.invalid(f"{path}.message", message, detail))
        elif "\n" in message.strip():
            self.causes.append(violations.invalid(f"{path}.message", message, "message must not contain line breaks"))
        elif "\n" in given["rule"].strip() and not message and not given.get("messageExpression"):
            detail = "message must be specified if rule contains line breaks"
            self.causes.append(violations.required(f"{path}.message", detail))
        if len(message) > 2048:
            self.causes.append(violations.too_long(f"{path}.message", 2048))
        if given.get("reason") is not None and given["reason"] not in REASONS:
            self.causes.append(violations.unsupported(f"{path}.reason", given["reason"], sorted(REASONS)))

    def _program(
        self, given: dict[str, Any], name: str, variables: dict[str, Type], result: Type, path: str
    ) -> Program | None:
        try:
            program = compile(given[name], variables, result=result)
        except CompileError as error:
            what = "compilation failed" if name == "rule" else "messageExpression compilation failed"
            text = f"{what}: {error}"
            if error.short.startswith("must evaluate to"):
                text = (
                    f"{what}: cel expression {error.short}" if name == "rule" else f"{what}: must evaluate to a string"
                )
            self.causes.append(violations.invalid(f"{path}.{name}", go_form(given), text))
            return None
        return program


def _over(cost: int, limit: int, what: str) -> str:
    factor = cost / limit
    times = "more than 100" if factor > 100 else f"{factor:.1f}"
    hint = "adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared"
    return f"{what} exceeds budget by factor of {times}x (try simplifying the rule, or {hint})"


def go_form(given: dict[str, Any]) -> dict[str, Any]:
    """As Kubernetes shows the bad rule."""
    empty = {"Reason": None, "OptionalOldSelf": None}
    return {name: given.get(key, empty.get(name, "")) for key, name in _GO_NAMES.items()}


def _relative(path: str, schema: Schema) -> str | None:
    """`.a['b-c']` as a path of fields that the schema has; None when it has not."""
    at, out = 0, ""
    current: Any = schema
    while at < len(path):
        match = _PATH_STEP.match(path, at)
        if match is None or not isinstance(current, dict):
            return None
        name = next(group for group in match.groups() if group is not None)
        others = current.get("additionalProperties")
        current = (current.get("properties") or {}).get(name, others if isinstance(others, dict) else None)
        if current is None:
            return None
        out += f".{name}" if isinstance(name, str) else ""
        at = match.end()
    return out


# running


def run(node: Node, value: Any, path: str = "", old: Any = ABSENT, budget: Budget | None = None) -> Slices[list[Cause]]:
    """What the rules find wrong. When the budget is used up the last complaint says so."""
    causes: list[Cause] = []
    try:
        yield from _run(node, value, path, old, budget or Budget(BUDGET), causes)
    except BudgetExceeded:
        detail = "validation failed due to running out of cost budget, no further validation rules will be run"
        causes.append(Cause("FieldValueInvalid", f"Invalid value: {detail}", path or "<nil>"))
    return causes


def _run(node: Node, value: Any, path: str, old: Any, budget: Budget, causes: list[Cause]) -> Slices[None]:
    if value is None:
        return
    changed = old is ABSENT or not same(value, old)
    for rule in node.rules:
        if rule.transition:
            if old is ABSENT and not rule.optional_old:
                continue
        elif not changed:
            continue  # it was accepted, or is from before the rule
        if budget.is_others_turn():
            yield
        cause = _one(rule, value, path, old, budget)
        if cause is not None:
            causes.append(cause)
    if isinstance(value, dict):
        for name, item in value.items():
            below = node.properties.get(name) or node.others
            if below:
                before = old.get(name, ABSENT) if isinstance(old, dict) else ABSENT
                yield from _run(below, item, f"{path}.{name}" if path else name, before, budget, causes)
    elif isinstance(value, list) and node.items:
        for index, (item, before) in enumerate(zip(value, correlated(value, node.schema, old), strict=True)):
            yield from _run(node.items, item, f"{path}[{index}]", before, budget, causes)


def _one(rule: Rule, value: Any, path: str, old: Any, budget: Budget) -> Cause | None:
    values: dict[str, Any] = {"self": value}
    if rule.optional_old:
        values["oldSelf"] = NONE if old is ABSENT else Optional(True, old)
    elif old is not ABSENT:
        values["oldSelf"] = old
    where = (path + rule.path).lstrip(".") or "<nil>"
    try:
        value = budget.run(rule.program, values)
    except BudgetExceeded:
        if budget.left <= 0:
            raise
        detail = (
            f"no further validation rules will be run due to call cost exceeds limit for rule: {rule.given['rule']}"
        )
        return Cause("FieldValueInvalid", f"Invalid value: {detail}", where)
    except EvaluationError as error:
        return Cause("FieldValueInvalid", f"Invalid value: {error} evaluating rule: {_text(rule)}", where)
    if value is True:
        return None
    return _complaint(rule, _message(rule, values, budget), where)


def _text(rule: Rule) -> str:
    message: str = rule.given.get("message") or f"failed rule: {rule.given['rule'].strip()}"
    return message


def _message(rule: Rule, values: dict[str, Any], budget: Budget) -> str:
    """Of the expression, if it has one that gives a text."""
    if rule.message is not None and ("oldSelf" in values or "oldSelf" not in rule.message.used):
        try:
            found = budget.run(rule.message, values)
        except EvaluationError:
            return _text(rule)
        if isinstance(found, str) and found.strip() and "\n" not in found and len(found.encode()) <= MAX_MESSAGE_BYTES:
            return found.strip()
    return _text(rule)


def _complaint(rule: Rule, message: str, where: str) -> Cause:
    reason = rule.given.get("reason") or "FieldValueInvalid"
    head = {
        "FieldValueForbidden": "Forbidden", "FieldValueRequired": "Required value", "FieldValueDuplicate": "Duplicate value",
    }.get(reason, "Invalid value")  # fmt: skip
    return Cause(reason, f"{head}: {message}", where)


def compiled(schema: Schema) -> Node:
    """The rules of a schema that has been accepted; one that does not compile any more is left out."""
    return Compiler().compile(schema, "")


__all__ = ["BUDGET", "KEY", "Compiler", "Node", "compiled", "has_rules", "run"]
