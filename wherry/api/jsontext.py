"""JSON text to plain values, with the checks that parsers leave out: depth, duplicate keys, encoding, NaN, large numbers.

Called by `codec` and `jsonforms`, and by the fronts for patch bodies. orjson reads what is plain; whatever it refuses, or
could have lost something of, goes to the standard parser, which finds the words for it. A lone surrogate becomes U+FFFD,
as in Go.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from wherry.api.problems import DecodeError, FieldProblem, join_path

MAX_DEPTH = 200  # levels of objects and lists; what real manifests have stays under 40
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
# The end of a number with an exponent that makes it larger, in compact JSON (or of something like it within a string). It begins
# with a letter of its own so that the search is fast.
_LARGE = re.compile(rb"e\+?\d+(?:[,}\]]|\Z)")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Pairs(list[tuple[str, Any]]):
    """An object with all of its keys, twice-written ones included."""


def text_of(data: bytes | str, source: str = "") -> str:
    """UTF-8 (with or without a mark), or DecodeError."""
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = FieldProblem(
            "", f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}", "syntax", 1, line
        )
        raise DecodeError([problem], source=source) from error


def parse(data: bytes | str) -> tuple[Any, list[str]]:
    """The value, and the paths of keys that stand twice in their object (the last one wins). Raises DecodeError."""
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    try:
        value = orjson.loads(raw)
        again = orjson.dumps(value)
    except (orjson.JSONDecodeError, TypeError):  # TypeError: deeper than orjson writes
        return _parse_thoroughly(data)
    if again != raw and _may_have_lost(raw, again):
        return _parse_thoroughly(data)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_too_deep(value):
        raise _too_deep()
    return value, []


def read(text: bytes | str) -> Any:
    """The value of JSON that somebody else wrote into a field of his. Raises ValueError, also for what is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from error


def load(raw: bytes) -> Any:
    """The value of JSON that is known to be well-formed (a stored `raw` field), exactly. Raises ValueError where it is not."""
    try:
        value = orjson.loads(raw)
        again = orjson.dumps(value)
        if again == raw or not _has_large_numbers(again):
            return value
    except (orjson.JSONDecodeError, TypeError):  # TypeError: deeper than orjson writes
        pass
    return json.loads(raw, parse_constant=_no_constant, parse_float=_float)


def _may_have_lost(raw: bytes, again: bytes) -> bool:
    """Whether a value, written again, may be less than it was: a key stood twice, or a number was too large."""
    # A colon stands behind each key, in strings, and nowhere else.
    if raw.count(b":") != again.count(b":") or _has_large_numbers(again):
        return True
    return b"\\" in raw and (b"\\u003a" in raw or b"\\u003A" in raw)


def _has_large_numbers(written: bytes) -> bool:
    """orjson reads an integer of more than 64 bits as a float, and writes such floats with an exponent: some of its versions
    with a sign (1e+20), others without."""
    return _LARGE.search(written) is not None


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    return bool(level)


def _parse_thoroughly(data: bytes | str) -> tuple[Any, list[str]]:
    text = text_of(data)
    check_depth(text)
    twice = False

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        out = dict(pairs)
        if len(out) != len(pairs):
            twice = True
        return out

    try:
        value = json.loads(text, object_pairs_hook=collect, parse_constant=_no_constant, parse_float=_float)
        duplicates: list[str] = []
        if twice:
            _find_duplicates(json.loads(text, object_pairs_hook=_Pairs), (), duplicates)
    except RecursionError as error:
        raise _too_deep() from error
    except json.JSONDecodeError as error:
        raise DecodeError([FieldProblem("", f"not JSON: {_reason(error)}", "syntax", 1, error.lineno)]) from error
    except ValueError as error:  # a constant, a float or an integer out of all bounds
        raise DecodeError([FieldProblem("", f"not JSON: {error}", "syntax")]) from error
    # Bytes hold a surrogate only as an escape; a str may hold one as it is.
    suspect = "\\u" in text or (isinstance(data, str) and not text.isascii() and _SURROGATE.search(text))
    return (clean(value) if suspect else value), duplicates


def _reason(error: json.JSONDecodeError) -> str:
    return f"{error.msg[:1].lower()}{error.msg[1:]} at line {error.lineno} column {error.colno}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:60]} is out of range")
    return number


def _too_deep() -> DecodeError:
    return DecodeError([FieldProblem("", f"nested more than {MAX_DEPTH} levels deep", "limit")])


def check_depth(text: str) -> None:
    """Refuses a bomb of brackets before anything recurses into it. Cheap where there are few brackets at all."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise _too_deep()
        elif token in ("]", "}"):
            depth -= 1


def _find_duplicates(value: Any, path: tuple[str | int, ...], found: list[str]) -> None:
    if isinstance(value, _Pairs):
        seen = set()
        for key, item in value:
            if key in seen:
                found.append(join_path("", (*path, key)))
            seen.add(key)
            _find_duplicates(item, (*path, key), found)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _find_duplicates(item, (*path, index), found)


def clean(value: Any) -> Any:
    """The value without lone surrogates, which UTF-8 and so protobuf cannot hold."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value) if _SURROGATE.search(value) else value
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return value
