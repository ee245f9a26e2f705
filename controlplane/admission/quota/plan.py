"""What a write does to one quota. Pure; called by `ledger` for each quota of the namespace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wherry.api import quantity, quotas
from wherry.api.quotas import Usage


class Refused(Exception):
    """In Kubernetes' words, without what is refused."""


def limits(quota: Any) -> dict[str, str]:
    return {name: amount.string for name, amount in quota.spec.hard.items()}


def used(quota: Any) -> Usage:
    return {name: amount.string for name, amount in quota.status.used.items()}


def concerns(quota: Any, group: str, plural: str, obj: Any | None) -> bool:
    return obj is not None and quotas.matches(quota.spec, group, plural, obj)


def known(quota: Any, group: str, plural: str) -> bool:
    """Whether somebody has counted what such an object may use."""
    return all(name in quota.status.used for name in quotas.relevant(group, plural, quota.spec.hard))


def charge(quota: Any, present: Mapping[str, str], group: str, plural: str, obj: Any | None, old: Any | None) -> Usage:
    """What is used afterwards, of the names that change; `present` is what is used before. Raises Refused."""
    names = quotas.relevant(group, plural, quota.spec.hard)
    new = quotas.usage(group, plural, obj) if concerns(quota, group, plural, obj) else {}
    if new and old is None and plural == "pods" and not group:
        missing = quotas.unnamed(obj, names)
        if missing:
            raise Refused(f"failed quota: {quota.metadata.name}: must specify {missing}")
    before = quotas.usage(group, plural, old) if concerns(quota, group, plural, old) else {}
    after: Usage = {}
    exceeded: list[str] = []
    asked: Usage = {}
    hard = limits(quota)
    for name in names:
        difference = quantity.compare(new.get(name, "0"), before.get(name, "0"))
        if difference > 0:
            asked[name] = quantity.subtract(new[name], before.get(name, "0"))
            after[name] = quotas.more(present[name], asked[name])
            if quantity.compare(after[name], hard[name]) > 0:
                exceeded.append(name)
        elif difference < 0:
            after[name] = quotas.less(present[name], quantity.subtract(before[name], new.get(name, "0")))
    if exceeded:
        parts = (
            f"{what}: " + ",".join(f"{name}={amounts[name]}" for name in exceeded)
            for what, amounts in (("requested", asked), ("used", present), ("limited", hard))
        )
        raise Refused(f"exceeded quota: {quota.metadata.name}, {', '.join(parts)}")
    return after
