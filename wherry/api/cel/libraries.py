"""What Kubernetes adds to CEL for texts and lists: strings, regular expressions, lists, sets.

`FUNCTIONS` is the table; `program` takes it beside `standard`, `addresses` and `quantities`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from wherry.api.cel import overloads as costs
from wherry.api.cel import regex
from wherry.api.cel.formatting import formatted
from wherry.api.cel.overloads import Functions, Sizes
from wherry.api.cel.standard import as_int, first_size, total
from wherry.api.cel.syntax import Uint
from wherry.api.cel.types import BOOL, BYTES, DOUBLE, DURATION, DYN, INT, PARAM_A, STRING, TIMESTAMP, UINT, list_of
from wherry.api.cel.values import Duration, EvaluationError, equal, kind_of

FUNCTIONS = Functions()
_add = FUNCTIONS.add
_LIST_A = list_of(PARAM_A)
_STRINGS = list_of(STRING)

# strings


def _char_at(text: str, index: int) -> str:
    if not 0 <= index <= len(text):
        raise EvaluationError(f"index out of range: {index}")
    return text[index : index + 1]


def _substring(text: str, start: int, end: int | None = None) -> str:
    end = len(text) if end is None else end
    if not 0 <= start <= len(text):
        raise EvaluationError(f"index out of range: {start}")
    if not 0 <= end <= len(text):
        raise EvaluationError(f"index out of range: {end}")
    if start > end:
        raise EvaluationError(f"invalid substring range. start: {start}, end: {end}")
    return text[start:end]


def _index_of(text: str, part: str, offset: int = 0) -> int:
    if part and not 0 <= offset <= len(text):
        raise EvaluationError(f"index out of range: {offset}")
    return text.find(part, offset) if part else offset


def _last_index_of(text: str, part: str, offset: int | None = None) -> int:
    if offset is None:
        return text.rfind(part)
    if not 0 <= offset <= len(text):
        raise EvaluationError(f"index out of range: {offset}")
    return text.rfind(part, 0, offset + len(part))


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if limit == 1:
        return [text]
    if not separator:
        parts = list(text)
        return parts if limit < 0 or limit >= len(parts) else [*parts[: limit - 1], "".join(parts[limit - 1 :])]
    return text.split(separator, limit - 1 if limit > 0 else -1)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    return text.replace(old, new, count)


def _ascii(upper: bool) -> Callable[[str], str]:
    low, high = ("a", "z") if upper else ("A", "Z")
    shift = -32 if upper else 32
    return lambda text: "".join(chr(ord(char) + shift) if low <= char <= high else char for char in text)


def _replaced_size(sizes: Sizes) -> int:
    return sizes[0] + (sizes[0] + 1) * (sizes[2] if len(sizes) > 2 else 0)


_SPACES = " \t\n\v\f\r\u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_text = functools.partial(_add, member=True, cost=costs.through)
_text("charAt", (STRING, INT), STRING, _char_at, size=lambda sizes: 1)
for _extra in ((), (INT,)):
    _text("indexOf", (STRING, STRING, *_extra), INT, _index_of)
    _text("lastIndexOf", (STRING, STRING, *_extra), INT, _last_index_of)
    _text("substring", (STRING, INT, *_extra), STRING, _substring, size=first_size)
    _text("split", (STRING, STRING, *_extra), _STRINGS, _split, size=first_size)
    _text("replace", (STRING, STRING, STRING, *_extra), STRING, _replace, size=_replaced_size)
_text("lowerAscii", (STRING,), STRING, _ascii(False), size=first_size)
_text("upperAscii", (STRING,), STRING, _ascii(True), size=first_size)
_text("trim", (STRING,), STRING, lambda text: text.strip(_SPACES), size=first_size)
_text("reverse", (STRING,), STRING, lambda text: text[::-1], size=first_size)
_add("join", (_STRINGS,), STRING, "".join, member=True, cost=costs.each)
_add("join", (_STRINGS, STRING), STRING, lambda items, by: by.join(items), member=True, cost=costs.each)
_add("strings.quote", (STRING,), STRING, lambda text: json.dumps(text, ensure_ascii=False), cost=costs.through)
_add("format", (STRING, list_of(DYN)), STRING, formatted, member=True, cost=costs.through_all)

# lists


def _is_sorted(items: list[Any]) -> bool:
    return all(not items[index] < items[index - 1] for index in range(1, len(items)))


def _summed(zero: Any, wrap: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    return lambda items: wrap(sum(items, zero)) if items else zero


def _extreme(pick: Callable[[list[Any]], Any], name: str) -> Callable[[list[Any]], Any]:
    def run(items: list[Any]) -> Any:
        if not items:
            raise EvaluationError(f"{name} called on empty list")
        return pick(items)

    return run


def _position(items: list[Any], item: Any) -> int:
    return next((index for index, each in enumerate(items) if equal(each, item)), -1)


def _last_position(items: list[Any], item: Any) -> int:
    return next((index for index in range(len(items) - 1, -1, -1) if equal(items[index], item)), -1)


def _slice(items: list[Any], start: int, end: int) -> list[Any]:
    if start < 0 or end < 0:
        raise EvaluationError(f"cannot slice({start}, {end}), negative indexes not supported")
    if start > end:
        raise EvaluationError(f"cannot slice({start}, {end}), start index must be less than or equal to end index")
    if end > len(items):
        raise EvaluationError(f"cannot slice({start}, {end}), list is length {len(items)}")
    return items[start:end]


def _distinct(items: list[Any]) -> list[Any]:
    out: list[Any] = []
    for item in items:
        if not any(equal(item, each) for each in out):
            out.append(item)
    return out


def _flatten(items: list[Any], depth: int = 1) -> list[Any]:
    if depth < 0:
        raise EvaluationError("level must be non-negative")
    out: list[Any] = []
    for item in items:
        if isinstance(item, list) and depth > 0:
            out.extend(_flatten(item, depth - 1))
        else:
            out.append(item)
    return out


def _sorted(items: list[Any]) -> list[Any]:
    if items and any(kind_of(item) != kind_of(items[0]) for item in items):
        raise EvaluationError("list elements must have the same type")
    return sorted(items)


def _range(count: int) -> list[int]:
    if count > 1_000_000:
        raise EvaluationError("lists.range: too long")
    return list(range(count))


_scan = functools.partial(_add, member=True, cost=costs.each)

for _kind in (INT, UINT, DOUBLE, BOOL, STRING, BYTES, TIMESTAMP, DURATION):
    _scan("isSorted", (list_of(_kind),), BOOL, _is_sorted)
    _scan("min", (list_of(_kind),), _kind, _extreme(min, "min"))
    _scan("max", (list_of(_kind),), _kind, _extreme(max, "max"))
_scan("sum", (list_of(INT),), INT, _summed(0, as_int))
_scan("sum", (list_of(UINT),), UINT, _summed(Uint(0), Uint))
_scan("sum", (list_of(DOUBLE),), DOUBLE, _summed(0.0, float))
_scan("sum", (list_of(DURATION),), DURATION, lambda items: Duration(sum(item.ns for item in items)))
_scan("indexOf", (_LIST_A, PARAM_A), INT, _position)
_scan("lastIndexOf", (_LIST_A, PARAM_A), INT, _last_position)
_scan("slice", (_LIST_A, INT, INT), _LIST_A, _slice, size=first_size)
_scan("distinct", (_LIST_A,), _LIST_A, _distinct, size=first_size)
_scan("reverse", (_LIST_A,), _LIST_A, lambda items: items[::-1], size=first_size)
_scan("sort", (_LIST_A,), _LIST_A, _sorted, size=first_size)
_scan("flatten", (list_of(_LIST_A),), _LIST_A, _flatten)
_scan("flatten", (list_of(DYN), INT), list_of(DYN), _flatten)
_add("lists.range", (INT,), list_of(INT), _range, cost=lambda sizes: 1000)


# sets


def _contains_all(left: list[Any], right: list[Any]) -> bool:
    return all(any(equal(item, each) for each in left) for item in right)


_add("sets.contains", (_LIST_A, _LIST_A), BOOL, _contains_all, cost=costs.crossing)
_add(
    "sets.equivalent", (_LIST_A, _LIST_A), BOOL, lambda a, b: _contains_all(a, b) and _contains_all(b, a), cost=costs.crossing
)  # fmt: skip
_add(
    "sets.intersects", (_LIST_A, _LIST_A), BOOL, lambda a, b: any(any(equal(x, y) for y in b) for x in a), cost=costs.crossing
)  # fmt: skip

# regular expressions


def _pattern(text: str) -> Any:
    try:
        return regex.compiled(text)
    except ValueError as error:
        raise EvaluationError(str(error)) from error


def _find(text: str, pattern: str) -> str:
    match = _pattern(pattern).search(text)
    return str(match.group()) if match is not None else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    out: list[str] = []
    for match in _pattern(pattern).finditer(text):
        if 0 <= limit <= len(out):
            break
        out.append(match.group())
    return out


_add("find", (STRING, STRING), STRING, _find, member=True, cost=costs.matching, size=first_size)
_add("findAll", (STRING, STRING), _STRINGS, _find_all, member=True, cost=costs.matching, size=first_size)
_add("findAll", (STRING, STRING, INT), _STRINGS, _find_all, member=True, cost=costs.matching, size=first_size)

# JSON patch

_add(
    "jsonpatch.escapeKey", (STRING,), STRING, lambda text: text.replace("~", "~0").replace("/", "~1"),
    cost=costs.through, size=lambda sizes: 2 * total(sizes),
)  # fmt: skip
