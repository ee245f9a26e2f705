"""What Kubernetes adds to CEL for its own notations: quantities, semantic versions, named formats. `FUNCTIONS` is the table."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from wherry.api import names, quantity
from wherry.api.cel import addresses
from wherry.api.cel import overloads as costs
from wherry.api.cel.overloads import Functions
from wherry.api.cel.types import BOOL, DOUBLE, INT, STRING, list_of, opaque, optional_of
from wherry.api.cel.values import NONE, EvaluationError, Optional, parse_timestamp

FUNCTIONS = Functions()
_add = FUNCTIONS.add
_STRINGS = list_of(STRING)

# quantities

_QUANTITY = opaque("quantity")


def _is_quantity(text: str) -> bool:
    try:
        quantity.parse(text)
    except ValueError:
        return False
    return True


def _quantity(text: str) -> Decimal:
    try:
        return quantity.parse(text).amount
    except ValueError as error:
        raise EvaluationError(f"quantity parse error during conversion from string: {error}") from error


def _is_integer(value: Decimal) -> bool:
    return value == value.to_integral_value() and -(1 << 63) <= value < 1 << 63


def _as_integer(value: Decimal) -> int:
    if not _is_integer(value):
        raise EvaluationError("cannot convert value to integer")
    return int(value)


def _compared(left: Any, right: Any) -> int:
    return int(left > right) - int(left < right)


_add("isQuantity", (STRING,), BOOL, _is_quantity, cost=costs.through)
_add("quantity", (STRING,), _QUANTITY, _quantity, cost=costs.through)
_add("sign", (_QUANTITY,), INT, lambda value: _compared(value, 0), member=True)
_add("isInteger", (_QUANTITY,), BOOL, _is_integer, member=True)
_add("asInteger", (_QUANTITY,), INT, _as_integer, member=True)
_add("asApproximateFloat", (_QUANTITY,), DOUBLE, float, member=True)
for _name, _run in (("add", lambda a, b: a + b), ("sub", lambda a, b: a - b)):
    _add(_name, (_QUANTITY, _QUANTITY), _QUANTITY, _run, member=True)
    _add(_name, (_QUANTITY, INT), _QUANTITY, _run, member=True)
_add("isGreaterThan", (_QUANTITY, _QUANTITY), BOOL, lambda a, b: a > b, member=True)
_add("isLessThan", (_QUANTITY, _QUANTITY), BOOL, lambda a, b: a < b, member=True)
_add("compareTo", (_QUANTITY, _QUANTITY), INT, _compared, member=True)

# semantic versions

_SEMVER = opaque("kubernetes.Semver")
_SEMVER_TEXT = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Semver:
    cel_type = "kubernetes.Semver"
    numbers: tuple[int, int, int]
    pre: str

    def rank(self) -> tuple[Any, ...]:
        parts = (
            [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in self.pre.split(".")] if self.pre else []
        )
        return (*self.numbers, not self.pre, parts)


def _normal_version(text: str) -> str:
    """`v1.02` as `1.2.0`."""
    head, mark, tail = re.match(r"([^-+]*)([-+]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]  # always matches
    parts = [part.lstrip("0") or "0" if part else part for part in head.removeprefix("v").split(".")]
    return ".".join(parts + ["0"] * (3 - len(parts))) + mark + tail


def _parsed_version(text: str, normalize: bool = False) -> Semver | None:
    match = _SEMVER_TEXT.fullmatch(_normal_version(text) if normalize else text) if len(text) < 1000 else None
    return Semver((int(match[1]), int(match[2]), int(match[3])), match[4] or "") if match else None


def _semver(text: str, normalize: bool = False) -> Semver:
    found = _parsed_version(text, normalize)
    if found is None:
        raise EvaluationError(f'semver parse error during conversion from string: "{text}" is no semantic version')
    return found


for _extra in ((), (BOOL,)):
    _add("isSemver", (STRING, *_extra), BOOL, lambda *args: _parsed_version(*args) is not None, cost=costs.through)
    _add("semver", (STRING, *_extra), _SEMVER, _semver, cost=costs.through)
for _index, _name in enumerate(("major", "minor", "patch")):
    _add(_name, (_SEMVER,), INT, lambda version, index=_index: version.numbers[index], member=True)
_add("isGreaterThan", (_SEMVER, _SEMVER), BOOL, lambda a, b: a.rank() > b.rank(), member=True)
_add("isLessThan", (_SEMVER, _SEMVER), BOOL, lambda a, b: a.rank() < b.rank(), member=True)
_add("compareTo", (_SEMVER, _SEMVER), INT, lambda a, b: _compared(a.rank(), b.rank()), member=True)

# named formats

_FORMAT = opaque("kubernetes.NamedFormat")


@dataclass(frozen=True, slots=True)
class NamedFormat:
    cel_type = "kubernetes.NamedFormat"
    name: str
    problems: Callable[[str], Sequence[str]]


def _prefixed(rule: Callable[[str], Sequence[str]]) -> Callable[[str], Sequence[str]]:
    """A prefix may end in the dash that separates it from what is added."""
    return lambda text: rule(text[:-1] + "a" if text.endswith("-") else text)


def _by_pattern(pattern: str, message: str) -> Callable[[str], Sequence[str]]:
    shape = re.compile(pattern, re.ASCII)
    return lambda text: [] if shape.fullmatch(text) else [message]


def _is_date(text: str) -> Sequence[str]:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return ["invalid date"]
    return [] if len(text) == 10 else ["invalid date"]


def _is_datetime(text: str) -> Sequence[str]:
    try:
        parse_timestamp(text)
    except (ValueError, EvaluationError):
        return ["invalid datetime"]
    return []


FORMATS: dict[str, Callable[[str], Sequence[str]]] = {
    "dns1123Label": names.dns1123_label,
    "dns1123Subdomain": names.dns1123_subdomain,
    "dns1035Label": names.dns1035_label,
    "qualifiedName": names.qualified_name,
    "dns1123LabelPrefix": _prefixed(names.dns1123_label),
    "dns1123SubdomainPrefix": _prefixed(names.dns1123_subdomain),
    "dns1035LabelPrefix": _prefixed(names.dns1035_label),
    "labelValue": names.label_value,
    "uri": lambda text: [] if addresses.parsed_url(text) is not None else ["invalid uri"],
    "uuid": _by_pattern(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}", "does not match the UUID format"),
    "byte": _by_pattern(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", "invalid base64"),
    "date": _is_date,
    "datetime": _is_datetime,
}  # fmt: skip


def _validated(form: NamedFormat, text: str) -> Optional:
    problems = form.problems(text)
    return Optional(True, list(problems)) if problems else NONE


def _named(name: str) -> Optional:
    return Optional(True, NamedFormat(name, FORMATS[name])) if name in FORMATS else NONE


for _name, _rule in FORMATS.items():
    _add(f"format.{_name}", (), _FORMAT, lambda form=NamedFormat(_name, _rule): form)
_add("format.named", (STRING,), optional_of(_FORMAT), _named)
_add("validate", (_FORMAT, STRING), optional_of(_STRINGS), _validated, member=True, cost=costs.through_second)
