"""The scheduler's shell: informers in, rounds of the pure cycle, bindings and reports out.

`Scheduler.run` is one loop. Watch handlers only note keys; the loop re-reads them (level-triggered), lets the queue's timers
fire, takes a bounded round of pods from the queue and works through it in slices of a few milliseconds, yielding to the
event loop in between. All that it knows is in the API: after a crash it lists everything anew, and a pod that was placed
but not bound is simply a pod that waits.

Started by the control plane on the replica that leads (and by anyone who has a client); `explain` and `plan` are called by
the servicer of the Scheduling service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

from controlplane.scheduler import cycle
from controlplane.scheduler.binder import Binder, Binding, LeaseFence
from controlplane.scheduler.classes import Classes
from controlplane.scheduler.cluster import Cluster, PodInfo
from controlplane.scheduler.explain import explain_slices, plan_slices
from controlplane.scheduler.needs import NeedsCache
from controlplane.scheduler.queue import Entry, SchedulingQueue, State
from controlplane.scheduler.reporter import SCHEDULER_ERROR, Reporter
from wherry.api import meta
from wherry.api.context import Env
from wherry.api.errors import Cause, Invalid, NotFound, ServiceUnavailable
from wherry.api.tasks import TaskGroup
from wherry.client.base import ClientAPI
from wherry.client.informer import Informer, SharedInformers
from wherry.pb import core_v1_pb2, scheduling_pb2

log = logging.getLogger(__name__)

ROUND_PODS = 128  # what one BindBatch carries at most: the server decodes and checks a batch in one go
ROUNDS_IN_FLIGHT = 4
# Items of the inbox per slice; a node costs several times what a pod costs.
PODS_PER_SLICE = 100
NODE_WEIGHT = 4
# A binding is confirmed by the watch within milliseconds; past this the pod is read, and settled by what it says.
ASSUMED_FOR_S = 30.0
PLAN_LIMIT_PODS = 1000
TERMINAL_PHASES = ("Succeeded", "Failed")


class Scheduler:
    """One instance per process and scheduler name. `informers`, where given, are shared with others and run by them.

    Invariants: see `check_invariants`. A pod is in the queue exactly while it is unbound, ours and not being deleted; it
    is held by the cluster while it is bound or assumed; it is in both only while its binding is in flight.
    """

    def __init__(
        self,
        client: ClientAPI,
        env: Env,
        *,
        scheduler_name: str = "default-scheduler",
        lease: LeaseFence | None = None,
        informers: SharedInformers | None = None,
    ) -> None:
        self.name = scheduler_name
        self._client = client
        self._env = env
        self._shared_informers = informers
        self._reporter = Reporter(client, env, scheduler_name)
        self._binder = Binder(client, env, self, lease)
        self._running = False
        self._reset()

    def _reset(self) -> None:
        # Informers of our own are made anew for each run: old ones would begin with what was true when they stopped.
        self._informers = self._shared_informers or SharedInformers(self._client, self._env)
        self._pods: Informer[core_v1_pb2.Pod] = self._informers.informer(core_v1_pb2.Pod)
        self._nodes: Informer[core_v1_pb2.Node] = self._informers.informer(core_v1_pb2.Node)
        self._needs = NeedsCache()
        self.cluster = Cluster()
        self.queue = SchedulingQueue()
        self._classes = Classes()
        self._changed: dict[tuple[str, str], None] = {}  # ("Pod" or "Node", key): to be read again
        self._wake = asyncio.Event()
        self._rounds_in_flight = 0
        # Bound by us and not yet confirmed by the watch, with the time at which we ask; in order of time.
        self._unconfirmed: dict[str, tuple[float, Binding]] = {}
        self._ready = False

    async def run(self) -> None:
        """Until cancelled. May be run again afterwards: it starts from nothing but what the API says."""
        if self._running:
            raise RuntimeError(f'scheduler "{self.name}" is running already')
        self._running = True
        self._reset()
        # A handler for good would be called twice after a second run: these stand for the current run only.
        changed = self._changed
        try:
            async with TaskGroup() as group:
                if self._shared_informers is None:
                    group.keep(self._informers.run, name="scheduler-informers")
                self._nodes.add_handler(lambda old, new: self._note(changed, "Node", old, new))
                self._pods.add_handler(lambda old, new: self._note(changed, "Pod", old, new))
                await self._nodes.wait_synced()
                await self._pods.wait_synced()
                await self._take_changes()
                self._ready = True
                group.keep(self._reporter.run, name="scheduler-reporter")
                await self._loop(group)
        finally:
            self._running = self._ready = False

    def _note(self, changed: dict[tuple[str, str], None], kind: str, old: Any, new: Any) -> None:
        if changed is self._changed and self._running:
            changed[kind, meta.key(new if new is not None else old)] = None
            self._wake.set()

    # -- the loop

    async def _loop(self, group: TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            await self._take_changes()
            now = loop.time()
            if overdue := self._overdue(now):
                group.create_task(self._binder.verify(overdue), name="scheduler-verify")
            self.queue.advance(now)
            if self.queue.active and self._rounds_in_flight < ROUNDS_IN_FLIGHT:
                bindings = await self._round(self.queue.pop(ROUND_PODS))
                if bindings:
                    self._rounds_in_flight += 1
                    group.create_task(self._bind(bindings), name="scheduler-bind")
                await asyncio.sleep(0)
                continue
            try:
                async with asyncio.timeout_at(self._next_time()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _next_time(self) -> float | None:
        times = [self.queue.next_time()]
        if self._unconfirmed:
            times.append(next(iter(self._unconfirmed.values()))[0])
        return min((time for time in times if time is not None), default=None)

    async def _round(self, popped: list[Entry]) -> list[Binding]:
        """Decides on all of them, in slices."""
        groups = cycle.group(popped)
        bindings: list[Binding] = []
        while groups:
            done = cycle.schedule(self.cluster.table, self._classes, groups)
            now = asyncio.get_running_loop().time()
            for pod, row in done.placements:
                assert isinstance(pod, Entry)
                bindings.append(Binding(pod, self.cluster.assume(pod.info, row)))
            for pod, refusal in done.refusals:
                assert isinstance(pod, Entry)
                self.queue.unschedulable(pod, refusal.wakes_on, now)
                self._reporter.waits(pod.info, refusal.message)
            if groups:
                await asyncio.sleep(0)
        return bindings

    async def _bind(self, bindings: list[Binding]) -> None:
        try:
            await self._binder.bind(bindings)
        finally:
            self._rounds_in_flight -= 1
            self._wake.set()

    def _overdue(self, now: float) -> list[Binding]:
        """Bindings that the server acknowledged and the watch has not shown for too long."""
        found: list[Binding] = []
        while self._unconfirmed:
            key, (until, binding) = next(iter(self._unconfirmed.items()))
            if until > now:
                break
            del self._unconfirmed[key]
            log.warning("%s was bound to %s, but no watch says so: reading it", key, binding.node)
            found.append(binding)
        return found

    def _try_again(self, entry: Entry, now: float) -> None:
        """A pod that was assumed and is not bound."""
        key = entry.info.key
        self.queue.move(self.cluster.forget(key), now)
        self.queue.back_off(entry, now)
        self._changed["Pod", key] = None  # it may be on its way out: what it is now decides
        self._wake.set()

    # -- what the watch says

    async def _take_changes(self) -> None:
        budget = PODS_PER_SLICE
        while self._changed:
            kind, key = next(iter(self._changed))
            del self._changed[kind, key]
            if kind == "Pod":
                self._take_pod(key)
            else:
                self._take_node(key)
            budget -= 1 if kind == "Pod" else NODE_WEIGHT
            if budget <= 0:
                budget = PODS_PER_SLICE
                await asyncio.sleep(0)

    def _take_node(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is None:
            self.cluster.remove_node(name)
        else:
            self.queue.move(self.cluster.put_node(node), asyncio.get_running_loop().time())

    def _take_pod(self, key: str) -> None:
        now = asyncio.get_running_loop().time()
        pod = self._pods.by_key(key)
        if pod is None or pod.status.phase in TERMINAL_PHASES:
            self._leaves_queue(key)
            self.queue.move(self.cluster.remove_pod(key), now)
            return
        if pod.spec.node_name:
            self._is_bound(key, pod, now)
            return
        held = self.cluster.held_info(key)
        if held is not None and held.uid != pod.metadata.uid:
            # Deleted and made anew under the same name.
            self._leaves_queue(key)
            self.queue.move(self.cluster.remove_pod(key), now)
        if pod.spec.scheduler_name not in (self.name, "") or meta.is_deleting(pod):
            if not self.cluster.is_assumed(key):
                self._leaves_queue(key)
            return
        if key in self._unconfirmed:
            return  # the watch is behind our binding
        entry = self.queue.put(PodInfo.of(pod, self._needs), now)
        if entry.state is State.GATED:
            self._reporter.gated(entry.info)

    def _is_bound(self, key: str, pod: core_v1_pb2.Pod, now: float) -> None:
        self._leaves_queue(key)
        self.queue.move(self.cluster.put_assigned(PodInfo.of(pod, self._needs), pod.spec.node_name), now)

    def _leaves_queue(self, key: str) -> None:
        self._unconfirmed.pop(key, None)
        self._reporter.gone(key)
        self.queue.delete(key)

    # -- what becomes of a binding (binder.Outcomes)

    def bound(self, binding: Binding) -> None:
        entry = binding.entry
        key = entry.info.key
        self._reporter.scheduled(entry.info, binding.node)
        if self.cluster.is_assumed(key) and self.queue.get(key) is entry:
            self._unconfirmed[key] = asyncio.get_running_loop().time() + ASSUMED_FOR_S, binding

    def moot(self, binding: Binding, pod: core_v1_pb2.Pod | None) -> None:
        key, now = binding.entry.info.key, asyncio.get_running_loop().time()
        if self.queue.get(key) is not binding.entry:
            return  # the watch was faster
        if pod is None:
            self._leaves_queue(key)
            self.queue.move(self.cluster.forget(key), now)
            return
        if pod.spec.node_name == binding.node:
            self._reporter.scheduled(binding.entry.info, binding.node)
        self._is_bound(key, pod, now)

    def failed(self, binding: Binding, error: Exception | None) -> None:
        entry, now = binding.entry, asyncio.get_running_loop().time()
        if self.queue.get(entry.info.key) is not entry:
            return
        self._try_again(entry, now)
        if error is not None:
            log.warning("binding %s to %s: %s", entry.info.key, binding.node, error)
            self._reporter.waits(entry.info, f"binding rejected: {error}", SCHEDULER_ERROR)

    # -- questions

    async def explain(self, request: scheduling_pb2.ExplainRequest) -> scheduling_pb2.ExplainResponse:
        """Raises NotFound, and ServiceUnavailable when the scheduler does not run here (or not yet)."""
        self._check_ready()
        pod = self._pods.get(request.name, request.namespace)
        if pod is None:
            raise NotFound(f'pods "{request.name}" not found', kind="pods", name=request.name)
        response = scheduling_pb2.ExplainResponse()
        entry = self.queue.get(meta.key(pod))
        if entry is not None:
            response.attempts = entry.attempts
            if entry.state is State.BACKOFF:
                response.next_attempt_seconds = max(0.0, entry.backoff_until() - asyncio.get_running_loop().time())
        key = meta.key(pod)
        info = self.cluster.held_info(key) or PodInfo.of(pod, self._needs)
        await _in_slices(explain_slices(self.cluster.table.copy(), info, self.cluster.node_of(key), response))
        return response

    async def plan(self, request: scheduling_pb2.PlanRequest) -> scheduling_pb2.PlanResponse:
        """Raises Invalid for more than PLAN_LIMIT_PODS pods, and ServiceUnavailable as `explain`."""
        self._check_ready()
        if len(request.pods) > PLAN_LIMIT_PODS:
            message = f"{len(request.pods)} pods: must have at most {PLAN_LIMIT_PODS} items"
            raise Invalid(message, causes=[Cause("FieldValueTooMany", message, "pods")])
        response = scheduling_pb2.PlanResponse()
        await _in_slices(plan_slices(self.cluster.table.copy(), self._needs, request.pods, response))
        return response

    def _check_ready(self) -> None:
        if not self._ready:
            raise ServiceUnavailable("the scheduler does not run in this process, or has not read the cluster yet")

    # -- for tests and the simulation

    def check_invariants(self) -> None:
        self.cluster.check_invariants()
        self.queue.check_invariants()
        for key, (_, binding) in self._unconfirmed.items():
            assert self.queue.get(key) is binding.entry, key
            assert binding.entry.state is State.IN_FLIGHT, key
            assert self.cluster.is_assumed(key), key


async def _in_slices(work: Iterator[None]) -> None:
    for _ in work:
        await asyncio.sleep(0)
