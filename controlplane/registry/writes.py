"""Create, update and delete: the one pipeline of every kind and verb, from a decoded object to one store transaction.

defaults -> mutating admission -> prepare -> validate -> validating admission -> transaction. The steps of a kind are its
`Strategy`; everything here is common. Called by `registry.Registry` and by `patches`, `scale` and `pods`, which differ only
in how the new state comes about. A write that has been handed to the store is not undone by cancelling the caller (the store's
contract); what is not handed over yet leaves no trace, for there is only one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from google.protobuf.message import Message

from controlplane.admission import base as admission
from controlplane.admission.chain import Chain
from controlplane.admission.charge import Charge
from controlplane.registry import deletion, managers, metadata, violations
from controlplane.registry.base import DeleteResult, RequestContext, Stored
from controlplane.registry.keys import key as key_of
from controlplane.registry.state import Entry, Served, State
from controlplane.store.base import Compare, Delete, Operation, Put
from wherry.api import integers, normal
from wherry.api.errors import AlreadyExists, BadRequest, Conflict, MethodNotAllowed, NotFound
from wherry.api.kinds import Kind
from wherry.api.turns import in_turns
from wherry.pb import autoscaling_v1_pb2, meta_v1_pb2

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
_GENERATE_TRIES = 8
# Other replicas write the same keys (quotas, budgets): of three that compete one wins each time.
_UPDATE_TRIES = 32
_EAGER_TRIES = 3
_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.05

# What the object shall become: gets the present object (the caller's own copy, with resourceVersion), gives the new one.
Change = Callable[[Any], Any]
Extra = tuple[tuple[Compare, ...], tuple[Operation, ...]]


class Guard(Protocol):
    """Who else must agree to a deletion, and writes in its transaction: `pods` has one for evictions."""

    async def plan(self, obj: Any) -> Extra:
        """Of the object as it is now, which it may change. Raises what refuses the deletion. Asked again when the transaction
        failed because something had changed meanwhile."""
        ...

    def committed(self, revision: int) -> None: ...
    def exhausted(self) -> Exception:
        """Somebody else was faster each time."""
        ...


def not_found(kind: Kind, name: str) -> NotFound:
    message = f'{kind.group_resource} "{name}" not found'
    return NotFound(message, group=kind.group, kind=kind.plural, name=name)


def conflict(kind: Kind, name: str, detail: str = MODIFIED, subresource: str = "") -> Conflict:
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    full = f"{resource}.{kind.group}" if kind.group else resource
    message = f'Operation cannot be fulfilled on {full} "{name}": {detail}'
    return Conflict(message, group=kind.group, kind=resource, name=name)


def _merge_type(served: Served, subresource: str = "") -> Any:
    from wherry.api import apply

    if subresource == "scale":
        return apply.type_of(autoscaling_v1_pb2.Scale)  # as which it is put before policies
    return served.strategy.merge_type or apply.type_of(served.kind.message)


class Writer:
    def __init__(self, state: State, chain: Chain) -> None:
        self._state = state
        self._chain = chain

    # create

    async def create(
        self, ctx: RequestContext, served: Served, namespace: str, given: Message, *, applied: bool = False
    ) -> Stored:
        kind = served.kind
        if served.strategy.frozen:
            raise MethodNotAllowed(served.strategy.frozen)
        obj: Any = kind.message()
        obj.CopyFrom(given)
        if not ctx.normal:
            normal.normalise(obj)
        meta = obj.metadata
        self._place(kind, namespace, meta)
        if meta.resource_version not in ("", "0") and not ctx.dry_run:
            raise BadRequest("resourceVersion should not be set on objects to be created")
        served.strategy.check_fields(ctx, obj)
        served.strategy.defaults(obj)
        served.strategy.defaults_of_new(obj)
        metadata.clear_system(meta)
        # Before admission: what that adds (the token's volume, tolerations) is nobody's, as in Kubernetes.
        managers.track(ctx, served.strategy, obj, None, self._state.env, applied=applied)
        request = self._request(ctx, "CREATE", kind, namespace, meta.name, obj, None)
        request.defaults = served.strategy.defaults
        request.merge_type = partial(_merge_type, served)
        if await self._chain.mutate(request):
            meta = obj.metadata  # the one from before is no part of an object that was replaced as a whole
            self._place(kind, namespace, meta)
        metadata.fill_new(meta, self._state.env)
        served.strategy.prepare_create(obj)
        generated = not meta.name and meta.generate_name
        existing: Entry | None = None
        for attempt in range(_GENERATE_TRIES if generated else 1):
            if generated:
                meta.name = request.name = metadata.generate_name(meta.generate_name, self._state.env)
            served.strategy.defaults_of_name(obj)
            if attempt == 0:
                await self._validate_new(ctx, served, obj)
                await self._chain.validate(request)
            async with self._chain.charging(request) as charge:
                stored, existing = await self._insert(ctx, served, obj, charge)
            if stored is not None:
                return stored
        raise self._exists(kind, meta, existing, bool(generated))

    def _request(
        self, ctx: RequestContext, operation: admission.Operation, kind: Kind, namespace: str, name: str, obj: Any,
        old: Any, subresource: str = "",
    ) -> admission.Request:  # fmt: skip
        return admission.Request(
            operation, kind, subresource, namespace, name, obj, old, ctx.identity, ctx.dry_run, ctx.warnings,
            ctx.annotations,
        )  # fmt: skip

    def _place(self, kind: Kind, namespace: str, meta: meta_v1_pb2.ObjectMeta) -> None:
        if kind.namespaced:
            if not namespace:
                raise BadRequest(f"{kind.group_resource} are namespaced: name the namespace of the request")
            if meta.namespace and meta.namespace != namespace:
                raise BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            meta.namespace = namespace
        elif namespace:
            raise BadRequest(f"{kind.group_resource} are not namespaced: the request names namespace {namespace!r}")

    async def _validate_new(self, ctx: RequestContext, served: Served, obj: Any) -> None:
        kind, strategy = served.kind, served.strategy
        causes = metadata.validate(
            obj.metadata, kind.namespaced, strategy.name_rule, any_finalizer=strategy.any_finalizer
        )
        causes += await in_turns(strategy.examine(obj, None, ""))
        violations.raise_if(kind, obj.metadata.name, causes)
        ctx.warnings.extend(strategy.warnings(obj, None))

    async def _insert(
        self, ctx: RequestContext, served: Served, obj: Any, charge: Charge
    ) -> tuple[Stored | None, Entry | None]:
        """The object as stored, or what stands in its place."""
        kind, meta = served.kind, obj.metadata
        key = key_of(kind, meta.namespace, meta.name)
        if ctx.dry_run:
            await charge.plan(obj, None)
            await self._plan_companions(served, obj, None, set())
            existing = await self._state.current(served, key)
            if existing is not None:
                return None, existing
            return served.stored(served.strategy.to_store(obj), 0, {}), None
        refused: set[str] = set()
        for attempt in range(_UPDATE_TRIES):
            await self._pause(attempt)
            # Reservations are chosen anew in each round, so not in `obj` itself.
            chosen: Any = obj
            if served.companions is not None:
                chosen = kind.message()
                chosen.CopyFrom(obj)
            compares, operations = await self._plan_companions(served, chosen, None, refused)
            charged, charges = await charge.plan(chosen, None)
            value = served.strategy.to_store(chosen)
            result = await self._state.txn(
                (Compare(key, 0), *compares, *charged),
                (Put(key, value, served.strategy.ttl_s), *operations, *charges),
                ctx.condition,
            )
            if result.succeeded:
                served.acknowledge(result.revision)
                charge.settle(result.revision)
                if served.companions is not None:
                    served.companions.committed(result.revision)
                memo = self._state.memo_of(served, key, result.revision)
                return served.stored(value, result.revision, memo), None
            if result.current[0] is not None:
                return None, Entry(result.current[0].value, result.current[0].mod_revision, {})
            refused.update(kv.key for kv in result.current if kv is not None)
        raise conflict(kind, meta.name)

    async def _pause(self, attempt: int) -> None:
        """Before a write is tried once more, so that those who compete do not go on in step."""
        if attempt >= _EAGER_TRIES:
            await asyncio.sleep(
                self._state.env.rng.random() * min(_PAUSE_S * 2 ** (attempt - _EAGER_TRIES), _LONGEST_PAUSE_S)
            )

    async def _plan_companions(self, served: Served, obj: Any, old: Any | None, refused: set[str]) -> Extra:
        if served.companions is None:
            return (), ()
        return await served.companions.plan(obj, old, refused, served.acknowledged)

    def _exists(
        self, kind: Kind, meta: meta_v1_pb2.ObjectMeta, existing: Entry | None, generated: bool
    ) -> AlreadyExists:
        message = f'{kind.group_resource} "{meta.name}" already exists'
        if generated:
            message += ", the server was not able to generate a unique name for the object"
        elif existing is not None:
            found: Any = kind.message.FromString(existing.value)
            if found.metadata.HasField("deletion_timestamp"):
                message = f"object is being deleted: {message}"
        return AlreadyExists(message, group=kind.group, kind=kind.plural, name=meta.name)

    # update

    async def update(
        self, ctx: RequestContext, served: Served, namespace: str, name: str, given: Message, subresource: str = ""
    ) -> Stored:
        """The whole object (or, for a subresource, the part of it that this may change)."""
        kind, meta = served.kind, given.metadata  # type: ignore[attr-defined]
        if meta.name and meta.name != name:
            raise BadRequest(f"the name of the object ({meta.name}) does not match the name on the URL ({name})")
        if not meta.name:
            raise BadRequest(f"the name of the object (metadata.name) must be set to the name on the URL ({name})")

        def replace(_: Any) -> Any:
            obj: Any = kind.message()
            obj.CopyFrom(given)
            if not ctx.normal:
                normal.normalise(obj)
            self._place(kind, namespace, obj.metadata)
            return obj

        if served.strategy.create_on_update and not subresource:
            return await self._change(ctx, served, namespace, name, replace, subresource, create=replace(None))
        return await self._change(ctx, served, namespace, name, replace, subresource)

    async def change(
        self,
        ctx: RequestContext,
        served: Served,
        namespace: str,
        name: str,
        change: Change,
        subresource: str = "",
        *,
        applied: bool = False,
    ) -> Stored:
        """Read, `change`, write, again when somebody else was faster (unless `change` sets a resourceVersion)."""
        return await self._change(ctx, served, namespace, name, change, subresource, applied=applied)

    async def _change(
        self,
        ctx: RequestContext,
        served: Served,
        namespace: str,
        name: str,
        change: Change,
        subresource: str,
        *,
        create: Message | None = None,
        applied: bool = False,
    ) -> Stored:
        kind = served.kind
        key = key_of(kind, namespace, name)
        entry = await self._state.current(served, key)
        refused: set[str] = set()
        warned = len(ctx.warnings)
        for attempt in range(_UPDATE_TRIES):
            await self._pause(attempt)
            del ctx.warnings[warned:]  # those of a try that somebody else was faster than
            if entry is None:
                if create is not None:
                    made = await self.create(ctx, served, namespace, create)
                    ctx.created = True
                    return made
                raise not_found(kind, name)
            old: Any = kind.message.FromString(served.view(entry.value, entry.memo)[0])
            base: Any = kind.message()
            base.CopyFrom(old)
            base.metadata.resource_version = str(entry.revision)
            obj = change(base)
            pinned = self._check_revision(served, obj, name, entry)
            request = self._request(ctx, "UPDATE", kind, namespace, name, obj, old, subresource)
            request.read_scale = served.strategy.read_scale
            value, remove, extra = await self._next(ctx, served, request, applied, refused)
            if value == entry.value and not remove:
                return served.stored(entry.value, entry.revision, entry.memo)
            async with self._chain.charging(request, goes=remove) as charge:
                charged, charges = await charge.plan(None if remove else obj, old)
                if ctx.dry_run:
                    return served.stored(value, entry.revision, {})
                compares, operations = extra
                step: Operation = Delete(key) if remove else Put(key, value, served.strategy.ttl_s)
                result = await self._state.txn(
                    (Compare(key, entry.revision), *compares, *charged), (step, *operations, *charges), ctx.condition
                )
                if result.succeeded:
                    served.acknowledge(result.revision)
                    charge.settle(result.revision)
                    if remove:
                        return served.stored(value, entry.revision, {})
                    memo = self._state.memo_of(served, key, result.revision)
                    return served.stored(value, result.revision, memo)
            refused.update(kv.key for kv in result.current[1:] if kv is not None)
            now = result.current[0]
            if pinned and now is not None and now.mod_revision != entry.revision:
                raise conflict(kind, name)
            entry = None if now is None else Entry(now.value, now.mod_revision, {})
        raise conflict(kind, name)

    def _check_revision(self, served: Served, obj: Any, name: str, entry: Entry) -> bool:
        """Whether the client insists on the revision it read. Raises Conflict when that is no longer it."""
        wanted = obj.metadata.resource_version
        if wanted in ("", "0"):
            if not served.strategy.unconditional_update:
                cause = violations.invalid("metadata.resourceVersion", 0, "must be specified for an update")
                raise violations.invalid_object(served.kind.group, served.kind.kind, name, [cause])
            return False
        revision = integers.parse_unsigned(wanted)
        if revision is None:
            raise BadRequest(f'metadata.resourceVersion: invalid value "{wanted}": want the number that a read gave')
        if revision != entry.revision:
            raise conflict(served.kind, name)
        return True

    async def _next(
        self,
        ctx: RequestContext,
        served: Served,
        request: admission.Request,
        applied: bool,
        refused: set[str],
    ) -> tuple[bytes, bool, Extra]:
        """From what the client wants to what is to be stored: its bytes, whether it goes with this write, and the other
        keys that go along."""
        kind, strategy = served.kind, served.strategy
        name, obj, old, subresource = request.name, request.obj, request.old, request.subresource
        self._check_identity(kind, name, obj, old)
        strategy.check_fields(ctx, obj)
        strategy.defaults(obj)
        strategy.defaults_of_name(obj)
        request.defaults = strategy.defaults
        request.merge_type = partial(_merge_type, served, subresource)
        if await self._chain.mutate(request):
            self._check_identity(kind, name, obj, old)
        metadata.keep_system_fields(obj.metadata, old.metadata)
        if subresource in ("status", "resize"):
            metadata.only_status(obj.metadata, old.metadata)
        strategy.prepare(obj, old, subresource)
        managers.track(ctx, strategy, obj, old, self._state.env, subresource=subresource, applied=applied)
        causes = metadata.validate_update(obj.metadata, old.metadata, any_finalizer=strategy.any_finalizer)
        causes += await in_turns(strategy.examine(obj, old, subresource))
        violations.raise_if(kind, name, causes)
        ctx.warnings.extend(strategy.warnings(obj, old))
        await self._chain.validate(request)
        remove = strategy.may_vanish(obj)
        if remove:
            extra: Extra = ((), served.companions.release(old) if served.companions is not None else ())
        else:
            extra = await self._plan_companions(served, obj, old, refused)
        return strategy.to_store(obj), remove, extra

    def _check_identity(self, kind: Kind, name: str, obj: Any, old: Any) -> None:
        meta = obj.metadata
        if meta.name != name:
            cause = violations.invalid("metadata.name", meta.name, "field is immutable")
            raise violations.invalid_object(kind.group, kind.kind, name, [cause])
        if meta.namespace != old.metadata.namespace:
            raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
        if meta.uid and meta.uid != old.metadata.uid:
            place = f"{old.metadata.namespace}/{name}" if kind.namespaced else name
            raise conflict(
                kind,
                name,
                f"StorageError: invalid object, Code: 4, Key: /{kind.plural}/{place}, ResourceVersion: 0, "
                f"AdditionalErrorMsg: Precondition failed: UID in precondition: {meta.uid}, "
                f"UID in object meta: {old.metadata.uid}",
            )

    # delete

    async def delete(
        self,
        ctx: RequestContext,
        served: Served,
        namespace: str,
        name: str,
        options: meta_v1_pb2.DeleteOptions,
        *,
        subresource: str = "",
        guard: Guard | None = None,
    ) -> DeleteResult:
        causes = deletion.validate_options(options)
        if causes:
            raise violations.invalid_object("meta.k8s.io", "DeleteOptions", "", causes)
        kind = served.kind
        dry_run = ctx.dry_run or bool(options.dry_run)
        key = key_of(kind, namespace, name)
        entry = await self._state.current(served, key)
        for attempt in range(_UPDATE_TRIES):
            await self._pause(attempt)
            if entry is None:
                raise not_found(kind, name)
            old: Any = kind.message.FromString(served.view(entry.value, entry.memo)[0])
            deletion.check_preconditions(kind, name, old, entry.revision, options)
            request = self._request(ctx, "DELETE", kind, namespace, name, None, old, subresource)
            request.dry_run = dry_run
            await self._chain.mutate(request)
            await self._chain.validate(request)
            obj: Any = kind.message()
            obj.CopyFrom(old)
            extra: Extra = ((), ()) if guard is None else await guard.plan(obj)
            plan = served.strategy.plan_deletion(obj, options, self._state.env.now())
            value = entry.value if plan.changed is None else served.strategy.to_store(plan.changed)
            if not plan.remove and value == entry.value:
                return DeleteResult(served.stored(entry.value, entry.revision, entry.memo), None)
            done = served.stored(value, entry.revision, {})
            if dry_run:
                return self._deleted(served, old, done, plan.remove)
            operations: tuple[Operation, ...] = (Put(key, value, served.strategy.ttl_s),)
            if plan.remove:
                released = served.companions.release(old) if served.companions is not None else ()
                operations = (Delete(key), *released)
            compares, more = extra
            async with self._chain.charging(request) as charge:
                charged, charges = await charge.plan(None, old) if plan.remove else ((), ())
                result = await self._state.txn(
                    (Compare(key, entry.revision), *compares, *charged), (*operations, *more, *charges), ctx.condition
                )
                if result.succeeded:
                    served.acknowledge(result.revision)
                    charge.settle(result.revision)
            if result.succeeded:
                if guard is not None:
                    guard.committed(result.revision)
                if not plan.remove:
                    done = served.stored(value, result.revision, {})
                return self._deleted(served, old, done, plan.remove)
            now = result.current[0]
            entry = None if now is None else Entry(now.value, now.mod_revision, {})
        raise conflict(kind, name) if guard is None else guard.exhausted()

    def _deleted(self, served: Served, old: Any, done: Stored, removed: bool) -> DeleteResult:
        if not removed:
            return DeleteResult(done, None)
        kind = served.kind
        status = meta_v1_pb2.Status(status="Success")
        status.details.name = old.metadata.name
        status.details.group = kind.group
        status.details.kind = kind.plural
        status.details.uid = old.metadata.uid
        return DeleteResult(None, status, done if (kind.group, kind.plural) in deletion.ANSWERED_WITH_OBJECT else None)
