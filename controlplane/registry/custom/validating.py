"""A value against its schema, with the complaints of Kubernetes: what an OpenAPI validator says, then lists that are
sets or maps.

Pure, and in slices (`wherry.api.turns`), for an object may be large. `old` is what stood in the same place before. What has
not changed is not complained of: a schema that has become stricter must not stand in the way of a change elsewhere. Called by
`strategy`, and by `structural` for defaults.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Final

from controlplane.registry import violations
from controlplane.registry.custom import formats
from wherry.api.cel import regex
from wherry.api.errors import Cause
from wherry.api.patch import same
from wherry.api.turns import Slices, at_once

Schema = dict[str, Any]
ABSENT: Final = object()
LIST_TYPE, LIST_KEYS, MAP_TYPE = "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"
_NAMES: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
}


def type_name(value: Any) -> str:
    return "null" if value is None else _NAMES[type(value)]


# Steps that one object may take: a value (a text counts once more for each KiB) and a schema of which it is asked. One takes 2 to
# 9 microseconds. An object of the size that is accepted at all (60,000 elements) has 60,000 plain ones, three times as many where
# each value is an integer or a string.
MAX_STEPS = 300_000
_STEPS_OF_TURN = 250  # 0.5 to 2.5 ms
_CHARS_OF_STEP = 1024


class _TooComplex(Exception):
    """More steps than that."""


class _Found(list[Cause]):
    """What is wrong, and what all parts of a value share: the steps that are left, and at how many it is others' turn (of
    `_lists`: those that were taken)."""

    def __init__(self, steps: list[int]) -> None:
        super().__init__()
        self.steps = steps


def validate(value: Any, schema: Schema, path: str = "", old: Any = ABSENT) -> list[Cause]:
    """What the schema finds wrong with a value that is not large."""
    return at_once(validating(value, schema, path, old))


def validating(value: Any, schema: Schema, path: str = "", old: Any = ABSENT) -> Slices[list[Cause]]:
    """What the schema finds wrong."""
    if old is not ABSENT and same(value, old):
        return []
    causes = _Found([MAX_STEPS, max(MAX_STEPS - _STEPS_OF_TURN, 0)])
    try:
        yield from _value(value, schema, path, old, causes)
    except _TooComplex:
        text = (
            f"the object and the alternatives of its schema are too many: validation takes more than {MAX_STEPS} steps"
        )
        return [Cause("FieldValueInvalid", f'Invalid value: "": {text}', path or "<nil>")]
    return causes


def _asked(value: Any, schema: Schema, path: str, steps: list[int]) -> Slices[_Found]:
    """Of one alternative."""
    causes = _Found(steps)
    yield from _value(value, schema, path, ABSENT, causes)
    return causes


def _wrong(path: str, value: Any, text: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {violations.show(value)}: {path} in body {text}", path)


def _wrong_type(path: str, shown: Any, wanted: str) -> Cause:
    quoted = json.dumps(shown, ensure_ascii=False)
    return Cause(
        "FieldValueTypeInvalid", f"Invalid value: {quoted}: {path} in body must be of type {wanted}: {quoted}", path
    )


def _value(value: Any, schema: Schema, path: str, old: Any, causes: _Found) -> Slices[None]:
    steps = causes.steps
    steps[0] -= 1 + len(value) // _CHARS_OF_STEP if isinstance(value, str) else 1
    if steps[0] < steps[1]:
        if steps[0] < 0:
            raise _TooComplex
        steps[1] = max(steps[0] - _STEPS_OF_TURN, 0)
        yield
    if value is None and schema.get("nullable"):
        return
    if not _type(value, schema, path, causes):
        return
    if "enum" in schema and not any(same(value, allowed) for allowed in schema["enum"]):
        shown = ", ".join(violations.show(allowed) for allowed in schema["enum"])
        message = f"Unsupported value: {violations.show(value)}: supported values: {shown}"
        causes.append(Cause("FieldValueNotSupported", message, path))
    if isinstance(value, str):
        _text(value, schema, path, causes)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _number(value, schema, path, causes)
    elif isinstance(value, list):
        yield from _list(value, schema, path, old, causes)
    elif isinstance(value, dict):
        yield from _object(value, schema, path, old, causes)
    if not _COMBINATIONS.isdisjoint(schema):
        yield from _combinations(value, schema, path, causes)


def _type(value: Any, schema: Schema, path: str, causes: _Found) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        name = type_name(value)
        if name not in ("integer", "string"):
            causes.append(_wrong_type(path, name, "integer,string"))
            return False
        return True
    wanted = schema.get("type")
    if not wanted:
        return True
    found = type_name(value)
    if found == wanted or (wanted == "number" and found == "integer"):
        return True
    if wanted == "integer" and found == "number" and value == math.floor(value):
        return True
    causes.append(_wrong_type(path, found, wanted))
    if wanted == "integer" and found == "number":
        text = f"Checked value must be of type integer (default format) in {path}"
        causes.append(Cause("FieldValueInvalid", f'Invalid value: "": {text}', "<nil>"))
    return False


def _text(value: str, schema: Schema, path: str, causes: _Found) -> None:
    longest, shortest = schema.get("maxLength"), schema.get("minLength")
    pattern = schema.get("pattern")
    if longest is not None and len(value) > longest:
        causes.append(violations.too_long(path, longest))
    elif shortest is not None and len(value) < shortest:
        causes.append(_wrong(path, value, f"should be at least {shortest} chars long"))
    elif pattern and not _found(pattern, value):
        causes.append(_wrong(path, value, f"should match '{pattern}'"))
    name = schema.get("format")
    if name and not formats.fits(value, name):
        causes.append(_wrong_type(path, value, name))


def _found(pattern: str, value: str) -> bool:
    try:
        return regex.search(pattern, value)
    except ValueError:
        return False  # a definition with such a pattern is refused; this one is from before


def _number(value: float, schema: Schema, path: str, causes: _Found) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None:
        strictly = schema.get("exclusiveMaximum")
        if value > high or (strictly and value == high):
            text = "less than" if strictly else "less than or equal to"
            causes.append(_wrong(path, value, f"should be {text} {_shown(high)}"))
    if low is not None:
        strictly = schema.get("exclusiveMinimum")
        if value < low or (strictly and value == low):
            text = "greater than" if strictly else "greater than or equal to"
            causes.append(_wrong(path, value, f"should be {text} {_shown(low)}"))
    factor = schema.get("multipleOf")
    if factor and not _is_multiple(value, factor):
        causes.append(_wrong(path, value, f"should be a multiple of {_shown(factor)}"))
    name = schema.get("format")
    if name in ("int32", "int64") and isinstance(value, int) and not formats.integer_fits(value, name):
        causes.append(_wrong(path, value, f"Checked value must be of type integer with format {name} in {path}"))


def _shown(number: float) -> str:
    return str(int(number)) if number == math.floor(number) and abs(number) < 1e21 else str(number)


def _is_multiple(value: float, factor: float) -> bool:
    if isinstance(value, int) and factor == int(factor):
        return value % int(factor) == 0
    try:
        return (value / factor) == math.floor(value / factor)
    except OverflowError:
        return False


def _list(value: list[Any], schema: Schema, path: str, old: Any, causes: _Found) -> Slices[None]:
    most, fewest = schema.get("maxItems"), schema.get("minItems")
    if most is not None and len(value) > most:
        causes.append(violations.too_many(path, len(value), most))
    if fewest is not None and len(value) < fewest:
        causes.append(_wrong(path, value, f"should have at least {fewest} items"))
    items = schema.get("items")
    if isinstance(items, dict):
        for index, (item, before) in enumerate(zip(value, correlated(value, schema, old), strict=True)):
            if before is ABSENT or not same(item, before):
                yield from _value(item, items, f"{path}[{index}]", before, causes)


def _object(value: dict[str, Any], schema: Schema, path: str, old: Any, causes: _Found) -> Slices[None]:
    most, fewest = schema.get("maxProperties"), schema.get("minProperties")
    if most is not None and len(value) > most:
        causes.append(violations.too_many(path, len(value), most))
    if fewest is not None and len(value) < fewest:
        causes.append(_wrong(path, value, f"should have at least {fewest} properties"))
    for name in schema.get("required") or ():
        if name not in value:
            causes.append(violations.required(f"{path}.{name}" if path else name))
    properties = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    for key, item in value.items():
        inner = properties.get(key)
        if inner is None and isinstance(others, dict):
            inner = others
        if inner is not None:
            before = old.get(key, ABSENT) if isinstance(old, dict) else ABSENT
            if before is ABSENT or not same(item, before):
                yield from _value(item, inner, f"{path}.{key}" if path else key, before, causes)


_COMBINATIONS: Final = frozenset(("allOf", "anyOf", "oneOf", "not"))


def _combinations(value: Any, schema: Schema, path: str, causes: _Found) -> Slices[None]:
    def complain(text: str) -> None:
        causes.append(Cause("FieldValueInvalid", f'Invalid value: "": "{path}" {text}', "<nil>"))

    steps = causes.steps
    for inner in schema.get("allOf") or ():
        found = yield from _asked(value, inner, path, steps)
        if found:
            causes.extend(found)
            complain("must validate all the schemas (allOf)")
    # Each alternative is asked once, for the answer and for its complaints: twice would double with every level of nesting.
    alternatives = schema.get("anyOf")
    if alternatives:
        nearest: _Found | None = None
        for inner in alternatives:
            found = yield from _asked(value, inner, path, steps)
            nearest = found if nearest is None or len(found) < len(nearest) else nearest
            if not found:
                break
        if nearest:
            complain("must validate at least one schema (anyOf)")
            causes.extend(nearest)
    alternatives = schema.get("oneOf")
    if alternatives:
        answers = []
        for inner in alternatives:
            answers.append((yield from _asked(value, inner, path, steps)))
        count = sum(not found for found in answers)
        if count != 1:
            detail = f"Found {count} valid alternatives" if count else "Found none valid"
            complain(f"must validate one and only one schema (oneOf). {detail}")
            if not count:
                best = min(answers, key=len)
                causes.extend(best)
    if "not" in schema:
        found = yield from _asked(value, schema["not"], path, steps)
        if not found:
            complain("must not validate the schema (not)")


# lists


def element_key(item: Any, keys: list[str], schema: Schema) -> str | None:
    """What tells an element of a keyed list from the others; None for one that has no keys."""
    if not isinstance(item, dict):
        return None
    properties = (schema.get("items") or {}).get("properties") or {}
    found = {}
    for key in keys:
        if key in item:
            found[key] = item[key]
        elif "default" in properties.get(key, {}):
            found[key] = properties[key]["default"]
    return json.dumps(found, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def correlated(value: list[Any], schema: Schema, old: Any) -> Iterator[Any]:
    """For each element what it was before: by its keys in a keyed list; elements of other lists have no past."""
    if not isinstance(old, list) or schema.get(LIST_TYPE) != "map":
        yield from (ABSENT for _ in value)
        return
    keys = list(schema.get(LIST_KEYS) or ())
    before: dict[str, Any] = {}
    for item in old:
        key = element_key(item, keys, schema)
        if key is not None:
            before.setdefault(key, item)
    for item in value:
        key = element_key(item, keys, schema)
        yield before.get(key, ABSENT) if key is not None else ABSENT


def validate_lists(value: Any, schema: Schema, path: str = "", old: Any = ABSENT) -> list[Cause]:
    """Elements that stand twice in a set or in a keyed list, of a value that is not large."""
    return at_once(validating_lists(value, schema, path, old))


def validating_lists(value: Any, schema: Schema, path: str = "", old: Any = ABSENT) -> Slices[list[Cause]]:
    """Elements that stand twice in a set or in a keyed list."""
    causes = _Found([0])
    yield from _lists(value, schema, path, old, causes)
    return causes


def _lists(value: Any, schema: Schema, path: str, old: Any, causes: _Found) -> Slices[None]:
    causes.steps[0] += 1
    if causes.steps[0] % _STEPS_OF_TURN == 0:
        yield
    if old is not ABSENT and same(value, old):
        return
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        others = schema.get("additionalProperties")
        for key, item in value.items():
            inner = properties.get(key)
            if inner is None and isinstance(others, dict):
                inner = others
            if inner is not None:
                before = old.get(key, ABSENT) if isinstance(old, dict) else ABSENT
                yield from _lists(item, inner, f"{path}.{key}" if path else key, before, causes)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        kind = schema.get(LIST_TYPE)
        if kind in ("set", "map"):
            keys = list(schema.get(LIST_KEYS) or ())
            seen: set[str] = set()
            for index, item in enumerate(value):
                if index % _STEPS_OF_TURN == _STEPS_OF_TURN - 1:
                    yield
                key = (
                    element_key(item, keys, schema)
                    if kind == "map"
                    else json.dumps(item, sort_keys=True, separators=(",", ":"))
                )
                if key is None:
                    continue
                if key in seen:
                    shown = json.loads(key)
                    causes.append(violations.duplicate(f"{path}[{index}]", shown))
                seen.add(key)
        for index, (item, before) in enumerate(zip(value, correlated(value, schema, old), strict=True)):
            yield from _lists(item, schema["items"], f"{path}[{index}]", before, causes)
