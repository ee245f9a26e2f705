"""Evictions ask the PodDisruptionBudgets, and no two of them spend the same disruption."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry.registry import Registry
from wherry.api import kinds, meta
from wherry.api.context import Env
from wherry.api.errors import InternalError, NotFound, TooManyRequests
from wherry.pb import policy_v1_pb2
from wherry.testing.registries import admin, obj, open_registry, pod

PODS = kinds.by_name("v1", "Pod")
BUDGETS = kinds.by_name("policy/v1", "PodDisruptionBudget")


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


async def put_pod(registry: Registry, name: str, *, ready: bool = True, phase: str = "Running") -> None:
    made = pod(name, meta={"labels": {"app": "web"}}, nodeName="n1")
    stored = (await registry.create(admin(), PODS, "default", made)).message()
    stored.status.phase = phase
    meta.set_condition(stored.status.conditions, "Ready", "True" if ready else "False", now=1.0)
    await registry.update(admin(), PODS, "default", name, stored, subresource="status")


async def put_budget(registry: Registry, name: str = "b", *, allowed: int, policy: str = "", **status: Any) -> None:
    spec: dict[str, Any] = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    if policy:
        spec["unhealthyPodEvictionPolicy"] = policy
    made = (
        await registry.create(admin(), BUDGETS, "default", obj("policy/v1", "PodDisruptionBudget", name, spec=spec))
    ).message()
    made.status.disruptions_allowed = allowed
    made.status.observed_generation = status.pop("observed", 1)
    for key, value in status.items():
        setattr(made.status, key, value)
    meta.set_condition(made.status.conditions, "DisruptionAllowed", "True", reason="SufficientPods", now=1.0)
    await registry.update(admin(), BUDGETS, "default", name, made, subresource="status")


async def evict(registry: Registry, name: str, *, dry_run: bool = False) -> None:
    eviction = policy_v1_pb2.Eviction()
    eviction.metadata.name, eviction.metadata.namespace = name, "default"
    ctx = admin()
    ctx.dry_run = dry_run
    await registry.evict(ctx, eviction)


async def budget(registry: Registry) -> policy_v1_pb2.PodDisruptionBudget:
    found: policy_v1_pb2.PodDisruptionBudget = (await registry.get(admin(), BUDGETS, "default", "b")).message()
    return found


async def test_an_eviction_spends_a_disruption(registry: Registry) -> None:
    await put_pod(registry, "one")
    await put_budget(registry, allowed=1, desired_healthy=1, current_healthy=2)
    await evict(registry, "one", dry_run=True)
    assert (await budget(registry)).status.disruptions_allowed == 1
    await evict(registry, "one")
    spent = await budget(registry)
    assert spent.status.disruptions_allowed == 0
    assert list(spent.status.disrupted_pods) == ["one"]
    assert [(item.status, item.reason) for item in spent.status.conditions] == [("False", "InsufficientPods")]
    gone = (await registry.get(admin(), PODS, "default", "one")).message()
    assert meta.is_deleting(gone)
    condition = meta.get_condition(gone.status.conditions, "DisruptionTarget")
    assert condition is not None
    assert condition.reason == "EvictionByEvictionAPI"
    await evict(registry, "one")  # it goes already: nothing is spent
    assert (await budget(registry)).status.disruptions_allowed == 0


async def test_as_many_as_are_allowed_and_no_more(registry: Registry) -> None:
    """Ten at once, and four disruptions."""
    for number in range(10):
        await put_pod(registry, f"p{number}")
    await put_budget(registry, allowed=4, desired_healthy=6, current_healthy=10)
    outcomes = await asyncio.gather(
        *(evict(registry, f"p{number}") for number in range(10)), return_exceptions=True
    )  # fmt: skip
    refused = [error for error in outcomes if error is not None]
    assert [type(error) for error in refused] == [TooManyRequests] * 6
    spent = await budget(registry)
    assert spent.status.disruptions_allowed == 0
    assert len(spent.status.disrupted_pods) == 4
    left = [(await registry.get(admin(), PODS, "default", f"p{number}")).message() for number in range(10)]
    assert sorted(item.metadata.name for item in left if meta.is_deleting(item)) == sorted(spent.status.disrupted_pods)


# pod (ready, phase); budget (allowed, policy, status): the cause of the refusal, "" for none; disruptions that are left
CASES: dict[str, tuple[tuple[bool, str], tuple[int, str, dict[str, Any]], str, int]] = {
    "none to spare": (
        (True, "Running"), (0, "", {"desired_healthy": 1, "current_healthy": 1}),
        "The disruption budget b needs 1 healthy pods and has 1 currently", 0,
    ),
    "not looked at yet": (
        (True, "Running"), (5, "", {"observed": 0}), "The disruption budget b is still being processed by the server.", 5,
    ),
    "a pending pod goes": ((False, "Pending"), (0, "", {}), "", 0),
    "a finished pod goes": ((False, "Succeeded"), (0, "", {}), "", 0),
    "one that is not ready, and too few that are": (
        (False, "Running"), (0, "", {"desired_healthy": 2, "current_healthy": 1}),
        "The disruption budget b needs 2 healthy pods and has 1 currently", 0,
    ),
    "one that is not ready, and enough that are": (
        (False, "Running"), (0, "IfHealthyBudget", {"desired_healthy": 2, "current_healthy": 2}), "", 0,
    ),
    "one that is not ready always may": (
        (False, "Running"), (3, "AlwaysAllow", {"desired_healthy": 9, "current_healthy": 1}), "", 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_what_is_refused(registry: Registry, case: str) -> None:
    (ready, phase), (allowed, policy, status), wanted, left = CASES[case]
    await put_pod(registry, "one", ready=ready, phase=phase)
    await put_budget(registry, allowed=allowed, policy=policy, **status)
    if wanted:
        with pytest.raises(TooManyRequests, match="Cannot evict pod as it would violate the pod's") as caught:
            await evict(registry, "one")
        assert [(cause.reason, cause.message) for cause in caught.value.causes] == [("DisruptionBudget", wanted)]
    else:
        await evict(registry, "one")
    assert (await budget(registry)).status.disruptions_allowed == left
    with contextlib.suppress(NotFound):  # a finished pod goes at once
        pod_now = (await registry.get(admin(), PODS, "default", "one")).message()
        assert meta.is_deleting(pod_now) == (not wanted)


async def test_two_budgets_for_one_pod(registry: Registry) -> None:
    await put_pod(registry, "one")
    await put_budget(registry, allowed=1)
    await put_budget(registry, "other", allowed=1)
    with pytest.raises(InternalError, match="more than one PodDisruptionBudget"):
        await evict(registry, "one")
