"""Charges writes to the quotas of their namespace. Made by `chain` when there is a quota; `Chain.charging` asks it.

The new figures are written in the object's own transaction, on condition that the quota is as it was read. Within a process one
write at a time is charged to a namespace, so that many at once do not fail on each other; replicas exclude each other by the
condition. A quota that nobody has counted for yet is counted here, at once: it holds from its first moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from controlplane.admission.base import Found, Lookup, Request
from controlplane.admission.charge import FREE, Charge
from controlplane.admission.quota import plan as planning
from controlplane.store.base import Compare, Operation, Put
from wherry.api import quotas

_QUOTA = ("v1", "ResourceQuota")


class Ledger:
    """Invariant: a lock is kept only as long as somebody holds it or waits for it."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    @asynccontextmanager
    async def charging(self, request: Request) -> AsyncIterator[Charge]:
        namespace = request.namespace
        if not await self._lookup.within(*_QUOTA, namespace):
            yield FREE
            return
        lock, users = self._locks.setdefault(namespace, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield _Charge(self._lookup, request)
        finally:
            users.pop()
            if not users:
                self._locks.pop(namespace, None)


class _Charge:
    def __init__(self, lookup: Lookup, request: Request) -> None:
        self._lookup = lookup
        self._request = request
        self._written = False

    async def plan(self, obj: Any | None, old: Any | None) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
        kind = self._request.kind
        compares: list[Compare] = []
        operations: list[Operation] = []
        for found in await self._lookup.within(*_QUOTA, self._request.namespace):
            quota = found.message
            itself = kind.plural == "resourcequotas" and not kind.group and quota.metadata.name == self._request.name
            sides = (planning.concerns(quota, kind.group, kind.plural, side) for side in (obj, old))
            if itself or not any(sides):
                continue
            value = await self._charged(found, obj, old)
            if value is not None:
                compares.append(Compare(found.key, found.revision))
                operations.append(Put(found.key, value))
        self._written = bool(operations)
        return tuple(compares), tuple(operations)

    def settle(self, revision: int) -> None:
        if self._written:
            self._lookup.acknowledge(*_QUOTA, revision)

    async def _charged(self, found: Found, obj: Any | None, old: Any | None) -> bytes | None:
        """The quota as it is to be stored; None when the write costs it nothing."""
        kind, quota = self._request.kind, found.message
        present = planning.used(quota)
        if not planning.known(quota, kind.group, kind.plural):
            present |= await self._count(quota)
        try:
            after = planning.charge(quota, present, kind.group, kind.plural, obj, old)
        except planning.Refused as refusal:
            raise self._request.forbid(str(refusal)) from refusal
        if not after:
            return None
        copy: Any = type(quota)()
        copy.CopyFrom(quota)
        for name, amount in {**present, **after}.items():
            copy.status.used[name].string = amount
        for name, limit in planning.limits(quota).items():
            copy.status.hard[name].string = limit
        value: bytes = copy.SerializeToString(deterministic=True)
        return value

    async def _count(self, quota: Any) -> quotas.Usage:
        """What the kind of this request uses by now of the names that were not counted yet."""
        kind = self._request.kind
        missing = [
            name for name in quotas.relevant(kind.group, kind.plural, quota.spec.hard) if name not in quota.status.used
        ]
        present = await self._lookup.within(kind.api_version, kind.kind, self._request.namespace, keep=False)
        usages = [
            quotas.usage(kind.group, kind.plural, item.message)
            for item in present
            if quotas.matches(quota.spec, kind.group, kind.plural, item.message)
        ]
        return quotas.total(usages, missing)
