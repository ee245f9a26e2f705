"""The shell on virtual time, against a small API in memory that can lose requests, answers and watch events."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from controlplane.scheduler.queue import State
from controlplane.scheduler.scheduler import PLAN_LIMIT_PODS, Scheduler
from wherry.api.context import Env
from wherry.api.errors import Conflict, Forbidden, Invalid, NotFound, ServiceUnavailable, Timeout
from wherry.client.base import Page, WatchBatch, WatchEvent
from wherry.client.events import LINGER_S
from wherry.client.informer import key_of
from wherry.pb import core_v1_pb2, pods_pb2, scheduling_pb2
from wherry.testing.builders import NodeBuilder, PodBuilder, make_node, make_pod


class Api:
    """What the scheduler uses of ClientAPI. `on_bind` sees each request before it is carried out, and may raise; with
    `lose_answers` a batch is carried out and the answer is lost."""

    def __init__(self) -> None:
        self.objects: dict[type, dict[str, Any]] = {core_v1_pb2.Pod: {}, core_v1_pb2.Node: {}, core_v1_pb2.Event: {}}
        self.history: list[tuple[int, type, str, Any]] = []
        self.revision = 0
        self.changed = asyncio.Condition()
        self.binds: list[pods_pb2.BindRequest] = []
        self.status_writes = 0
        self.on_bind: Callable[[pods_pb2.BindRequest], None] = lambda request: None
        self.lose_answers = False
        self.hidden: set[str] = set()  # keys of which the watch says nothing
        self.down = False

    def _up(self) -> None:
        if self.down:
            raise ServiceUnavailable("down")

    async def put(self, builder: PodBuilder | NodeBuilder) -> None:
        obj = builder.build()
        self._store("MODIFIED" if key_of(obj) in self.objects[type(obj)] else "ADDED", obj)

    async def remove(self, cls: type, key: str) -> None:
        self._store("DELETED", self.objects[cls].pop(key))

    def _store(self, event: str, obj: Any) -> None:
        self.revision += 1
        obj.metadata.resource_version = str(self.revision)
        if event != "DELETED":
            self.objects[type(obj)][key_of(obj)] = obj
        self.history.append((self.revision, type(obj), event, _copy(obj)))
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def get(self, cls: type, name: str, namespace: str = "") -> Any:
        self._up()
        found = self.objects[cls].get(f"{namespace}/{name}" if namespace else name)
        if found is None:
            raise NotFound(name)
        return _copy(found)

    async def list(self, cls: type, selection: Any = None, *, limit: int = 0, continue_token: str = "") -> Page[Any]:
        self._up()
        return Page([_copy(obj) for obj in self.objects[cls].values()], str(self.revision))

    async def watch(
        self, cls: type, selection: Any = None, *, resource_version: str = "", bookmarks: bool = False
    ) -> AsyncIterator[WatchBatch[Any]]:
        place = next((at for at, item in enumerate(self.history) if item[0] > int(resource_version)), len(self.history))
        while True:
            async with self.changed:
                while len(self.history) == place:
                    await self.changed.wait()
            news, place = self.history[place:], len(self.history)
            events = [
                WatchEvent(event, _copy(obj))
                for _, kind, event, obj in news
                if kind is cls and key_of(obj) not in self.hidden
            ]
            if events:
                yield WatchBatch(events, str(news[-1][0]))

    async def create_batch(self, objs: Sequence[Any]) -> Sequence[str | Exception]:
        """Of the recorder."""
        self._up()
        for obj in objs:
            self.objects[type(obj)][key_of(obj)] = _copy(obj)
        return [obj.metadata.name for obj in objs]

    async def patch(self, cls: type, name: str, namespace: str, patch: Any) -> Any:
        """Of the recorder, counting an event."""
        self._up()
        self.objects[cls][f"{namespace}/{name}"].count = patch["count"]

    async def update_status(self, obj: Any) -> Any:
        self._up()
        current = self.objects[type(obj)].get(key_of(obj))
        if current is None:
            raise NotFound(obj.metadata.name)
        if current.metadata.resource_version != obj.metadata.resource_version:
            raise Conflict("changed")
        self.status_writes += 1
        new = _copy(current)
        new.status.CopyFrom(obj.status)
        self._store("MODIFIED", new)
        return new

    async def bind_batch(self, requests: Sequence[pods_pb2.BindRequest]) -> Sequence[str | Exception]:
        self._up()
        await asyncio.sleep(0.001)
        results = [self._bind(request) for request in requests]
        if self.lose_answers:
            raise Timeout("lost")
        return results

    def _bind(self, request: pods_pb2.BindRequest) -> str | Exception:
        self.binds.append(request)
        try:
            self.on_bind(request)
        except Exception as error:
            return error
        pod = self.objects[core_v1_pb2.Pod].get(f"{request.namespace}/{request.name}")
        if pod is None:
            return NotFound(request.name)
        if pod.metadata.uid != request.uid or pod.spec.node_name or pod.metadata.HasField("deletion_timestamp"):
            return Conflict(request.name)
        new = _copy(pod)
        new.spec.node_name = request.node
        self._store("MODIFIED", new)
        return str(self.revision)

    # -- what tests look at

    def nodes(self) -> dict[str, str]:
        return {pod.metadata.name: pod.spec.node_name for pod in self.objects[core_v1_pb2.Pod].values()}

    def condition(self, name: str) -> tuple[str, str, str]:
        conditions = self.objects[core_v1_pb2.Pod][f"default/{name}"].status.conditions
        return next(
            ((item.status, item.reason, item.message) for item in conditions if item.type == "PodScheduled"),
            ("", "", ""),
        )

    def events(self, name: str) -> builtins.list[tuple[str, str, str]]:
        return [
            (event.type, event.reason, event.message)
            for event in self.objects[core_v1_pb2.Event].values()
            if event.involved_object.name == name
        ]


def _copy(obj: Any) -> Any:
    twin = type(obj)()
    twin.CopyFrom(obj)
    return twin


@contextlib.asynccontextmanager
async def running(api: Api, env: Env, **options: Any) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(api, env, **options)  # type: ignore[arg-type]  # Api has what is used
    task = asyncio.create_task(scheduler.run())
    try:
        await asyncio.sleep(0.1)
        assert not task.done(), task.result()
        yield scheduler
        assert not task.done(), task.result()
        scheduler.check_invariants()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    """As soon as it holds, in steps of the loop; no virtual time passes."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never held")


@pytest.fixture
async def api() -> Api:
    return Api()


async def test_places_what_is_there_and_what_comes(api: Api, env: Env) -> None:
    await api.put(make_node("n1").cpu(2))
    await api.put(make_node("n2").cpu(2))
    await api.put(make_pod("here").cpu(1).on("n1"))
    await api.put(make_pod("first").cpu(1))
    async with running(api, env) as scheduler:
        await api.put(make_pod("second").cpu(1))
        await api.put(make_pod("third").cpu(1))
        await asyncio.sleep(0.1)
        assert api.nodes()["first"] == "n2"
        assert sorted(api.nodes().values()) == ["n1", "n1", "n2", "n2"]
        assert len(scheduler.queue) == 0
        await asyncio.sleep(LINGER_S)
    assert api.events("first") == [("Normal", "Scheduled", "Successfully assigned default/first to n2")]


async def test_a_pod_that_fits_nowhere_says_so_and_goes_when_there_is_room(api: Api, env: Env) -> None:
    await api.put(make_node("n1").cpu(2))
    await api.put(make_pod("used").cpu(2).on("n1"))
    async with running(api, env):
        await api.put(make_pod("p").cpu(1))
        await asyncio.sleep(0.1 + LINGER_S)
        message = (
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, "
            "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        )
        assert api.condition("p") == ("False", "Unschedulable", message)
        assert api.events("p") == [("Warning", "FailedScheduling", message)]
        await asyncio.sleep(400)  # tried again after five minutes
        assert api.status_writes == 1  # nothing new to say
        await api.put(make_pod("used").cpu(2).on("n1").phase("Succeeded"))
        await asyncio.sleep(0.1)
        assert api.nodes()["p"] == "n1"


async def test_woken_by_a_node(api: Api, env: Env) -> None:
    async with running(api, env):
        await api.put(make_pod("p"))
        await asyncio.sleep(5)
        assert api.condition("p")[2] == "no nodes available to schedule pods"
        await api.put(make_node("n1").not_ready())
        await asyncio.sleep(5)
        assert api.nodes()["p"] == ""
        await api.put(make_node("n1"))
        await asyncio.sleep(10)
        assert api.nodes()["p"] == "n1"


async def test_leaves_alone_what_is_not_its_own(api: Api, env: Env) -> None:
    await api.put(make_node("n1"))
    async with running(api, env) as scheduler:
        await api.put(make_pod("other").scheduler("mine"))
        await api.put(make_pod("dying").deleting())
        await api.put(make_pod("over").phase("Failed"))
        await api.put(make_pod("gated").gate("x"))
        await asyncio.sleep(1)
        assert set(api.nodes().values()) == {""}
        assert api.condition("gated")[:2] == ("False", "SchedulingGated")
        assert api.condition("other") == ("", "", "")
        assert len(scheduler.queue) == 1
        await api.put(make_pod("gated"))
        await asyncio.sleep(1)
        assert api.nodes()["gated"] == "n1"


async def test_a_refused_binding_is_tried_again(api: Api, env: Env) -> None:
    refusals = iter([Forbidden("no"), Forbidden("no")])

    def refuse(request: pods_pb2.BindRequest) -> None:
        for error in refusals:
            raise error

    api.on_bind = refuse
    await api.put(make_node("n1"))
    async with running(api, env) as scheduler:
        await api.put(make_pod("p"))
        await asyncio.sleep(0.5)
        assert api.condition("p") == ("False", "SchedulerError", "binding rejected: no")
        scheduler.check_invariants()
        await asyncio.sleep(5)
        assert api.nodes()["p"] == "n1"


async def test_an_answer_that_was_lost_does_not_give_the_room_away(api: Api, env: Env) -> None:
    """Nor does the watch tell in time: reading the pod does."""
    api.lose_answers = True
    api.hidden = {"default/p"}
    await api.put(make_node("n1").cpu(2))
    await api.put(make_pod("p").cpu(2))
    async with running(api, env) as scheduler:
        scheduler.check_invariants()
        await api.put(make_pod("q").cpu(2))
        await asyncio.sleep(30)
        assert api.nodes() == {"p": "n1", "q": ""}
        assert [request.name for request in api.binds] == ["p"]


async def test_an_outage_of_the_server(api: Api, env: Env) -> None:
    await api.put(make_node("n1"))
    async with running(api, env) as scheduler:
        await api.put(make_pod("p"))
        api.down = True
        await asyncio.sleep(20)
        scheduler.check_invariants()
        api.down = False
        await asyncio.sleep(20)
        assert api.nodes()["p"] == "n1"


async def test_a_binding_that_no_watch_confirms_is_read(api: Api, env: Env) -> None:
    await api.put(make_node("n1").cpu(2))
    async with running(api, env) as scheduler:
        await api.put(make_pod("p").cpu(2))
        await api.put(make_pod("q").cpu(2))
        await until(lambda: scheduler.cluster.is_assumed("default/p"))
        api.hidden = {"default/p", "default/q"}
        await asyncio.sleep(10)
        scheduler.check_invariants()
        assert scheduler.cluster.is_assumed("default/p")
        assert api.nodes()["p"] == "n1"
        await asyncio.sleep(25)
        # Read, and settled by that: its room was never given away.
        assert not scheduler.cluster.is_assumed("default/p")
        assert scheduler.cluster.node_of("default/p") == "n1"
        assert scheduler.queue.get("default/p") is None
        assert api.nodes() == {"p": "n1", "q": ""}


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made anew"])
async def test_deleted_while_its_binding_is_in_flight(api: Api, env: Env, again: bool) -> None:
    await api.put(make_node("n1").cpu(2))
    async with running(api, env) as scheduler:
        await api.put(make_pod("p").cpu(2))
        await until(lambda: scheduler.cluster.is_assumed("default/p"))
        await api.remove(core_v1_pb2.Pod, "default/p")
        if again:
            await api.put(make_pod("p").cpu(1).uid("other"))
        await asyncio.sleep(15)
        scheduler.check_invariants()
        assert scheduler.cluster.node_of("default/p") == ("n1" if again else "")
        assert len(scheduler.queue) == 0
        await api.put(make_pod("q").cpu(1))
        await asyncio.sleep(1)
        assert api.nodes()["q"] == "n1"


async def test_deleting_while_its_binding_is_in_flight(api: Api, env: Env) -> None:
    await api.put(make_node("n1"))
    async with running(api, env) as scheduler:
        await api.put(make_pod("p"))
        await until(lambda: scheduler.cluster.is_assumed("default/p"))
        await api.put(make_pod("p").deleting())
        await asyncio.sleep(60)
        assert len(scheduler.queue) == 0
        assert len(api.binds) == 1


async def test_a_restart_begins_with_what_the_api_says(api: Api, env: Env) -> None:
    await api.put(make_node("n1").cpu(4))
    scheduler = Scheduler(api, env)  # type: ignore[arg-type]
    for number in range(3):
        task = asyncio.create_task(scheduler.run())
        await api.put(make_pod(f"p{number}").cpu(2))
        for _ in range(number * 7 + 3):  # at different places of the way
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    task = asyncio.create_task(scheduler.run())
    await asyncio.sleep(5)
    scheduler.check_invariants()
    assert sorted(api.nodes().values()) == ["", "n1", "n1"]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_large_round_stays_in_order_and_within_the_nodes(api: Api, env: Env) -> None:
    for number in range(20):
        await api.put(make_node(f"n{number:02}").cpu(4).pods(30))
    for number in range(700):
        await api.put(make_pod(f"p{number:03}").cpu("100m").priority(number % 3))
    async with running(api, env) as scheduler:
        await asyncio.sleep(20)
        scheduler.check_invariants()
        waiting = [name for name, node in api.nodes().items() if not node]
        assert len(waiting) == 100
        assert all(int(name[1:]) % 3 == 0 for name in waiting)
        entries = [scheduler.queue.get(f"default/{name}") for name in waiting]
        assert {entry.state for entry in entries if entry is not None} == {State.UNSCHEDULABLE}


async def test_the_lease_goes_with_every_binding(api: Api, env: Env) -> None:
    class Held:
        lease, revision = "kube-system/wherry-scheduler", 42

    await api.put(make_node("n1"))
    async with running(api, env, lease=Held()):
        await api.put(make_pod("p"))
        await asyncio.sleep(0.1)
    assert [(request.lease, request.lease_revision) for request in api.binds] == [("kube-system/wherry-scheduler", 42)]


async def test_explain(api: Api, env: Env) -> None:
    await api.put(make_node("n1").cpu(1))
    await api.put(make_node("n2").cpu(4).taint("k"))
    async with running(api, env) as scheduler:
        await api.put(make_pod("small").cpu("500m"))
        await api.put(make_pod("large").cpu(2))
        await asyncio.sleep(0.5)
        small = await scheduler.explain(scheduling_pb2.ExplainRequest(namespace="default", name="small"))
        assert small.node == "n1"
        assert [(node.name, node.feasible, node.plugin) for node in small.nodes] == [
            ("n1", True, ""),
            ("n2", False, "TaintToleration"),
        ]
        # 3 * 100 for taints; cpu and memory half and 97.5 % free; a quarter off balance.
        assert dict(small.nodes[0].scores) == {
            "TaintToleration": 300.0,
            "NodeAffinity": 0.0,
            "NodeResourcesFit": 73.0,
            "NodeResourcesBalancedAllocation": 75.0,
        }
        assert small.nodes[0].total == sum(small.nodes[0].scores.values())
        large = await scheduler.explain(scheduling_pb2.ExplainRequest(namespace="default", name="large"))
        assert (large.node, large.attempts) == ("", 1)
        assert large.message == api.condition("large")[2]
        assert list(large.nodes[0].reasons) == ["Insufficient cpu"]
        with pytest.raises(NotFound):
            await scheduler.explain(scheduling_pb2.ExplainRequest(namespace="default", name="none"))


async def test_plan_changes_nothing(api: Api, env: Env) -> None:
    await api.put(make_node("n1").cpu(2))
    async with running(api, env) as scheduler:
        pods = [make_pod("a").cpu(1).build(), make_pod("b").cpu(2).build(), make_pod("g").gate("x").build()]
        for _ in range(2):
            plan = await scheduler.plan(scheduling_pb2.PlanRequest(pods=pods))
            assert [(item.name, item.node) for item in plan.placements] == [("a", "n1"), ("b", ""), ("g", "")]
            assert plan.placements[1].message.startswith("0/1 nodes are available: 1 Insufficient cpu.")
        assert not api.binds
        with pytest.raises(Invalid):
            await scheduler.plan(scheduling_pb2.PlanRequest(pods=[core_v1_pb2.Pod()] * (PLAN_LIMIT_PODS + 1)))


async def test_questions_to_one_that_does_not_run(api: Api, env: Env) -> None:
    scheduler = Scheduler(api, env)  # type: ignore[arg-type]
    with pytest.raises(ServiceUnavailable):
        await scheduler.plan(scheduling_pb2.PlanRequest())
