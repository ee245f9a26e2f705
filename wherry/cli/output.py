"""Prints objects: tables for people (coloured on a terminal), and json, yaml, name, jsonpath, custom-columns for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from wherry.api import codec, jsonpath, yamlout
from wherry.cli.resources import UsageError, full_name
from wherry.pb import resources_pb2

FORMATS = ("", "wide", "json", "yaml", "name")

# What a word in a table means to a person: good, waiting, bad.
_GOOD = re.compile(
    r"^(Running|Ready|Active|Bound|Available|Succeeded|Completed|Complete|True|Approved,Issued|Healthy)$"
)
_WAITING = re.compile(
    r"^(Pending|ContainerCreating|PodInitializing|Terminating|Init:\d+/\d+|.*SchedulingDisabled|Unknown|Scheduling.*)$"
)
_BAD = re.compile(
    r"^(.*BackOff|.*Error|Err\w+|Failed|Evicted|OOMKilled|NotReady.*|Warning|Lost|ImageInspect.*|Invalid\w*|False)$"
)


def is_table(output: str) -> bool:
    return output in ("", "wide")


def check_format(output: str) -> None:
    """Raises UsageError for a format that does not exist."""
    if output in FORMATS or re.match(r"^(jsonpath|jsonpath-file|custom-columns|custom-columns-file)=", output):
        return
    raise UsageError(
        f'unable to match a printer suitable for the output format "{output}", allowed formats are: '
        "json,yaml,name,wide,jsonpath=,jsonpath-file=,custom-columns=,custom-columns-file="
    )


def paint(cell: str) -> str:
    """The cell with ANSI colour, when it is a known state."""
    for pattern, colour in ((_BAD, "31"), (_WAITING, "33"), (_GOOD, "32")):
        if pattern.match(cell):
            return f"\x1b[{colour}m{cell}\x1b[0m"
    return cell


def layout(rows: Sequence[Sequence[str]], *, colour: bool = False, widths: list[int] | None = None) -> list[str]:
    """Lines with columns three spaces apart, as kubectl's. `widths` grows in place, so a watch keeps its columns."""
    widths = widths if widths is not None else []
    for row in rows:
        widths.extend([0] * (len(row) - len(widths)))
        for index, cell in enumerate(row):
            widths[index] = max(widths[index], len(cell))
    lines = []
    for row in rows:
        cells = []
        for index, cell in enumerate(row):
            padding = "" if index == len(row) - 1 else " " * (widths[index] - len(cell) + 3)
            cells.append((paint(cell) if colour else cell) + padding)
        lines.append("".join(cells).rstrip())
    return lines


class TablePrinter:
    """Prints tables of one command one after the other; the header once, columns kept when a watch goes on."""

    def __init__(
        self, *, wide: bool = False, with_namespace: bool = False, no_headers: bool = False, show_labels: bool = False,
        label_columns: Sequence[str] = (), kind_prefix: str = "", file: Any = None,
    ) -> None:  # fmt: skip
        self.wide = wide
        self.with_namespace = with_namespace
        self.no_headers = no_headers
        self.show_labels = show_labels
        self.label_columns = label_columns
        self.kind_prefix = kind_prefix
        self.file = file or sys.stdout
        self._widths: list[int] = []
        self._header_done = False

    def rows_of(self, table: resources_pb2.Table, events: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
        """(header, rows) as text."""
        shown = [i for i, column in enumerate(table.columns) if self.wide or column.priority == 0]
        header = [table.columns[i].name.upper() for i in shown]
        if self.with_namespace:
            header.insert(0, "NAMESPACE")
        if events:
            header.insert(0, "EVENT")
        header += [label.rpartition("/")[2].upper() for label in self.label_columns]
        if self.show_labels:
            header.append("LABELS")
        rows = []
        for number, row in enumerate(table.rows):
            cells = [cell_text(row.cells[i]) if i < len(row.cells) else "" for i in shown]
            if self.kind_prefix and cells:
                cells[0] = f"{self.kind_prefix}/{cells[0]}"
            if self.with_namespace:
                cells.insert(0, row.namespace)
            if events:
                cells.insert(0, events[number])
            labels = row.metadata.labels
            cells += [
                labels.get(label, "") or "<none>" if label in labels else "<none>" for label in self.label_columns
            ]
            if self.show_labels:
                cells.append(",".join(f"{key}={labels[key]}" for key in sorted(labels)) or "<none>")
            rows.append(cells)
        return header, rows

    def print(self, table: resources_pb2.Table, events: Sequence[str] = ()) -> None:
        header, rows = self.rows_of(table, events)
        if not rows:
            return
        with_header = not self.no_headers and not self._header_done
        self._header_done = True
        colour = bool(self.file.isatty())
        for line in layout([header, *rows] if with_header else rows, colour=colour, widths=self._widths):
            print(line, file=self.file)
        self.file.flush()


def cell_text(cell: resources_pb2.Table.Cell) -> str:
    which = cell.WhichOneof("value")
    if which == "text":
        return cell.text
    if which == "number":
        return str(cell.number)
    if which == "flag":
        return "true" if cell.flag else "false"
    if which == "fraction":
        return f"{cell.fraction:g}"
    return "<none>"


def as_list(values: Sequence[Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "items": list(values), "kind": "List", "metadata": {"resourceVersion": ""}}


def plain(obj: Message, *, show_managed_fields: bool = False) -> dict[str, Any]:
    """The JSON form for people: without managedFields unless asked for, keys sorted as kubectl's."""
    value: dict[str, Any] = codec.to_dict(obj)
    if not show_managed_fields:
        value.get("metadata", {}).pop("managedFields", None)
    return _sorted(value)  # type: ignore[no-any-return]


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def print_values(values: Sequence[dict[str, Any]], output: str, *, as_list_always: bool = False) -> None:
    """json, yaml, jsonpath or custom-columns of plain objects: one as itself, several (or with as_list_always) as a List."""
    value: Any = values[0] if len(values) == 1 and not as_list_always else as_list(values)
    if output == "json":
        print(json.dumps(value, indent=4, ensure_ascii=False))
    elif output == "yaml":
        print(yamlout.dump(value), end="")
    elif output.startswith("jsonpath"):
        print(jsonpath.render(_template(output), value), end="")
    elif output.startswith("custom-columns"):
        _custom_columns(values, _template(output))
    else:
        check_format(output)


def _template(output: str) -> str:
    form, _, template = output.partition("=")
    if not form.endswith("-file"):
        return template
    try:
        with open(template, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"error reading template {template}: {error.strerror}") from error


def _custom_columns(values: Iterable[dict[str, Any]], specification: str) -> None:
    columns = []
    for part in specification.split(","):
        header, colon, path = part.partition(":")
        if not colon or not path:
            raise UsageError(f"unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>")
        columns.append((header, path.strip().removeprefix("{").removesuffix("}")))
    rows = [[header for header, _ in columns]]
    for value in values:
        rows.append(
            [",".join(jsonpath.text_of(item) for item in jsonpath.find(path, value)) or "<none>" for _, path in columns]
        )
    for line in layout(rows):
        print(line)


def name_of(resource: resources_pb2.APIResource, name: str) -> str:
    return f"{full_name(resource)}/{name}"


def sort_values(values: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    """By the value at a JSONPath (`.metadata.name`); numbers as numbers, absent ones first."""
    path = path.strip().removeprefix("{").removesuffix("}")

    def key(value: dict[str, Any]) -> tuple[int, float, str]:
        found = jsonpath.find(path, value)
        if not found:
            return (0, 0.0, "")
        if isinstance(found[0], bool) or not isinstance(found[0], int | float):
            return (1, 0.0, jsonpath.text_of(found[0]))
        return (1, float(found[0]), "")

    return sorted(values, key=key)
