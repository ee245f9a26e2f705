"""Field selectors (`spec.nodeName=n1,status.phase!=Failed`) and paths of fields in JSON names.

Called by the registry (which knows what fields a kind may be selected by, and their values) and `explain`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from wherry.api.errors import BadRequest

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(?:'([^']*)'|\"([^\"]*)\"|([^\]'\"]+))\]")


class BadFieldSelector(BadRequest):
    """A field selector that does not parse."""


@dataclass(frozen=True, slots=True)
class Term:
    field: str
    equal: bool
    value: str

    def __str__(self) -> str:
        escaped = re.sub(r"([\\,=])", r"\\\1", self.value)
        return f"{self.field}{'=' if self.equal else '!='}{escaped}"


@dataclass(frozen=True, slots=True)
class Selector:
    """All terms must hold. An unset field is the empty string."""

    terms: tuple[Term, ...] = ()

    def matches(self, values: Mapping[str, str]) -> bool:
        """`values`: what the fields of an object are, as text, by path."""
        return all((values.get(term.field, "") == term.value) == term.equal for term in self.terms)

    def exact(self, field: str) -> str | None:
        """The one value that this selector allows a field to have, if it says so: an index can then answer it."""
        return next((term.value for term in self.terms if term.equal and term.field == field), None)

    def __str__(self) -> str:
        return ",".join(str(term) for term in self.terms)


def parse(selector: str) -> Selector:
    """Raises BadFieldSelector."""
    terms = []
    for part in re.findall(r"((?:\\.|[^,\\])+)", selector):
        term = part.strip()
        if not term:
            continue
        match = re.fullmatch(r"([^=!\\]*)(==|=|!=)((?:\\[\\,=]|[^\\,=])*)", term)
        if match is None:
            raise BadFieldSelector(f"invalid selector: '{selector}'; can't understand '{term}'")
        terms.append(Term(match.group(1), match.group(2) != "!=", re.sub(r"\\(.)", r"\1", match.group(3))))
    return Selector(tuple(terms))


@cache
def split(path: str) -> tuple[str, ...]:
    """`metadata.labels['a.b/c']` and `metadata.labels[a.b/c]` as their steps. Raises ValueError."""
    steps = []
    position = 0
    rest = path.removeprefix(".")
    while position < len(rest):
        match = _STEP.match(rest, position)
        if match is None:
            raise ValueError(f"\"{path}\" is no path of fields, such as spec.nodeName or metadata.labels['app']")
        steps.append(next(group for group in match.groups() if group is not None))
        position = match.end()
    return tuple(steps)
