"""Label selectors: `a=b,c in (x,y),!d,e!=f` and meta/v1 LabelSelector, parsed once and matched often.

Called by the registry (lists, watches), controllers, the scheduler and the CLI. The grammar, and the words of its errors, are
Kubernetes' own (checked against recordings).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wherry.api import names
from wherry.api.errors import BadRequest
from wherry.pb import meta_v1_pb2

Operator = Literal["in", "notin", "=", "==", "!=", "exists", "!", "gt", "lt"]
Labels = Mapping[str, str]

_TOKEN = re.compile(r"\s*(==|=|!=|!|\(|\)|,|>|<|[^\s=!(),<>]+|$)")
_BINARY = "in, notin, =, ==, !=, gt, lt"
_OPERATORS: dict[str, Operator] = {
    "in": "in", "notin": "notin", "=": "=", "==": "==", "!=": "!=", ">": "gt", "<": "lt",
}  # fmt: skip
_MESSAGE_OPERATORS: dict[str, Operator] = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}
_SPECIAL = frozenset({"=", "==", "!=", "!", "(", ")", ",", ">", "<"})
MAX_SELECTOR_CHARS = 100_000


class BadSelector(BadRequest):
    """A selector that does not parse, or asks for what no label can be."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term; all terms of a selector must hold. `values` is sorted and empty for exists and `!`."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in" | "=" | "==":
                return value is not None and value in self.values
            case "notin" | "!=":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        number = _integer(value)
        bound = int(self.values[0])
        return number is not None and (number > bound if self.operator == "gt" else number < bound)

    def __str__(self) -> str:
        match self.operator:
            case "exists":
                return self.key
            case "!":
                return f"!{self.key}"
            case "in" | "notin":
                return f"{self.key} {self.operator} ({','.join(self.values)})"
            case "gt" | "lt":
                return f"{self.key}{'>' if self.operator == 'gt' else '<'}{self.values[0]}"
        return f"{self.key}{self.operator}{self.values[0]}"


@dataclass(frozen=True, slots=True)
class Selector:
    """`nothing` is the selector of an absent LabelSelector: it matches no object at all."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Labels) -> bool:
        return not self.nothing and all(requirement.matches(labels) for requirement in self.requirements)

    @property
    def everything(self) -> bool:
        return not self.requirements and not self.nothing

    def predicate(self) -> Callable[[Labels], bool]:
        """The fastest form of `matches`, for many objects: plain equalities are compared without dispatch."""
        if self.nothing:
            return lambda labels: False
        exact = [(r.key, r.values[0]) for r in self.requirements if r.operator in ("=", "==")]
        others = [r.matches for r in self.requirements if r.operator not in ("=", "==")]
        if not others:
            if len(exact) == 1:
                ((only_key, only_value),) = exact
                return lambda labels: labels.get(only_key) == only_value
            return lambda labels: all(labels.get(key) == value for key, value in exact)
        return lambda labels: (
            all(labels.get(key) == value for key, value in exact) and all(match(labels) for match in others)
        )

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


EVERYTHING = Selector()
NOTHING = Selector(nothing=True)


def _integer(text: str | None) -> int | None:
    if text is None or not re.fullmatch("[-+]?[0-9]{1,19}", text, re.ASCII):
        return None
    return int(text)


def requirement(key: str, operator: Operator, values: Iterable[str]) -> Requirement:
    """A checked requirement. Raises BadSelector in Kubernetes' words."""
    wanted = tuple(sorted(set(values)))
    problems = [f"key: Invalid value: {_quoted(key)}: {problem}" for problem in names.qualified_name(key)]
    if operator in ("in", "notin") and not wanted:
        problems.append("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty")
    elif operator in ("=", "==", "!=") and len(wanted) != 1:
        problems.append(f"values: Invalid value: {_list(wanted)}: exact-match compatibility requires one single value")
    elif operator in ("exists", "!") and wanted:
        problems.append(
            f"values: Invalid value: {_list(wanted)}: values set must be empty for exists and does not exist"
        )
    elif operator in ("gt", "lt"):
        if len(wanted) != 1:
            problems.append(
                f"values: Invalid value: {_list(wanted)}: for 'Gt', 'Lt' operators, exactly one value is required"
            )
        problems += [
            f"values[{index}]: Invalid value: {_quoted(value)}: for 'Gt', 'Lt' operators, the value must be an integer"
            for index, value in enumerate(wanted)
            if _integer(value) is None
        ]
    for index, value in enumerate(wanted):
        problems += [
            f"values[{index}][{key}]: Invalid value: {_quoted(value)}: {problem}"
            for problem in names.label_value(value)
        ]
    if problems:
        raise BadSelector(problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]")
    return Requirement(key, operator, wanted)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(values: Sequence[str]) -> str:
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))


def parse(text: str) -> Selector:
    """Raises BadSelector. The empty string selects everything."""
    if len(text) > MAX_SELECTOR_CHARS:
        raise BadSelector(f"a selector of {len(text)} characters is longer than the {MAX_SELECTOR_CHARS} allowed")
    return Selector(tuple(sorted(_Parser(text).parse(), key=lambda found: found.key)))


class _Parser:
    """Recursive descent over tokens; "" is the end."""

    def __init__(self, text: str) -> None:
        self._tokens = [match for match in _TOKEN.findall(text) if match]
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def parse(self) -> list[Requirement]:
        found: list[Requirement] = []
        while True:
            token = self._peek()
            if not token:
                return found
            if not _identifier(token) and token != "!":
                raise BadSelector(f"found '{token}', expected: !, identifier, or 'end of string'")
            try:
                found.append(self._requirement())
            except BadSelector as error:
                raise BadSelector(f"unable to parse requirement: {error.message}") from None
            token = self._next()
            if not token:
                return found
            if token != ",":
                raise BadSelector(f"found '{token}', expected: ',' or 'end of string'")
            following = self._peek()
            if not _identifier(following) and following != "!":
                raise BadSelector(f"found '{following}', expected: identifier after ','")

    def _requirement(self) -> Requirement:
        token = self._next()
        negated = token == "!"
        if negated:
            token = self._next()
        if not _identifier(token):
            raise BadSelector(f"found '{token}', expected: identifier")
        key = token
        problems = names.qualified_name(key)
        if problems:
            raise BadSelector(f"key: Invalid value: {_quoted(key)}: {problems[0]}")
        if negated:
            return requirement(key, "!", ())
        if self._peek() in ("", ","):
            return requirement(key, "exists", ())
        word = self._next()
        operator = _OPERATORS.get(word)
        if operator is None:
            raise BadSelector(f"found '{word}', expected: {_BINARY}")
        values = self._values() if operator in ("in", "notin") else [self._exact_value()]
        return requirement(key, operator, values)

    def _exact_value(self) -> str:
        token = self._peek()
        if token in ("", ","):
            return ""
        self._next()
        if _identifier(token):
            return token
        raise BadSelector(f"found '{token}', expected: identifier")

    def _values(self) -> list[str]:
        token = self._next()
        if token != "(":
            raise BadSelector(f"found '{token}' expected: '('")
        token = self._peek()
        if token == ")":
            self._next()
            return [""]  # as Kubernetes reads it: one value, the empty one
        if not _identifier(token) and token != ",":
            raise BadSelector(f"found '{token}', expected: ',', ')' or identifier")
        values: list[str] = []
        value = ""
        while True:
            token = self._next()
            if token == ",":
                values.append(value)
                value = ""
            elif token == ")":
                return [*values, value]
            elif _identifier(token) and not value:
                value = token
                if self._peek() not in (",", ")"):
                    raise BadSelector(f"found '{self._peek()}', expected: ',' or ')'")
            else:
                raise BadSelector(f"found '{token}', expected: ',', or identifier")


def _identifier(token: str) -> bool:
    return bool(token) and token not in _SPECIAL


def from_message(selector: meta_v1_pb2.LabelSelector | None) -> Selector:
    """An absent selector (pass None) matches nothing, an empty one everything. Raises BadSelector."""
    if selector is None:
        return NOTHING
    found = [requirement(key, "=", [value]) for key, value in sorted(selector.match_labels.items())]
    for expression in selector.match_expressions:
        operator = _MESSAGE_OPERATORS.get(expression.operator)
        if operator is None:
            raise BadSelector(f"{_quoted(expression.operator)} is not a valid label selector operator")
        found.append(requirement(expression.key, operator, expression.values))
    return Selector(tuple(sorted(found, key=lambda item: item.key)))


def from_map(labels: Labels) -> Selector:
    """Equality on every pair, as Service and ReplicationController selectors mean it; an empty map is everything."""
    return Selector(tuple(Requirement(key, "=", (value,)) for key, value in sorted(labels.items())))


def validate(labels: Labels) -> list[tuple[str, str, str]]:
    """What is wrong with an object's labels: key, the offending text, message."""
    problems = []
    for key, value in sorted(labels.items()):
        problems += [(key, key, message) for message in names.qualified_name(key)]
        problems += [(key, value, message) for message in names.label_value(value)]
    return problems
