"""A defect in one long-lived task (an exception that nobody thought of) stops neither its neighbours nor, after the back-off,
the task itself: of the agent and of the control plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from controlplane.controllers.podgc.controller import PodCollector
from controlplane.nodelink.monitor import Monitor
from controlplane.scheduler.binder import Binder
from controlplane.scheduler.scheduler import Scheduler
from controlplane.store.maintenance import Compactor
from kubelet.agent import Agent
from kubelet.link import ControlLink
from kubelet.runtime.hollow import HollowRuntime
from wherry.api.context import Env
from wherry.client.events import EventRecorder
from wherry.client.informer import Informer
from wherry.client.workqueue import WorkQueue
from wherry.testing.cluster import sim_cluster
from wherry.testing.manifests import deployment

FAILURES = 3

# What fails, in whose task, and after how many seconds it has been called surely.
PLACES: list[tuple[str, Any, str, float]] = [
    ("agent: relist", Agent, "_remove_orphans", 15),
    ("agent: readiness", HollowRuntime, "ready", 20),
    ("agent: list", HollowRuntime, "list_sandboxes", 15),
    ("agent: control stream", Agent, "on_pods", 15),
    ("agent: heartbeats", ControlLink, "_send", 15),
    ("agent: checkpoints", Agent, "_checkpoint", 15),
    ("agent: events", EventRecorder, "_write", 15),
    ("control plane: silence", Monitor, "_newly_silent", 15),
    ("control plane: compaction", Compactor, "step", 200),
    ("control plane: informers", Informer, "_take", 15),
    ("control plane: work queues", WorkQueue, "get", 15),
    ("control plane: scheduling round", Scheduler, "_round", 15),
    ("control plane: binding", Binder, "bind", 15),
    ("control plane: pod collector", PodCollector, "collect", 100),
]


class Defect:
    """Makes a method raise what nobody expects, `FAILURES` times from `armed` on."""

    def __init__(self, cls: Any, name: str) -> None:
        self.armed = False
        self.raised = 0
        self._original: Callable[..., Any] = getattr(cls, name)

    def method(self) -> Callable[..., Any]:
        defect = self

        def fail() -> None:
            if defect.armed and defect.raised < FAILURES:
                defect.raised += 1
                raise ZeroDivisionError("a defect")

        if asyncio.iscoroutinefunction(self._original):

            async def broken(*arguments: Any, **named: Any) -> Any:
                fail()
                return await defect._original(*arguments, **named)

            return broken

        def broken_too(*arguments: Any, **named: Any) -> Any:
            fail()
            return defect._original(*arguments, **named)

        return broken_too


@pytest.mark.parametrize(
    ("cls", "name", "within_s"), [place[1:] for place in PLACES], ids=[place[0] for place in PLACES]
)
async def test_everything_goes_on_after_a_defect(
    env: Env, monkeypatch: pytest.MonkeyPatch, supervised: list[str], cls: Any, name: str, within_s: float
) -> None:
    defect = Defect(cls, name)
    monkeypatch.setattr(cls, name, defect.method())
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=4))
        await cluster.converge()
        running = {name: await node.sandboxes() for name, node in cluster.nodes.items()}
        defect.armed = True
        await cluster.scale("default/web", 6)
        await asyncio.sleep(within_s)
        assert defect.raised, "the defect was never met"
        await cluster.wait_until(lambda: defect.raised == FAILURES, timeout_s=600, what="the defect is over")
        await cluster.ready(timeout_s=120)
        await cluster.scale("default/web", 8)
        await cluster.converge()
        for node, sandboxes in running.items():
            assert set(sandboxes) <= set(await cluster.nodes[node].sandboxes()), "no pod was lost"
        for node in cluster.nodes.values():
            assert node.running
    supervised.clear()
