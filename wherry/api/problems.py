"""What is wrong with a value that does not decode: where, what, and what would be right.

Raised by `codec` (and the readers under it), shown by the CLI and mapped to 400 by the fronts.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from wherry.api.errors import BadRequest

# Past this many, further problems of one document are counted, not kept: a file of another format would give one a line.
MAX_PROBLEMS = 100
# Elements of all lists and maps of one document together, an object among them counted as three. What is real has some hundreds;
# what has a million keeps whoever validates it busy for a minute.
MAX_ELEMENTS = 60_000
OBJECT_WEIGHT = 3
TOO_MANY = (
    f"the lists and maps of one body have more than {MAX_ELEMENTS} elements (an object counts as {OBJECT_WEIGHT})"
)
_SHOWN_CHARS = 60

Code = Literal["syntax", "unknown", "duplicate", "type", "value", "limit"]

# A path is a linked list of (parent, key), so that descending costs one small tuple; None is the root.
Path = Any


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """`path` in JSON names ("" is the document itself). `document` counts from 1 in its file, `line` likewise; 0 where
    there is no text to point at."""

    path: str
    message: str
    code: Code = "value"
    document: int = 0
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def kubernetes_words(self) -> str:
        """As Kubernetes' warnings and strict decoding errors say it: `unknown field "spec.foo"`."""
        if self.code in ("unknown", "duplicate"):
            return f'{self.code} field "{self.path}"'
        return str(self)


class DecodeError(BadRequest):
    """A value, a body or a manifest that does not decode; `problems` has every one that was found."""

    def __init__(self, problems: Sequence[FieldProblem], *, source: str = "", kind: str = "", omitted: int = 0) -> None:
        self.problems = list(problems)
        self.source = source
        self.omitted = omitted
        several = any(problem.document > 1 for problem in problems)
        lines = [_place(source, problem, several) + str(problem) for problem in problems]
        if omitted:
            lines.append(f"... and {omitted} more")
        super().__init__("\n".join(lines), kind=kind)

    def strict_message(self) -> str:
        """Kubernetes' one-line form for field validation: `strict decoding error: unknown field "spec.foo", ...`."""
        return "strict decoding error: " + ", ".join(problem.kubernetes_words() for problem in self.problems)


def _place(source: str, problem: FieldProblem, several: bool) -> str:
    if not source:
        return ""
    place = source
    if problem.line:
        place += f":{problem.line}"
    if several:
        place += f": document {problem.document}"
    return place + ": "


def format_path(path: Path) -> str:
    """`spec.containers[0].image`; a key that is no plain name stands in brackets: `metadata.labels[a.b/c]`."""
    keys: list[str | int] = []
    while path is not None:
        path, key = path
        keys.append(key)
    return join_path("", reversed(keys))


def join_path(prefix: str, keys: Iterable[str | int]) -> str:
    out = prefix
    for key in keys:
        if isinstance(key, int) or "." in key or "/" in key or not key:
            out += f"[{key}]"
        else:
            out += f".{key}" if out else key
    return out


def show(value: object) -> str:
    """A value in an error message: short, and as the user wrote it."""
    if isinstance(value, dict):
        return "an object" if value else "{}"
    if isinstance(value, list):
        return "a list" if value else "[]"
    text = (
        json.dumps(value, ensure_ascii=False) if isinstance(value, str | int | float) or value is None else str(value)
    )
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


class Problems:
    """Collects what one decoding finds. Unknown and duplicate fields are errors when `strict`, else warnings."""

    __slots__ = ("depth", "elements", "found", "omitted", "strict", "warnings")

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.found: list[FieldProblem] = []
        self.warnings: list[str] = []
        self.omitted = 0
        self.elements = 0  # of lists and maps, so far
        self.depth = 0  # of messages that contain themselves (JSONSchemaProps)

    def add(self, path: str, message: str, code: Code = "value") -> None:
        if len(self.found) >= MAX_PROBLEMS:
            self.omitted += 1
            return
        self.found.append(FieldProblem(path, message, code))

    def affords(self, path: Path, elements: int) -> bool:
        """Whether so many more elements are within the limit of one document; a problem when they are not."""
        self.elements += elements
        if self.elements <= MAX_ELEMENTS:
            return True
        self.add(format_path(path), TOO_MANY, "limit")
        return False

    def wrong(self, path: Path, expected: str, value: object) -> None:
        self.add(format_path(path), f"expected {expected}, got {show(value)}", "type")

    def bad(self, path: Path, message: str) -> None:
        self.add(format_path(path), message)

    def unknown(self, path: Path, key: str, known: Iterable[str]) -> None:
        place = format_path((path, key))
        if not self.strict:
            if len(self.warnings) < MAX_PROBLEMS:
                self.warnings.append(f'unknown field "{place}"')
            return
        near = nearest(key, known)
        self.add(place, f'unknown field (did you mean "{near}"?)' if near else "unknown field", "unknown")

    def duplicate(self, path: str) -> None:
        if not self.strict:
            if len(self.warnings) < MAX_PROBLEMS:
                self.warnings.append(f'duplicate field "{path}"')
            return
        self.add(path, "duplicate field: the same key stands twice in one object", "duplicate")


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that a mistyped one most likely means, or ""."""
    folded = {name.lower(): name for name in sorted(known)}
    if word.lower() in folded:
        return folded[word.lower()]
    matches = difflib.get_close_matches(word[:100].lower(), folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else ""


def placed(problem: FieldProblem, *, document: int, line: int) -> FieldProblem:
    return replace(problem, document=document, line=line)
