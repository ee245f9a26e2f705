"""From objects and columns to a Table message, or to the cells of one object apart from its age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.registry.base import Stored
from controlplane.registry.strategy import Cell, Strategy
from wherry.pb import resources_pb2


def render(strategy: Strategy, items: Sequence[Stored], now: float) -> resources_pb2.Table:
    table = resources_pb2.Table()
    for column in strategy.columns:
        table.columns.add(
            name=column.name,
            type=column.type,
            format=column.format,
            description=column.description,
            priority=column.priority,
        )
    for stored in items:
        obj: Any = stored.message()
        row = table.rows.add(namespace=obj.metadata.namespace, name=obj.metadata.name)
        row.metadata.CopyFrom(obj.metadata)
        for column in strategy.columns:
            value = column.cell(obj, now)
            if value is None:
                row.cells.add()
            elif isinstance(value, float):
                row.cells.add(fraction=value)
            elif isinstance(value, bool):
                row.cells.add(flag=value)
            elif isinstance(value, int):
                row.cells.add(number=value)
            else:
                row.cells.add(text=value)
    return table


@dataclass(frozen=True, slots=True)
class Cells:
    """Of one object: the `values` in the order of the columns, of which those at `ages` are its age and not yet made. `since` is
    its creation in Unix seconds, 0 where it has none. `lasting`: no other cell changes as long as the object does not."""

    values: list[Cell]
    ages: tuple[int, ...]
    since: int
    lasting: bool


def cells(strategy: Strategy, stored: Stored, now: float) -> Cells:
    obj: Any = stored.message()
    values: list[Cell] = []
    ages = []
    lasting = True
    for place, column in enumerate(strategy.columns):
        if column.ages:
            ages.append(place)
            values.append(None)
        else:
            values.append(column.cell(obj, now))
            lasting = lasting and not column.passes(obj)
    return Cells(values, tuple(ages), int(obj.metadata.creation_timestamp.seconds), lasting)
