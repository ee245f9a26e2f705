"""Three replicas on one store, each with caches that are behind: what one was answered holds at the others, and what must be
unique or bounded is so when all write at once. Virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import pytest

from controlplane.admission.chain import Options as AdmissionOptions
from controlplane.nodelink.podcidrs import ensure_pod_cidr
from controlplane.registry.allocation import Ranges
from controlplane.registry.base import ListOptions
from controlplane.registry.registry import Options, Registry
from controlplane.store.faulty import Faults, FaultyStore
from controlplane.store.sqlite import SqliteStore
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import APIError, Forbidden, Invalid, NotFound
from wherry.pb import meta_v1_pb2
from wherry.testing.registries import admin, obj, pod

PODS = kinds.by_name("v1", "Pod")
SERVICES = kinds.by_name("v1", "Service")
QUOTAS = kinds.by_name("v1", "ResourceQuota")
CONFIG_MAPS = kinds.by_name("v1", "ConfigMap")
NODES = kinds.by_name("v1", "Node")
NAMESPACES = kinds.by_name("v1", "Namespace")
NOW = meta_v1_pb2.DeleteOptions(grace_period_seconds=0)


class Replicas:
    def __init__(self, registries: Sequence[Registry], stores: Sequence[FaultyStore]) -> None:
        self.registries = registries
        self.stores = stores

    def __getitem__(self, number: int) -> Registry:
        return self.registries[number % len(self.registries)]


@pytest.fixture
async def replicas(env: Env) -> AsyncIterator[Replicas]:
    inner = await SqliteStore.open(":memory:", inline=True)
    slow = Faults(delay_s=0.01, watch_delay_s=0.3)
    stores = [FaultyStore(inner, env, slow) for _ in range(3)]
    options = Options(
        admission=AdmissionOptions(token_volume=False),
        ranges=Ranges("10.96.0.0/27", 30000, 30011),
        consistent_reads=True,
    )
    registries = [Registry(store, env, options) for store in stores]
    await asyncio.gather(*(registry.start() for registry in registries))
    yield Replicas(registries, stores)
    for registry in registries:
        registry.check_invariants()
        await registry.close()
    await inner.close()


async def every(*writes: Awaitable[Any]) -> tuple[list[Any], list[BaseException]]:
    """What was done, and what was refused."""
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    done = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    return done, [outcome for outcome in outcomes if isinstance(outcome, BaseException)]


def service(name: str, **spec: Any) -> Any:
    return obj("v1", "Service", name, spec={"ports": [{"port": 80}], **spec})


@pytest.mark.parametrize("seed", range(3))
async def test_addresses_and_node_ports_are_given_once(replicas: Replicas) -> None:
    writes = (
        replicas[number].create(admin(), SERVICES, "default", service(f"s{number}", type="NodePort"))
        for number in range(18)
    )
    done, refused = await every(*writes)
    specs = [stored.message().spec for stored in done]
    assert max(Counter(spec.cluster_ip for spec in specs).values()) == 1
    assert max(Counter(spec.ports[0].node_port for spec in specs).values()) == 1
    # All that there are, and no more: twelve ports.
    assert len(done) == 12
    assert all("failed to allocate a nodePort: range is full" in str(error) for error in refused)


@pytest.mark.parametrize("seed", range(3))
async def test_what_one_replica_set_free_another_gives_away_at_once(replicas: Replicas) -> None:
    asked = {"type": "NodePort", "clusterIP": "10.96.0.20", "ports": [{"port": 80, "nodePort": 30005}]}
    for number in range(6):
        await replicas[number].create(admin(), SERVICES, "default", service("s", **asked))
        with pytest.raises(Invalid, match="already allocated"):
            await replicas[number + 2].create(admin(), SERVICES, "default", service("other", **asked))
        await replicas[number + 2].delete(admin(), SERVICES, "default", "s", NOW)


@pytest.mark.parametrize("seed", range(3))
async def test_a_quota_holds_and_nobody_is_refused_for_a_race(replicas: Replicas) -> None:
    quota = obj("v1", "ResourceQuota", "q", spec={"hard": {"count/configmaps": "40"}})
    await replicas[0].create(admin(), QUOTAS, "default", quota)
    # Its first look at quotas makes a replica follow them.
    await every(*(replica.list(admin(), QUOTAS, ListOptions("default")) for replica in replicas.registries))
    writes = (
        replicas[number].create(admin(), CONFIG_MAPS, "default", obj("v1", "ConfigMap", f"c{number}"))
        for number in range(60)
    )
    done, refused = await every(*writes)
    assert [str(error) for error in refused if not isinstance(error, Forbidden)] == []
    assert len(done) == 40
    used = (await replicas[1].get(admin(), QUOTAS, "default", "q")).message().status.used
    assert used["count/configmaps"].string == "40"


@pytest.mark.parametrize("seed", range(3))
async def test_nodes_that_come_together_have_subnets_of_their_own(replicas: Replicas) -> None:
    names = [f"n{number}" for number in range(9)]
    for name in names:
        await replicas[0].create(admin(), NODES, "", obj("v1", "Node", name))

    async def welcome(number: int) -> str:
        registry, store = replicas[number], replicas.stores[number % 3]
        return await ensure_pod_cidr(registry, store, admin(), names[number], "10.244.0.0/16")

    subnets, refused = await every(*map(welcome, range(9)))
    assert refused == []
    assert sorted(subnets) == [f"10.244.{number}.0/24" for number in range(9)]


@pytest.mark.parametrize("seed", range(3))
async def test_reads_anywhere_see_what_was_answered_elsewhere(replicas: Replicas) -> None:
    for number in range(10):
        here, there = replicas[number], replicas[number + 1]
        await here.create(admin(), CONFIG_MAPS, "default", obj("v1", "ConfigMap", f"c{number}"))
        assert (await there.get(admin(), CONFIG_MAPS, "default", f"c{number}")).revision
        page = await there.list(admin(), CONFIG_MAPS, ListOptions("default"))
        assert len(page.items) == number + 1
        stale = (await there.get(admin(), CONFIG_MAPS, "default", f"c{number}")).message()
        stale.data["by"] = "here"
        now = await here.update(admin(), CONFIG_MAPS, "default", f"c{number}", stale)
        stale.data["by"] = "there"
        with pytest.raises(APIError, match="the object has been modified"):
            await there.update(admin(), CONFIG_MAPS, "default", f"c{number}", stale)
        assert (await there.get(admin(), CONFIG_MAPS, "default", f"c{number}")).revision == now.revision


@pytest.mark.parametrize("seed", range(3))
async def test_a_list_goes_on_at_another_replica(replicas: Replicas) -> None:
    for number in range(10):
        await replicas[number].create(admin(), CONFIG_MAPS, "default", obj("v1", "ConfigMap", f"c{number}"))
    page = await replicas[0].list(admin(), CONFIG_MAPS, ListOptions("default", limit=3))
    first, names = page.revision, [item.message().metadata.name for item in page.items]
    await replicas[1].delete(admin(), CONFIG_MAPS, "default", "c7", NOW)
    number = 1
    while page.continue_token:
        page = await replicas[number].list(
            admin(), CONFIG_MAPS, ListOptions("default", limit=3, continue_token=page.continue_token)
        )
        assert page.revision == first
        names += [item.message().metadata.name for item in page.items]
        number += 1
    assert names == [f"c{number}" for number in range(10)]


async def test_a_namespace_that_is_going_takes_nothing_anywhere(replicas: Replicas) -> None:
    await replicas[0].create(admin(), NAMESPACES, "", obj("v1", "Namespace", "n"))
    await replicas[1].create(admin(), CONFIG_MAPS, "n", obj("v1", "ConfigMap", "c"))
    await replicas[1].delete(admin(), NAMESPACES, "", "n", NOW)
    with pytest.raises(Forbidden, match="because it is being terminated"):
        await replicas[2].create(admin(), CONFIG_MAPS, "n", obj("v1", "ConfigMap", "d"))
    with pytest.raises(NotFound):
        await replicas[2].create(admin(), PODS, "m", pod("p"))
