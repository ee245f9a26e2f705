"""Tables of what nodes and pods use."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import name_column
from wherry.api import quantity, times


def _cpu(obj: Any, now: float) -> str:
    return str(obj.usage["cpu"].string) if "cpu" in obj.usage else ""


def _memory(obj: Any, now: float) -> str:
    return str(obj.usage["memory"].string) if "memory" in obj.usage else ""


def _window(obj: Any, now: float) -> str:
    return times.format_duration(obj.window.duration)


def _sum(resource: str) -> Any:
    def cell(obj: Any, now: float) -> str:
        total = sum(quantity.amount(item.usage[resource]) for item in obj.containers if resource in item.usage)
        return quantity.canonical(f"{int(total * 10**9)}n") if resource == "cpu" else quantity.from_bytes(int(total))

    return cell


NODES = (name_column(), Column("cpu", _cpu), Column("memory", _memory), Column("Window", _window))
PODS = (name_column(), Column("cpu", _sum("cpu")), Column("memory", _sum("memory")), Column("Window", _window))
