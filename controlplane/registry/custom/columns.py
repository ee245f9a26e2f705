"""The columns of a custom resource (additionalPrinterColumns) from JSON paths. Pure; called by `catalogue`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, name_column
from wherry.api import codec, jsonpath, times


def of_version(version: Any) -> Sequence[Column]:
    """Name first, and the age where a definition names no columns."""
    found = [_column(given) for given in version.additional_printer_columns]
    if not found:
        age = age_column()
        found = [Column("Age", age.cell, type="date", ages=True)]
    return (name_column(), *found)


def _column(given: Any) -> Column:
    path, kind = given.json_path, given.type

    def cell(obj: Any, now: float) -> Any:
        value: Any = codec.to_dict(obj)
        try:
            values = jsonpath.find(path, value)
        except jsonpath.JSONPathError:
            values = []
        return _shown(values, kind, now)

    return Column(
        given.name, cell, type=kind, format=given.format, priority=given.priority, description=given.description,
        passes=lambda obj: kind == "date",
    )  # fmt: skip


def _shown(values: list[Any], kind: str, now: float) -> Any:
    """None where there is nothing, or nothing of the column's type."""
    if not values or values[0] is None:
        return None
    value = values[0]
    if kind == "integer":
        if type(value) is float and value == int(value):
            value = int(value)
        return value if type(value) is int else None
    if kind == "number":
        return value if type(value) in (int, float) else None
    if kind == "boolean":
        return value if type(value) is bool else None
    if kind == "date":
        if not isinstance(value, str):
            return None
        try:
            seconds, _ = times.parse_rfc3339(value)
        except ValueError:
            return "<unknown>"
        return times.human_duration(now - seconds)
    if len(values) > 1:
        return " ".join(_text(item) for item in values)
    return _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
