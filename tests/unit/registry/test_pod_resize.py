"""pods/resize: what it may change, and in which words the rest is refused or left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry.registry import Registry
from controlplane.store.open import open_store
from wherry.api import codec, kinds
from wherry.api.context import Env
from wherry.api.errors import Invalid
from wherry.pb import core_v1_pb2
from wherry.testing.registries import admin

POD = kinds.by_name("v1", "Pod")


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    store = await open_store("sqlite::memory:", env, inline=True)
    found = Registry(store, env)
    await found.start()
    yield found
    await found.close()
    await store.close()


def requirements(cpu: str = "", memory: str = "", limit: str = "") -> dict[str, Any]:
    requests = {name: amount for name, amount in (("cpu", cpu), ("memory", memory)) if amount}
    return {"requests": requests, **({"limits": {"cpu": limit}} if limit else {})}


def document(resources: dict[str, Any], **more: Any) -> dict[str, Any]:
    spec = {
        "containers": [{"name": "c", "image": "i", "resources": resources}],
        "initContainers": [
            {"name": "once", "image": "i", "resources": requirements("1")},
            {"name": "side", "image": "i", "restartPolicy": "Always", "resources": requirements("1")},
        ],
    }
    return {"metadata": {"name": "p", "namespace": "default", **more}, "spec": spec}


async def made(registry: Registry, resources: dict[str, Any], **more: Any) -> core_v1_pb2.Pod:
    pod = codec.from_dict(document(resources, **more), core_v1_pb2.Pod)
    return (await registry.create(admin(), POD, "default", pod)).message()


async def resized(registry: Registry, pod: core_v1_pb2.Pod) -> core_v1_pb2.Pod:
    return (await registry.update(admin(), POD, "default", "p", pod, subresource="resize")).message()


def copy_of(pod: core_v1_pb2.Pod) -> core_v1_pb2.Pod:
    out = core_v1_pb2.Pod()
    out.CopyFrom(pod)
    return out


async def test_resources_of_containers_and_sidecars_change_and_nothing_else(registry: Registry) -> None:
    before = await made(registry, requirements("1", "1Gi", "2"))
    wanted = copy_of(before)
    wanted.spec.containers[0].resources.requests["cpu"].string = "1500m"
    wanted.spec.init_containers[1].resources.limits["memory"].string = "1Gi"
    wanted.spec.containers[0].image = "other"
    wanted.spec.active_deadline_seconds = 5
    wanted.status.phase = "Running"
    after = await resized(registry, wanted)
    assert after.spec.containers[0].resources.requests["cpu"].string == "1500m"
    assert after.spec.init_containers[1].resources.limits["memory"].string == "1Gi"
    assert after.spec.containers[0].image == "i"
    assert not after.spec.HasField("active_deadline_seconds")
    assert after.status.phase == "Pending"
    assert after.metadata.generation == before.metadata.generation + 1
    other = copy_of(after)
    other.spec.containers[0].resources.requests["cpu"].string = "1"
    with pytest.raises(Invalid, match="pod updates may not change fields other than"):
        await registry.update(admin(), POD, "default", "p", other)


@pytest.mark.parametrize(
    ("before", "container", "which", "resource", "amount", "words"),
    [
        pytest.param(
            requirements("1", "1Gi", "2"), "c", "limits", "cpu", None,
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed", id="limit removed",
        ),
        pytest.param(
            requirements("1", "1Gi"), "c", "requests", "memory", None,
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed", id="request removed",
        ),
        pytest.param(
            requirements("1"), "c", "requests", "ephemeral-storage", "1Gi",
            "spec: Forbidden: only cpu and memory resources are mutable", id="another resource",
        ),
        pytest.param(
            requirements("1"), "once", "requests", "cpu", "2",
            "spec: Forbidden: only cpu and memory resources are mutable", id="an init container that ends",
        ),
        pytest.param(
            requirements("1", "", "2"), "c", "requests", "cpu", "3",
            'spec.containers[0].resources.requests: Invalid value: "3": must be less than or equal to cpu limit of 2',
            id="more than the limit",
        ),
    ],
)  # fmt: skip
async def test_refusals(
    registry: Registry,
    before: dict[str, Any],
    container: str,
    which: str,
    resource: str,
    amount: str | None,
    words: str,
) -> None:
    wanted = copy_of(await made(registry, before))
    chosen = next(item for item in [*wanted.spec.containers, *wanted.spec.init_containers] if item.name == container)
    amounts = getattr(chosen.resources, which)
    if amount is None:
        del amounts[resource]
    else:
        amounts[resource].string = amount
    with pytest.raises(Invalid) as refused:
        await resized(registry, wanted)
    assert words in refused.value.message


async def test_the_class_of_service_stays(registry: Registry) -> None:
    pod = codec.from_dict(document({}), core_v1_pb2.Pod)
    del pod.spec.init_containers[:]
    wanted = copy_of((await registry.create(admin(), POD, "default", pod)).message())
    wanted.spec.containers[0].resources.requests["cpu"].string = "1"
    with pytest.raises(Invalid, match='spec: Invalid value: "BestEffort": Pod QOS Class may not change as a result of'):
        await resized(registry, wanted)


async def test_a_pod_that_somebody_looks_into_can_still_be_changed(registry: Registry) -> None:
    """An ephemeral container is refused when a pod is made, and not ever after."""
    pod = copy_of(await made(registry, requirements("1")))
    added = pod.spec.ephemeral_containers.add()
    added.ephemeral_container_common.name, added.ephemeral_container_common.image = "look", "i"
    pod = copy_of(
        (await registry.update(admin(), POD, "default", "p", pod, subresource="ephemeralcontainers")).message()
    )
    pod.spec.containers[0].image = "j"
    pod = copy_of((await registry.update(admin(), POD, "default", "p", pod)).message())
    pod.spec.containers[0].resources.requests["cpu"].string = "2"
    assert (await resized(registry, pod)).spec.containers[0].resources.requests["cpu"].string == "2"


async def test_mirror_pods_are_their_nodes(registry: Registry) -> None:
    pod = await made(registry, requirements("1"))
    marked = copy_of(pod)
    marked.metadata.annotations["kubernetes.io/config.mirror"] = "x"
    wanted = copy_of((await registry.update(admin(), POD, "default", "p", marked)).message())
    wanted.spec.containers[0].resources.requests["cpu"].string = "2"
    with pytest.raises(Invalid, match="static pods cannot be resized"):
        await resized(registry, wanted)
