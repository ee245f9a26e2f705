"""A strategy put together from functions, for kinds that need no more than defaults, checks and a count of generations.

`groups` declares its kinds with it. A kind whose writes do something of their own has a class in this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controlplane.registry.state import Served
from controlplane.registry.strategy import Strategy
from controlplane.store.cache import Indexer
from wherry.api import kinds
from wherry.api.errors import Cause


def nothing(obj: Any) -> None:
    """No defaults."""


def fine(obj: Any) -> list[Cause]:
    return []


def any_change(obj: Any, old: Any) -> list[Cause]:
    return []


def silent(obj: Any) -> list[str]:
    return []


@dataclass(slots=True)
class Declared(Strategy):
    """`counted` names the fields whose changes bump metadata.generation (none: the kind has no generation). `stored_only` says
    what nobody does with it yet: it is in docs/stored-only.md, and whoever creates one is told."""

    fill: Callable[[Any], None] = nothing
    named: Callable[[Any], None] = nothing  # defaults that need the final name or the uid
    begin: Callable[[Any], None] = nothing  # what the server sets on a new object
    check: Callable[[Any], list[Cause]] = fine
    compare: Callable[[Any, Any], list[Cause]] = any_change
    check_status: Callable[[Any, Any], list[Cause]] = any_change
    warn: Callable[[Any], list[str]] = silent
    counted: tuple[str, ...] = ()
    stored_only: str = ""

    def defaults(self, obj: Any) -> None:
        self.fill(obj)

    def defaults_of_name(self, obj: Any) -> None:
        self.named(obj)

    def prepare_create(self, obj: Any) -> None:
        Strategy.prepare_create(self, obj)
        if self.counted:
            obj.metadata.generation = 1
        self.begin(obj)

    def prepare_update(self, obj: Any, old: Any) -> None:
        Strategy.prepare_update(self, obj, old)
        obj.metadata.generation = old.metadata.generation
        if self.counted and any(_differ(obj, old, name) for name in self.counted):
            obj.metadata.generation += 1

    def prepare_status(self, obj: Any, old: Any) -> None:
        for descriptor in obj.DESCRIPTOR.fields:
            if descriptor.name in ("metadata", "status"):
                continue
            obj.ClearField(descriptor.name)
            if not descriptor.is_repeated and (not descriptor.has_presence or old.HasField(descriptor.name)):
                _copy(obj, old, descriptor.name)
            elif descriptor.is_repeated:
                getattr(obj, descriptor.name).MergeFrom(getattr(old, descriptor.name))

    def prepare_subresource(self, obj: Any, old: Any, subresource: str) -> None:
        """`scale` is an update of one field of the spec."""
        self.prepare_update(obj, old)

    def validate(self, obj: Any) -> list[Cause]:
        return self.check(obj)

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        return self.compare(obj, old)

    def validate_status(self, obj: Any, old: Any) -> list[Cause]:
        return self.check_status(obj, old)

    def validate_subresource(self, obj: Any, old: Any, subresource: str) -> list[Cause]:
        return [*self.check(obj), *self.compare(obj, old)]

    def warnings(self, obj: Any, old: Any | None) -> list[str]:
        found = self.warn(obj)
        if old is None and self.stored_only:
            found = [*found, stored_warning(self.kind.kind, self.stored_only)]
        return found


def stored_warning(kind: str, what: str) -> str:
    return f"{kind} is stored, but {what} yet"


def _differ(obj: Any, old: Any, name: str) -> bool:
    return bool(getattr(obj, name) != getattr(old, name))


def _copy(obj: Any, old: Any, name: str) -> None:
    value = getattr(old, name)
    if hasattr(value, "CopyFrom"):
        getattr(obj, name).CopyFrom(value)
    else:
        setattr(obj, name, value)


def entry(
    api_version: str,
    kind: str,
    strategy: type[Strategy] = Declared,
    *,
    indexers: dict[str, Indexer] | None = None,
    **facts: Any,
) -> Served:
    """One served kind: what `groups` yields."""
    found = kinds.by_name(api_version, kind)
    if "status" in found.subresources and strategy is Declared:
        facts.setdefault("has_status", True)
    return Served(found, strategy(kind=found, **facts), indexers or {})
