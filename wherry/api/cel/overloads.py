"""The table of functions: which arguments they take, what they give, what they cost. Read by `check` and `cost`.

`standard` holds what the CEL specification names, `libraries` what Kubernetes adds. `cost` and `size` get the sizes of the
arguments: the real ones when an expression runs, the largest possible ones when its cost is estimated, so that both are one rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wherry.api.cel.types import Type

Sizes = Sequence[int]
CHAR = 0.1  # cost of a character that is gone through
REGEX = 0.25  # and of one of a pattern


def one(sizes: Sizes) -> int:
    return 1


def ceil(number: float) -> int:
    return int(-(-number // 1))


def through(sizes: Sizes) -> int:
    """The text that the function is called on is gone through."""
    return ceil(sizes[0] * CHAR)


def through_all(sizes: Sizes) -> int:
    return ceil(sum(sizes) * CHAR)


def through_second(sizes: Sizes) -> int:
    return ceil(sizes[1] * CHAR)


def searching(sizes: Sizes) -> int:
    return ceil(ceil(sizes[0] * CHAR) * ceil(sizes[1] * CHAR))


def matching(sizes: Sizes) -> int:
    return ceil((sizes[0] + 1) * CHAR) * ceil(sizes[1] * REGEX)


def comparing(sizes: Sizes) -> int:
    return max(1, ceil(min(sizes) * CHAR))


def each(sizes: Sizes) -> int:
    """Every element of the list that it is called on."""
    return 1 + sizes[0]


def each_second(sizes: Sizes) -> int:
    return 1 + sizes[1]


def crossing(sizes: Sizes) -> int:
    """Every element of one with every one of the other."""
    return 1 + sizes[0] * sizes[1]


@dataclass(frozen=True, slots=True)
class Overload:
    """`run` is called with the values, which are of the types of `params`. `size` tells how large the result can be."""

    params: tuple[Type, ...]
    result: Type
    run: Callable[..., Any]
    cost: Callable[[Sizes], int] = one
    size: Callable[[Sizes], int] | None = None


class Functions:
    """The functions that an expression may call: by name and by whether they are called on a value (`a.f(b)`)."""

    def __init__(self, *tables: Functions) -> None:
        self._found: dict[tuple[str, bool], list[Overload]] = {}
        for table in tables:
            for key, overloads in table._found.items():
                self._found.setdefault(key, []).extend(overloads)

    def add(
        self,
        name: str,
        params: Sequence[Type],
        result: Type,
        run: Callable[..., Any],
        *,
        member: bool = False,
        cost: Callable[[Sizes], int] = one,
        size: Callable[[Sizes], int] | None = None,
    ) -> None:
        self._found.setdefault((name, member), []).append(Overload(tuple(params), result, run, cost, size))

    def find(self, name: str, *, member: bool) -> list[Overload]:
        return self._found.get((name, member), [])

    def knows(self, name: str) -> bool:
        return (name, False) in self._found or (name, True) in self._found
