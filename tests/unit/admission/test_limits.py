"""LimitRange as tables, and through the registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.admission import limits
from controlplane.registry.registry import Registry
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import Forbidden
from wherry.testing.registries import admin, obj, open_registry, pod


def limit_range(kind: str, **fields: Any) -> Any:
    return obj("v1", "LimitRange", "l", spec={"limits": [{"type": kind, **fields}]})


def sized(*sizes: tuple[dict[str, str], dict[str, str]]) -> Any:
    containers = [
        {"name": f"c{number}", "image": "x", "resources": {"requests": requests, "limits": maximum}}
        for number, (requests, maximum) in enumerate(sizes)
    ]
    return pod("p", containers=containers)


CASES = {
    "fits": (limit_range("Container", min={"cpu": "100m"}), sized(({"cpu": "100m"}, {})), []),
    "min": (
        limit_range("Container", min={"cpu": "100m"}), sized(({"cpu": "50m"}, {})),
        ["minimum cpu usage per Container is 100m, but request is 50m"],
    ),
    "min, no request": (
        limit_range("Container", min={"memory": "1Mi"}), sized(({}, {})),
        ["minimum memory usage per Container is 1Mi. No request is specified"],
    ),
    "max": (
        limit_range("Container", max={"memory": "1Gi"}), sized(({}, {"memory": "2Gi"})),
        ["maximum memory usage per Container is 1Gi, but limit is 2Gi"],
    ),
    "max, no limit": (
        limit_range("Container", max={"cpu": "1"}), sized(({"cpu": "2"}, {})),
        ["maximum cpu usage per Container is 1. No limit is specified"],
    ),
    "ratio": (
        limit_range("Container", maxLimitRequestRatio={"cpu": "2"}), sized(({"cpu": "1"}, {"cpu": "3"})),
        ["cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"],
    ),
    "the pod": (
        limit_range("Pod", max={"memory": "1Gi"}),
        sized(({}, {"memory": "512Mi"}), ({}, {"memory": "1Gi"})),
        ["maximum memory usage per Pod is 1Gi, but limit is 1536Mi"],
    ),
    "the pod, one without": (
        limit_range("Pod", max={"cpu": "1"}), sized(({}, {"cpu": "1"}), ({}, {})),
        ["maximum cpu usage per Pod is 1. No limit is specified"],
    ),
    "two": (
        limit_range("Container", min={"cpu": "1", "memory": "1Gi"}), sized(({"cpu": "10m", "memory": "1Mi"}, {})),
        [
            "minimum cpu usage per Container is 1, but request is 10m",
            "minimum memory usage per Container is 1Gi, but request is 1Mi",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pods(name: str) -> None:
    found, given, wanted = CASES[name]
    assert limits.pod(found, given) == wanted


def claim(size: str) -> Any:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return obj("v1", "PersistentVolumeClaim", "p", spec=spec)


def test_claims() -> None:
    found = limit_range("PersistentVolumeClaim", min={"storage": "1Gi"}, max={"storage": "2Gi"})
    assert limits.claim(found, claim("1Gi")) == []
    assert limits.claim(found, claim("3Gi")) == [
        "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"
    ]
    assert limits.claim(found, claim("1Mi")) == [
        "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"
    ]


def test_defaults_are_filled_in_and_told() -> None:
    found = limit_range("Container", default={"memory": "1Gi", "cpu": "1"}, defaultRequest={"cpu": "100m"})
    given = sized(({"cpu": "2"}, {"cpu": "2"}))
    given.spec.init_containers.add(name="i")
    limits.fill(found, given)
    assert given.spec.containers[0].resources.limits["memory"].string == "1Gi"
    assert given.spec.containers[0].resources.limits["cpu"].string == "2"
    assert given.metadata.annotations[limits.ANNOTATION] == (
        "LimitRanger plugin set: memory limit for container c0; cpu request for init container i; "
        "cpu, memory limit for init container i"
    )


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


async def test_in_the_registry(registry: Registry) -> None:
    kind = kinds.by_name("v1", "LimitRange")
    ctx = admin()
    await registry.create(
        ctx, kind, "default", limit_range("Container", default={"cpu": "1"}, max={"cpu": "2"}, min={"cpu": "100m"})
    )
    assert ctx.warnings == []
    made = await registry.create(admin(), kinds.by_name("v1", "Pod"), "default", pod("p"))
    container = made.message().spec.containers[0]
    assert (container.resources.limits["cpu"].string, container.resources.requests["cpu"].string) == ("1", "1")
    with pytest.raises(Forbidden) as caught:
        await registry.create(
            admin(), kinds.by_name("v1", "Pod"), "default",
            pod("q", containers=[{"name": "c", "image": "x", "resources": {"limits": {"cpu": "3"}}}]),
        )  # fmt: skip
    assert caught.value.message == ('pods "q" is forbidden: maximum cpu usage per Container is 2, but limit is 3')
    await registry.create(admin(), kinds.by_name("v1", "Pod"), "kube-system", pod("q"))


async def test_default_classes(registry: Registry) -> None:
    for name, newest in (("old", False), ("new", True)):
        mark = {"storageclass.kubernetes.io/is-default-class": "true"} if newest else {}
        await registry.create(
            admin(), kinds.by_name("storage.k8s.io/v1", "StorageClass"), "",
            obj("storage.k8s.io/v1", "StorageClass", name, provisioner="x.example/y", meta={"annotations": mark}),
        )  # fmt: skip
    kind = kinds.by_name("v1", "PersistentVolumeClaim")
    assert (await registry.create(admin(), kind, "default", claim("1Gi"))).message().spec.storage_class_name == "new"
    chosen = claim("1Gi")
    chosen.metadata.name, chosen.spec.storage_class_name = "q", ""
    assert (await registry.create(admin(), kind, "default", chosen)).message().spec.storage_class_name == ""
