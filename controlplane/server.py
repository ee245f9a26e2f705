"""The assembly of a control plane: registry, servicers, node link, scheduler and controllers over one store, without sockets.

`wherry server` puts a gRPC server in front of it; the simulation calls its servicers in process. Everything it starts runs in one
task group, in a fixed order, is kept going whatever fails in it, and ends with `stop`. Scheduler and controllers see it through
clients of their own identities, exactly as if they ran elsewhere, and are imported only when they are wanted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from controlplane.admission.chain import Options as AdmissionOptions
from controlplane.admission.chain import Outside
from controlplane.auth.authorizer import Attributes, Authorizer, Verdict
from controlplane.auth.deciders import API_SERVER, CONTROLLER_MANAGER, SCHEDULER, Components, Everyone, Masters
from controlplane.auth.defaults import ensure as ensure_defaults
from controlplane.auth.names import MASTERS_GROUP
from controlplane.auth.nodes import Nodes
from controlplane.auth.rbac import RBAC, Escalation
from controlplane.auth.reviews import Reviews
from controlplane.bootstrap import ensure_cluster_id
from controlplane.fronts.commit import Commits
from controlplane.fronts.flow import Flow
from controlplane.fronts.flow import Limits as FlowLimits
from controlplane.fronts.health import HealthServicer
from controlplane.fronts.pods import PodsServicer
from controlplane.fronts.resources import ResourcesServicer
from controlplane.fronts.scheduling import SchedulingServicer
from controlplane.fronts.services import Services
from controlplane.nodelink.figures import FiguresReader
from controlplane.nodelink.heartbeats import Heartbeats
from controlplane.nodelink.metrics import Measurements
from controlplane.nodelink.monitor import LinkSettings, Monitor
from controlplane.nodelink.podports import PodPorts
from controlplane.nodelink.relays import Dial, Relays
from controlplane.nodelink.servicer import NodeLinkServicer
from controlplane.registry.allocation import Ranges
from controlplane.registry.base import Identity, ListOptions, RequestContext
from controlplane.registry.registry import Options as RegistryOptions
from controlplane.registry.registry import Registry
from controlplane.stalls import Stalls
from controlplane.store.backup import unfinished
from controlplane.store.base import Store, StoreError
from controlplane.store.maintenance import Compactor
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import APIError, NotFound, ServiceUnavailable
from wherry.api.supervise import keep_running
from wherry.api.tasks import TaskGroup
from wherry.client.client import Client
from wherry.client.local import LocalTransport
from wherry.pb import core_v1_pb2

if TYPE_CHECKING:
    from controlplane.admission.policies.authorizer import Decision, Question
    from controlplane.audit.recorder import Auditor
    from controlplane.audit.recorder import Options as AuditOptions
    from controlplane.auth.accounttokens import AccountTokens
    from controlplane.auth.authentication import Authentication
    from controlplane.auth.ca import Authority
    from controlplane.auth.certificates import KeyPair, Lifetimes
    from controlplane.auth.keyfiles import KeyFiles
    from controlplane.auth.keyring import KeyRing
    from controlplane.nodelink.others import OtherReplicas
    from controlplane.outbound.https import HttpsTransport
    from controlplane.registry.conditions import Condition
    from controlplane.replicas import Replicas
    from controlplane.storehealth import StoreHealth
    from wherry.client.base import Transport
    from wherry.client.leader import LeaderElector

log = logging.getLogger(__name__)

_CONTROLLERS, _SCHEDULER = "controlplane.controllers.manager", "controlplane.scheduler.scheduler"
_DEFAULTS_RETRY_S = 1.0
_DEFAULTS_TIMEOUT_S = 10.0


# Given the name of a module, returns when it is imported.
Load = Callable[[str], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Options:
    """`pki` off leaves out the CA, joining and certificate signing: its keys can't be drawn from a seed, so the simulation does
    without. `elect` is for several replicas on one store: scheduler and controllers run on one of them."""

    default_toleration_s: int = 10
    scheduler: bool = True
    controllers: bool = True
    pki: bool = True
    elect: bool = False
    replica: str = "wherry"
    address: str = ""  # where other replicas reach this one's gRPC front; "": there are none
    link: LinkSettings = field(default_factory=LinkSettings)
    ranges: Ranges = field(default_factory=Ranges)
    flow: FlowLimits = field(default_factory=FlowLimits)
    audit: AuditOptions | None = None  # off
    account_keys: KeyFiles | None = None  # None: the store has them
    certificate_lifetime_s: float = 0.0  # of all that is issued; 0: each kind's own


class ControlPlane:
    """`start`, then use `services` (or `local_client`), then `stop`. The store belongs to the caller, who closes it after
    that. `wait` returns (or raises) when the control plane ends by itself, which it does only on a defect. `load` imports the
    components beside the loop, which that would hold up; without it they are imported on it."""

    def __init__(
        self, env: Env, store: Store, options: Options | None = None, dial: Dial | None = None, load: Load | None = None
    ) -> None:
        self.env = env
        self.options = options or Options()
        self._load = load
        self.cluster_id = ""
        self.ca: Authority | None = None
        self.account_tokens: AccountTokens | None = None
        self.authentication: Authentication | None = None
        self._keyring: KeyRing | None = None
        self.services = Services()
        self.flow = Flow(self.options.flow)  # asked by both transports
        self.auditor: Auditor | None = None
        if self.options.audit is not None:
            from controlplane.audit.recorder import Auditor

            self.auditor = Auditor(self.options.audit, env)
        self.health = HealthServicer()
        self.heartbeats = Heartbeats()
        self.stalls = Stalls()  # run by whoever has a real loop
        self.figures: FiguresReader | None = None
        self.ports: PodPorts | None = None
        self._store = store
        self._commits = Commits()
        admission = AdmissionOptions(toleration_s=self.options.default_toleration_s, token_volume=self.options.pki)
        registry_options = RegistryOptions(
            admission=admission, ranges=self.options.ranges, consistent_reads=self.options.elect
        )
        self.registry = Registry(store, env, registry_options)
        self._defaults_made = asyncio.Event()
        self._rbac = rbac = RBAC(self.registry, self._await_defaults)
        nodes = Nodes(self._pods_of, self._requester_of)
        self.authorizer = Authorizer([Masters(), Components(), Everyone(), nodes, rbac])
        self.registry.admit_also(Escalation(rbac, self.authorizer))
        self._outbound: HttpsTransport | None = None
        self.registry.reach(Outside(env, self._transport, self._decide))
        self.registry.answer_with(Reviews(env, self.authorizer, rbac).answer)
        self._scheduling = SchedulingServicer(self.authorizer)
        self._dial = dial
        self._relays: Relays | None = None
        self._others: OtherReplicas | None = None
        self.replicas: Replicas | None = None  # those on our store, where there may be several
        self.store_health: StoreHealth | None = None
        if self.options.elect:
            from controlplane.replicas import Replicas
            from controlplane.storehealth import StoreHealth

            self.replicas = Replicas(store, self.options.replica, self.options.address)
            self.store_health = StoreHealth(store)
        self._replica_key: KeyPair | None = None
        self._task: asyncio.Task[None] | None = None
        self._transports: list[LocalTransport] = []

    async def start(self) -> None:
        """Returns when it serves: the CA, the namespaces and the registry are there. Raises StoreError, APIError."""
        if await unfinished(self._store):
            raise StoreError(
                "the restoration of this store was interrupted, so a part of its objects is missing: run `wherry restore` "
                "again with the same file"
            )
        if self.auditor is not None:
            self.auditor.sink.start()
        self.cluster_id = await ensure_cluster_id(self._store, self.env)
        joiner = None
        if self.options.pki:
            from controlplane.auth.ca import load_authority
            from controlplane.auth.join import Joiner

            self.ca = await load_authority(self._store, self.env, self.cluster_id)
            await self._start_tokens()
            joiner = Joiner(
                self.registry, self.env, self.ca, self.cluster_id, self.heartbeats.connected,
                lifetime_s=self.lifetimes().node_s,
            )  # fmt: skip
        await self.registry.start()
        link = NodeLinkServicer(self.env, self.registry, self._commits, self.heartbeats, joiner)
        monitor = Monitor(
            self.env, self.registry, self._store, self.heartbeats, link, API_SERVER, self.options.link, self.options.replica,
            self.options.address,
        )  # fmt: skip
        if self.options.address:
            dial = self._dial or self._dial_replica
            self._relays = Relays(self.registry, self.options.replica, dial)
            link.sessions.relays = self._relays
            if self.replicas is not None:
                from controlplane.nodelink.others import OtherReplicas

                self._others = OtherReplicas(self.replicas, dial)
                link.routing.elsewhere = self._others.routed
        if self.store_health is not None:
            self.store_health.changed = partial(self._on_store, monitor)
        resources = ResourcesServicer(self.registry, self.authorizer, self._commits)
        pods = PodsServicer(self.registry, self.authorizer, self._commits, link.sessions)
        self.figures = FiguresReader(link.sessions)
        self.ports = PodPorts(link.sessions)
        asking = RequestContext(API_SERVER, cause="measure")
        self.registry.measure_with(Measurements(self.registry, self.figures, asking).measure)
        self.services.add("wherry.v1.Resources", resources)
        self.services.add("wherry.v1.Pods", pods)
        self.services.add("wherry.v1.NodeLink", link)
        self.services.add("wherry.v1.Scheduling", self._scheduling)
        if self._keyring is not None:
            from controlplane.fronts.keys import KeysServicer

            keys = KeysServicer(self.registry, self.authorizer, self._commits, self.env, self._keyring)
            self.services.add("wherry.v1.Keys", keys)
        self.services.add("grpc.health.v1.Health", self.health)
        for name in self.services.names:
            self.health.know(name)
        self._task = asyncio.get_running_loop().create_task(self._run(monitor), name="control-plane")
        self.health.set_serving(True)

    async def _start_tokens(self) -> None:
        from controlplane.auth.accounttokens import AccountTokens
        from controlplane.auth.authentication import Authentication
        from controlplane.auth.keyring import KeyRing
        from controlplane.auth.signing import load_keys

        if self.options.account_keys is not None:
            from controlplane.auth.keyfiles import file_ring

            self._keyring = await file_ring(self._store, self.env, self.options.account_keys)
        else:
            self._keyring = KeyRing(self._store, self.env, await load_keys(self._store))
        self.account_tokens = AccountTokens(self.registry, self.env, self._keyring.keys)
        self._keyring.taken = self.account_tokens.take
        self.account_tokens.remember = self._keyring.remember
        self.authentication = Authentication(self.registry, self.env, self.account_tokens)
        self.registry.issue_with(self.account_tokens.issue)
        self.registry.answer_with(Reviews(self.env, self.authorizer, self._rbac, self.authentication.review).answer)

    @property
    def token_review(self) -> Callable[[str], Awaitable[Identity | None]] | None:
        """For the fronts; None without tokens."""
        return self.authentication.identity if self.authentication is not None else None

    def lifetimes(self) -> Lifetimes:
        from controlplane.auth.certificates import Lifetimes

        seconds = self.options.certificate_lifetime_s
        return Lifetimes.all(seconds) if seconds else Lifetimes()

    async def wait(self) -> None:
        """Returns after `stop`; raises what ended the control plane otherwise."""
        assert self._task is not None
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.result()

    async def stop(self, *, abrupt: bool = False) -> None:
        """Ends everything in order: no new calls, then the components, then the writes under way, then the registry.
        `abrupt` is for the simulation of a crash: writes under way are dropped as well."""
        self.health.set_serving(False)
        self.services.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._relays is not None:
            await self._relays.close()
        if self._others is not None:
            await self._others.close()
        for transport in self._transports:
            await transport.close()
        if abrupt:
            await self._commits.cancel()
        else:
            await self._commits.drain()
        if self._outbound is not None:
            await self._outbound.close()
        if self.auditor is not None:
            await self.auditor.sink.stop()
        await self.registry.close()

    def _transport(self) -> HttpsTransport:
        """For admission's webhooks, when there is the first one."""
        from controlplane.outbound.https import HttpsTransport

        self._outbound = HttpsTransport(self.env)
        return self._outbound

    async def _decide(self, question: Question) -> Decision:
        """For admission's policies."""
        from controlplane.admission.policies.authorizer import Decision

        attributes = Attributes(
            question.verb, question.group, question.resource, question.subresource,
            namespace=question.namespace, name=question.name, path=question.path,
        )  # fmt: skip
        found = await self.authorizer.decide(question.identity, attributes)
        return Decision(found.verdict is Verdict.ALLOW, found.reason)

    def metrics(self) -> bytes:
        """In Prometheus' text format."""
        from controlplane.metrics import exposition

        return exposition(self.stalls, self.heartbeats, self.flow)

    @property
    def commits(self) -> Commits:
        """For fronts of their own: every write runs in here."""
        return self._commits

    def _on_store(self, monitor: Monitor, well: bool, silence_s: float) -> None:
        self.health.set_able(well)
        if well:
            monitor.resume(silence_s)
        else:
            monitor.let_go()

    def _dial_replica(self, address: str) -> Transport:
        """Under the API server's own identity, by a certificate that never leaves this process."""
        from controlplane.auth.certificates import issue_client, renew_at
        from wherry.client.grpc import TLS, GrpcTransport

        assert self.ca is not None
        key = self._replica_key
        if key is None or self.env.now() >= renew_at(key.certificate_pem, 0.0):
            lifetime_s = self.lifetimes().user_s
            key = issue_client(self.ca, self.env, API_SERVER.user, [MASTERS_GROUP], lifetime_s=lifetime_s)
            self._replica_key = key
        return GrpcTransport([address], TLS(self.ca.certificate_pem, key.certificate_pem, key.key_pem))

    def local_transport(self, identity: Identity, condition: Condition | None = None) -> LocalTransport:
        """Calls in process under that identity; it breaks when the control plane stops. Writes are made on `condition`."""
        services = self.services if condition is None else self.services.under(condition)
        transport = LocalTransport(services, identity)
        self._transports.append(transport)
        return transport

    def local_client(
        self, identity: Identity, *, field_manager: str = "", condition: Condition | None = None
    ) -> Client:
        return Client(self.local_transport(identity, condition), field_manager=field_manager)

    def check_invariants(self) -> None:
        self.heartbeats.check_invariants()

    async def _run(self, monitor: Monitor) -> None:
        async with TaskGroup() as group:
            group.keep(monitor.run, name="nodelink")
            if self.replicas is not None and self.store_health is not None:
                group.keep(self.replicas.run, name="replicas")
                group.keep(self.store_health.run, name="store-health")
            group.keep(self._make_defaults, name="defaults")
            group.keep(self._define, name="definitions")
            group.keep(Compactor(self._store).run, name="compactor")
            if self.ca is not None:
                from controlplane.auth.csr import Signer
                from controlplane.auth.tokens import clean_tokens

                client = self.local_client(API_SERVER, field_manager="wherry-server")
                group.keep(Signer(client, self.env, self.ca, lifetimes=self.lifetimes()).run, name="csr-signer")
                group.keep(partial(clean_tokens, client, self.env), name="token-cleaner")
                if self._keyring is not None:
                    group.keep(self._keyring.follow, name="signing-keys")
                if self.account_tokens is not None:
                    from controlplane.auth.accountsecrets import AccountSecrets

                    sign = self.account_tokens.sign
                    group.keep(
                        AccountSecrets(client, self.env, self.ca.certificate_pem, sign).run, name="account-secrets"
                    )
            if not (self.options.scheduler or self.options.controllers):
                return
            if not self.options.elect:
                group.keep(partial(self._lead, None), name="components")
                return
            from wherry.client.leader import LeaderElector

            electing = self.local_client(CONTROLLER_MANAGER)
            elector = LeaderElector(electing, self.env, self.options.replica, name="wherry-control-plane")
            group.keep(partial(elector.run, partial(self._lead, elector)), name="leader-election")

    async def _load_components(self) -> None:
        for wanted, module in ((self.options.controllers, _CONTROLLERS), (self.options.scheduler, _SCHEDULER)):
            if wanted and self._load is not None:
                await self._load(module)

    async def _lead(self, lease: LeaderElector | None) -> None:
        """Runs scheduler and controllers until cancelled (or, with several replicas, until the Lease is lost)."""
        await self._load_components()
        fence = None
        if lease is not None:
            from controlplane.fence import Fence

            fence = Fence(lease)
        async with TaskGroup() as group:
            shared = None
            if self.options.controllers:
                from controlplane.controllers import manager
                from wherry.client.informer import SharedInformers

                client = self.local_client(CONTROLLER_MANAGER, field_manager="kube-controller-manager", condition=fence)
                ca_pem = self.ca.certificate_pem if self.ca is not None else b""
                # The scheduler reads from them too: the pods of a large cluster would fill the memory twice otherwise.
                shared = SharedInformers(client, self.env)
                group.keep(shared.run, name="informers")
                group.create_task(manager.run(client, self.env, ca_pem=ca_pem, informers=shared), name="controllers")
            if self.options.scheduler:
                from controlplane.scheduler.scheduler import Scheduler

                client = self.local_client(SCHEDULER, field_manager="kube-scheduler", condition=fence)
                scheduler = Scheduler(client, self.env, lease=lease, informers=shared)
                self._scheduling.explainer = scheduler
                try:
                    await keep_running("scheduler", scheduler.run)
                finally:
                    self._scheduling.explainer = None

    async def _make_defaults(self) -> None:
        """Default roles and priorities: after readiness, since they take longer than all the rest of a start."""
        while True:
            try:
                await ensure_defaults(self.registry, self._store)
                break
            except (APIError, StoreError) as error:
                log.warning("the default roles are not made yet: %s", error)
                await asyncio.sleep(_DEFAULTS_RETRY_S)
        self._defaults_made.set()

    async def _define(self) -> None:
        """Serves what CustomResourceDefinitions define; nothing of it is there before there is one."""
        await self.registry.await_definitions()
        from controlplane.controllers.definitions.controller import DefinitionController

        await DefinitionController(self.local_client(API_SERVER), self.env).run()

    async def _await_defaults(self) -> None:
        """For RBAC, which would refuse what a default role allows."""
        if self._defaults_made.is_set():
            return
        try:
            await asyncio.wait_for(self._defaults_made.wait(), _DEFAULTS_TIMEOUT_S)
        except TimeoutError as error:
            raise ServiceUnavailable("the default roles are not made yet", retry_after_s=1) from error

    async def _pods_of(self, node: str) -> list[core_v1_pb2.Pod]:
        """For the node authoriser."""
        ctx = RequestContext(API_SERVER, cause="authorize")
        options = ListOptions(field_selector=f"spec.nodeName={node}")
        listed = await self.registry.list(ctx, kinds.by_name("v1", "Pod"), options)
        return [stored.message() for stored in listed.items]

    async def _requester_of(self, name: str) -> str:
        ctx = RequestContext(API_SERVER, cause="authorize")
        kind = kinds.by_name("certificates.k8s.io/v1", "CertificateSigningRequest")
        try:
            return str((await self.registry.get(ctx, kind, "", name)).message().spec.username)
        except NotFound:
            return ""
