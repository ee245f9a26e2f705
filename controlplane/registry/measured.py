"""Kinds whose objects are measured when they are asked for, and stored nowhere: metrics.k8s.io, v1 ComponentStatus. They can be
got and listed, and no more.

Called by `registry.Registry`, with the measuring function that `controlplane.server` gave it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from controlplane.registry import keys
from controlplane.registry.base import ListOptions, ListResult, Stored
from controlplane.registry.selection import Selection
from controlplane.registry.state import Served
from controlplane.registry.writes import not_found
from wherry.api.context import Env
from wherry.api.errors import NotFound
from wherry.api.kinds import Kind

VERBS = ("get", "list")
# (kind, namespace or "", name or "", now) -> the objects
Measure = Callable[[Kind, str, str, float], Awaitable[Sequence[Any]]]


async def one(measure: Measure, env: Env, served: Served, namespace: str, name: str) -> Stored:
    kind = served.kind
    for found in await measure(kind, namespace, name, env.now()):
        return Stored(kind, found.SerializeToString(deterministic=True), 0, {})
    if not kind.group:
        raise not_found(kind, name)
    # As metrics-server says it.
    singular = f"{kind.kind.lower()}s" if not kind.kind.endswith("s") else kind.kind.lower()
    place = f"{namespace}/{name}" if namespace else name
    raise NotFound(f'{singular}.{kind.group} "{place}" not found', group=kind.group, kind=singular, name=place)


async def several(measure: Measure, env: Env, served: Served, options: ListOptions) -> ListResult:
    kind = served.kind
    selection = Selection(served, options.namespace, options.label_selector, options.field_selector)
    name = keys.split(kind, selection.key)[1] if selection.key else ""
    items = []
    for found in await measure(kind, options.namespace, name, env.now()):
        value, memo = found.SerializeToString(deterministic=True), dict[str, Any]()
        if selection.matches(keys.key(kind, found.metadata.namespace, found.metadata.name), value, memo):
            items.append(Stored(kind, value, 0, memo))
    return ListResult(items, 0)
