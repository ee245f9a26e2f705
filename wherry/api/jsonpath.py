"""The JSONPath of kubectl: `{.items[*].metadata.name}`, `{range .items[*]}...{end}`, filters, slices, `..name`.

Rules: https://kubernetes.io/docs/reference/kubectl/jsonpath/ . Works on plain values, the JSON form of objects.
Called by the CLI, and by the registry for the columns of custom resources.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any


class JSONPathError(Exception):
    """The template is wrong, or names a field that is not there."""


_TOKEN = re.compile(
    r"""\.\.(?P<deep>[\w-]+|\*)|\.(?P<field>(?:[\w-]|\\.|/)+|\*)|\[(?P<bracket>(?:'(?:\\.|[^'])*'|"(?:\\.|[^"])*"|[^\]'"])*)\]"""
)
_FILTER = re.compile(r"""^\?\(\s*(?P<left>@[^=!<>~ ]*)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<right>.+?)\s*)?\)$""")


def _field(value: Any, name: str) -> list[Any]:
    if name == "*":
        if isinstance(value, dict):
            return list(value.values())
        return list(value) if isinstance(value, list) else []
    if isinstance(value, dict) and name in value:
        return [value[name]]
    return []


def _deep(value: Any, name: str) -> Iterator[Any]:
    yield from _field(value, name)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _deep(child, name)


def _literal(text: str) -> Any:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace("\\" + text[0], text[0])
    try:
        return json.loads(text)
    except ValueError:
        raise JSONPathError(f"unrecognised value {text!r} in a filter: quote strings") from None


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}


def _filtered(value: Any, expression: str) -> list[Any]:
    match = _FILTER.match(expression)
    if match is None:
        raise JSONPathError(f'cannot read the filter [{expression}]; write it as [?(@.field=="value")]')
    chosen = []
    for item in value if isinstance(value, list) else []:
        left = find(match["left"][1:], item)
        if match["op"] is None:
            keep = bool(left)
        else:
            right = match["right"]
            wanted = find(right[1:], item) if right.startswith("@") else [_literal(right)]
            try:
                keep = bool(left and wanted) and _COMPARE[match["op"]](left[0], wanted[0])
            except TypeError:
                keep = False
        if keep:
            chosen.append(item)
    return chosen


def _bracket(value: Any, text: str) -> list[Any]:
    text = text.strip()
    if text.startswith("?"):
        return _filtered(value, text)
    if text == "*":
        return _field(value, "*")
    if text[:1] in ("'", '"'):
        return _field(value, str(_literal(text)))
    if not isinstance(value, list):
        return []
    found: list[Any] = []
    for part in text.split(","):
        try:
            numbers = [int(piece) if piece.strip() else None for piece in part.split(":")]
        except ValueError:
            raise JSONPathError(f"invalid array index [{text}]") from None
        if len(numbers) > 1:
            found.extend(value[slice(*numbers)])
        elif numbers[0] is None or not -len(value) <= numbers[0] < len(value):
            raise JSONPathError(f"array index out of bounds: index {part}, length {len(value)}")
        else:
            found.append(value[numbers[0]])
    return found


def find(path: str, value: Any) -> list[Any]:
    """All values at `path` (`.spec.containers[*].name`; "" and "." are the value itself)."""
    path = path.strip()
    if path.startswith("$"):
        path = path[1:]
    if path in ("", "."):
        return [value]
    if path[0] not in ".[":
        path = "." + path
    current, position = [value], 0
    while position < len(path):
        match = _TOKEN.match(path, position)
        if match is None:
            raise JSONPathError(f"cannot read {path[position:]!r} in the path {path!r}")
        position = match.end()
        following: list[Any] = []
        for item in current:
            if match["deep"] is not None:
                following.extend(_deep(item, match["deep"]))
            elif match["field"] is not None:
                following.extend(_field(item, re.sub(r"\\(.)", r"\1", match["field"])))
            else:
                following.extend(_bracket(item, match["bracket"]))
        current = following
    return current


def text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _pieces(template: str) -> list[tuple[bool, str]]:
    """(is an expression, text) in order."""
    pieces, position = [], 0
    for match in re.finditer(r"\{((?:'[^']*'|\"(?:\\.|[^\"])*\"|[^}'\"])*)\}", template):
        if match.start() > position:
            pieces.append((False, template[position : match.start()]))
        pieces.append((True, match[1].strip()))
        position = match.end()
    if position < len(template):
        pieces.append((False, template[position:]))
    return pieces


def render(template: str, value: Any) -> str:
    """A whole template, text and expressions. Raises JSONPathError; a field that is absent prints nothing."""
    if "{" not in template:
        template = "{" + template + "}"
    pieces = _pieces(template)
    output: list[str] = []
    _render(pieces, 0, value, value, output)
    return "".join(output)


def _render(pieces: list[tuple[bool, str]], start: int, value: Any, root: Any, output: list[str]) -> int:
    position = start
    while position < len(pieces):
        is_expression, text = pieces[position]
        position += 1
        if not is_expression:
            output.append(text)
        elif text == "end":
            return position
        elif text.startswith("range"):
            items = find(text[5:], value)
            after = position
            for item in items:
                after = _render(pieces, position, item, root, output)
            position = after if items else _skip(pieces, position)
        elif text[:1] in ("'", '"'):
            output.append(
                json.loads('"' + text[1:-1].replace('"', '\\"') + '"') if text[0] == "'" else json.loads(text)
            )
        else:
            source = root if text.startswith("$") else value
            output.append(" ".join(text_of(item) for item in find(text.removeprefix("@"), source)))
    return position


def _skip(pieces: list[tuple[bool, str]], position: int) -> int:
    depth = 1
    while position < len(pieces) and depth:
        is_expression, text = pieces[position]
        if is_expression and text.startswith("range"):
            depth += 1
        elif is_expression and text == "end":
            depth -= 1
        position += 1
    if depth:
        raise JSONPathError("a {range} without its {end}")
    return position
