"""The registry itself: puts the parts together and routes each verb to the one that does it. See `base.RegistryAPI` for the
contract; `writes`, `reads`, `patches`, `pods` and `scale` do the work, `kinds` says for which kinds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from controlplane.admission.base import Plugin, Request
from controlplane.admission.chain import Chain, Outside
from controlplane.admission.chain import Options as AdmissionOptions
from controlplane.registry import deletion, kinds, managers, measured, patches, shipped, versions, violations
from controlplane.registry.accounts import DefaultAccounts
from controlplane.registry.addresses import Addresses
from controlplane.registry.allocation import Ranges, ServiceAllocator
from controlplane.registry.base import (
    ADMIN,
    BindResult,
    DeleteResult,
    ListOptions,
    ListResult,
    RequestContext,
    Stored,
    WatchBatch,
    WatchOptions,
)  # fmt: skip
from controlplane.registry.custom.catalogue import Catalogue
from controlplane.registry.patches import Patcher
from controlplane.registry.pods import PodOperations, binding_request
from controlplane.registry.reads import Reader
from controlplane.registry.scale import KIND as SCALE
from controlplane.registry.scale import Scaler
from controlplane.registry.seed import seed
from controlplane.registry.state import Served, State
from controlplane.registry.strategy import Strategy
from controlplane.registry.tables import policy
from controlplane.registry.tables.render import Cells, cells, render
from controlplane.registry.writes import Writer
from controlplane.store.base import Store
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, BadRequest, MethodNotAllowed, NotFound, ServiceUnavailable
from wherry.api.kinds import Kind
from wherry.pb import core_v1_pb2, meta_v1_pb2, pods_pb2, policy_v1_pb2, resources_pb2

SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
EVENT_TTL_S = 3600
# Subresources served by an update of the object itself; the others have an implementation of their own.
_UPDATED = {"status", "finalize", "approval", "ephemeralcontainers", "resize"}

# The verbs of a kind that is a question.
_ASKED = ("create",)
_SCALE = Strategy(SCALE, columns=policy.SCALES)
Answer = Callable[[RequestContext, str, Any], Awaitable[Message]]
# Of (request, namespace, account, TokenRequest).
Issue = Callable[[RequestContext, str, str, Any], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Options:
    """`consistent_reads`: several replicas write to the store, so each read asks it how far it is."""

    admission: AdmissionOptions = field(default_factory=AdmissionOptions)
    ranges: Ranges = field(default_factory=Ranges)
    event_ttl_s: int = EVENT_TTL_S
    consistent_reads: bool = False


class Registry:
    """`await start()` before use, `await close()` after it; the store is the caller's."""

    def __init__(self, store: Store, env: Env, options: Options | None = None) -> None:
        options = options or Options()
        self._env = env
        self._state = State(
            store,
            env,
            kinds.table(event_ttl_s=options.event_ttl_s),
            consistent=options.consistent_reads,
            later=kinds.later(),
        )
        self._custom = self._state.custom = Catalogue(store)
        self._pods = self._served("", "pods")
        self._services = self._served("", "services")
        self._ranges = options.ranges
        addresses = Addresses(lambda: self._state.served.get(("networking.k8s.io", "ipaddresses")), env)
        self._services.companions = ServiceAllocator(store, env, options.ranges, addresses)
        self._served("", "namespaces").companions = DefaultAccounts(self._served("", "serviceaccounts"), env)
        self._answer: Answer | None = None
        self._issue: Issue | None = None
        self._chain = chain = Chain(self._state, options.admission)
        self._measure: measured.Measure | None = None
        self._reader = Reader(self._state)
        self._writer = Writer(self._state, chain)
        self._patcher = Patcher(self._state, self._writer)
        self._scaler = Scaler(self._reader, self._writer)
        leases = self._served("coordination.k8s.io", "leases")
        self._pod_operations = PodOperations(self._state, self._pods, leases, chain, self._writer)

    async def start(self) -> None:
        """Makes the namespaces that every cluster has, and finds the kinds that it defines."""
        await self._custom.start()
        served = self._served("", "namespaces")
        present = await self._state.fresh(served)
        for name in SYSTEM_NAMESPACES:
            namespace = core_v1_pb2.Namespace()
            namespace.metadata.name = name
            if present.get(f"{served.prefix}{name}") is None:
                try:
                    await self._writer.create(RequestContext(ADMIN), served, "", namespace)
                except AlreadyExists:
                    pass  # another replica starts too

    async def await_definitions(self) -> None:
        """Returns when there is a CustomResourceDefinition."""
        await self._custom.await_any()

    async def seed(self, objects: Sequence[Message]) -> None:
        """Objects that every cluster has: each is made unless there is one of its name."""
        await seed(self._state, objects)

    def shipped(self) -> Iterator[Message]:
        """What `seed` is to make in every cluster, beside what its caller knows of."""
        return shipped.objects(self._ranges.cidr, self._env.now())

    def admit_also(self, plugin: Plugin) -> None:
        """One more admission plugin, after the others: for what needs to know more than the registry does."""
        self._chain.add(plugin)

    def reach(self, outside: Outside) -> None:
        """What admission needs for webhooks and policies."""
        self._chain.reach(outside)

    def answer_with(self, answer: Answer) -> None:
        """Who answers the kinds that are questions: they can be created, and are not stored."""
        self._answer = answer

    def issue_with(self, issue: Issue) -> None:
        """Who answers the `token` subresource of service accounts."""
        self._issue = issue

    def measure_with(self, measure: measured.Measure) -> None:
        """Who measures the kinds of which nothing is stored: they can be read, and no more."""
        self._measure = measure

    async def close(self) -> None:
        """Ends all watches."""
        await self._state.close()

    def check_invariants(self) -> None:
        for served in self._state.served.values():
            if served.cache is not None:
                served.cache.check_invariants()

    # kinds

    def served(self) -> Sequence[Kind]:
        return [*(served.kind for served in self._state.everything()), *versions.everything()]

    def verbs(self, kind: Kind) -> Sequence[str]:
        """For discovery."""
        return self._of(kind, "table").strategy.verbs

    def kind(self, group: str, version: str, resource: str) -> Kind:
        if (view := versions.find(group, version, resource)) is not None:
            return view.kind
        served = self._state.by_resource(group, resource, version)
        if served is None or served.kind.version != version:
            raise _unknown_resource()
        return served.kind

    def _served(self, group: str, plural: str) -> Served:
        return self._state.served[group, plural]

    def _used(self, ctx: RequestContext, kind: Kind, verb: str = "") -> Served:
        """As `_of`, for a request: who uses what is deprecated is told."""
        served = self._of(kind, verb)
        if served.strategy.deprecation and served.strategy.deprecation not in ctx.warnings:
            ctx.warnings.append(served.strategy.deprecation)
        return served

    def _of(self, kind: Kind, verb: str = "") -> Served:
        view = versions.of(kind)
        stored = kind if view is None else view.primary
        served = self._state.by_resource(stored.group, stored.plural, stored.version)
        if served is None:
            raise _unknown_resource()
        if (served.strategy.verbs == _ASKED and verb not in ("create", "table")) or (
            served.strategy.verbs == measured.VERBS and verb not in ("get", "list", "table")
        ):
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        return served

    def _measured(self, ctx: RequestContext, served: Served) -> measured.Measure | None:
        """None: the kind's objects are stored."""
        if served.strategy.verbs != measured.VERBS:
            return None
        if self._measure is None:
            raise ServiceUnavailable("nobody measures in this control plane")
        if served.kind.kind == "ComponentStatus":
            ctx.warnings.append("v1 ComponentStatus is deprecated in v1.19+")
        return self._measure

    # reads

    async def get(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, *, resource_version: str = "",
        subresource: str = "",
    ) -> Stored:  # fmt: skip
        if (view := versions.of(kind)) is not None:
            return view.shown(
                await self.get(
                    ctx, view.primary, namespace, name, resource_version=resource_version, subresource=subresource
                )
            )
        served = self._used(ctx, kind, "get")
        if (measure := self._measured(ctx, served)) is not None and not subresource:
            return await measured.one(measure, self._env, served, namespace, name)
        if subresource == "scale" and "scale" in kind.subresources:
            return await self._scaler.get(served, namespace, name, resource_version)
        if subresource and (subresource not in kind.subresources or subresource not in _UPDATED):
            raise _unknown_resource()
        return await self._reader.get(served, namespace, name, resource_version)

    async def list(self, ctx: RequestContext, kind: Kind, options: ListOptions) -> ListResult:
        if (view := versions.of(kind)) is not None:
            return view.shown_list(await self.list(ctx, view.primary, view.options(options)))
        served = self._used(ctx, kind, "list")
        if (measure := self._measured(ctx, served)) is not None:
            return await measured.several(measure, self._env, served, options)
        return await self._reader.list(served, options)

    def watch(self, ctx: RequestContext, kind: Kind, options: WatchOptions) -> AsyncIterator[WatchBatch]:
        if (view := versions.of(kind)) is not None:
            return view.shown_watch(self.watch(ctx, view.primary, view.options(options)))
        return self._reader.watch(self._used(ctx, kind), options)

    def table(self, kind: Kind, items: Sequence[Stored]) -> resources_pb2.Table:
        if (view := versions.of(kind)) is not None:
            items = [view.hidden(stored) for stored in items]
        return render(self._shown_by(kind), items, self._env.now())

    def cells(self, kind: Kind, stored: Stored) -> Cells:
        if (view := versions.of(kind)) is not None:
            stored = view.hidden(stored)
        return cells(self._shown_by(kind), stored, self._env.now())

    def _shown_by(self, kind: Kind) -> Strategy:
        """Whose columns its tables have: a Scale is no kind of its own."""
        return _SCALE if kind.kind == "Scale" else self._of(kind, "table").strategy

    # writes

    async def create(
        self, ctx: RequestContext, kind: Kind, namespace: str, obj: Message, *, name: str = "", subresource: str = ""
    ) -> Stored:
        self._check(ctx, "CreateOptions")
        served = self._used(ctx, kind, "create")
        if (view := versions.of(kind)) is not None:
            self._expect(kind.message, obj)
            ctx.normal = False  # what a conversion makes need not be
            if causes := view.check(obj):
                given: Any = obj
                raise violations.invalid_object("", kind.kind, given.metadata.name, causes)
            return view.shown(
                await self.create(
                    ctx, view.primary, namespace, view.to_primary(obj), name=name, subresource=subresource
                )
            )
        if (kind.plural == "pods" and subresource == "binding") or (kind.plural == "bindings" and not kind.group):
            return await self._bind_one(ctx, namespace, name, obj)
        if kind.plural == "pods" and subresource == "eviction":
            return await self._evict_one(ctx, namespace, name, obj)
        if kind.plural == "serviceaccounts" and subresource == "token":
            return await self._issue_token(ctx, served, namespace, name, obj)
        if subresource:
            raise _unknown_resource()
        self._expect(kind.message, obj)
        if served.strategy.verbs == _ASKED:
            return await self._answered(ctx, kind, namespace, obj)
        if isinstance(obj, _certificate_request()):
            obj = _signed_by(ctx, obj)
        return await self._writer.create(ctx, served, namespace, obj)

    async def update(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, obj: Message, *, subresource: str = ""
    ) -> Stored:
        self._check(ctx, "UpdateOptions")
        served = self._used(ctx, kind)
        if (view := versions.of(kind)) is not None:
            self._expect(kind.message, obj)
            ctx.normal = False
            changed = view.to_primary(obj)
            return view.shown(await self.update(ctx, view.primary, namespace, name, changed, subresource=subresource))
        if subresource == "scale" and "scale" in kind.subresources:
            return await self._scaler.update(ctx, served, namespace, name, lambda current: obj)
        self._check_subresource(kind, subresource)
        self._expect(kind.message, obj)
        return await self._writer.update(ctx, served, namespace, name, obj, subresource)

    async def patch(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, patch_type: str, body: bytes, *,
        subresource: str = "",
    ) -> Stored:  # fmt: skip
        self._check(ctx, "PatchOptions")
        served = self._used(ctx, kind)
        if (view := versions.of(kind)) is not None:
            self._check_subresource(kind, subresource)
            way = view.patch(patch_type, patches.parse(patch_type, body, kind), ctx)
            return view.shown(await self._writer.change(ctx, served, namespace, name, way, subresource))
        if subresource == "scale" and "scale" in kind.subresources:
            change = patches.parse(patch_type, body, kind)

            def patched(current: Any) -> Any:
                out = patches.patched(kind, type(current), current, patch_type, change, ctx)
                if out.metadata.resource_version == current.metadata.resource_version:
                    out.metadata.resource_version = ""
                return out

            return await self._scaler.update(ctx, served, namespace, name, patched)
        self._check_subresource(kind, subresource)
        return await self._patcher.patch(ctx, served, namespace, name, patch_type, body, subresource)

    async def apply(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, body: bytes, *, force: bool = False,
        subresource: str = "",
    ) -> tuple[Stored, bool]:  # fmt: skip
        self._check(ctx, "PatchOptions")
        if (view := versions.of(kind)) is not None:
            stored, created = await self.apply(
                ctx, view.primary, namespace, name, view.configuration(body), force=force, subresource=subresource
            )
            return view.shown(stored), created
        self._check_subresource(kind, subresource)
        return await self._patcher.apply(ctx, self._used(ctx, kind), namespace, name, body, force, subresource)

    async def delete(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, options: meta_v1_pb2.DeleteOptions
    ) -> DeleteResult:
        done = await self._writer.delete(ctx, self._used(ctx, kind), namespace, name, options)
        if (view := versions.of(kind)) is not None and done.stored is not None:
            return DeleteResult(view.shown(done.stored), None)
        return done

    async def delete_collection(
        self, ctx: RequestContext, kind: Kind, selection: ListOptions, options: meta_v1_pb2.DeleteOptions
    ) -> ListResult:
        if (view := versions.of(kind)) is not None:
            gone = await self.delete_collection(ctx, view.primary, view.options(selection), options)
            return view.shown_list(gone)
        served = self._used(ctx, kind)
        if "deletecollection" not in served.strategy.verbs:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        causes = deletion.validate_options(options)
        if causes:
            raise violations.invalid_object("meta.k8s.io", "DeleteOptions", "", causes)
        listed = await self._reader.list(served, selection)
        for stored in listed.items:
            found: Any = stored.message()
            meta = found.metadata
            try:
                await self._writer.delete(ctx, served, meta.namespace, meta.name, options)
            except NotFound:
                pass  # gone meanwhile: so it is to be
        return listed

    # pods

    async def bind(self, ctx: RequestContext, bindings: Sequence[pods_pb2.BindRequest]) -> Sequence[BindResult]:
        return await self._pod_operations.bind(ctx, bindings)

    async def admit_session(
        self,
        ctx: RequestContext,
        namespace: str,
        name: str,
        subresource: str,
        options: dict[str, Any],
        kind: Kind | None = None,
    ) -> None:
        await self._chain.connect(
            Request(
                "CONNECT", kind or self._pods.kind, subresource, namespace, name, None, None, ctx.identity,
                warnings=ctx.warnings, annotations=ctx.annotations, session=options,
            )
        )  # fmt: skip

    async def evict(self, ctx: RequestContext, eviction: policy_v1_pb2.Eviction) -> meta_v1_pb2.Status:
        return await self._pod_operations.evict(ctx, eviction)

    async def update_pod_statuses(
        self, ctx: RequestContext, updates: Sequence[tuple[str, str, str, Any, bool]]
    ) -> Sequence[Exception | None]:
        return await self._pod_operations.update_statuses(ctx, updates)

    async def _bind_one(self, ctx: RequestContext, namespace: str, name: str, obj: Any) -> Stored:
        """Answers with a Status, as Kubernetes' binding does; in `Stored`, of no kind of its own, it has no place: the pod."""
        self._expect(core_v1_pb2.Binding, obj)
        name = name or obj.metadata.name
        if obj.metadata.name and obj.metadata.name != name:
            raise BadRequest("name in URL does not match name in Binding object")
        (result,) = await self._pod_operations.bind(ctx, [binding_request(namespace, name, obj)])
        if result.error is not None:
            raise result.error
        return await self._reader.get(self._pods, namespace, name)

    async def _evict_one(self, ctx: RequestContext, namespace: str, name: str, obj: Any) -> Stored:
        self._expect(policy_v1_pb2.Eviction, obj)
        if obj.metadata.name and obj.metadata.name != name:
            raise BadRequest("name in URL does not match name in Eviction object")
        eviction = policy_v1_pb2.Eviction()
        eviction.CopyFrom(obj)
        eviction.metadata.name, eviction.metadata.namespace = name, namespace
        before = await self._reader.get(self._pods, namespace, name)
        await self._pod_operations.evict(ctx, eviction)
        return before

    async def _answered(self, ctx: RequestContext, kind: Kind, namespace: str, obj: Message) -> Stored:
        if self._answer is None:
            raise _unknown_resource()
        answer = await self._answer(ctx, namespace, obj)
        return Stored(kind, answer.SerializeToString(deterministic=True), 0, {})

    async def _issue_token(self, ctx: RequestContext, served: Served, namespace: str, name: str, obj: Any) -> Stored:
        if self._issue is None:
            raise _unknown_resource()
        from wherry.pb import authentication_v1_pb2

        self._expect(authentication_v1_pb2.TokenRequest, obj)
        asked = authentication_v1_pb2.TokenRequest()
        asked.CopyFrom(obj)
        request = Request(
            "CREATE", served.kind, "token", namespace, name, asked, None, ctx.identity, ctx.dry_run, ctx.warnings,
            ctx.annotations,
        )  # fmt: skip
        await self._chain.mutate(request)
        await self._chain.validate(request)
        issued = await self._issue(ctx, namespace, name, asked)
        kind = Kind(
            "authentication.k8s.io",
            "v1",
            "TokenRequest",
            "tokenrequests",
            "tokenrequest",
            True,
            (),
            (),
            (),
            type(asked),
        )
        return Stored(kind, issued.SerializeToString(deterministic=True), 0, {})

    # checks

    def _check(self, ctx: RequestContext, what: str) -> None:
        causes = managers.check(ctx)
        if ctx.field_validation not in ("", "Ignore", "Strict", "Warn"):
            allowed = ("", "Ignore", "Strict", "Warn")
            causes.append(violations.unsupported("fieldValidation", ctx.field_validation, allowed))
        if causes:
            raise violations.invalid_object("meta.k8s.io", what, "", causes)

    def _check_subresource(self, kind: Kind, subresource: str) -> None:
        if subresource and (subresource not in kind.subresources or subresource not in _UPDATED):
            raise _unknown_resource()

    def _expect(self, cls: type[Message], obj: Message) -> None:
        if not isinstance(obj, cls):
            raise BadRequest(f"expected a {cls.DESCRIPTOR.name}, got a {type(obj).DESCRIPTOR.name}")


def _unknown_resource() -> NotFound:
    return NotFound("the server could not find the requested resource")


def _certificate_request() -> type[Message]:
    from wherry.pb import certificates_v1_pb2

    return certificates_v1_pb2.CertificateSigningRequest


def _signed_by(ctx: RequestContext, obj: Any) -> Any:
    """Who asks for a certificate is what the server saw, not what the request says."""
    out = type(obj)()
    out.CopyFrom(obj)
    spec, identity = out.spec, ctx.identity
    spec.username, spec.uid = identity.user, identity.uid
    for name in ("groups", "extra"):
        spec.ClearField(name)
    spec.groups.extend(identity.groups)
    for key in sorted(identity.extra):
        spec.extra[key].items.extend(identity.extra[key])
    return out
