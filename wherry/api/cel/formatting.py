"""CEL's `"...".format([...])`: the verbs of C with CEL's own texts for its values. Called by `libraries`."""

from __future__ import annotations

import re
from typing import Any

from wherry.api.cel.values import (
    Duration,
    EvaluationError,
    Timestamp,
    TypeValue,
    format_double,
    format_duration,
    format_timestamp,
    is_number,
    kind_of,
)

_VERB = re.compile(r"%(%|(?:\.(\d{1,3}))?([a-zA-Z]))")


def formatted(text: str, args: list[Any]) -> str:
    used = 0

    def put(match: re.Match[str]) -> str:
        nonlocal used
        if match[1] == "%":
            return "%"
        if used >= len(args):
            raise EvaluationError(f"index {used} out of range")
        value = args[used]
        used += 1
        return _clause(match[3], match[2], value)

    rest = _VERB.sub("", text)
    if "%" in rest:
        raise EvaluationError('could not parse formatting clause: unrecognized formatting clause "%"')
    return _VERB.sub(put, text)


def _clause(verb: str, precision: str | None, value: Any) -> str:
    if verb == "s":
        return text_of(value)
    if verb == "d":
        if isinstance(value, int) and not isinstance(value, bool):
            return str(int(value))
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            return format_double(value)
        raise _refused("decimal", "integers", value)
    if verb in "fe":
        if not is_number(value):
            if value in ("NaN", "Infinity", "-Infinity"):
                return str(value)
            raise _refused("fixed-point" if verb == "f" else "scientific notation", "doubles", value)
        return f"{float(value):.{int(precision or 6)}{verb}}"
    if verb == "b":
        if isinstance(value, int):
            return f"{int(value):b}"
        raise _refused("binary", "integers and bools", value)
    if verb in "xX":
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{int(value):{verb}}"
        if isinstance(value, str | bytes):
            out = (value.encode() if isinstance(value, str) else value).hex()
            return out.upper() if verb == "X" else out
        raise _refused("hex", "integers, byte buffers, and strings", value)
    if verb == "o":
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{int(value):o}"
        raise _refused("octal", "integers", value)
    raise EvaluationError(f'could not parse formatting clause: unrecognized formatting clause "{verb}"')


def _refused(clause: str, kinds: str, value: Any) -> EvaluationError:
    return EvaluationError(
        f"error during formatting: {clause} clause can only be used on {kinds}, was given {kind_of(value)}"
    )


def text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, float):
        return format_double(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Timestamp):
        return format_timestamp(value)
    if isinstance(value, Duration):
        return format_duration(value)
    if isinstance(value, TypeValue):
        return value.name
    if isinstance(value, list):
        return "[" + ", ".join(text_of(item) for item in value) + "]"
    if isinstance(value, dict):
        entries = sorted((text_of(key), text_of(item)) for key, item in value.items())
        return "{" + ", ".join(f"{key}: {item}" for key, item in entries) + "}"
    kinds = "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
    raise _refused("string", kinds, value)
