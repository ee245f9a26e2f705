"""What a quota's status should say. Pure; called by `controller`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wherry.api import meta, quotas
from wherry.pb import core_v1_pb2

Resource = tuple[str, str]  # group, plural
_MEASURED = (("", "pods"), ("", "services"), ("", "persistentvolumeclaims"))


def resources(quota: core_v1_pb2.ResourceQuota) -> list[Resource]:
    """The kinds whose objects have to be looked at."""
    names = list(quota.spec.hard)
    found = {resource for resource in _MEASURED if quotas.relevant(*resource, names)}
    found |= {resource for resource in map(quotas.counted, names) if resource is not None}
    return sorted(found)


def plan(
    quota: core_v1_pb2.ResourceQuota, objects: Mapping[Resource, Sequence[Any] | None]
) -> core_v1_pb2.ResourceQuotaStatus | None:
    """The new status; None when it is right. `objects`: of each of `resources`, those of the namespace; None for a kind that
    can't be listed here, whose figure stays."""
    wanted = core_v1_pb2.ResourceQuotaStatus()
    for name in quota.spec.hard:
        wanted.hard[name].string = quota.spec.hard[name].string
    for (group, plural), found in objects.items():
        names = quotas.relevant(group, plural, quota.spec.hard)
        if found is None:
            amounts = {name: quota.status.used[name].string for name in names if name in quota.status.used}
        else:
            usages = [
                quotas.usage(group, plural, obj) for obj in found if quotas.matches(quota.spec, group, plural, obj)
            ]
            amounts = quotas.total(usages, names)
        for name, amount in amounts.items():
            wanted.used[name].string = amount
    return None if meta.equal(wanted, quota.status) else wanted


def stale(quota: core_v1_pb2.ResourceQuota) -> bool:
    """Whether the status is not one of this spec, so that it has to be counted."""
    limits = {name: amount.string for name, amount in quota.spec.hard.items()}
    told = {name: amount.string for name, amount in quota.status.hard.items()}
    return limits != told or not set(quota.status.used) <= set(limits)
