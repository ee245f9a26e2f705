"""Which replicas the Service `kubernetes` leads to. Virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from controlplane.apiservice import MAX_REPLICAS, PERIOD_S, is_routable, keep, plan_hosts
from controlplane.auth.deciders import API_SERVER
from controlplane.registry.base import ADMIN
from controlplane.replicas import LEAVING_S, RENEWAL_S, TTL_S
from controlplane.server import ControlPlane, Options
from controlplane.store.base import Store
from controlplane.store.faulty import Faults, FaultyStore
from controlplane.store.sqlite import SqliteStore
from wherry.api.context import Env
from wherry.pb import core_v1_pb2, discovery_v1_pb2

RANGE = "10.96.0.0/16"


@pytest.mark.parametrize(
    ("live", "own", "wanted"),
    [
        ([], "192.0.2.1", ["192.0.2.1"]),
        (["192.0.2.0", "192.0.2.9"], "192.0.2.1", ["192.0.2.0", "192.0.2.1", "192.0.2.9"]),
        (["192.0.2.1"], "192.0.2.1", ["192.0.2.1"]),
        (["192.0.2.9"], "", ["192.0.2.9"]),
        ([], "", []),
    ],
    ids=["alone", "beside others", "as it is", "leaving others", "leaving nobody"],
)
def test_hosts(live: list[str], own: str, wanted: list[str]) -> None:
    assert plan_hosts(live, own) == wanted


def test_the_bound_never_drops_ourselves() -> None:
    hosts = plan_hosts([f"10.0.0.{number}" for number in range(30)], "192.0.2.1")
    assert len(hosts) == MAX_REPLICAS
    assert "192.0.2.1" in hosts
    assert len(plan_hosts([f"10.0.0.{number}" for number in range(30)], "")) == MAX_REPLICAS


class Replica:
    """A control plane on a store of its own connection, with what `wherry server` runs beside it."""

    def __init__(self, env: Env, store: Store, host: str, *, several: bool = True) -> None:
        self.faults = Faults()
        self.store = FaultyStore(store, env, self.faults)
        options = Options(pki=False, scheduler=False, controllers=False, elect=several, replica=f"{host}:7443")
        self.plane = ControlPlane(env, self.store, options)
        self.host = host
        self._several = several
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.plane.start()
        self.announce()

    def announce(self) -> None:
        client = self.plane.local_client(API_SERVER)
        self._keeping = asyncio.create_task(keep(client, RANGE, self.host, 6444, self.plane.replicas))

    async def leave(self) -> None:
        """In good order."""
        assert self._keeping is not None
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        await self.plane.stop()

    async def die(self) -> None:
        """As kill -9."""
        self.faults.down = True
        await self.leave()

    async def hosts(self) -> list[str]:
        """Of both objects, which say the same."""
        client = self.plane.local_client(ADMIN)
        sliced = await client.get(discovery_v1_pb2.EndpointSlice, "kubernetes", "default")
        legacy = await client.get(core_v1_pb2.Endpoints, "kubernetes", "default")
        (subset,) = legacy.subsets
        found = [address for item in sliced.endpoints for address in item.addresses]
        assert found == [item.ip for item in subset.addresses]
        return found


@asynccontextmanager
async def opened() -> AsyncIterator[Store]:
    store = await SqliteStore.open(":memory:", inline=True)
    try:
        yield store
    finally:
        await store.close()


async def both(env: Env, store: Store) -> tuple[Replica, Replica]:
    first, second = Replica(env, store, "192.0.2.1"), Replica(env, store, "192.0.2.2")
    await first.start()
    await second.start()
    await asyncio.sleep(2 * RENEWAL_S)
    assert await first.hosts() == await second.hosts() == ["192.0.2.1", "192.0.2.2"]
    return first, second


async def test_a_replica_that_dies_leaves_when_its_time_is_over(env: Env) -> None:
    async with opened() as store:
        first, second = await both(env, store)
        await first.die()
        await asyncio.sleep(TTL_S - RENEWAL_S - 0.1)
        assert await second.hosts() == ["192.0.2.1", "192.0.2.2"]  # it may yet be alive
        await asyncio.sleep(2 * RENEWAL_S + 1)
        assert await second.hosts() == ["192.0.2.2"]
        await asyncio.sleep(100)
        assert await second.hosts() == ["192.0.2.2"]
        again = Replica(env, store, "192.0.2.1")
        await again.start()
        await asyncio.sleep(1)
        assert await second.hosts() == ["192.0.2.1", "192.0.2.2"]
        await again.leave()
        await second.leave()


async def test_one_that_ends_in_good_order_leaves_at_once_and_the_last_one_stays(env: Env) -> None:
    async with opened() as store:
        first, second = await both(env, store)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await first.leave()
        assert loop.time() - began < LEAVING_S
        assert await second.hosts() == ["192.0.2.2"]
        await asyncio.sleep(2 * TTL_S)
        assert await second.hosts() == ["192.0.2.2"]
        await second.leave()
        left = Replica(env, store, "192.0.2.3")
        await left.plane.start()
        assert await left.hosts() == ["192.0.2.2"]  # nobody lives: what is there stays
        left.announce()
        await asyncio.sleep(1)
        assert await left.hosts() == ["192.0.2.3"]
        await left.leave()


async def test_one_that_was_held_up_comes_back(env: Env) -> None:
    async with opened() as store:
        first, second = await both(env, store)
        first.faults.down = True
        await asyncio.sleep(2 * TTL_S)
        assert await second.hosts() == ["192.0.2.2"]
        first.faults.down = False
        await asyncio.sleep(2 * RENEWAL_S)
        assert await second.hosts() == ["192.0.2.1", "192.0.2.2"]
        await first.leave()
        await second.leave()


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0], ids=["back", "forth"])
async def test_a_clock_that_jumps_drops_nobody(env: Env, jump_s: float) -> None:
    async with opened() as store:
        first, second = await both(env, store)
        wall = env.now
        env.now = lambda: wall() + jump_s
        for _ in range(40):
            await asyncio.sleep(1)
            assert await second.hosts() == ["192.0.2.1", "192.0.2.2"]
        await first.leave()
        await second.leave()


async def test_a_single_server_takes_the_place_of_what_was_there_and_writes_nothing_more(env: Env) -> None:
    async with opened() as store:
        former = Replica(env, store, "192.0.2.8", several=False)
        await former.start()
        await asyncio.sleep(1)
        await former.leave()
        only = Replica(env, store, "192.0.2.9", several=False)
        await only.start()
        await asyncio.sleep(PERIOD_S)
        assert await only.hosts() == ["192.0.2.9"]
        revision = await store.revision()
        await asyncio.sleep(10 * PERIOD_S)
        assert await store.revision() == revision
        await only.leave()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "169.254.1.1", "::1", "localhost"])
def test_pods_cannot_be_sent_everywhere(host: str) -> None:
    assert not is_routable(host)
