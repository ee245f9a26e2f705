"""What pods of this node reach: pods of other nodes (the mesh), Services (a table), names (a server); all over shared informers.

Run by `kubelet.agent`, which hands on the control plane's settings. The last settings are kept in a file, and what Services and
endpoints are known in another (`known`), so that a restarted agent answers before it has reached the control plane.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from kubelet.network import NetworkError, links
from kubelet.network.dns import records
from kubelet.network.dns.records import Zone
from kubelet.network.dns.server import NameServer
from kubelet.network.dns.upstream import Upstream
from kubelet.network.known import Known
from kubelet.network.mesh.controller import MeshController
from kubelet.network.mesh.plan import Peer
from kubelet.network.policy.controller import Kernel as PolicyKernel
from kubelet.network.policy.controller import PolicyController
from kubelet.network.policy.peers import PeerStream
from kubelet.network.policy.plan import TABLE as POLICIES_TABLE
from kubelet.network.services.controller import SERVICE_INDEX, Kernel, ServiceController, by_service
from kubelet.network.services.kernel import Nftables
from kubelet.network.services.plan import Place
from kubelet.node import host_dns
from kubelet.pods import serviceenv
from kubelet.pods.services import ConfigError
from wherry.api.context import Env
from wherry.api.tasks import TaskGroup
from wherry.client.base import ClientAPI, Transport
from wherry.client.informer import SharedInformers
from wherry.pb import core_v1_pb2, discovery_v1_pb2

log = logging.getLogger(__name__)

RETRY_S = 5.0
NAMESPACE_INDEX = "namespace"
LEVEL_LIMIT_S = 5.0
# The last agent's table is at work, and may be newer than its file: only when the control plane does not answer for so long is
# the table made of the file. Names are answered by it at once.
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    pod_cidr: str = ""
    cluster_dns: str = ""
    cluster_domain: str = "cluster.local"


@dataclass(frozen=True, slots=True)
class Where:
    node_name: str
    address: str
    zone: str = ""  # until its Node object says


class PodNetwork(Protocol):
    """What lies beneath, when it is ours; `kubelet.network.node.NodeNetwork` is one."""

    async def configure_again(self) -> None: ...


class Ground(Protocol):
    """Where the node's network is not that of this process; `kubelet.runtime.docker_ground.BridgeGround` is one."""

    @property
    def kernel(self) -> Kernel: ...

    @property
    def policies(self) -> PolicyKernel: ...

    async def machine(self) -> str:
        """The address of the machine, whose packets the node forwards to pods. Raises NetworkError."""

    def on_replaced(self, who: str, tell: Callable[[], None]) -> None:
        """`tell`, one for each of `who`, is called whenever there is another network, without our table."""

    async def serve_names(self, server: NameServer, address: str) -> None: ...


class NodeTraffic:
    """Without a `network` somebody else joins the nodes' pods. `run` until cancelled; routes, the table and the name server's
    address stay, and the next agent takes them up."""

    def __init__(
        self, client: ClientAPI, transport: Transport, env: Env, here: Where, root: Path, network: PodNetwork | None,
        ground: Ground | None = None,
    ) -> None:  # fmt: skip
        self._env = env
        self._transport = transport
        self._here = here
        self._network = network
        self._ground = ground
        self._file = root / "traffic.json"
        self._informers = SharedInformers(client, env)
        self._services = self._informers.informer(
            core_v1_pb2.Service,
            indexers={records.ADDRESS_INDEX: records.service_addresses, NAMESPACE_INDEX: _namespace_of},
        )
        self.slices = self._informers.informer(
            discovery_v1_pb2.EndpointSlice,
            indexers={SERVICE_INDEX: by_service, records.ADDRESS_INDEX: records.slice_addresses},
        )
        self._known = Known(root / "known.pb", self._services, self.slices)
        self._known.load()
        self._settings = _load(self._file)
        self._changed = asyncio.Event()
        self._router: ServiceController | None = None
        self._policies: PolicyController | None = None

    @property
    def settings(self) -> TrafficSettings:
        """The last that the control plane gave, to this agent or to the one before."""
        return self._settings

    def configure(self, settings: TrafficSettings) -> None:
        if settings == self._settings:
            return
        self._settings = settings
        self._changed.set()
        try:
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(json.dumps(asdict(settings)))
            temporary.replace(self._file)
        except OSError as error:
            log.warning("%s: %s", self._file, error)

    def environment(self, pod: core_v1_pb2.Pod, *, wait: bool) -> dict[str, str]:
        """The variables that tell a pod of Services. Raises ConfigError while these are not known, unless nobody is to `wait`."""
        if wait and not self._services.usable:
            raise ConfigError("services have not yet been read at least once, cannot construct envvars")
        near = self._services.by_index(NAMESPACE_INDEX, pod.metadata.namespace)
        api = self._services.get(serviceenv.API_SERVICE, serviceenv.API_NAMESPACE)
        return serviceenv.variables(pod, near if api is None else [*near, api])

    async def isolate(self, pod: core_v1_pb2.Pod, addresses: Sequence[str]) -> None:
        """Returns when the pod is held to its policies (or after a bounded time): its containers have not started yet."""
        if self._policies is not None and addresses and not pod.spec.host_network:
            await self._policies.isolate(pod, addresses[0])

    async def routes_by(self, revision: int) -> bool:
        """True when the kernel leads connections by the EndpointSlices of this revision; False when that takes too long."""
        if self._router is None:
            return False
        try:
            async with asyncio.timeout(LEVEL_LIMIT_S):
                await self._router.routes_by(revision)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        async with TaskGroup() as group:
            group.keep(self._informers.run, name="traffic-informers")
            group.keep(self._known.run, name="traffic-known")
            group.create_task(self._trust(), name="traffic-trust")
            while True:
                self._changed.clear()
                work = group.create_task(self._work(self._settings), name="traffic")
                await self._changed.wait()
                work.cancel()
                await asyncio.wait((work,))

    async def _trust(self) -> None:
        """What the last agent knew, when nobody tells better in time."""
        await asyncio.sleep(PATIENCE_S)
        if not (self._services.synced and self.slices.synced):
            self._services.trust()
            self.slices.trust()

    async def _work(self, settings: TrafficSettings) -> None:
        async with TaskGroup() as group:
            if settings.pod_cidr:
                group.create_task(self._route(settings), name="services")
                group.keep(self._restrict, name="network-policies")
            if settings.pod_cidr and self._network is not None:
                group.create_task(self._join(self._network, settings.pod_cidr), name="mesh")
            if settings.cluster_dns:
                group.create_task(self._answer(settings), name="names")

    async def _route(self, settings: TrafficSettings) -> None:
        place = Place(self._here.node_name, settings.pod_cidr, self._here.zone)
        while True:
            try:
                kernel = self._ground.kernel if self._ground is not None else Nftables()
                self._router = ServiceController(self._informers, kernel, place)
                if self._ground is not None:
                    self._ground.on_replaced("services", self._router.look_again)
                await self._router.run()
            except Exception:
                # A defect here must not end the pods' tasks beside it.
                log.exception("services: starting over in %g s", RETRY_S)
            await asyncio.sleep(RETRY_S)

    async def _restrict(self) -> None:
        peers = PeerStream(self._transport, self._env)
        if self._ground is None:
            kernel: PolicyKernel = Nftables(POLICIES_TABLE)
            self._policies = PolicyController(self._informers, peers, kernel, self._here.node_name)
        else:
            kernel, machine = self._ground.policies, await self._ground.machine()
            self._policies = PolicyController(self._informers, peers, kernel, self._here.node_name, machine=machine)
            self._ground.on_replaced("policies", self._policies.look_again)
        await self._policies.run()

    async def _join(self, network: PodNetwork, pod_cidr: str) -> None:
        own = Peer(self._here.node_name, pod_cidr, self._here.address)
        while True:
            try:
                await MeshController(self._informers, own, network.configure_again).run()
            except Exception:
                log.exception("the way to other nodes' pods: starting over in %g s", RETRY_S)
            await asyncio.sleep(RETRY_S)

    async def _answer(self, settings: TrafficSettings) -> None:
        zone = Zone(settings.cluster_domain, self._services, self.slices)
        upstream = Upstream(self._env, partial(resolvers, settings.cluster_dns))
        while True:
            try:
                server = NameServer(self._env, zone, upstream)
                if self._ground is not None:
                    await self._ground.serve_names(server, settings.cluster_dns)
                else:
                    await asyncio.to_thread(links.hold_address, settings.cluster_dns)
                    await server.serve(settings.cluster_dns)
            except (NetworkError, OSError) as error:
                log.error("cluster DNS cannot be served at %s: %s", settings.cluster_dns, error)
            except Exception:
                log.exception("cluster DNS: starting over in %g s", RETRY_S)
            await asyncio.sleep(RETRY_S)


def _namespace_of(service: core_v1_pb2.Service) -> tuple[str]:
    return (service.metadata.namespace,)


def resolvers(but: str) -> list[str]:
    """The host's, at most three, as its own programs use them."""
    return [server for server in host_dns().servers if server != but][:3]


def _load(file: Path) -> TrafficSettings:
    try:
        return TrafficSettings(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return TrafficSettings()
