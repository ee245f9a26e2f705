"""Pods that name a RuntimeClass: what it brings, and what is refused, in Kubernetes' words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry.registry import Registry
from wherry.api import codec, kinds
from wherry.api.context import Env
from wherry.api.errors import Forbidden
from wherry.pb import core_v1_pb2
from wherry.testing.registries import admin, obj, open_registry

V1 = "node.k8s.io/v1"
CLASS = kinds.by_name(V1, "RuntimeClass")
POD = kinds.by_name("v1", "Pod")
KEY = {"key": "sandboxed", "operator": "Exists"}


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        sandboxed = obj(
            V1, "RuntimeClass", "sandboxed", handler="runsc", overhead={"podFixed": {"cpu": "250m"}},
            scheduling={"nodeSelector": {"sandbox": "yes"}, "tolerations": [KEY]},
        )  # fmt: skip
        await found.create(admin(), CLASS, "", sandboxed)
        await found.create(admin(), CLASS, "", obj(V1, "RuntimeClass", "plain", handler="runc"))
        yield found


async def create(registry: Registry, **spec: Any) -> core_v1_pb2.Pod:
    given = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}
    made: core_v1_pb2.Pod = (
        await registry.create(admin(), POD, "default", codec.from_dict(given, core_v1_pb2.Pod))
    ).message()
    return made


async def test_overhead_and_place_come_from_the_class(registry: Registry) -> None:
    made = await create(registry, runtimeClassName="sandboxed", nodeSelector={"disk": "ssd"}, tolerations=[KEY])
    assert {name: amount.string for name, amount in made.spec.overhead.items()} == {"cpu": "250m"}
    assert dict(made.spec.node_selector) == {"disk": "ssd", "sandbox": "yes"}
    assert [item.key for item in made.spec.tolerations].count("sandboxed") == 1


async def test_a_class_may_bring_nothing(registry: Registry) -> None:
    made = await create(registry, runtimeClassName="plain")
    assert not made.spec.overhead
    assert not made.spec.node_selector


async def test_the_overhead_may_be_said_when_it_is_the_class_s(registry: Registry) -> None:
    made = await create(registry, runtimeClassName="sandboxed", overhead={"cpu": "0.25"})
    assert made.spec.overhead["cpu"].string == "250m"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"runtimeClassName": "nope"}, 'pods "p" is forbidden: pod rejected: RuntimeClass "nope" not found'),
        (
            {"runtimeClassName": "sandboxed", "overhead": {"cpu": "1"}},
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            {"runtimeClassName": "plain", "overhead": {"cpu": "1"}},
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            {"runtimeClassName": "sandboxed", "nodeSelector": {"sandbox": "no"}},
            "conflict: runtimeClass.scheduling.nodeSelector[sandbox] = yes; pod.spec.nodeSelector[sandbox] = no",
        ),
    ],
    ids=["no such class", "another overhead", "an overhead of its own", "two places at once"],
)
async def test_refusals(registry: Registry, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(Forbidden) as refused:
        await create(registry, **spec)
    assert words in refused.value.message
