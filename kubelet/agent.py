"""The node agent: brings pods, runtime and control plane together on one node.

Step of the data path: between the node link and the runtime. Desired pods come down the control stream (`link`), each gets a
`PodWorker`; runtime events and a periodic relist wake the workers; statuses and heartbeats go up. What is assigned is kept on
disk (`checkpoint`), so pods go on without a control plane, and a restarted agent adopts what runs. The same code drives real
nodes (`wherry agent`) and hollow ones in simulation: what differs is handed in with `AgentOptions`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kubelet import admission, eviction
from kubelet.cgroups import PodCgroups
from kubelet.checkpoint import Checkpoints
from kubelet.clock import ClockWatch
from kubelet.files import PodFiles
from kubelet.housekeeping import Housekeeping
from kubelet.inventory import Inventory, release_addresses
from kubelet.link import ControlLink
from kubelet.network.cni import BANDWIDTH
from kubelet.node import Machine, NodeReport, agent_version, host_dns, machine_facts
from kubelet.objects import ObjectCache
from kubelet.options import AgentOptions
from kubelet.podnetwork import PodNetwork
from kubelet.pods import model as m
from kubelet.pods import resizing
from kubelet.pods.plan import FORCED_GRACE_S
from kubelet.pods.reach import HollowReach, Network
from kubelet.pods.services import NoCgroups, NodeSettings, NoFiles, NoVolumes, PodServices, StartSlots
from kubelet.pods.states import Phase, Stage
from kubelet.pods.status import StatusManager
from kubelet.pods.worker import PodWorker
from kubelet.pressure import Limits
from kubelet.runtime.base import (
    POD_NAME,
    POD_NAMESPACE,
    ContainerStatus,
    DNSConfig,
    Runtime,
    RuntimeFailure,
    SandboxStatus,
)
from kubelet.runtime.hollow import HollowRuntime
from kubelet.stats import MachineUsage, NodeUsage, StatsKeeper
from kubelet.streams.sessions import Sessions
from kubelet.tokens import AccountTokens
from kubelet.volumes.manager import VolumeManager
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, Conflict, NotFound
from wherry.api.tasks import TaskGroup
from wherry.client.base import Transport
from wherry.client.client import Client
from wherry.client.events import NORMAL, WARNING, EventRecorder
from wherry.pb import core_v1_pb2, nodelink_pb2

if TYPE_CHECKING:
    from kubelet.network.drain import Drain
    from kubelet.network.traffic import NodeTraffic

log = logging.getLogger(__name__)

EVENT_RETRY_S = 1.0
ENDS = ("exited", "oom", "deleted")  # kinds of runtime events that tell what no action of ours would
WORKER_RETRY_S = 5.0
READY_POLL_S, READY_CHECK_S = 0.2, 5.0
NODE_STATUS_S = 300.0
WRONG_CLOCK_STATUS_S = 10.0  # its acknowledgement tells when the clock was set
TERMINAL = (Phase.SUCCEEDED.value, Phase.FAILED.value)


class Agent:
    """`run()` until cancelled; then every pod goes on running. `transport`, `runtime` stay the caller's to close.

    Invariants: one worker per pod uid; a worker's pod is in the checkpoints until the worker is done; nothing is removed
    that the control plane has not called unwanted.
    """

    def __init__(self, env: Env, transport: Transport, runtime: Runtime, options: AgentOptions) -> None:
        self.env = env
        self.runtime = runtime
        self.options = options
        root = options.root
        self.client = Client(transport, field_manager="wherry-agent")
        self.recorder = EventRecorder(self.client, env, "kubelet", host=options.node_name)
        machine = machine_facts(root) if root is not None else Machine()
        self.report = NodeReport(
            options.node_name, machine, ips=options.ips, labels=options.labels, capacity=options.capacity,
            taints=options.taints, hard=options.eviction_hard,
        )  # fmt: skip
        facts = m.NodeFacts(
            options.node_name, tuple(options.ips), runtime={"cri": "containerd"}.get(runtime.name, runtime.name)
        )
        self.settings = NodeSettings(
            facts, self.report.memory_bytes, self.report.allocatable(), host_dns=host_dns() if root else DNSConfig()
        )
        objects = ObjectCache(self.client)
        self.volumes = (
            VolumeManager(root, objects, self.settings, AccountTokens(self.client, env), self._pod_ips, options.sweep)
            if root is not None
            else None
        )
        self.cgroups = PodCgroups(options.cgroup_parent) if root is not None and options.pod_cgroups else None
        self.settings.unified_cgroups = self.cgroups is not None and self.cgroups.unified
        self.statuses = StatusManager()
        self.services = PodServices(
            env=env, runtime=runtime, node=self.settings, objects=objects,
            volumes=self.volumes if self.volumes is not None else NoVolumes(),
            files=PodFiles(root) if root is not None else NoFiles(),
            cgroups=self.cgroups if self.cgroups is not None else NoCgroups(),
            events=self, statuses=self, starts=StartSlots(options.simultaneous_starts),
            probes=HollowReach(runtime) if isinstance(runtime, HollowRuntime) else Network(),
            pulls=asyncio.Semaphore(options.simultaneous_pulls),
        )  # fmt: skip
        self.services.out_of_memory = options.out_of_memory
        self.inventory = Inventory(runtime, options.node_name)
        self.checkpoints = Checkpoints(root)
        routes = options.traffic and root is not None
        hello = nodelink_pb2.Hello(node_name=options.node_name, agent_version=agent_version(), routes_services=routes)
        self.clock = ClockWatch()
        self.link = ControlLink(env, transport, hello, self.statuses, self)
        self.sessions = Sessions(env, transport, runtime, self._find, self._stats())
        self._workers: dict[str, PodWorker] = {}
        self._done: dict[str, None] = {}  # uids whose worker has ended and that the control plane still knows
        self._left: dict[str, m.Observed] = {}  # what ran when we began, of pods that we did not know
        self._named: set[str] = set()  # since the last Connect
        self._synced = False
        self.network = PodNetwork(options.network, self.report_soon) if options.network is not None else None
        self.traffic: NodeTraffic | None = None
        self.drain: Drain | None = None
        if routes and root is not None:
            from kubelet.network.drain import Drain
            from kubelet.network.services.controller import ZONE
            from kubelet.network.traffic import NodeTraffic, Where

            zone = options.labels.get(ZONE, "")
            here = Where(options.node_name, options.ips[0] if options.ips else "", zone)
            self.traffic = NodeTraffic(self.client, transport, env, here, root, options.network, options.ground)
            # For pods that start before the control plane has said so again.
            self.settings.cluster_dns = self.traffic.settings.cluster_dns
            self.settings.cluster_domain = self.traffic.settings.cluster_domain
            self.services.service_env = self._service_env
            self.services.isolate = self.traffic.isolate
            self.drain = self.services.drain = Drain(self.traffic.slices, self.link.ask_routes)
        self._report_now = asyncio.Event()
        self._relist_now = asyncio.Event()
        self._group: TaskGroup | None = None

    # -- life

    async def run(self) -> None:
        await self._adopt_when_ready()

    async def _adopt_when_ready(self) -> None:
        async with TaskGroup() as self._group:
            self._group.keep(self.recorder.run, name="events")
            if self.traffic is not None:
                self._group.keep(self.traffic.run, name="traffic")
            # Without its own past the agent knows nothing; until the runtime answers, nothing is decided.
            await self._adopt()
            self._group.keep(self._follow_runtime, name="runtime-events")
            self._group.keep(self._relist_loop, name="relist")
            self._group.keep(self._watch_readiness, name="readiness")
            self._group.keep(partial(self.checkpoints.run, self._checkpoint), name="checkpoints")
            self._group.keep(self.link.run, name="control-stream")
            if self.options.root is not None:
                self._group.keep(self._housekeeping(self.options.root).run, name="housekeeping")

    def _housekeeping(self, root: Path) -> Housekeeping:
        return Housekeeping(
            self.env, self.runtime, self.report, root, self.workers, self.volumes, self.cgroups,
            Limits(self.options.eviction_hard, self.options.pressure_transition_s, "memory" in self.options.capacity),
            self.options.image_gc, self._emit_of_node, self._report_now.set,
        )  # fmt: skip

    def _stats(self) -> StatsKeeper:
        """Of a divided machine a node can only tell what its own pods use."""
        root = self.options.root
        node: NodeUsage | None = None
        if root is not None:
            node = self.cgroups if "memory" in self.options.capacity else MachineUsage()
        return StatsKeeper(self.env, self.runtime, self.workers, node, root)

    def workers(self) -> list[PodWorker]:
        return [worker for _, worker in sorted(self._workers.items())]

    def check_invariants(self) -> None:
        self.statuses.check_invariants()
        self.services.starts.check_invariants()
        assert not self._workers.keys() & self._done.keys(), "a pod is done and running"
        for uid, worker in self._workers.items():
            assert worker.pod.metadata.uid == uid
            worker.check_invariants()

    async def _adopt(self) -> None:
        """Takes up what the last agent left: checkpointed pods, with their sandboxes and containers."""
        sandboxes, containers = await self.inventory.wait_for()
        await release_addresses(self.options.network, sandboxes)
        for pod in self.checkpoints.load():
            uid = pod.metadata.uid
            observed = m.Observed(tuple(sandboxes.get(uid, ())), tuple(containers.get(uid, ())))
            # A checkpoint has the pod with what it was allocated, written before that was applied.
            self._start_worker(pod, observed, adopted=True, allocated=resizing.of_spec(pod))
        if self._workers:
            log.info("adopted %d pods", len(self._workers))
            self._emit_of_node(NORMAL, "Starting", f"Starting kubelet: {len(self._workers)} pods are taken over")
        # Without a checkpoint (lost, or a hollow node) it is up to the control plane to say what they are.
        self._left = {
            uid: m.Observed(tuple(found), tuple(containers.get(uid, ())))
            for uid, found in sandboxes.items()
            if uid not in self._workers
        }

    # -- workers

    def _start_worker(
        self,
        pod: core_v1_pb2.Pod,
        observed: m.Observed | None = None,
        *,
        adopted: bool = False,
        removed: bool = False,
        allocated: resizing.Allocation | None = None,
    ) -> None:
        assert self._group is not None
        worker = PodWorker(self.services, pod, observed, adopted=adopted, allocated=allocated)
        worker.memory.removed = removed
        self._workers[pod.metadata.uid] = worker
        self._group.create_task(self._run_worker(pod.metadata.uid, worker), name=f"pod-{pod.metadata.uid}")

    async def _run_worker(self, uid: str, worker: PodWorker) -> None:
        while True:
            try:
                await worker.run()
                break
            except Exception:
                # A defect in one pod's task must not end the others; it starts over from what the runtime has.
                log.exception("the task of pod %s/%s failed", worker.pod.metadata.namespace, worker.pod.metadata.name)
            await asyncio.sleep(WORKER_RETRY_S)
            worker = await self._fresh(uid, worker)
        del self._workers[uid]
        self.checkpoints.remove(uid)
        if worker.memory.removed:
            self.statuses.forget(uid)
        else:
            self._done[uid] = None
        self._decide_resizes()  # there is room now

    async def _fresh(self, uid: str, old: PodWorker) -> PodWorker:
        sandboxes, containers = await self.inventory.wait_for()
        observed = m.Observed(tuple(sandboxes.get(uid, ())), tuple(containers.get(uid, ())))
        worker = PodWorker(self.services, old.desired, observed, adopted=True, allocated=old.memory.allocated)
        worker.memory.applied = old.memory.applied
        worker.memory.removed = old.memory.removed
        worker.memory.ended, worker.memory.kill_by = old.memory.ended, old.memory.kill_by
        if old.memory.status is not None:
            worker.memory.status = old.memory.status
        self._workers[uid] = worker
        return worker

    def _find(self, namespace: str, name: str, uid: str) -> PodWorker | None:
        for worker in self._workers.values():
            metadata = worker.pod.metadata
            if metadata.namespace == namespace and metadata.name == name and uid in ("", metadata.uid):
                return worker
        return None

    def _pod_ips(self, uid: str) -> tuple[str, ...]:
        worker = self._workers.get(uid)
        current = worker.observed.current if worker is not None else None
        return current.ips if current is not None else ()

    def _service_env(self, pod: core_v1_pb2.Pod) -> Mapping[str, str]:
        # Without a control plane there is nobody to tell us, and pods are restarted all the same.
        return self.traffic.environment(pod, wait=self.link.connected) if self.traffic is not None else {}

    # -- what workers say

    def emit(self, pod: core_v1_pb2.Pod, type: str, reason: str, message: str, field_path: str = "") -> None:
        metadata = pod.metadata
        self.recorder.event(
            core_v1_pb2.ObjectReference(
                kind="Pod", api_version="v1", namespace=metadata.namespace, name=metadata.name, uid=metadata.uid,
                resource_version=metadata.resource_version, field_path=field_path,
            ),
            type, reason, message,
        )  # fmt: skip

    def _emit_of_node(self, type: str, reason: str, message: str) -> None:
        # The kubelet's convention: a node's own events carry its name for a uid.
        name = self.options.node_name
        self.recorder.event(core_v1_pb2.ObjectReference(kind="Node", name=name, uid=name), type, reason, message)

    def put(self, pod: core_v1_pb2.Pod, status: core_v1_pb2.PodStatus, *, terminated: bool) -> None:
        self.statuses.put(pod, status, terminated=terminated)
        self.checkpoints.mark(pod.metadata.uid)

    def _checkpoint(self, uid: str) -> core_v1_pb2.Pod | None:
        worker = self._workers.get(uid)
        if worker is None:
            return None
        pod = core_v1_pb2.Pod()
        pod.CopyFrom(worker.pod)
        if worker.memory.status is not None:
            pod.status.CopyFrom(worker.memory.status)
        return pod

    # -- the runtime's side

    async def _follow_runtime(self) -> None:
        while True:
            try:
                async for event in self.runtime.events():
                    if event.kind not in ENDS:
                        continue  # we made or started it ourselves, and look at it when that is done
                    for worker in list(self._workers.values()):
                        worker.touch(event.container_id)
            except RuntimeFailure as error:
                log.warning("runtime events: %s", error.message)
            finally:
                self._relist_now.set()  # something may have happened meanwhile
            problem = await self._readiness()
            if problem.startswith("container runtime"):  # and not the network's, beside which events come
                await self._await_runtime(problem)
            else:
                await asyncio.sleep(EVENT_RETRY_S)

    async def _await_runtime(self, problem: str) -> None:
        """Told although the node stays Ready when it is soon there again: nothing new runs meanwhile."""
        self._emit_of_node(WARNING, "ContainerRuntimeDown", f"{problem}; its containers run on")
        while True:
            await asyncio.sleep(EVENT_RETRY_S)
            if not await self._readiness():
                break
        self._relist_now.set()
        self._emit_of_node(NORMAL, "ContainerRuntimeUp", "container runtime answers again")

    async def _relist_loop(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.options.relist_s):
                    await self._relist_now.wait()
            except TimeoutError:
                pass
            self._relist_now.clear()
            try:
                sandboxes, containers = await self.inventory.list()
            except RuntimeFailure as error:
                log.warning("relist: %s", error.message)
                continue
            for uid, worker in list(self._workers.items()):
                worker.relist(sandboxes.get(uid, ()), containers.get(uid, ()))
            self._decide_resizes()
            if self._synced:
                self._remove_orphans(sandboxes, containers)

    def _remove_orphans(
        self, sandboxes: Mapping[str, Sequence[SandboxStatus]], containers: Mapping[str, Sequence[ContainerStatus]]
    ) -> None:
        """Pods of ours that nobody wants and of which no checkpoint tells."""
        for uid, left in sandboxes.items():
            if uid in self._workers or uid in self._named or not left:
                continue
            labels = left[0].labels
            log.info("removing the orphaned pod %s/%s", labels.get(POD_NAMESPACE), labels.get(POD_NAME))
            pod = core_v1_pb2.Pod()
            pod.metadata.namespace = labels.get(POD_NAMESPACE, left[0].namespace)
            pod.metadata.name = labels.get(POD_NAME, left[0].name)
            pod.metadata.uid = uid
            graces = [c.annotations.get(m.GRACE_PERIOD, "") for c in containers.get(uid, ())]
            pod.spec.termination_grace_period_seconds = max((int(g) for g in graces if g.isdigit()), default=30)
            self._start_worker(pod, m.Observed(tuple(left), tuple(containers.get(uid, ()))), adopted=True, removed=True)

    async def _watch_readiness(self) -> None:
        """The Ready condition: asked for often until it is there, then now and then."""
        loop = asyncio.get_running_loop()
        reported = -NODE_STATUS_S
        while True:
            problem = await self._readiness()
            due = reported + (WRONG_CLOCK_STATUS_S if self.clock.wrong else NODE_STATUS_S)
            if problem != self.report.not_ready or self._report_now.is_set() or loop.time() >= due:
                self._report_now.clear()
                self.report.not_ready = problem
                reported = loop.time()
                self.link.put_node_status(self.report.status(self.env.now()))
            try:
                async with asyncio.timeout(READY_POLL_S if problem else READY_CHECK_S):
                    await self._report_now.wait()
            except TimeoutError:
                pass

    async def _readiness(self) -> str:
        try:
            if self.report.runtime_version.startswith("unknown"):
                name, version = await self.runtime.version()
                self.report.runtime_version = f"{name}://{version.removeprefix('v')}"
            return await self.runtime.ready()
        except RuntimeFailure as error:
            return f"container runtime is down: {error.message}"

    # -- the control plane's side (link.Handler)

    async def before_connect(self) -> None:
        """The Node object must exist before the stream; its labels are brought up to date."""
        try:
            node = await self.client.get(core_v1_pb2.Node, self.options.node_name)
        except NotFound:
            try:
                await self.client.create(self.report.node())
            except AlreadyExists:
                pass
            return
        wanted = self.report.labels()
        if any(node.metadata.labels.get(name) != value for name, value in wanted.items()):
            node.metadata.labels.update(wanted)
            try:
                await self.client.update(node)
            except Conflict:
                pass  # the next connection does it

    def on_connected(self) -> None:
        self._named = set()
        self._synced = False
        self.report_soon()

    def report_soon(self) -> None:
        self._report_now.set()

    def on_settings(self, settings: nodelink_pb2.Settings) -> None:
        self.settings.cluster_domain = settings.cluster_domain or self.settings.cluster_domain
        if self.traffic is not None:
            self._configure_traffic(self.traffic, settings)
        if self.traffic is not None or self.options.root is None:
            self.settings.cluster_dns = settings.cluster_dns  # elsewhere nobody would answer at it
        assert self._group is not None
        if self.network is not None:
            self.network.on_settings(self._group, settings)

    def _configure_traffic(self, traffic: NodeTraffic, settings: nodelink_pb2.Settings) -> None:
        from kubelet.network.traffic import TrafficSettings

        traffic.configure(TrafficSettings(settings.pod_cidr, settings.cluster_dns, self.settings.cluster_domain))

    def on_pods(self, batch: nodelink_pb2.PodBatch) -> None:
        for upsert in batch.upserts:
            pod = core_v1_pb2.Pod()
            pod.CopyFrom(upsert)
            self._upsert(pod)
        for key in batch.removed:
            # An ordinary deletion waits for us to be done with the pod: this one was forced.
            self._remove(key.uid, FORCED_GRACE_S)
        if batch.synced:
            self._synced = True
            self._left = {}
            for uid, worker in list(self._workers.items()):
                if uid not in self._named:
                    worker.remove()
            for uid in [uid for uid in self._done if uid not in self._named]:
                self._forget(uid)
            self._relist_now.set()

    def _upsert(self, pod: core_v1_pb2.Pod) -> None:
        uid = pod.metadata.uid
        self._named.add(uid)
        if uid in self._done:
            return
        worker = self._workers.get(uid)
        if worker is None:
            self.checkpoints.save(pod)
            left = self._left.pop(uid, None)
            self._start_worker(pod, left, adopted=left is not None)
            if left is None:
                self._admit(pod)
                if not self.options.shapes and any(name in pod.metadata.annotations for name in BANDWIDTH):
                    said = "Pod requests bandwidth shaping, but the shaper is undefined: Docker's bridge has none"
                    self.emit(pod, "Warning", "UndeterminedShaper", said)
        elif not worker.memory.removed:
            if worker.pod.metadata.generation != pod.metadata.generation or pod.metadata.HasField("deletion_timestamp"):
                self.checkpoints.mark(uid)
            worker.update(pod)
            if worker.wants_resize():
                self._decide_resizes()

    def _held_beside(self, uid: str) -> list[tuple[int, int]]:
        """What each other pod asks for that holds resources here, as it is allocated: milli CPU and bytes of memory."""
        return [worker.requests for worker in self._beside(uid)]

    def _beside(self, uid: str) -> list[PodWorker]:
        return [
            worker
            for worker in self._workers.values()
            if worker.pod.metadata.uid != uid
            and not worker.memory.removed
            and worker.stage is Stage.SYNCING
            and worker.pod.status.phase not in TERMINAL
            and (worker.memory.ended is None or worker.observed.alive())
        ]

    def _decide_resizes(self) -> None:
        """The most important pod first; what does not fit now is asked again when something has changed."""
        waiting = [worker for worker in self.workers() if worker.wants_resize()]
        for worker in sorted(waiting, key=lambda worker: (-worker.desired.spec.priority, worker.desired.metadata.uid)):
            held = self._held_beside(worker.desired.metadata.uid)
            worker.decide_resize(resizing.verdict(worker.desired, held, self.settings.allocatable))
            if worker.memory.resize_pending is None:
                self.checkpoints.save(self._checkpoint(worker.desired.metadata.uid) or worker.pod)

    def _admit(self, pod: core_v1_pb2.Pod) -> None:
        """A pod that does not fit fails at once. One that has been running is not asked again."""
        uid = pod.metadata.uid
        if pod.status.container_statuses or pod.status.phase in TERMINAL or pod.metadata.HasField("deletion_timestamp"):
            return
        taken = [port for worker in self._beside(uid) for port in admission.host_ports(worker.pod)]
        refused = admission.refusal(pod, self._held_beside(uid), self.settings.allocatable, taken)
        refused = refused or eviction.refusal(pod, self.report.pressure.conditions())
        if refused is not None:
            self.emit(pod, "Warning", *refused)
            self._workers[uid].end(*refused, None)

    def _remove(self, uid: str, grace_s: float | None = None) -> None:
        self._named.discard(uid)
        worker = self._workers.get(uid)
        if worker is not None:
            worker.remove(grace_s)
        else:
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        self._done.pop(uid, None)
        self.statuses.forget(uid)

    def on_unknown(self, keys: list[nodelink_pb2.PodKey]) -> None:
        """The control plane has no such pod (any more)."""
        for key in keys:
            if self._synced or key.uid in self._done:
                self._remove(key.uid)

    def on_open_session(self, session: nodelink_pb2.OpenSession) -> None:
        assert self._group is not None
        self.sessions.open(self._group, session)

    def on_close_session(self, session_id: str) -> None:
        self.sessions.close(session_id)

    def on_routes_query(self, query: int, revision: int) -> None:
        assert self._group is not None
        if self.traffic is not None:
            self._group.create_task(self._answer_routes(self.traffic, query, revision), name="routes-query")

    async def _answer_routes(self, traffic: NodeTraffic, query: int, revision: int) -> None:
        if await traffic.routes_by(revision):
            self.link.routes_level(query)

    def on_routes_settled(self, request: int, missing: list[str]) -> None:
        if self.drain is not None:
            self.drain.on_settled(request, missing)

    def on_server_time(self, sent: float, received: float, theirs: float) -> None:
        said = self.clock.observe(sent, received, theirs)
        if said:
            log.warning("%s", said)
            self._emit_of_node(WARNING if self.clock.wrong else NORMAL, "ClockSkew", said)

    # -- for tests and simulation

    def stages(self) -> dict[str, Stage]:
        return {worker.pod.metadata.name: worker.stage for worker in self.workers()}
