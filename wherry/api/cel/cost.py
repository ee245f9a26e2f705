"""What an expression can cost at most, from the sizes that its variables' types promise. Pure; called by `program`.

The same rules as when it runs (`overloads`, `evaluate`), with the largest sizes possible. A value of which nothing is known is as
large as `unknown_size` says, which for Kubernetes follows from the largest request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wherry.api.cel.check import Loop, Typed
from wherry.api.cel.evaluate import LIST_COST, MAP_COST, STEP_COST, STRUCT_COST
from wherry.api.cel.types import Type

LIMIT = 1 << 62  # more than any budget, and still a number to show
DEFAULT_UNKNOWN_SIZE = 3 * 1024 * 1024


class Estimate(NamedTuple):
    """`size` bounds the value, `item` each element of it."""

    cost: int
    size: int


def estimate(node: Typed, unknown_size: int = DEFAULT_UNKNOWN_SIZE) -> int:
    return min(_Estimator(unknown_size).of(node).cost, LIMIT)


class _Estimator:
    def __init__(self, unknown_size: int) -> None:
        self._unknown = unknown_size
        self._rules: dict[str, Callable[[Typed], Estimate]] = {
            "const": lambda node: Estimate(0, self._size(node.type)),
            "var": lambda node: Estimate(1, self._size(node.type)),
            "select": self._select, "select?": self._select, "has": self._has, "call": self._call, "if": self._if,
            "and": self._sum, "or": self._sum, "list": self._list, "map": self._list, "struct": self._struct,
            "bind": self._bound, "optMap": self._bound, "loop": self._loop,
        }  # fmt: skip

    def of(self, node: Typed) -> Estimate:
        found = self._rules[node.op](node)
        return Estimate(min(found.cost, LIMIT), min(found.size, LIMIT))

    def _size(self, found: Type) -> int:
        if found.kind == "optional":
            return self._size(found.params[0])
        if found.max_size is not None:
            return found.max_size
        return self._unknown if found.kind in ("string", "bytes", "list", "map", "dyn") else 1

    def _select(self, node: Typed) -> Estimate:
        return Estimate(self.of(node.args[0]).cost + 1, self._size(node.type))

    def _has(self, node: Typed) -> Estimate:
        return Estimate(self.of(node.args[0]).cost, 1)

    def _call(self, node: Typed) -> Estimate:
        _, overloads = node.data
        args = [self.of(arg) for arg in node.args]
        sizes = [arg.size for arg in args]
        cost = max(overload.cost(sizes) for overload in overloads)
        size = 1
        for overload in overloads:
            if overload.size is not None:
                size = max(size, overload.size(sizes))
            elif node.type.kind in ("list", "map", "string", "bytes", "dyn"):
                size = max(size, self._size(node.type))
        return Estimate(sum(arg.cost for arg in args) + cost, size)

    def _if(self, node: Typed) -> Estimate:
        test, yes, no = (self.of(arg) for arg in node.args)
        return Estimate(test.cost + max(yes.cost, no.cost), max(yes.size, no.size))

    def _sum(self, node: Typed) -> Estimate:
        return Estimate(sum(self.of(arg).cost for arg in node.args), 1)

    def _list(self, node: Typed) -> Estimate:
        base = LIST_COST if node.op == "list" else MAP_COST
        return Estimate(base + sum(self.of(arg).cost for arg in node.args), len(node.data))

    def _struct(self, node: Typed) -> Estimate:
        return Estimate(STRUCT_COST + sum(self.of(arg).cost for arg in node.args), 1)

    def _bound(self, node: Typed) -> Estimate:
        value, body = (self.of(arg) for arg in node.args)
        return Estimate(value.cost + body.cost, max(body.size, self._size(node.type)))

    def _loop(self, node: Typed) -> Estimate:
        loop: Loop = node.data
        over, *inside = (self.of(arg) for arg in node.args)
        each = STEP_COST[loop.kind] + sum(item.cost for item in inside)
        return Estimate(over.cost + min(over.size, LIMIT) * each + 1, over.size)
