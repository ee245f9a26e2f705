"""Objects that every cluster has from its start: written in one batch, each only where there is none of its name.

Called by `registry.Registry.seed`. What is there already stays as it is, so replicas may start together, and an administrator's
change to a default survives a restart. Not an ordinary write: no admission, since nothing that it asks may be there yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from controlplane.registry import metadata
from controlplane.registry.keys import key as key_of
from controlplane.registry.state import Served, State
from controlplane.store.base import BatchItem, Compare, Put
from wherry.api import kinds


async def seed(state: State, objects: Sequence[Message]) -> None:
    items: list[BatchItem] = []
    owners: list[Served] = []
    for each in objects:
        given: Any = each
        cls: Any = type(given)
        kind = kinds.of(cls)
        served = state.by_resource(kind.group, kind.plural)
        assert served is not None, f"{kind.group_resource} are not served"
        obj: Any = kind.message()
        obj.CopyFrom(given)
        served.strategy.defaults(obj)
        served.strategy.defaults_of_new(obj)
        metadata.fill_new(obj.metadata, state.env)
        served.strategy.prepare_create(obj)
        if served.strategy.has_status and given.HasField("status"):
            obj.status.CopyFrom(given.status)  # theirs is made with them: nothing here would write it later
        served.strategy.defaults_of_name(obj)
        key = key_of(kind, obj.metadata.namespace, obj.metadata.name)
        items.append(BatchItem((Compare(key, 0),), (Put(key, obj.SerializeToString(deterministic=True)),)))
        owners.append(served)
    for served, result in zip(owners, await state.batch(items), strict=True):
        if result.succeeded:
            served.acknowledge(result.revision)
