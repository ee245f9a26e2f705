"""PriorityClasses: one default, and what a pod gets of its class."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from controlplane.registry.registry import Registry
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import Forbidden
from wherry.testing.registries import admin, obj, open_registry, pod

V1 = "scheduling.k8s.io/v1"
CLASS = kinds.by_name(V1, "PriorityClass")
POD = kinds.by_name("v1", "Pod")


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


async def test_there_is_one_default(registry: Registry) -> None:
    await registry.create(admin(), CLASS, "", obj(V1, "PriorityClass", "a", value=5, globalDefault=True))
    with pytest.raises(Forbidden) as caught:
        await registry.create(admin(), CLASS, "", obj(V1, "PriorityClass", "b", value=6, globalDefault=True))
    assert caught.value.message == (
        'priorityclasses.scheduling.k8s.io "b" is forbidden: PriorityClass a is already marked as default. '
        "Only one default can exist"
    )
    live = (await registry.get(admin(), CLASS, "", "a")).message()
    live.description = "still the default"
    await registry.update(admin(), CLASS, "", "a", live)
    made = (await registry.create(admin(), POD, "default", pod("p"))).message()
    assert (made.spec.priority_class_name, made.spec.priority, made.spec.preemption_policy) == (
        "a", 5, "PreemptLowerPriority",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"priorityClassName": "nope"}, "no PriorityClass with name nope was found"),
        (
            {"priority": 7},
            "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 "
            "from the given PriorityClass name",
        ),
        (
            {"priorityClassName": "system-node-critical", "preemptionPolicy": "Never"},
            "the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller "
            "computed PreemptLowerPriority from the given PriorityClass name",
        ),
    ],
)  # fmt: skip
async def test_refusals(registry: Registry, spec: dict[str, object], words: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await registry.create(admin(), POD, "default", pod("p", **spec))
    assert caught.value.message == f'pods "p" is forbidden: {words}'
