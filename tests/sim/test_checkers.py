"""The checkers must be able to fail: on made-up histories, and on a cluster whose controller was broken on purpose."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controlplane.controllers.replicaset.controller import ReplicaSetController
from controlplane.controllers.replicaset.expectations import Expectations
from controlplane.store.base import Event, KeyValue
from wherry.api.context import Env
from wherry.pb import core_v1_pb2
from wherry.testing.builders import make_node, make_pod
from wherry.testing.checkers import (
    BoundPodsStay,
    Checker,
    NodesAreNotOvercommitted,
    ReadyPodsNeverBelow,
    ReplicaSetsMakeNoSurplus,
    RevisionsAreAcknowledgedOnce,
    Violation,
)
from wherry.testing.cluster import sim_cluster
from wherry.testing.history import History
from wherry.testing.manifests import deployment
from wherry.testing.workloads import make_replicaset

PREFIXES = {"Pod": "core/pods/default", "Node": "core/nodes", "ReplicaSet": "apps/replicasets/default"}


class Story:
    """Feeds a checker with puts and deletes."""

    def __init__(self, checker: Checker) -> None:
        self.history = History()
        self._checker = checker
        self._revision = 0

    def put(self, *objects: Any) -> None:
        for obj in objects:
            self._event(obj, deleted=False)

    def delete(self, obj: Any) -> None:
        self._event(obj, deleted=True)

    def _event(self, obj: Any, *, deleted: bool) -> None:
        self._revision += 1
        key = f"/registry/{PREFIXES[type(obj).__name__]}/{obj.metadata.name}"
        value = b"" if deleted else obj.SerializeToString(deterministic=True)
        event = Event(deleted, KeyValue(key, value, self._revision, self._revision), None)
        change = self.history.take(event, float(self._revision))
        assert change is not None
        self._checker.check(change, self.history)


def owned(name: str, *, ready: bool = False, deleting: bool = False) -> core_v1_pb2.Pod:
    pod = make_pod(name).labels(app="web").on("n1").build()
    pod.metadata.owner_references.add(kind="ReplicaSet", name="rs", uid="uid-default-rs", controller=True)
    if ready:
        pod.status.conditions.add(type="Ready", status="True")
    if deleting:
        pod.metadata.deletion_timestamp.seconds = 1
    return pod


def test_a_pod_that_moves_is_found() -> None:
    story = Story(BoundPodsStay())
    story.put(make_pod("p").build(), make_pod("p").on("n1").build(), make_pod("p").on("n1").phase("Running").build())
    with pytest.raises(Violation, match=r"never changes its node\..*n1.*n2"):
        story.put(make_pod("p").on("n2").build())


def test_a_pod_made_anew_may_be_elsewhere() -> None:
    story = Story(BoundPodsStay())
    story.put(make_pod("p").on("n1").build())
    story.delete(make_pod("p").build())
    story.put(make_pod("p").uid("other").build(), make_pod("p").uid("other").on("n2").build())


def test_an_overcommitted_node_is_found() -> None:
    story = Story(NodesAreNotOvercommitted())
    story.put(make_node("n1").cpu(2).memory("4Gi").build())
    story.put(*(make_pod(name).cpu("900m").on("n1").build() for name in "ab"))
    finished = make_pod("a").cpu("900m").on("n1").phase("Succeeded").build()
    story.put(finished, make_pod("c").cpu("900m").on("n1").build())
    with pytest.raises(Violation, match="2700 cpu asked for, 2000 allocatable"):
        story.put(make_pod("d").cpu("900m").on("n1").build())


def test_surplus_pods_are_found() -> None:
    story = Story(ReplicaSetsMakeNoSurplus())
    story.put(make_replicaset("rs", 2).build(), owned("a"), owned("b"))
    story.put(owned("a", deleting=True), owned("c"))
    with pytest.raises(Violation, match="3 pods of rs, 2 asked for"):
        story.put(owned("d"))


def test_pods_asked_for_a_moment_ago_are_no_surplus() -> None:
    story = Story(ReplicaSetsMakeNoSurplus())
    story.put(make_replicaset("rs", 3).build(), owned("a"), make_replicaset("rs", 1).build(), owned("b"), owned("c"))


def test_too_few_ready_pods_are_found() -> None:
    story = Story(ReadyPodsNeverBelow("default", {"app": "web"}, minimum=2, maximum=3))
    story.put(owned("a", ready=True), owned("b", ready=True), owned("c", ready=True), owned("a", deleting=True))
    with pytest.raises(Violation, match="1 ready, at least 2 wanted"):
        story.put(owned("b", ready=True, deleting=True))


def test_too_many_pods_are_found() -> None:
    story = Story(ReadyPodsNeverBelow("default", {"app": "web"}, minimum=1, maximum=2))
    story.put(owned("a", ready=True), owned("b"))
    with pytest.raises(Violation, match="3 pods, at most 2 wanted"):
        story.put(owned("c"))


def test_a_lost_write_is_found() -> None:
    checker = RevisionsAreAcknowledgedOnce()
    story = Story(BoundPodsStay())
    story.put(make_pod("p").build())
    checker.acknowledge(make_pod("p").version(1).build())
    checker.finish(story.history)
    checker.acknowledge(make_pod("q").version(2).build())
    with pytest.raises(Violation, match="default/q at revision 2"):
        checker.finish(story.history)


async def test_a_controller_that_trusts_a_stale_cache_is_caught(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Expectations, "satisfied", lambda self, key, is_present: True)

    async def run() -> None:
        async with sim_cluster(env, nodes=2) as cluster:
            cluster.lag.watch_s = 1.0
            await cluster.apply(deployment("web", replicas=5))
            await cluster.converge()

    with pytest.raises(Violation, match="never has more pods"):
        await run()


@pytest.mark.parametrize("seed", range(4))
async def test_one_that_does_not_is_not(env: Env) -> None:
    watch = ReadyPodsNeverBelow("default", {"app": "web"}, minimum=4, maximum=7)
    async with sim_cluster(env, checkers=[watch]) as cluster:
        cluster.lag.watch_s = 1.0
        await cluster.apply(deployment("web", replicas=5))
        await cluster.converge()
        await asyncio.sleep(5)
        await cluster.set_image("default/web", "example.com/app:2")
        await cluster.wait_until(lambda: not cluster.is_complete("default/web"))
        await cluster.converge()
        await cluster.wait_until(lambda: len(cluster.pods()) == 5)


@pytest.mark.parametrize("seed", range(3))
async def test_creations_whose_answer_is_lost_are_not_repeated_blindly(
    env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settling takes long here, so that the cache moves on meanwhile: a decision on what it showed before would be wrong."""
    settle = ReplicaSetController._settle_doubt

    async def settle_slowly(self: ReplicaSetController, key: str, namespace: str) -> None:
        await settle(self, key, namespace)
        await asyncio.sleep(1)

    monkeypatch.setattr(ReplicaSetController, "_settle_doubt", settle_slowly)
    async with sim_cluster(env) as cluster:
        cluster.lag.watch_s = 0.1
        cluster.faults.after = 0.5
        await cluster.apply(deployment("web", replicas=1))
        for replicas in (4, 8, 3, 9):
            await cluster.scale("default/web", replicas)
            await asyncio.sleep(8)
        cluster.faults.after = 0.0
        await cluster.converge()
