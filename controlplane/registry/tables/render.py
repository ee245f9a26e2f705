"""From objects and columns to a Table message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.registry.base import Stored
from controlplane.registry.strategy import Strategy
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
