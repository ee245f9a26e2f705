"""The fence of a leader's writes: none is made when the Lease is not the leader's, and none is refused while it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from controlplane.auth.deciders import CONTROLLER_MANAGER
from controlplane.fence import Fence
from controlplane.registry.base import ADMIN
from controlplane.server import ControlPlane, Options
from controlplane.store.open import open_store
from wherry.api.context import Env
from wherry.api.errors import Conflict
from wherry.client.base import Selection
from wherry.client.client import Client
from wherry.client.leader import LeaderElector
from wherry.pb import coordination_v1_pb2, core_v1_pb2

NAMESPACE = "default"


class Leading:
    """A leader whose writes are fenced, and an administrator, whose are not."""

    def __init__(self, control_plane: ControlPlane, env: Env) -> None:
        self.admin = control_plane.local_client(ADMIN)
        self.elector = LeaderElector(control_plane.local_client(CONTROLLER_MANAGER), env, "first", name="leader")
        self.fence = Fence(self.elector)
        self.client = control_plane.local_client(CONTROLLER_MANAGER, condition=self.fence)

    async def take_away(self) -> None:
        lease = await self.admin.get(coordination_v1_pb2.Lease, "leader", "kube-system")
        lease.spec.holder_identity = "second"
        await self.admin.update(lease)

    async def names(self) -> list[str]:
        page = await self.admin.list(core_v1_pb2.ConfigMap, Selection(namespace=NAMESPACE))
        return sorted(item.metadata.name for item in page.items)


@pytest.fixture
async def leading(env: Env) -> AsyncIterator[Leading]:
    store = await open_store("sqlite::memory:", env, inline=True)
    control_plane = ControlPlane(env, store, Options(pki=False, scheduler=False, controllers=False))
    await control_plane.start()
    made = Leading(control_plane, env)
    task = asyncio.ensure_future(made.elector.run(asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(1)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await control_plane.stop()
    await store.close()


def config_map(name: str) -> core_v1_pb2.ConfigMap:
    made = core_v1_pb2.ConfigMap()
    made.metadata.name, made.metadata.namespace = name, NAMESPACE
    return made


async def changed(client: Client) -> None:
    made = await client.get(core_v1_pb2.ConfigMap, "old", NAMESPACE)
    made.data["changed"] = "yes"
    await client.update(made)


async def applied(client: Client) -> None:
    await client.apply(config_map("new"), core_v1_pb2.ConfigMap, "new", NAMESPACE, field_manager="m")


WRITES: dict[str, Callable[[Client], Coroutine[Any, Any, Any]]] = {
    "create": lambda client: client.create(config_map("new")),
    "update": changed,
    "apply": applied,
    "delete": lambda client: client.delete(core_v1_pb2.ConfigMap, "old", NAMESPACE),
}


@pytest.mark.parametrize("verb", WRITES)
async def test_nothing_is_written_for_one_who_does_not_know_yet(leading: Leading, verb: str) -> None:
    old = await leading.admin.create(config_map("old"))
    await leading.take_away()
    assert leading.elector.leading
    with pytest.raises(Conflict, match="the lease kube-system/leader has passed to another holder"):
        await WRITES[verb](leading.client)
    assert await leading.names() == ["old"]
    now = await leading.admin.get(core_v1_pb2.ConfigMap, "old", NAMESPACE)
    assert now.metadata.resource_version == old.metadata.resource_version
    await asyncio.sleep(3)
    assert not leading.elector.leading
    with pytest.raises(Conflict, match="has passed to another holder"):
        await WRITES[verb](leading.client)


async def test_a_renewal_in_the_middle_of_a_write_is_no_obstacle(leading: Leading) -> None:
    for number in range(5):
        # The Lease has another revision than the elector knows: its renewal's answer is on its way.
        lease = await leading.admin.get(coordination_v1_pb2.Lease, "leader", "kube-system")
        lease.metadata.annotations["number"] = str(number)
        await leading.admin.update(lease)
        assert leading.elector.revision < int(
            (await leading.admin.get(coordination_v1_pb2.Lease, "leader", "kube-system")).metadata.resource_version
        )
        await leading.client.create(config_map(f"c{number}"))
        await leading.client.create(config_map(f"d{number}"))
    assert len(await leading.names()) == 10
