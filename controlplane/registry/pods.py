"""What is done to pods besides writing them whole: binding in batches, status batches from nodes, eviction.

Called by `registry.Registry` for the scheduler's binder, the node link and `kubectl drain`. Batches are independent
compare-and-puts: a pod that has changed meanwhile is tried once more on its new state, or fails alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controlplane.admission import base as admission
from controlplane.admission.chain import Chain
from controlplane.registry import eviction as evictions
from controlplane.registry import keys
from controlplane.registry.base import BindResult, RequestContext
from controlplane.registry.state import Entry, Served, State
from controlplane.registry.writes import MODIFIED, Extra, Writer, conflict, not_found
from controlplane.store.base import BatchItem, Compare, Delete, Operation, Put
from wherry.api import meta
from wherry.api.errors import APIError, BadRequest, Conflict, ServiceUnavailable
from wherry.pb import core_v1_pb2, meta_v1_pb2, pods_pb2, policy_v1_pb2

_TRIES = 5
_SLICE = 100  # pods parsed and changed between two pauses: about 25 us each


@dataclass(slots=True)
class _Item:
    """One pod of a batch. `step` gives the operations for its present state, or raises; None: nothing to do."""

    index: int
    key: str
    step: Callable[[Entry], tuple[tuple[Compare, ...], Operation] | None]
    entry: Entry | None = None


class PodOperations:
    def __init__(self, state: State, pods: Served, leases: Served, chain: Chain, writer: Writer) -> None:
        self._state = state
        self._pods = pods
        self._leases = leases
        self._chain = chain
        self._writer = writer
        # Evictions of this process queue up here instead of spoiling each other's transactions.
        self._evicting = asyncio.Lock()

    # binding

    async def bind(self, ctx: RequestContext, bindings: Sequence[pods_pb2.BindRequest]) -> Sequence[BindResult]:
        now = self._state.env.now()
        results = [BindResult() for _ in bindings]

        def record(index: int, revision: int, error: Exception | None) -> None:
            results[index] = BindResult(revision, error)

        if await self._chain.concerns(self._pods.kind, "binding", "CREATE"):
            bindings, errors = await self._reviewed(ctx, bindings)
        else:
            errors = {}
        items = [
            _Item(
                index,
                keys.key(self._pods.kind, request.namespace, request.name),
                lambda entry, request=request: self._bound(request, entry, now),  # type: ignore[misc]
            )
            for index, request in enumerate(bindings)
            if index not in errors
        ]
        for index, error in errors.items():
            record(index, 0, error)
        names = [request.name for request in bindings]
        await self._run(items, names, record, lambda name: conflict(self._pods.kind, name), dry_run=ctx.dry_run)
        return results

    async def _reviewed(
        self, ctx: RequestContext, bindings: Sequence[pods_pb2.BindRequest]
    ) -> tuple[list[pods_pb2.BindRequest], dict[int, Exception]]:
        """What webhooks and policies make of the bindings, and those that they refuse."""
        found = list(bindings)

        async def ask(index: int) -> None:
            given = bindings[index]
            binding = core_v1_pb2.Binding()
            binding.metadata.name, binding.metadata.namespace = given.name, given.namespace
            binding.metadata.uid = given.uid
            binding.target.kind, binding.target.name = "Node", given.node
            request = self._request(ctx, "CREATE", "binding", given.namespace, given.name, binding, None)
            if await self._chain.ask_outside(request):
                found[index] = pods_pb2.BindRequest()
                found[index].CopyFrom(given)
                found[index].node = binding.target.name

        return found, await _each(range(len(bindings)), ask)

    def _request(
        self, ctx: RequestContext, operation: admission.Operation, subresource: str, namespace: str, name: str, obj: Any,
        old: Any,
    ) -> admission.Request:  # fmt: skip
        return admission.Request(
            operation, self._pods.kind, subresource, namespace, name, obj, old, ctx.identity, ctx.dry_run, ctx.warnings,
            ctx.annotations,
        )  # fmt: skip

    def _bound(self, request: pods_pb2.BindRequest, entry: Entry, now: float) -> tuple[tuple[Compare, ...], Operation]:
        kind, name = self._pods.kind, request.name
        pod = core_v1_pb2.Pod.FromString(entry.value)
        if request.uid and request.uid != pod.metadata.uid:
            detail = (
                f"the UID in the precondition ({request.uid}) does not match the UID in record ({pod.metadata.uid})"
            )
            raise self._unbindable(name, detail)
        if request.resource_version and request.resource_version != str(entry.revision):
            raise conflict(kind, name, MODIFIED)
        if not request.node:
            raise BadRequest("target.name: Required value: name the node")
        if pod.metadata.HasField("deletion_timestamp"):
            raise self._unbindable(name, f"pod {name} is being deleted, cannot be assigned to a host")
        if pod.spec.node_name:
            raise self._unbindable(name, f'pod {name} is already assigned to node "{pod.spec.node_name}"')
        if pod.spec.scheduling_gates:
            raise self._unbindable(name, f"pod {name} has non-empty .spec.schedulingGates")
        pod.spec.node_name = request.node
        meta.set_condition(pod.status.conditions, "PodScheduled", "True", now=now)
        compares = [Compare(keys.key(kind, request.namespace, name), entry.revision)]
        if request.lease:
            namespace, _, lease = request.lease.rpartition("/")
            compares.append(Compare(keys.key(self._leases.kind, namespace, lease), request.lease_revision))
        return tuple(compares), Put(compares[0].key, pod.SerializeToString(deterministic=True))

    def _unbindable(self, name: str, detail: str) -> Conflict:
        return conflict(self._pods.kind, name, detail, subresource="binding")

    # status

    async def update_statuses(
        self, ctx: RequestContext, updates: Sequence[tuple[str, str, str, Any, bool]]
    ) -> Sequence[Exception | None]:
        results: list[Exception | None] = [None] * len(updates)

        def record(index: int, revision: int, error: Exception | None) -> None:
            results[index] = error

        if await self._chain.concerns(self._pods.kind, "status", "UPDATE"):
            updates, errors = await self._reviewed_statuses(ctx, updates)
        else:
            errors = {}
        items = []
        for index, (namespace, name, uid, status, terminated) in enumerate(updates):
            if index in errors:
                results[index] = errors[index]
                continue
            key = keys.key(self._pods.kind, namespace, name)
            request = admission.Request("UPDATE", self._pods.kind, "status", namespace, name, None, None, ctx.identity)
            items.append(_Item(index, key, self._status_step(request, key, uid, status, terminated)))
        # No Conflict: to the node link that would mean that the pod is not the node's any more.
        busy = ServiceUnavailable("the pod changes faster than its status can be written; try again", retry_after_s=1)
        await self._run(items, [name for _, name, *_ in updates], record, lambda name: busy, dry_run=ctx.dry_run)
        return results

    async def _reviewed_statuses(
        self, ctx: RequestContext, updates: Sequence[tuple[str, str, str, Any, bool]]
    ) -> tuple[list[tuple[str, str, str, Any, bool]], dict[int, Exception]]:
        """What webhooks and policies make of the statuses, and those that they refuse. One that is written after the pod has
        changed once more is not put before them again: what they have seen is what the node has said."""
        found = list(updates)
        cache = await self._state.fresh(self._pods)

        async def ask(index: int) -> None:
            namespace, name, uid, status, terminated = updates[index]
            entry = cache.get(keys.key(self._pods.kind, namespace, name))
            if entry is None:
                return  # there is nothing to write to
            old = core_v1_pb2.Pod.FromString(entry.value)
            pod = core_v1_pb2.Pod()
            pod.CopyFrom(old)
            pod.status.CopyFrom(status)
            self._pods.strategy.prepare_status(pod, old)
            request = self._request(ctx, "UPDATE", "status", namespace, name, pod, old)
            self._chain.check_node(request)
            if await self._chain.ask_outside(request):
                found[index] = namespace, name, uid, pod.status, terminated

        return found, await _each(range(len(updates)), ask)

    def _status_step(
        self, request: admission.Request, key: str, uid: str, status: Any, terminated: bool
    ) -> Callable[[Entry], tuple[tuple[Compare, ...], Operation] | None]:
        strategy = self._pods.strategy

        def step(entry: Entry) -> tuple[tuple[Compare, ...], Operation] | None:
            old = core_v1_pb2.Pod.FromString(entry.value)
            if uid and uid != old.metadata.uid:
                raise not_found(self._pods.kind, request.name)  # another pod of this name: the node's is gone
            pod = core_v1_pb2.Pod()
            pod.CopyFrom(old)
            pod.status.CopyFrom(status)
            strategy.prepare_status(pod, old)
            # A node may report on its own pods only. The other plugins have no say in a status.
            self._chain.check_node(replace(request, obj=pod, old=old))
            compares = (Compare(key, entry.revision),)
            if terminated and pod.metadata.HasField("deletion_timestamp"):
                if not pod.metadata.finalizers:
                    return compares, Delete(key)
                # The last word of the node: nothing runs any more, only finalizers hold the object.
                pod.metadata.deletion_grace_period_seconds = 0
            value = pod.SerializeToString(deterministic=True)
            if value == entry.value:
                return None
            return compares, Put(key, value)

        return step

    # the batch

    async def _run(
        self,
        items: Sequence[_Item],
        names: Sequence[str],
        record: Callable[[int, int, Exception | None], None],
        exhausted: Callable[[str], Exception],
        *,
        dry_run: bool,
    ) -> None:
        """Writes all items that can be; those whose pod has changed are tried again on what it is now."""
        kind = self._pods.kind
        cache = await self._state.fresh(self._pods)
        for item in items:
            found = cache.get(item.key)
            item.entry = None if found is None else Entry(found.value, found.mod_revision, found.memo)
        waiting = list(items)
        for _ in range(_TRIES):
            batch: list[BatchItem] = []
            sent: list[_Item] = []
            for position, item in enumerate(waiting):
                if position % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)
                try:
                    if item.entry is None:
                        raise not_found(kind, names[item.index])
                    planned = item.step(item.entry)
                except APIError as error:
                    record(item.index, 0, error)
                    continue
                if planned is None or dry_run:
                    record(item.index, item.entry.revision, None)
                    continue
                compares, operation = planned
                batch.append(BatchItem(compares, (operation,)))
                sent.append(item)
            if not batch:
                return
            outcomes = await self._state.batch(batch)
            waiting = []
            for item, planned_item, outcome in zip(sent, batch, outcomes, strict=True):
                if outcome.succeeded:
                    self._pods.acknowledge(outcome.revision)
                    record(item.index, outcome.revision, None)
                    continue
                now = outcome.current[0]
                if now is not None and now.mod_revision == planned_item.compares[0].mod_revision:
                    # The pod is as it was: the fencing lease is not.
                    detail = "the lease of the writer has passed to another holder"
                    record(item.index, 0, conflict(kind, names[item.index], detail, subresource="binding"))
                    continue
                item.entry = None if now is None else Entry(now.value, now.mod_revision, {})
                waiting.append(item)
        for item in waiting:
            record(item.index, 0, exhausted(names[item.index]))

    # eviction

    async def evict(self, ctx: RequestContext, eviction: policy_v1_pb2.Eviction) -> meta_v1_pb2.Status:
        """A deletion that a PodDisruptionBudget may refuse."""
        name, namespace = eviction.metadata.name, eviction.metadata.namespace
        options = eviction.delete_options
        guard = _BudgetGuard(self._state)
        async with self._evicting:
            await self._writer.delete(
                ctx, self._pods, namespace, name, options, subresource="eviction", guard=guard
            )  # fmt: skip
        return meta_v1_pb2.Status(status="Success", code=201)


class _BudgetGuard:
    """Takes the disruption from the budget in the transaction that deletes the pod."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._budgets = state.by_name("policy/v1", "PodDisruptionBudget")
        self._spent = False

    async def plan(self, pod: core_v1_pb2.Pod) -> Extra:
        self._spent = False
        now = self._state.env.now()
        if meta.is_deleting(pod):
            return (), ()
        found: Extra = (), ()
        if self._budgets is not None and evictions.concerns_budgets(pod):
            found = await self._ask(self._budgets, pod, now)
        evictions.mark(pod, now)
        return found

    async def _ask(self, served: Served, pod: core_v1_pb2.Pod, now: float) -> Extra:
        cache = await self._state.fresh(served)
        entries = cache.list(f"{served.prefix}{pod.metadata.namespace}/")
        parsed = {entry.key: policy_v1_pb2.PodDisruptionBudget.FromString(entry.value) for entry in entries}
        decision = evictions.decide(pod, list(parsed.values()), now)
        if decision.budget is None:
            return (), ()
        key = keys.key(served.kind, decision.budget.metadata.namespace, decision.budget.metadata.name)
        revision = next(entry.mod_revision for entry in entries if entry.key == key)
        # A pod that costs nothing is let go on the strength of the budget's status too.
        compares = (Compare(key, revision),)
        if decision.spent is None:
            return compares, ()
        self._spent = True
        return compares, (Put(key, decision.spent.SerializeToString(deterministic=True), served.strategy.ttl_s),)

    def committed(self, revision: int) -> None:
        if self._spent and self._budgets is not None:
            self._budgets.acknowledge(revision)

    def exhausted(self) -> Exception:
        return evictions.refusal("The disruption budget changes faster than it can be asked; try again")


async def _each(indices: Sequence[int], ask: Callable[[int], Awaitable[None]]) -> dict[int, Exception]:
    """Asks for all, so many at a time; the refusals. Anything else that goes wrong is raised."""
    errors: dict[int, Exception] = {}
    for start in range(0, len(indices), _SLICE):
        part = indices[start : start + _SLICE]
        for index, error in zip(part, await asyncio.gather(*map(ask, part), return_exceptions=True), strict=True):
            if isinstance(error, APIError):
                errors[index] = error
            elif error is not None:
                raise error
    return errors


def binding_request(namespace: str, name: str, obj: Any) -> pods_pb2.BindRequest:
    """Of the Binding object that the `binding` subresource takes."""
    if obj.target.kind not in ("", "Node"):
        raise BadRequest(f'target.kind: Unsupported value: {obj.target.kind!r}: supported values: "Node"')
    if not obj.target.name:
        raise BadRequest("target.name: Required value")
    return pods_pb2.BindRequest(
        namespace=namespace, name=name, uid=obj.metadata.uid, resource_version=obj.metadata.resource_version,
        node=obj.target.name,
    )  # fmt: skip
