"""A write whose answer was lost may have happened: whoever reads afterwards must see whether it did."""

from __future__ import annotations

import pytest

from controlplane.registry.base import ADMIN, ListOptions, RequestContext
from controlplane.registry.registry import Registry
from controlplane.store.faulty import Faults, FaultyStore
from controlplane.store.sqlite import SqliteStore
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, ServiceUnavailable
from wherry.pb import core_v1_pb2, meta_v1_pb2

KIND = kinds.by_name("v1", "ConfigMap")


async def test_a_read_after_a_lost_answer_sees_the_write(env: Env) -> None:
    faults = Faults()
    store = FaultyStore(await SqliteStore.open(":memory:", inline=True), env, faults)
    registry = Registry(store, env)
    await registry.start()
    ctx = RequestContext(ADMIN)
    made = core_v1_pb2.ConfigMap(metadata=meta_v1_pb2.ObjectMeta(name="c", namespace="default"))
    assert not (await registry.list(ctx, KIND, ListOptions())).items
    # The write is done, its answer is lost, and the cache's watch breaks over it.
    faults.after = faults.watch = 1.0
    with pytest.raises(ServiceUnavailable):
        await registry.create(ctx, KIND, "default", made)
    faults.after = faults.watch = 0.0
    assert len((await registry.list(ctx, KIND, ListOptions())).items) == 1
    with pytest.raises(AlreadyExists):
        await registry.create(ctx, KIND, "default", made)
    await registry.close()
    await store.close()
