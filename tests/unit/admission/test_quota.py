"""ResourceQuota: what is counted (a table), and that it holds whoever writes at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry.registry import Options, Registry
from controlplane.store.open import open_store
from wherry.api import kinds, quotas
from wherry.api.context import Env
from wherry.api.errors import APIError, Forbidden
from wherry.pb import meta_v1_pb2
from wherry.testing.registries import admin, obj, open_registry, pod

QUOTA = kinds.by_name("v1", "ResourceQuota")
POD = kinds.by_name("v1", "Pod")
CONFIG = kinds.by_name("v1", "ConfigMap")
SERVICE = kinds.by_name("v1", "Service")


def sized(name: str = "p", **spec: Any) -> Any:
    resources = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "1"}}
    return pod(name, containers=[{"name": "c", "image": "x", "resources": resources}], **spec)


def service(kind: str, ports: int) -> Any:
    return obj(
        "v1",
        "Service",
        "s",
        spec={"type": kind, "ports": [{"name": f"p{port}", "port": port + 1} for port in range(ports)]},
    )


def claim(name: str) -> Any:
    spec: dict[str, Any] = {"resources": {"requests": {"storage": "1Gi"}}}
    if name:
        spec["storageClassName"] = name
    return obj("v1", "PersistentVolumeClaim", "c", spec=spec)


USAGES = {
    "pod": (("", "pods"), sized(), {
        "count/pods": "1", "pods": "1", "cpu": "100m", "requests.cpu": "100m", "memory": "1Gi",
        "requests.memory": "1Gi", "limits.cpu": "1",
    }),
    "deployment": (("apps", "deployments"), None, {"count/deployments.apps": "1"}),
    "config map": (("", "configmaps"), None, {"count/configmaps": "1", "configmaps": "1"}),
    "node port": (("", "services"), service("NodePort", 2), {
        "count/services": "1", "services": "1", "services.nodeports": "2",
    }),
    "load balancer": (("", "services"), service("LoadBalancer", 1), {
        "count/services": "1", "services": "1", "services.nodeports": "1", "services.loadbalancers": "1",
    }),
    "claim": (("", "persistentvolumeclaims"), claim("fast"), {
        "count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "1Gi",
        "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
        "fast.storageclass.storage.k8s.io/requests.storage": "1Gi",
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", USAGES)
def test_usage(name: str) -> None:
    (group, plural), given, wanted = USAGES[name]
    assert quotas.usage(group, plural, given) == wanted


def test_a_pod_that_is_over_only_takes_its_place() -> None:
    over = sized()
    over.status.phase = "Succeeded"
    assert quotas.usage("", "pods", over) == {"count/pods": "1"}


def selector(scope: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"scopeName": scope, "operator": operator, "values": list(values)}]}


SCOPES: dict[str, tuple[dict[str, Any], Any, bool]] = {
    "no scope": ({}, sized(), True),
    "best effort, it is": ({"scopes": ["BestEffort"]}, pod("p"), True),
    "best effort, it is not": ({"scopes": ["BestEffort"]}, sized(), False),
    "terminating": ({"scopes": ["Terminating"]}, sized(activeDeadlineSeconds=5), True),
    "not terminating": ({"scopes": ["NotTerminating"]}, sized(activeDeadlineSeconds=5), False),
    "priority in": ({"scopeSelector": selector("PriorityClass", "In", "high")}, sized(priorityClassName="high"), True),
    "priority not in": ({"scopeSelector": selector("PriorityClass", "NotIn", "high")}, sized(), True),
    "priority exists": ({"scopes": ["PriorityClass"]}, sized(), False),
    "both must hold": ({"scopes": ["NotBestEffort", "Terminating"]}, sized(), False),
    "affinity": (
        {"scopes": ["CrossNamespacePodAffinity"]},
        sized(affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "k", "namespaces": ["other"]}]}}),
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCOPES)
def test_scopes(name: str) -> None:
    spec, given, wanted = SCOPES[name]
    quota = obj("v1", "ResourceQuota", "q", spec={"hard": {"pods": "1"}, **spec})
    assert quotas.matches(quota.spec, "", "pods", given) is wanted


# in the registry


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


async def limit(registry: Registry, name: str = "q", **hard: str) -> None:
    given = {key.replace("__", "."): value for key, value in hard.items()}
    await registry.create(admin(), QUOTA, "default", obj("v1", "ResourceQuota", name, spec={"hard": given}))


async def used(registry: Registry, name: str = "q") -> dict[str, str]:
    found = (await registry.get(admin(), QUOTA, "default", name)).message()
    return {key: amount.string for key, amount in found.status.used.items()}


async def delete(registry: Registry, kind: kinds.Kind, name: str) -> None:
    await registry.delete(admin(), kind, "default", name, meta_v1_pb2.DeleteOptions(grace_period_seconds=0))


async def test_it_counts_what_was_there_before(registry: Registry) -> None:
    await registry.create(admin(), POD, "default", sized("a"))
    await limit(registry, pods="2", requests__cpu="1")
    await registry.create(admin(), POD, "default", sized("b"))
    assert await used(registry) == {"pods": "2", "requests.cpu": "200m"}
    with pytest.raises(Forbidden) as caught:
        await registry.create(admin(), POD, "default", sized("c"))
    assert caught.value.message == (
        'pods "c" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2'
    )
    await delete(registry, POD, "a")
    assert await used(registry) == {"pods": "1", "requests.cpu": "100m"}
    await registry.create(admin(), POD, "default", sized("c"))


async def test_a_dry_run_is_refused_and_never_charged(registry: Registry) -> None:
    await limit(registry, configmaps="1")
    await registry.create(admin(dry_run=True), CONFIG, "default", obj("v1", "ConfigMap", "a"))
    await registry.create(admin(), CONFIG, "default", obj("v1", "ConfigMap", "a"))
    with pytest.raises(Forbidden):
        await registry.create(admin(dry_run=True), CONFIG, "default", obj("v1", "ConfigMap", "b"))
    assert await used(registry) == {"configmaps": "1"}


async def test_what_a_write_that_fails_cost_is_not_charged(registry: Registry) -> None:
    await limit(registry, configmaps="5")
    await registry.create(admin(), CONFIG, "default", obj("v1", "ConfigMap", "a"))
    with pytest.raises(APIError):
        await registry.create(admin(), CONFIG, "default", obj("v1", "ConfigMap", "a"))
    assert await used(registry) == {"configmaps": "1"}


async def test_an_update_costs_the_difference(registry: Registry) -> None:
    await limit(registry, services__nodeports="1")
    made = (await registry.create(admin(), SERVICE, "default", service("ClusterIP", 2))).message()
    made.spec.type = "NodePort"
    with pytest.raises(
        Forbidden, match=r"exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0"
    ):
        await registry.update(admin(), SERVICE, "default", "s", made)
    del made.spec.ports[1]
    await registry.update(admin(), SERVICE, "default", "s", made)
    assert await used(registry) == {"services.nodeports": "1"}
    live = (await registry.get(admin(), SERVICE, "default", "s")).message()
    live.spec.type = "ClusterIP"
    live.spec.ports[0].node_port = 0
    await registry.update(admin(), SERVICE, "default", "s", live)
    assert await used(registry) == {"services.nodeports": "0"}


async def test_two_quotas_both_hold(registry: Registry) -> None:
    await limit(registry, "wide", pods="10")
    await limit(registry, "narrow", pods="1")
    await registry.create(admin(), POD, "default", sized("a"))
    with pytest.raises(Forbidden, match="exceeded quota: narrow"):
        await registry.create(admin(), POD, "default", sized("b"))
    assert (await used(registry, "wide"), await used(registry, "narrow")) == ({"pods": "1"}, {"pods": "1"})


async def test_a_quota_counts_quotas_but_not_itself_twice(registry: Registry) -> None:
    await limit(registry, "a", resourcequotas="2")
    await limit(registry, "b", pods="1")
    assert await used(registry, "a") == {"resourcequotas": "2"}
    with pytest.raises(Forbidden):
        await limit(registry, "c", pods="1")
    await delete(registry, QUOTA, "b")
    await delete(registry, QUOTA, "a")


async def together(*creates: Any) -> list[object]:
    return list(await asyncio.gather(*creates, return_exceptions=True))


async def test_many_at_once_never_exceed_it(registry: Registry) -> None:
    await limit(registry, pods="5")
    results = await together(*(registry.create(admin(), POD, "default", sized(f"p{n}")) for n in range(20)))
    refused = [error for error in results if isinstance(error, BaseException)]
    assert len(refused) == 15
    assert all(isinstance(error, Forbidden) for error in refused), refused
    assert await used(registry) == {"pods": "5"}


async def test_two_replicas_at_once_never_exceed_it(env: Env) -> None:
    """Their locks know nothing of each other: it is the store's condition that holds."""
    store = await open_store("sqlite::memory:", env, inline=True)
    registries = [Registry(store, env, Options(consistent_reads=True)) for _ in range(2)]
    try:
        for registry in registries:
            await registry.start()
        await limit(registries[0], pods="5")
        creates = (registries[n % 2].create(admin(), POD, "default", sized(f"p{n}")) for n in range(20))
        results = await together(*creates)
        made = [result for result in results if not isinstance(result, BaseException)]
        assert len(made) == 5, results
        assert await used(registries[1]) == {"pods": "5"}
        for registry in registries:
            registry.check_invariants()
    finally:
        for registry in registries:
            await registry.close()
        await store.close()
