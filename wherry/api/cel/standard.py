"""The functions and operators of the CEL specification. `FUNCTIONS` is the table; `program` takes it for every expression."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from wherry.api.cel import overloads as costs
from wherry.api.cel import regex, types
from wherry.api.cel.overloads import Functions, Sizes
from wherry.api.cel.syntax import Uint
from wherry.api.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    PARAM_A,
    PARAM_B,
    STRING,
    TIMESTAMP,
    TYPE,
    UINT,
    list_of,
    map_of,
    optional_of,
)  # fmt: skip
from wherry.api.cel.values import (
    INT_MAX,
    INT_MIN,
    NONE,
    SECOND,
    UINT_MAX,
    Duration,
    EvaluationError,
    Optional,
    Timestamp,
    TypeValue,
    Unordered,
    equal,
    format_double,
    format_duration,
    format_timestamp,
    merged,
    parse_duration,
    parse_timestamp,
    shown_kind,
)  # fmt: skip

FUNCTIONS = Functions()
_add = FUNCTIONS.add
_LIST_A, _MAP_AB, _OPTIONAL_A = list_of(PARAM_A), map_of(PARAM_A, PARAM_B), optional_of(PARAM_A)
_NUMBERS = (INT, UINT, DOUBLE)


def as_int(number: int) -> int:
    if not INT_MIN <= number <= INT_MAX:
        raise EvaluationError("integer overflow")
    return number


def as_uint(number: int) -> Uint:
    if not 0 <= number <= UINT_MAX:
        raise EvaluationError("unsigned integer overflow")
    return Uint(number)


def total(sizes: Sizes) -> int:
    return sum(sizes)


def first_size(sizes: Sizes) -> int:
    return sizes[0]


# arithmetic


def _divided(left: int, right: int) -> int:
    if right == 0:
        raise EvaluationError("division by zero")
    found = abs(left) // abs(right)
    return found if (left < 0) == (right < 0) else -found


def _modulus(left: int, right: int) -> int:
    if right == 0:
        raise EvaluationError("modulus by zero")
    return (
        int(math.copysign(abs(left) % abs(right), left))
        if abs(left) < 1 << 50
        else left - right * _divided(left, right)
    )


def _float_divided(left: float, right: float) -> float:
    if right == 0:
        return math.nan if left == 0 or left != left else math.copysign(math.inf, left) * math.copysign(1, right)
    return left / right


def _concatenated(left: list[Any], right: list[Any]) -> list[Any]:
    return merged(left, right) if isinstance(left, Unordered) else [*left, *right]


for _name, _run in (
    ("_+_", lambda a, b: a + b), ("_-_", lambda a, b: a - b), ("_*_", lambda a, b: a * b), ("_/_", _divided), ("_%_", _modulus),
):  # fmt: skip
    _add(_name, (INT, INT), INT, lambda a, b, run=_run: as_int(run(a, b)))
    _add(_name, (UINT, UINT), UINT, lambda a, b, run=_run: as_uint(run(int(a), int(b))))
_add("_+_", (DOUBLE, DOUBLE), DOUBLE, lambda a, b: a + b)
_add("_-_", (DOUBLE, DOUBLE), DOUBLE, lambda a, b: a - b)
_add("_*_", (DOUBLE, DOUBLE), DOUBLE, lambda a, b: a * b)
_add("_/_", (DOUBLE, DOUBLE), DOUBLE, _float_divided)
_add("_+_", (STRING, STRING), STRING, lambda a, b: a + b, cost=costs.through_all, size=total)
_add("_+_", (BYTES, BYTES), BYTES, lambda a, b: a + b, cost=costs.through_all, size=total)
_add("_+_", (_LIST_A, _LIST_A), _LIST_A, _concatenated, size=total)
_add("_+_", (TIMESTAMP, DURATION), TIMESTAMP, lambda a, b: Timestamp(a.ns + b.ns))
_add("_+_", (DURATION, TIMESTAMP), TIMESTAMP, lambda a, b: Timestamp(a.ns + b.ns))
_add("_+_", (DURATION, DURATION), DURATION, lambda a, b: Duration(a.ns + b.ns))
_add("_-_", (TIMESTAMP, TIMESTAMP), DURATION, lambda a, b: Duration(a.ns - b.ns))
_add("_-_", (TIMESTAMP, DURATION), TIMESTAMP, lambda a, b: Timestamp(a.ns - b.ns))
_add("_-_", (DURATION, DURATION), DURATION, lambda a, b: Duration(a.ns - b.ns))
_add("-_", (INT,), INT, lambda a: as_int(-a))
_add("-_", (DOUBLE,), DOUBLE, lambda a: -a)
_add("!_", (BOOL,), BOOL, lambda a: not a)

# comparison

_add("_==_", (PARAM_A, PARAM_A), BOOL, equal, cost=costs.comparing)
_add("_!=_", (PARAM_A, PARAM_A), BOOL, lambda a, b: not equal(a, b), cost=costs.comparing)
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "_<_": lambda a, b: a < b, "_<=_": lambda a, b: a <= b, "_>_": lambda a, b: a > b, "_>=_": lambda a, b: a >= b,
}  # fmt: skip
for _name, _order in _ORDERS.items():
    for _left in _NUMBERS:
        for _right in _NUMBERS:
            _add(_name, (_left, _right), BOOL, _order)
    for _kind in (BOOL, TIMESTAMP, DURATION):
        _add(_name, (_kind, _kind), BOOL, _order)
    _add(_name, (STRING, STRING), BOOL, _order, cost=costs.comparing)
    _add(_name, (BYTES, BYTES), BOOL, _order, cost=costs.comparing)


def _in_list(item: Any, items: list[Any]) -> bool:
    return any(equal(item, each) for each in items)


def _find(found: dict[Any, Any], key: Any) -> tuple[bool, Any]:
    """Python takes true for 1."""
    if key not in found:
        return False, None
    if (isinstance(key, bool) or 0 in found or 1 in found) and not any(equal(key, each) for each in found):
        return False, None
    return True, found[key]


def _in_map(key: Any, found: dict[Any, Any]) -> bool:
    return _find(found, key)[0]


_add("@in", (PARAM_A, _LIST_A), BOOL, _in_list, cost=costs.each_second)
_add("@in", (PARAM_A, _MAP_AB), BOOL, _in_map)

# access


def _at(items: list[Any], index: Any) -> Any:
    if type(index) is float and index == int(index):
        index = int(index)
    if not 0 <= index < len(items):
        raise EvaluationError(f"index out of bounds: {index}")
    return items[index]


def _at_key(found: dict[Any, Any], key: Any) -> Any:
    there, value = _find(found, key)
    if not there:
        raise EvaluationError(f"no such key: {key}")
    return value


def _maybe(found: Any, key: Any) -> Optional:
    if isinstance(found, Optional):
        return _maybe(found.value, key) if found.present else NONE
    if isinstance(found, list):
        return Optional(True, found[key]) if type(key) is int and 0 <= key < len(found) else NONE
    if not isinstance(found, dict):
        raise EvaluationError("no such overload")
    there, value = _find(found, key)
    return Optional(True, value) if there else NONE


_add("_[_]", (_LIST_A, INT), PARAM_A, _at)
_add("_[_]", (_LIST_A, UINT), PARAM_A, _at)
_add("_[_]", (_LIST_A, DOUBLE), PARAM_A, _at)
_add("_[_]", (_MAP_AB, PARAM_A), PARAM_B, _at_key)
_add("_[_]", (optional_of(_LIST_A), INT), _OPTIONAL_A, _maybe)
_add("_[_]", (optional_of(_MAP_AB), PARAM_A), optional_of(PARAM_B), _maybe)
for _wrapped in (lambda kind: kind, optional_of):
    _add("_[?_]", (_wrapped(_LIST_A), INT), _OPTIONAL_A, _maybe)
    _add("_[?_]", (_wrapped(_MAP_AB), PARAM_A), optional_of(PARAM_B), _maybe)

for _kind in (STRING, BYTES, _LIST_A, _MAP_AB):
    for _member in (False, True):
        _add("size", (_kind,), INT, len, member=_member)

# conversion


def _failed(source: Any, target: str) -> EvaluationError:
    return EvaluationError(f"type conversion error from '{shown_kind(source)}' to '{target}'")


def _to_int(value: Any) -> int:
    if isinstance(value, str):
        digits = value[1:] if value[:1] in ("+", "-") else value
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 40:
            raise _failed(value, "int")
        value = int(value)
    elif isinstance(value, Timestamp):
        return value.ns // SECOND
    elif isinstance(value, Duration):
        return value.ns
    elif isinstance(value, float) and (value != value or not INT_MIN < value < INT_MAX):
        raise EvaluationError("integer overflow")
    return as_int(int(value))


def _to_uint(value: Any) -> Uint:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit()) or len(value) > 40:
            raise _failed(value, "uint")
        value = int(value)
    if isinstance(value, float) and (value != value or not 0 <= value < UINT_MAX):
        raise EvaluationError("unsigned integer overflow")
    return as_uint(int(value))


def _to_double(value: Any) -> float:
    try:
        if isinstance(value, str) and ("_" in value or value != value.strip()):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError) as error:
        raise _failed(value, "double") from error


def to_string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise EvaluationError("invalid UTF-8 in bytes, cannot convert to string") from error
    if isinstance(value, float):
        return format_double(value)
    if isinstance(value, Timestamp):
        return format_timestamp(value)
    if isinstance(value, Duration):
        return format_duration(value)
    return str(int(value))


def _to_bool(value: str) -> bool:
    if value in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if value in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise _failed(value, "bool")


def _to_duration(value: str) -> Duration:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise _failed(value, "google.protobuf.Duration") from error


def _to_timestamp(value: str) -> Timestamp:
    try:
        return parse_timestamp(value)
    except ValueError as error:
        raise _failed(value, "google.protobuf.Timestamp") from error


for _kind in (INT, UINT, DOUBLE, STRING, TIMESTAMP, DURATION):
    _add("int", (_kind,), INT, _to_int, cost=costs.through if _kind is STRING else costs.one)
for _kind in (INT, UINT, DOUBLE, STRING):
    _add("uint", (_kind,), UINT, _to_uint, cost=costs.through if _kind is STRING else costs.one)
    _add("double", (_kind,), DOUBLE, _to_double, cost=costs.through if _kind is STRING else costs.one)
for _kind in (STRING, BOOL, INT, UINT, DOUBLE, BYTES, TIMESTAMP, DURATION):
    _texts = _kind in (STRING, BYTES)
    _add(
        "string", (_kind,), STRING, to_string, cost=costs.through if _texts else costs.one,
        size=first_size if _texts else lambda sizes: 64,
    )  # fmt: skip
_add("bytes", (STRING,), BYTES, lambda value: value.encode(), cost=costs.through, size=lambda sizes: sizes[0] * 4)
_add("bytes", (BYTES,), BYTES, lambda value: value, size=first_size)
_add("bool", (STRING,), BOOL, _to_bool)
_add("bool", (BOOL,), BOOL, lambda value: value)
_add("duration", (STRING,), DURATION, _to_duration, cost=costs.through)
_add("duration", (DURATION,), DURATION, lambda value: value)
_add("timestamp", (STRING,), TIMESTAMP, _to_timestamp, cost=costs.through)
_add("timestamp", (TIMESTAMP,), TIMESTAMP, lambda value: value)
_add("timestamp", (INT,), TIMESTAMP, lambda value: Timestamp(value * SECOND))
_add("dyn", (PARAM_A,), DYN, lambda value: value)
_add("type", (PARAM_A,), TYPE, lambda value: TypeValue(shown_kind(value)))

# text

_add("contains", (STRING, STRING), BOOL, lambda a, b: b in a, member=True, cost=costs.searching)
_add("startsWith", (STRING, STRING), BOOL, lambda a, b: a.startswith(b), member=True, cost=costs.through_second)
_add("endsWith", (STRING, STRING), BOOL, lambda a, b: a.endswith(b), member=True, cost=costs.through_second)


def _matches(text: str, pattern: str) -> bool:
    try:
        return regex.search(pattern, text)
    except ValueError as error:
        raise EvaluationError(str(error)) from error


for _member in (False, True):
    _add("matches", (STRING, STRING), BOOL, _matches, member=_member, cost=costs.matching)

# times

_PARTS: dict[str, Callable[[Any], int]] = {
    "getFullYear": lambda at: at.year, "getMonth": lambda at: at.month - 1, "getDate": lambda at: at.day,
    "getDayOfMonth": lambda at: at.day - 1, "getDayOfWeek": lambda at: at.isoweekday() % 7,
    "getDayOfYear": lambda at: at.timetuple().tm_yday - 1, "getHours": lambda at: at.hour, "getMinutes": lambda at: at.minute,
    "getSeconds": lambda at: at.second,
}  # fmt: skip
for _name, _part in _PARTS.items():
    _add(_name, (TIMESTAMP,), INT, lambda at, part=_part: part(at.at()), member=True)
    _add(_name, (TIMESTAMP, STRING), INT, lambda at, zone, part=_part: part(at.at(zone or "UTC")), member=True)


def _whole(ns: int, unit: int) -> int:
    return ns // unit if ns >= 0 else -(-ns // unit)


_add("getMilliseconds", (TIMESTAMP,), INT, lambda at: at.ns % SECOND // 1_000_000, member=True)
_add("getMilliseconds", (TIMESTAMP, STRING), INT, lambda at, zone: at.ns % SECOND // 1_000_000, member=True)
for _name, _unit in (
    ("getHours", 3600 * SECOND), ("getMinutes", 60 * SECOND), ("getSeconds", SECOND), ("getMilliseconds", 1_000_000),
):  # fmt: skip
    _add(_name, (DURATION,), INT, lambda value, unit=_unit: _whole(value.ns, unit), member=True)

# optionals


def _nonzero(value: Any) -> Optional:
    empty = value is None or (isinstance(value, bool | int | float | str | bytes | list | dict) and not value)
    return NONE if empty else Optional(True, value)


def _value(found: Optional) -> Any:
    if not found.present:
        raise EvaluationError("optional.none() dereference")
    return found.value


_add("optional.of", (PARAM_A,), _OPTIONAL_A, lambda value: Optional(True, value))
_add("optional.ofNonZeroValue", (PARAM_A,), _OPTIONAL_A, _nonzero)
_add("optional.none", (), _OPTIONAL_A, lambda: NONE)
_add("hasValue", (_OPTIONAL_A,), BOOL, lambda found: found.present, member=True)
_add("value", (_OPTIONAL_A,), PARAM_A, _value, member=True)
_add("or", (_OPTIONAL_A, _OPTIONAL_A), _OPTIONAL_A, lambda a, b: a if a.present else b, member=True)
_add("orValue", (_OPTIONAL_A, PARAM_A), PARAM_A, lambda a, b: a.value if a.present else b, member=True)

__all__ = ["FUNCTIONS", "NULL", "as_int", "as_uint", "first_size", "to_string", "total", "types"]
