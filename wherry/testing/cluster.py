"""A whole cluster in one process on virtual time: control plane, controllers and hollow nodes over one store in memory.

    async with SimCluster(env, nodes=3) as cluster:
        await cluster.apply(manifest)
        await cluster.wait_until(lambda: cluster.is_complete("default/web"))
        cluster.nodes["node-1"].cut()

Everything that happens to objects is in `cluster.history`, read from the store, which outlives crashes; the checkers see
each change as it comes, and what they find ends the test. Faults are turned on and off by hand or by `wherry.testing.chaos`.
Called by tests/sim, and by the scheduler's, controllers' and agent's own tests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from google.protobuf.message import Message

from controlplane.registry.base import ADMIN, Identity
from controlplane.registry.conditions import Condition
from controlplane.server import ControlPlane, Options
from controlplane.store.base import StoreError
from controlplane.store.faulty import Faults, FaultyStore
from controlplane.store.sqlite import SqliteStore
from wherry.api import codec, kinds, meta
from wherry.api.context import Env
from wherry.api.errors import APIError, Conflict, ServiceUnavailable, Timeout
from wherry.client.base import Selection
from wherry.client.client import Client
from wherry.client.local import LocalTransport
from wherry.pb import apps_v1_pb2, core_v1_pb2
from wherry.testing.checkers import Checker, RevisionsAreAcknowledgedOnce, always
from wherry.testing.history import ROOT, History
from wherry.testing.loop import virtual_loop
from wherry.testing.network import Lag, LaggingTransport, Link, Server
from wherry.testing.node import SimNode

M = TypeVar("M", bound=Message)

log = logging.getLogger(__name__)

START_RETRY_S = 1.0
RETRY_S = 0.5
INVARIANTS_EVERY_S = 1.0


class _ControlPlane(ControlPlane):
    """Whose own components see the cluster with a lag."""

    def __init__(self, env: Env, store: FaultyStore, options: Options, lag: Lag) -> None:
        super().__init__(env, store, options)
        self.store = store
        self._lag = lag

    def local_transport(self, identity: Identity, condition: Condition | None = None) -> LocalTransport:
        services = self.services if condition is None else self.services.under(condition)
        transport = LaggingTransport(services, identity, self.env, self._lag)
        self._transports.append(transport)
        return transport


class SimCluster:
    """Invariant: `history` holds every change of the store up to the newest revision that the follower has read."""

    def __init__(
        self,
        env: Env,
        *,
        nodes: int | Sequence[str] = 3,
        options: Options | None = None,
        checkers: Sequence[Checker] = (),
        cpus: int = 8,
        memory_bytes: int = 16 << 30,
    ) -> None:
        self.env = env
        self.history = History()
        self.acknowledged = RevisionsAreAcknowledgedOnce()
        self.checkers: list[Checker] = [*always(), *checkers]
        self.faults = Faults()  # of the store, whichever control plane uses it
        self.lag = Lag()  # of the control plane's own components
        self._options = options or Options(pki=False)
        self._store: SqliteStore | None = None
        self._control_plane: _ControlPlane | None = None
        self._server: Server | None = None
        self._link = Link(lambda: self._server, ADMIN, env)
        self.client = Client(self._link, field_manager="sim")
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None
        self._began = 0.0
        names = [f"node-{number}" for number in range(1, nodes + 1)] if isinstance(nodes, int) else list(nodes)
        self.nodes: dict[str, SimNode] = {
            name: SimNode(name, env, self._link_of(name), number, cpus=cpus, memory_bytes=memory_bytes)
            for number, name in enumerate(names, 1)
        }

    # -- life

    async def __aenter__(self) -> Self:
        loop = virtual_loop()
        self._began = loop.time()
        self._store = await SqliteStore.open(":memory:", inline=True)
        self._tasks = [loop.create_task(self._follow(self._store)), loop.create_task(self._check_invariants())]
        await self.start_control_plane()
        for node in self.nodes.values():
            await node.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            log.error("the simulation failed; seed %s, the last of its history:\n%s", self.seed, self.tail())
        for node in self.nodes.values():
            await node.stop()
        if self._control_plane is not None:
            await self.stop_control_plane()
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._store is not None
        await self._store.close()
        if kind is None:
            self._raise_failure()
            self.acknowledged.finish(self.history)

    @property
    def seed(self) -> int:
        return virtual_loop().seed

    @property
    def now_s(self) -> float:
        """Virtual seconds since the start."""
        return virtual_loop().time() - self._began

    @property
    def control_plane(self) -> ControlPlane:
        assert self._control_plane is not None, "the control plane is down"
        return self._control_plane

    async def start_control_plane(self) -> None:
        """On the store as it is. Tries again while the store refuses."""
        assert self._store is not None
        while True:
            store = FaultyStore(self._store, self.env, self.faults)
            control_plane = _ControlPlane(self.env, store, self._options, self.lag)
            try:
                await control_plane.start()
                break
            except (APIError, StoreError) as error:
                log.info("the control plane did not start: %s", error)
                await control_plane.stop(abrupt=True)
                await asyncio.sleep(START_RETRY_S)
        self._control_plane = control_plane
        self._server = Server(super(_ControlPlane, control_plane).local_transport)

    async def stop_control_plane(self) -> None:
        """In good order."""
        assert self._control_plane is not None
        assert self._server is not None
        control_plane, server = self._control_plane, self._server
        self._control_plane = self._server = None
        await server.kill()
        await control_plane.stop()

    async def crash_control_plane(self) -> None:
        """As kill -9: nothing more is written, every call ends unanswered, all that was in memory is gone."""
        assert self._control_plane is not None
        assert self._server is not None
        control_plane, server = self._control_plane, self._server
        self._control_plane = self._server = None
        control_plane.store.faults = Faults(down=True)
        control_plane.store.break_watches()
        await server.kill()
        await control_plane.stop(abrupt=True)

    async def restart_control_plane(self, *, down_s: float = 0.0) -> None:
        """Crash, and a new life on the same store."""
        await self.crash_control_plane()
        await asyncio.sleep(down_s)
        await self.start_control_plane()

    def _link_of(self, node: str) -> Link:
        identity = Identity(f"system:node:{node}", ("system:nodes", "system:authenticated"))
        return Link(lambda: self._server, identity, self.env)

    # -- what a user does

    async def apply(self, manifest: str) -> list[Any]:
        """Every object of a YAML text, server-side. Tries until it is answered; what is acknowledged must stay."""
        applied = []
        for obj in codec.decode_manifest(manifest):
            whole: Any = obj
            namespace = whole.metadata.namespace or ("default" if _is_namespaced(obj) else "")
            whole.metadata.namespace = namespace
            cls, name = type(obj), whole.metadata.name

            async def attempt(whole: Any = whole, cls: Any = cls, name: str = name, namespace: str = namespace) -> Any:
                return await self.client.apply(whole, cls, name, namespace, field_manager="sim", force=True)

            applied.append(await self.insist(attempt))
        return applied

    async def insist(self, attempt: Callable[[], Any]) -> Any:
        """Tries until the control plane answers; other errors are the caller's."""
        while True:
            try:
                result = await attempt()
            except (ServiceUnavailable, Timeout, Conflict):
                await asyncio.sleep(RETRY_S)
                continue
            if result is not None and hasattr(result, "metadata"):
                self.acknowledged.acknowledge(result)
            return result

    async def scale(self, key: str, replicas: int) -> None:
        await self.change(apps_v1_pb2.Deployment, key, lambda obj: _set_replicas(obj, replicas))

    async def set_image(self, key: str, image: str) -> None:
        def change(deployment: apps_v1_pb2.Deployment) -> None:
            deployment.spec.template.spec.containers[0].image = image

        await self.change(apps_v1_pb2.Deployment, key, change)

    async def change(self, cls: type[M], key: str, change: Callable[[M], None]) -> M:
        """Read, change, write, until it is done."""
        namespace, name = meta.split_key(key)

        async def attempt() -> M:
            obj = await self.client.get(cls, name, namespace)
            change(obj)
            return await self.client.update(obj)

        changed: M = await self.insist(attempt)
        return changed

    async def read_list(self, cls: type[M], namespace: str = "", labels: str = "") -> list[M]:
        page = await self.client.list(cls, Selection(namespace=namespace, label_selector=labels))
        return page.items

    # -- what it sees

    def objects(self, resource: str) -> dict[str, Any]:
        """As the store has them: `pods`, `deployments.apps`, ... by namespace/name."""
        return self.history.objects(resource)

    def pods(self, **labels: str) -> list[core_v1_pb2.Pod]:
        found = self.history.objects("pods").values()
        return [pod for pod in found if all(pod.metadata.labels.get(key) == labels[key] for key in labels)]

    def active_pods(self, **labels: str) -> list[core_v1_pb2.Pod]:
        """Neither finished nor on their way out."""
        return [
            pod
            for pod in self.pods(**labels)
            if not meta.is_deleting(pod) and pod.status.phase not in ("Succeeded", "Failed")
        ]

    def ready_pods(self, **labels: str) -> list[core_v1_pb2.Pod]:
        return [
            pod
            for pod in self.pods(**labels)
            if meta.is_true(pod.status.conditions, "Ready") and not meta.is_deleting(pod)
        ]

    def is_complete(self, key: str) -> bool:
        """The Deployment's rollout is over and all of it is available."""
        deployment = self.history.objects("deployments.apps").get(key)
        if deployment is None:
            return False
        status, replicas = deployment.status, deployment.spec.replicas
        return bool(
            status.observed_generation >= deployment.metadata.generation
            and status.updated_replicas == status.replicas == status.available_replicas == replicas
            and not status.unavailable_replicas
        )

    def is_ready(self, node: str) -> bool:
        found = self.history.objects("nodes").get(node)
        return found is not None and meta.is_true(found.status.conditions, "Ready")

    def events(self, reason: str) -> list[str]:
        """The messages of the Events with that reason, oldest first."""
        return [
            change.new.message
            for change in self.history.of("events")
            if change.type == "ADDED" and change.new.reason == reason
        ]

    async def wait_until(self, predicate: Callable[[], bool], *, timeout_s: float = 120.0, what: str = "") -> float:
        """Returns in how many virtual seconds it became true. Raises what a checker found meanwhile."""
        began = virtual_loop().time()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._raise_failure()
                    if predicate():
                        return virtual_loop().time() - began
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(
                f"not true after {timeout_s:g} s: {what or _name(predicate)} (seed {self.seed})\n{self.tail()}"
            ) from None

    async def ready(self, *, timeout_s: float = 60.0) -> None:
        """All nodes that run are Ready."""
        wanted = [name for name, node in self.nodes.items() if node.running]
        await self.wait_until(
            lambda: all(self.is_ready(name) for name in wanted), timeout_s=timeout_s, what="all nodes ready"
        )

    async def converge(self, *, timeout_s: float = 300.0) -> None:
        """Every Deployment converges."""
        await self.wait_until(
            lambda: all(self.is_complete(key) for key in self.history.objects("deployments.apps")),
            timeout_s=timeout_s,
            what="every Deployment converges",
        )

    def trace(self) -> list[str]:
        """One line per change of any object: equal for equal seeds."""
        return self.history.lines()

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.history.lines()[-lines:])

    # -- behind the scenes

    async def _follow(self, store: SqliteStore) -> None:
        async for batch in store.watch(ROOT, from_revision=1):
            for event in batch.events:
                change = self.history.take(event, round(self.now_s, 6))
                if change is None:
                    continue
                for checker in self.checkers:
                    try:
                        checker.check(change, self.history)
                    except AssertionError as error:
                        self._fail(error)
            self._changed.set()

    async def _check_invariants(self) -> None:
        while True:
            await asyncio.sleep(INVARIANTS_EVERY_S)
            try:
                if self._control_plane is not None:
                    self._control_plane.check_invariants()
                for node in self.nodes.values():
                    node.check_invariants()
            except AssertionError as error:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            log.error("at %.3f s of seed %s: %s", self.now_s, self.seed, error)
            self._failure = error
        self._changed.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


@asynccontextmanager
async def sim_cluster(env: Env, **arguments: Any) -> AsyncIterator[SimCluster]:
    """A cluster whose nodes are ready."""
    async with SimCluster(env, **arguments) as cluster:
        await cluster.ready()
        yield cluster


def _is_namespaced(obj: Any) -> bool:
    cls: Any = type(obj)
    return bool(kinds.of(cls).namespaced)


def _set_replicas(deployment: apps_v1_pb2.Deployment, replicas: int) -> None:
    deployment.spec.replicas = replicas


def _name(predicate: Callable[[], bool]) -> str:
    return getattr(predicate, "__name__", "the condition")
