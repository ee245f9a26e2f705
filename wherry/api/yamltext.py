"""YAML text to plain values, read the way kubectl reads it, with bounds against bombs of nesting and of aliases.

What is a number or a boolean is what Kubernetes' YAML library takes for one (checked against kubectl): the words of
YAML 1.1 (yes, no, on, off, y, n) are booleans, 017 and 0o17 are octal, dates stay strings, and keys become strings.
Called by `codec`. libyaml does the scanning; the values are built here from its events, without recursion. PyYAML is
imported when the first text is read: a control plane that is sent JSON and protobuf never needs it.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wherry.api.jsontext import MAX_DEPTH
from wherry.api.problems import DecodeError, FieldProblem, join_path

# Values that aliases may add up to beyond what is written out; a bomb has billions, a real file some hundreds.
MAX_ALIASED_VALUES = 100_000

_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    form: value
    for value, words in ((True, ("y", "yes", "true", "on")), (False, ("n", "no", "false", "off")))
    for word in words
    for form in (word, word.capitalize(), word.upper())
}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|([1-9][0-9]*|0))", re.ASCII)
_NOT_A_NUMBER = {"inf", "Inf", "INF", "nan", "NaN", "NAN"}
_TAG = "tag:yaml.org,2002:"


@dataclass(slots=True)
class Parsed:
    """`lines` has the line of every path (1-based, in the text given) when it was asked for."""

    value: Any
    duplicates: list[str] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)


class _Wrong(Exception):
    def __init__(self, message: str, mark: Any, code: Any = "syntax") -> None:
        super().__init__(message)
        self.message = message
        self.mark = mark
        self.code = code


def parse(text: str, *, with_lines: bool = False) -> Parsed:
    """One document; no document at all is None. Raises DecodeError whose problem has the line."""
    import yaml

    builder = _Builder(with_lines)
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.feed(event)
    except _Wrong as wrong:
        problem = FieldProblem("", wrong.message, wrong.code, 1, wrong.mark.line + 1)
        raise DecodeError([problem]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        problem = FieldProblem("", f"not YAML: {reason}", "syntax", 1, mark.line + 1 if mark else 0)
        raise DecodeError([problem]) from None
    except yaml.YAMLError as error:
        raise DecodeError([FieldProblem("", f"not YAML: {' '.join(str(error).split())}", "syntax", 1, 0)]) from None
    except ValueError as error:  # an escape for a surrogate, or a code point past the last
        raise DecodeError([FieldProblem("", f"not YAML: {error}", "syntax", 1, 0)]) from None
    return Parsed(builder.root, builder.duplicates, builder.lines)


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been seen."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    path: tuple[str | int, ...]
    size: int = 1  # values within, with aliases followed
    height: int = 0
    key: str | None = None  # a mapping's key that waits for its value
    merging: bool = False
    merges: list[Any] = field(default_factory=list)


class _Builder:
    def __init__(self, with_lines: bool) -> None:
        self.root: Any = None
        self.duplicates: list[str] = []
        self.lines: dict[str, int] = {}
        self._with_lines = with_lines
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # value, size, height
        self._aliased = 0
        self._documents = 0

    def feed(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "ScalarEvent":
            if self._waits_for_key():
                self._set_key(event)
                return
            value = _scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = (value, 1, 0)
            self._add(value, 1, 0, event)
        elif kind == "MappingStartEvent" or kind == "SequenceStartEvent":
            self._open(event, {} if kind == "MappingStartEvent" else [])
        elif kind == "MappingEndEvent" or kind == "SequenceEndEvent":
            self._close(event)
        elif kind == "AliasEvent":
            self._alias(event)
        elif kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise _Wrong("not YAML: a second document where one was expected", event.start_mark)

    def _waits_for_key(self) -> bool:
        top = self._stack[-1] if self._stack else None
        return top is not None and type(top.value) is dict and top.key is None and not top.merging

    def _path(self) -> tuple[str | int, ...]:
        if not self._stack:
            return ()
        top = self._stack[-1]
        return (*top.path, len(top.value) if type(top.value) is list else top.key or "<<")

    def _open(self, event: Any, value: Any) -> None:
        if self._waits_for_key():
            raise _Wrong("not YAML for Kubernetes: a list or an object as a key", event.start_mark)
        if len(self._stack) >= MAX_DEPTH:
            raise _Wrong(f"nested more than {MAX_DEPTH} levels deep", event.start_mark, "limit")
        if event.tag and event.tag not in (f"{_TAG}map", f"{_TAG}seq", "!"):
            raise _Wrong(f"unsupported tag {event.tag}", event.start_mark)
        path = self._path()
        self._note_line(path, event)
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        self._stack.append(_Open(value, event.anchor, path))

    def _close(self, event: Any) -> None:
        top = self._stack.pop()
        if top.merges:
            assert type(top.value) is dict
            for source in top.merges:
                for key, item in source.items():
                    top.value.setdefault(key, item)
        if top.anchor:
            self._anchors[top.anchor] = (top.value, top.size, top.height + 1)
        self._add(top.value, top.size, top.height + 1, event, noted=True)

    def _alias(self, event: Any) -> None:
        found = self._anchors.get(event.anchor)
        if found is None:
            if any(opened.anchor == event.anchor for opened in self._stack):
                raise _Wrong(f'the alias "*{event.anchor}" stands inside what it refers to', event.start_mark)
            raise _Wrong(f'not YAML: unknown anchor "{event.anchor}"', event.start_mark)
        value, size, height = found
        if self._waits_for_key():
            if isinstance(value, dict | list):
                raise _Wrong("not YAML for Kubernetes: a list or an object as a key", event.start_mark)
            self._put_key(_key_text(value, event), event)
            return
        self._aliased += size
        if self._aliased > MAX_ALIASED_VALUES:
            raise _Wrong(f"aliases add up to more than {MAX_ALIASED_VALUES} values", event.start_mark, "limit")
        if len(self._stack) + height > MAX_DEPTH:
            raise _Wrong(f"nested more than {MAX_DEPTH} levels deep", event.start_mark, "limit")
        self._add(value, size, height, event)

    def _set_key(self, event: Any) -> None:
        top = self._stack[-1]
        if event.value == "<<" and event.implicit[0]:
            top.merging = True
            return
        value = _scalar(event)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1, 0)
        self._put_key(_key_text(value, event), event)

    def _put_key(self, key: str, event: Any) -> None:
        top = self._stack[-1]
        assert type(top.value) is dict
        if key in top.value:
            path = (*top.path, key)
            self.duplicates.append(join_path("", path))
            self._note_line(path, event)
        top.key = key

    def _add(self, value: Any, size: int, height: int, event: Any, *, noted: bool = False) -> None:
        if not self._stack:
            self.root = value
            return
        if self._with_lines and not noted:
            self._note_line(self._path(), event)
        top = self._stack[-1]
        top.size += size
        top.height = max(top.height, height)
        if type(top.value) is list:
            top.value.append(value)
        elif top.merging:
            sources = value if type(value) is list else [value]
            if not all(type(source) is dict for source in sources):
                raise _Wrong("the merge key << wants an object, or a list of objects", event.start_mark)
            top.merges.extend(sources)
            top.merging = False
        else:
            assert type(top.value) is dict
            assert top.key is not None
            top.value[top.key] = value
            top.key = None

    def _note_line(self, path: tuple[str | int, ...], event: Any) -> None:
        if self._with_lines:
            self.lines[join_path("", path)] = event.start_mark.line + 1


def _scalar(event: Any) -> Any:
    text: str = event.value
    tag = event.tag
    if tag is None or tag == "!":
        return resolve(text) if event.implicit[0] and tag is None else text
    name = tag.removeprefix(_TAG)
    if name == "str":
        return text
    if name == "binary":
        try:
            return base64.b64decode(text, validate=False).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise _Wrong(f"!!binary value that is no base64 of UTF-8 text: {error}", event.start_mark) from error
    value = resolve(text)
    fits = {
        "null": value is None,
        "bool": type(value) is bool,
        "int": type(value) is int,
        "float": type(value) in (int, float),
        "timestamp": type(value) is str,
    }
    if name not in fits:
        raise _Wrong(f"unsupported tag {tag}", event.start_mark)
    if not fits[name]:
        raise _Wrong(f'cannot read "{text[:60]}" as !!{name}', event.start_mark)
    return value


def resolve(text: str) -> Any:
    """A plain scalar's value."""
    if text in _WORDS:
        return _WORDS[text]
    first = text[0]
    if first not in "+-.0123456789":
        return text
    digits = text.replace("_", "")
    match = _INTEGER.fullmatch(digits)
    if match is not None and len(digits) < 400:
        sign, hexadecimal, binary, octal, decimal = match.groups()
        for body, base in ((hexadecimal, 16), (binary, 2), (octal, 8), (decimal, 10)):
            if body is not None:
                return -int(body, base) if sign == "-" else int(body, base)
    if digits.lstrip("+-.") in _NOT_A_NUMBER and digits.startswith((".", "+.", "-.")):
        return float(digits.replace(".", "").lower())
    if _FLOAT.fullmatch(digits):
        number = float(digits)
        if math.isinf(number):
            return text
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return text


def _key_text(value: Any, event: Any) -> str:
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) in (int, float):
        return str(value)
    raise _Wrong("not YAML for Kubernetes: null as a key", event.start_mark)


_SEPARATOR = re.compile(r"^---(?=[ \t\r]|$)", re.MULTILINE)
_NOTHING = re.compile(r"(?:[ \t]*(?:#[^\n]*)?(?:\n|\Z)|\.\.\.[ \t]*(?:\n|\Z))*")


def split(text: str) -> Iterator[tuple[int, str]]:
    """The documents of a stream with the line each begins on (1-based), cut at `---` before parsing: so a document that
    is no YAML does not hide the others. Those with nothing but comments are left out."""
    text = text.replace("\r\n", "\n")
    starts = [0, *(match.start() for match in _SEPARATOR.finditer(text)), len(text)]
    line, directives = 1, ""
    for start, end in itertools.pairwise(starts):
        chunk = text[start:end]
        body = chunk[3:] if chunk.startswith("---") else chunk
        if chunk.startswith("%"):
            directives = chunk
        elif not (match := _NOTHING.fullmatch(body)) or match.end() != len(body):
            if directives:
                yield line - directives.count("\n"), directives + chunk
            else:
                yield line, chunk
            directives = ""
        line += chunk.count("\n")
