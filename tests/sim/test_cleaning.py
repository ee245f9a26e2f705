"""Deletion in a simulated cluster: owner references in their three ways, namespaces, and what every namespace has."""

from __future__ import annotations

import asyncio

import pytest

from wherry.api import meta
from wherry.api.context import Env
from wherry.client.base import DeleteOptions
from wherry.pb import apps_v1_pb2, core_v1_pb2
from wherry.testing.cluster import SimCluster, sim_cluster
from wherry.testing.manifests import deployment, yaml_of


async def deployed(cluster: SimCluster, namespace: str = "default") -> None:
    await cluster.apply(deployment("web", replicas=3, namespace=namespace))
    await cluster.converge()


async def delete(cluster: SimCluster, policy: str) -> None:
    await cluster.client.delete(apps_v1_pb2.Deployment, "web", "default", DeleteOptions(propagation_policy=policy))


def left(cluster: SimCluster) -> tuple[int, int, int]:
    return tuple(len(cluster.objects(name)) for name in ("deployments.apps", "replicasets.apps", "pods"))  # type: ignore[return-value]


def order_of_ends(cluster: SimCluster) -> list[str]:
    ends = [change.kind.kind for change in cluster.history.changes if change.type == "DELETED"]
    return list(dict.fromkeys(kind for kind in ends if kind in ("Deployment", "ReplicaSet", "Pod")))


async def test_background_deletes_the_owner_first(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await deployed(cluster)
        await delete(cluster, "Background")
        assert "default/web" not in cluster.objects("deployments.apps")
        await cluster.wait_until(lambda: left(cluster) == (0, 0, 0))
        assert order_of_ends(cluster) == ["Deployment", "ReplicaSet", "Pod"]


async def test_foreground_deletes_the_owner_last(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await deployed(cluster)
        await delete(cluster, "Foreground")
        await cluster.wait_until(lambda: left(cluster) == (0, 0, 0))
        assert order_of_ends(cluster) == ["Pod", "ReplicaSet", "Deployment"]


async def test_orphan_leaves_the_dependents_and_a_new_owner_adopts_them(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await deployed(cluster)
        pods = set(cluster.objects("pods"))
        await delete(cluster, "Orphan")
        await cluster.wait_until(lambda: left(cluster) == (0, 1, 3))
        (rs,) = cluster.objects("replicasets.apps").values()
        assert not rs.metadata.owner_references
        await asyncio.sleep(30)
        assert left(cluster) == (0, 1, 3)
        await deployed(cluster)
        (rs,) = cluster.objects("replicasets.apps").values()
        assert rs.metadata.owner_references[0].name == "web"
        assert set(cluster.objects("pods")) == pods


async def test_an_object_of_two_owners_outlives_the_first(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        first, second = await cluster.apply(
            yaml_of("v1", "ConfigMap", "a", "default") + yaml_of("v1", "ConfigMap", "b", "default")
        )
        child = core_v1_pb2.ConfigMap()
        child.metadata.name, child.metadata.namespace = "child", "default"
        for owner in (first, second):
            child.metadata.owner_references.append(meta.owner_reference(owner, controller=False))
        await cluster.client.create(child)
        await cluster.client.delete(core_v1_pb2.ConfigMap, "a", "default")
        await cluster.wait_until(
            lambda: (
                [ref.name for ref in cluster.objects("configmaps")["default/child"].metadata.owner_references] == ["b"]
            )
        )
        await cluster.client.delete(core_v1_pb2.ConfigMap, "b", "default")
        await cluster.wait_until(lambda: "default/child" not in cluster.objects("configmaps"))


STRANGE_OWNERS = [
    pytest.param("v1", "ConfigMap", "absent", "no-such-uid", False, id="an owner that never was"),
    pytest.param("example.com/v1", "Widget", "w", "some-uid", True, id="an owner of a kind that is not served"),
]


@pytest.mark.parametrize(("api_version", "kind", "name", "uid", "stays"), STRANGE_OWNERS)
async def test_strange_owners(env: Env, api_version: str, kind: str, name: str, uid: str, stays: bool) -> None:
    async with sim_cluster(env, nodes=1) as cluster:
        child = core_v1_pb2.ConfigMap()
        child.metadata.name, child.metadata.namespace = "child", "default"
        child.metadata.owner_references.add(api_version=api_version, kind=kind, name=name, uid=uid)
        await cluster.client.create(child)
        await asyncio.sleep(30)
        assert ("default/child" in cluster.objects("configmaps")) == stays


async def test_an_owner_in_another_namespace_is_none(env: Env) -> None:
    async with sim_cluster(env, nodes=1) as cluster:
        await cluster.apply(yaml_of("v1", "Namespace", "other"))
        (owner,) = await cluster.apply(yaml_of("v1", "ConfigMap", "owner", "other"))
        child = core_v1_pb2.ConfigMap()
        child.metadata.name, child.metadata.namespace = "child", "default"
        child.metadata.owner_references.append(meta.owner_reference(owner, controller=False))
        await cluster.client.create(child)
        await cluster.wait_until(lambda: "default/child" not in cluster.objects("configmaps"))
        assert "other/owner" in cluster.objects("configmaps")


async def test_an_owner_made_anew_under_the_same_name_is_another_one(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await deployed(cluster)
        (old,) = cluster.objects("replicasets.apps").values()
        await delete(cluster, "Background")
        await cluster.apply(deployment("web", replicas=3))
        await cluster.wait_until(
            lambda: (
                {rs.metadata.uid for rs in cluster.objects("replicasets.apps").values()}.isdisjoint({old.metadata.uid})
                and cluster.is_complete("default/web")
                and left(cluster) == (1, 1, 3)
            )
        )


async def test_a_namespace_goes_with_all_that_is_in_it(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(yaml_of("v1", "Namespace", "shop"))
        await deployed(cluster, "shop")
        await cluster.apply(yaml_of("v1", "Secret", "key", "shop", stringData={"a": "b"}))
        await cluster.client.delete(core_v1_pb2.Namespace, "shop")
        await cluster.wait_until(lambda: "shop" not in cluster.objects("namespaces"), what="the namespace is gone")
        for resource in ("pods", "replicasets.apps", "deployments.apps", "configmaps", "secrets", "serviceaccounts"):
            assert not [key for key in cluster.objects(resource) if key.startswith("shop/")], resource
        for name in cluster.nodes:
            assert not [pod for pod in await cluster.nodes[name].sandboxes() if pod.startswith("shop/")]


async def test_a_namespace_waits_for_finalizers_and_says_so(env: Env) -> None:
    async with sim_cluster(env, nodes=1) as cluster:
        await cluster.apply(yaml_of("v1", "Namespace", "shop"))
        await cluster.apply(yaml_of("v1", "ConfigMap", "held", "shop", metadata={"finalizers": ["example.com/hold"]}))
        await cluster.client.delete(core_v1_pb2.Namespace, "shop")

        def reason(kind: str) -> str:
            conditions = cluster.objects("namespaces")["shop"].status.conditions
            found = meta.get_condition(conditions, kind)
            return found.message if found is not None else ""

        await cluster.wait_until(lambda: bool(reason("NamespaceFinalizersRemaining")))
        assert "example.com/hold in 1 resource instances" in reason("NamespaceFinalizersRemaining")
        assert "configmaps. has 1 resource instances" in reason("NamespaceContentRemaining")

        def let_go(held: core_v1_pb2.ConfigMap) -> None:
            del held.metadata.finalizers[:]

        await cluster.change(core_v1_pb2.ConfigMap, "shop/held", let_go)
        await cluster.wait_until(lambda: "shop" not in cluster.objects("namespaces"))


async def test_every_namespace_has_its_account_and_bundle_for_ever(env: Env) -> None:
    async with sim_cluster(env, nodes=1) as cluster:
        await cluster.apply(yaml_of("v1", "Namespace", "shop"))

        def complete() -> bool:
            has_account = "shop/default" in cluster.objects("serviceaccounts")
            return has_account and "shop/kube-root-ca.crt" in cluster.objects("configmaps")

        await cluster.wait_until(complete)
        await cluster.client.delete(core_v1_pb2.ServiceAccount, "default", "shop")
        await cluster.client.delete(core_v1_pb2.ConfigMap, "kube-root-ca.crt", "shop")
        await cluster.wait_until(complete)
