"""managedFields: who set which field. A thin step of `writes` over `wherry.api.apply`.

Only clients that name themselves (fieldManager) are tracked, and objects that already have owners. Events are not: they are most
of what a cluster writes, written once by one component, and nobody shares their fields; the books would cost more than the write.
Server-side apply on an untracked object gives all that was there to `before-first-apply`, as Kubernetes does.
"""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.base import RequestContext
from controlplane.registry.strategy import Strategy
from wherry.api.context import Env
from wherry.api.errors import Cause

MAX_MANAGER_BYTES = 128


def check(ctx: RequestContext) -> list[Cause]:
    """Whether the name of the manager is one."""
    name = ctx.field_manager
    if len(name.encode()) > MAX_MANAGER_BYTES:
        return [violations.too_long("fieldManager", MAX_MANAGER_BYTES)]
    for position, char in enumerate(name):
        if not char.isprintable():
            detail = f"invalid character U+{ord(char):04X} (at position {position})"
            return [violations.invalid("fieldManager", name, detail)]
    return []


def track(
    ctx: RequestContext,
    strategy: Strategy,
    obj: Any,
    old: Any | None,
    env: Env,
    *,
    subresource: str = "",
    applied: bool = False,
) -> None:
    """Sets `obj.metadata.managedFields` for a write that is no apply; `applied`: they have been set already."""
    if applied:
        if old is not None:
            _keep_times(obj, old)
        return
    owned = old is not None and len(old.metadata.managed_fields) > 0
    if not owned and not (ctx.field_manager and strategy.tracks_managers):
        obj.metadata.ClearField("managed_fields")
        return
    from wherry.api import apply, fieldsets

    ignore = fieldsets.EMPTY if subresource or not strategy.tracks_status else apply.IGNORE_STATUS
    if old is not None and not owned and not obj.metadata.managed_fields:
        return  # tracked from its first apply on
    apply.track(
        old, obj, manager=ctx.field_manager or "unknown", now=env.now(), subresource=subresource, kind=strategy.merge_type,
        ignore=ignore,
    )  # fmt: skip


def _keep_times(obj: Any, old: Any) -> None:
    """The same applied again is no write. Whether it is the same shows only now that defaults are filled in: a field that is
    replaced as a whole (a `fieldRef` without its apiVersion) had seemed to change."""
    now, before = obj.metadata.managed_fields, old.metadata.managed_fields
    if len(now) != len(before) or not all(map(_same_but_for_time, now, before)):
        return
    here, there = type(obj)(), type(old)()
    here.CopyFrom(obj)
    there.CopyFrom(old)
    for each in (here, there):
        each.metadata.ClearField("managed_fields")
        each.metadata.resource_version = ""
    if here.SerializeToString(deterministic=True) == there.SerializeToString(deterministic=True):
        obj.metadata.ClearField("managed_fields")
        obj.metadata.managed_fields.extend(before)


def _same_but_for_time(entry: Any, other: Any) -> bool:
    return (entry.manager, entry.operation, entry.api_version, entry.subresource, entry.fields_v1) == (
        other.manager, other.operation, other.api_version, other.subresource, other.fields_v1,
    )  # fmt: skip
