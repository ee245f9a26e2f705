"""What the parts of the registry share: the store, the served kinds with their caches, and reads that see every write.

Each kind has one watch cache, started when it is first needed. A kind remembers the newest revision at which this process
wrote one of its objects: a read waits until the cache has come that far. With several replicas (`consistent`) a read also
asks the store how far it is. Called by `writes`, `reads`, `pods` and `registry`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from controlplane.admission.base import Found
from controlplane.registry.base import Stored
from controlplane.registry.conditions import Condition
from controlplane.registry.keys import ROOT
from controlplane.registry.keys import key as key_of
from controlplane.registry.keys import prefix as prefix_of
from controlplane.registry.strategy import Strategy
from controlplane.store import base as store_base
from controlplane.store.base import BatchItem, Compare, KeyValue, Operation, Store, TxnResult
from controlplane.store.cache import Indexer, WatchCache
from wherry.api.context import Env
from wherry.api.errors import APIError, Cause, Expired, RequestEntityTooLarge, ServiceUnavailable, Timeout
from wherry.api.kinds import Kind

READ_TIMEOUT_S = 10.0  # a cache that is further behind than this is not going to catch up for this request
FUTURE_REVISION_TIMEOUT_S = 3.0
_CONDITION_TRIES = 5
_SLICE = 100  # objects parsed between two chances for the loop to do something else


class Entry(NamedTuple):
    """One object as it stands: in the cache (its memo is shared) or as a failed compare showed it."""

    value: bytes
    revision: int
    memo: dict[Any, Any]


class CustomKinds(Protocol):
    """The kinds that definitions in the store define; they come and go. `cache` is that of the definitions."""

    @property
    def cache(self) -> WatchCache: ...

    def by_resource(self, group: str, plural: str, version: str) -> Served | None: ...
    def by_name(self, api_version: str, kind: str) -> Served | None: ...
    def versions(self) -> Iterable[Served]: ...
    def homes(self) -> Iterable[Served]: ...
    async def close(self) -> None: ...


class Companions(Protocol):
    """Other keys that are written in the transaction of an object: reservations of what must be unique."""

    async def plan(
        self, obj: Any, old: Any | None, refused: set[str], at_least: int
    ) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
        """Sets what is still to be chosen in `obj`, knowing every revision up to `at_least`. Raises Invalid. Called again
        when a compare failed; `refused` are the keys that turned out to be there."""
        ...

    def committed(self, revision: int) -> None:
        """What was planned for a new object is stored."""
        ...

    def release(self, old: Any) -> tuple[Operation, ...]: ...
    async def stop(self) -> None: ...


@dataclass(slots=True)
class Served:
    """A kind that is served. Invariant: `acknowledged` only grows."""

    kind: Kind
    strategy: Strategy
    indexers: Mapping[str, Indexer] = field(default_factory=dict)
    companions: Companions | None = None
    cache: WatchCache | None = None
    acknowledged: int = 0
    starting: asyncio.Future[None] | None = None
    # A kind that is served in several versions: the one whose cache they share, and how stored bytes look in this version.
    home: Served | None = None
    look: Callable[[bytes], bytes] | None = None

    @property
    def prefix(self) -> str:
        return prefix_of(self.kind)

    def acknowledge(self, revision: int) -> None:
        home = self.home or self
        home.acknowledged = max(home.acknowledged, revision)

    def view(self, value: bytes, memo: dict[Any, Any]) -> tuple[bytes, dict[Any, Any]]:
        """Stored bytes as this version shows them, with the memo that belongs to them."""
        if self.look is None:
            return value, memo
        key = ("view", self.kind)
        found: tuple[bytes, dict[Any, Any]] | None = memo.get(key)
        if found is None:
            for old in [
                other
                for other in memo
                if type(other) is tuple and other[0] == "view" and _outdated(other[1], self.kind)
            ]:
                del memo[old]
            found = memo[key] = (self.look(value), {})
        return found

    def stored(self, value: bytes, revision: int, memo: dict[Any, Any]) -> Stored:
        """What a client of this version gets."""
        shown, own = self.view(value, memo)
        return Stored(self.kind, shown, revision, own)


def _outdated(kind: Kind, now: Kind) -> bool:
    """Whether this is the same version of a definition that has changed since."""
    return kind.version == now.version and kind != now


def translated(error: store_base.StoreError) -> APIError:
    """A store's error as the API says it."""
    if isinstance(error, store_base.TooLarge):
        return RequestEntityTooLarge(f"the object is too large to be stored: {error}")
    if isinstance(error, store_base.Compacted):
        return Expired(
            "The resourceVersion for the provided watch or list is too old: "
            f"the history before {error.compacted} has been compacted; list again"
        )
    if isinstance(error, store_base.FutureRevision):
        return too_large_revision(error.asked, error.newest)
    if isinstance(error, store_base.Full):
        # Not to be tried again by itself: somebody has to make room.
        return ServiceUnavailable(f"the store is full: {error}")
    return ServiceUnavailable(f"the store is unavailable: {error}", retry_after_s=1)


def too_large_revision(asked: int, current: int) -> Timeout:
    return Timeout(
        f"Timeout: Too large resource version: {asked}, current: {current}",
        causes=(Cause("ResourceVersionTooLarge", "Too large resource version"),),
        retry_after_s=1,
    )


class State:
    """`later` says for an API group which further kinds it has; it is asked when one of them is."""

    def __init__(
        self,
        store: Store,
        env: Env,
        served: Iterable[Served],
        *,
        consistent: bool,
        later: Mapping[str, Callable[[], Iterable[Served]]] | None = None,
    ) -> None:
        self.store = store
        self.env = env
        self.served: dict[tuple[str, str], Served] = {(item.kind.group, item.kind.plural): item for item in served}
        self._by_name = {(item.kind.api_version, item.kind.kind): item for item in self.served.values()}
        self._later = dict(later or {})
        self._members: dict[str, list[Served]] = {}  # the kinds of a group, for those that were asked for
        # Kinds that definitions in the store define: by group and plural, and the versions of each.
        self.custom: CustomKinds | None = None
        self._consistent = consistent
        # Writes that ended without an answer may have happened, at a revision that we do not know; so many are settled.
        self._doubts = self._settled = 0
        self._presence: dict[
            str, asyncio.Task[WatchCache]
        ] = {}  # by prefix, each with the bare keys of a kind or group
        self._closed = False

    def by_resource(self, group: str, plural: str, version: str = "") -> Served | None:
        """`version` tells those of a custom resource apart; without it, the one in which it is stored."""
        found = self.served.get((group, plural))
        if found is None and group in self._later:
            self._load(group)
            found = self.served.get((group, plural))
        if found is None and self.custom is not None:
            found = self.custom.by_resource(group, plural, version)
        return found

    def by_name(self, api_version: str, kind: str) -> Served | None:
        found = self._by_name.get((api_version, kind))
        group = api_version.rpartition("/")[0]
        if found is None and group in self._later:
            self._load(group)
            found = self._by_name.get((api_version, kind))
        if found is None and self.custom is not None:
            found = self.custom.by_name(api_version, kind)
        return found

    def everything(self) -> list[Served]:
        for group in list(self._later):
            self._load(group)
        return [*self.served.values(), *(self.custom.versions() if self.custom is not None else ())]

    def _caching(self) -> list[Served]:
        """Everything that may have a cache."""
        return [*self.served.values(), *(self.custom.homes() if self.custom is not None else ())]

    def _load(self, group: str) -> None:
        for item in self._later.pop(group)():
            if self.custom is not None and item.prefix == self.custom.cache.prefix:
                item.cache = self.custom.cache
                item.starting = asyncio.get_running_loop().create_future()
                item.starting.set_result(None)
            self.served[item.kind.group, item.kind.plural] = item
            self._by_name[item.kind.api_version, item.kind.kind] = item
        self._members.clear()

    async def close(self) -> None:
        self._closed = True
        if self.custom is not None:
            await self.custom.close()
        for item in self._caching():
            if item.starting is not None and not item.starting.done():
                item.starting.cancel()
            if item.cache is not None:
                await item.cache.stop()
            if item.companions is not None:
                await item.companions.stop()
        for task in list(self._presence.values()):
            if not task.done():
                task.cancel()
            elif not task.cancelled() and task.exception() is None:
                await task.result().stop()

    # reads

    async def cache_of(self, served: Served) -> WatchCache:
        """Started, but not necessarily fresh."""
        served = served.home or served
        if self._closed:
            raise ServiceUnavailable("the registry is shutting down")
        if served.starting is None:
            served.starting = asyncio.ensure_future(self._start(served))
        if not served.starting.done() or served.cache is None:
            await asyncio.shield(served.starting)
        assert served.cache is not None
        return served.cache

    async def _start(self, served: Served) -> None:
        cache = WatchCache(self.store, served.prefix, indexers=served.indexers)
        try:
            await cache.start()
        except BaseException:
            served.starting = None  # the next reader tries again
            raise
        served.cache = cache

    async def fresh(self, served: Served, at_least: int = 0) -> WatchCache:
        """The cache, with every write of this kind that was acknowledged; with all up to `at_least` as well."""
        served = served.home or served
        cache = served.cache
        if cache is None:
            cache = await self.cache_of(served)
        try:
            if self._doubts > self._settled:
                await self._settle_doubt()
            if self._consistent:
                await cache.wait_fresh(READ_TIMEOUT_S)
            wanted = max(served.acknowledged, at_least)
            if cache.revision < wanted:
                await self._wait(cache, wanted, at_least)
        except store_base.StoreError as error:
            raise translated(error) from error
        except TimeoutError as error:
            message = f"the server has not seen its newest writes within {READ_TIMEOUT_S:.0f} s"
            raise ServiceUnavailable(message, retry_after_s=1) from error
        return cache

    async def _settle_doubt(self) -> None:
        """Whoever reads after a write without an answer must be able to rely on what it sees, to try again or not."""
        doubts = self._doubts
        revision = await self.store.revision()
        self._settled = max(self._settled, doubts)
        for item in self._caching():
            item.acknowledge(revision)

    async def _wait(self, cache: WatchCache, wanted: int, at_least: int) -> None:
        if at_least > cache.revision and at_least > await self.store.revision():
            # Some other store's revision, or one from after a restore: it may still be on its way, but not for long.
            try:
                await cache.wait_for(at_least, FUTURE_REVISION_TIMEOUT_S)
            except TimeoutError as error:
                raise too_large_revision(at_least, cache.revision) from error
        await cache.wait_for(wanted, READ_TIMEOUT_S)

    async def current(self, served: Served, key: str) -> Entry | None:
        """The object now. A write based on it compares its revision, so that a stale one does no harm."""
        cache = await self.fresh(served)
        entry = cache.get(key)
        return None if entry is None else Entry(entry.value, entry.mod_revision, entry.memo)

    def memo_of(self, served: Served, key: str, revision: int) -> dict[Any, Any]:
        """Of what was just written: that of the cache's entry where the cache has it already, so that the answer and the
        watches' events are encoded once."""
        cache = (served.home or served).cache
        entry = cache.get(key) if cache is not None else None
        return entry.memo if entry is not None and entry.mod_revision == revision else {}

    async def find(self, api_version: str, kind: str, namespace: str, name: str) -> Any | None:
        """For admission: the message of an object, parsed once per revision and shared. Not to be changed."""
        served = self.by_name(api_version, kind)
        if served is None:
            return None
        entry = await self.current(served, key_of(served.kind, namespace, name))
        return None if entry is None else shared_message(served.kind, *served.view(entry.value, entry.memo))

    async def all(self, api_version: str, kind: str) -> list[Any]:
        """For admission: as `find`, all objects of a kind of which there are few."""
        served = self.by_name(api_version, kind)
        if served is None:
            return []
        cache = await self.fresh(served)
        entries = cache.list(served.prefix)
        return [shared_message(served.kind, *served.view(entry.value, entry.memo)) for entry in entries]

    async def present(self, group: str, plural: str = "") -> bool:
        """For admission: whether there is any such object. As long as nobody here has asked for the group, nobody here has
        written to it either, so a look at the bare keys does. Another replica's first one is seen a moment later: a question
        to the store for each request would be dear, and most clusters have none of these."""
        if plural and group not in self._later:
            cache = await self.cache_of(self.served[group, plural])
        else:
            prefix = f"{ROOT}{group or 'core'}/{plural}{'/' if plural else ''}"
            task = self._presence.get(prefix)
            if task is None:
                task = self._presence[prefix] = asyncio.ensure_future(self._keys_under(prefix))
            cache = task.result() if task.done() else await asyncio.shield(task)
        if plural:
            kind = self.served.get((group, plural))
            written = kind.acknowledged if kind is not None else 0
        else:
            members = self._members.get(group)
            if members is None:
                members = self._members[group] = [item for item in self.served.values() if item.kind.group == group]
            written = max((item.acknowledged for item in members), default=0) if members else 0
        if cache.revision < written:
            try:
                await cache.wait_for(written, READ_TIMEOUT_S)
            except (store_base.StoreError, TimeoutError) as error:
                message = "the server has not seen its newest writes in time"
                raise ServiceUnavailable(message, retry_after_s=1) from error
        return len(cache) > 0

    async def _keys_under(self, prefix: str) -> WatchCache:
        if self._closed:
            raise ServiceUnavailable("the registry is shutting down")
        cache = WatchCache(self.store, prefix)
        try:
            await cache.start()
        except BaseException:
            self._presence.pop(prefix, None)  # the next request tries again
            raise
        return cache

    async def within(self, api_version: str, kind: str, namespace: str, *, keep: bool = True) -> list[Found]:
        """For admission: as `all`, those of a namespace, with what it takes to write them anew."""
        served = self.by_name(api_version, kind)
        if served is None:
            return []
        cache = await self.fresh(served)
        found = []
        for index, entry in enumerate(cache.list(prefix_of(served.kind, namespace))):
            if keep:
                message = shared_message(served.kind, *served.view(entry.value, entry.memo))
            else:
                message = served.kind.message.FromString(served.view(entry.value, entry.memo)[0])
                if index % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)
            found.append(Found(entry.key, entry.mod_revision, message))
        return found

    async def namespaced(self, api_version: str, kind: str) -> bool | None:
        """For admission."""
        served = self.by_name(api_version, kind)
        return None if served is None else served.kind.namespaced

    def versions(self, group: str, plural: str) -> list[str]:
        """For admission."""
        own = self.served.get((group, plural))
        found = [own.kind.version] if own is not None else []
        if not found and self.custom is not None:
            kinds = (item.kind for item in self.custom.versions())
            found = [kind.version for kind in kinds if (kind.group, kind.plural) == (group, plural)]
        return found

    def acknowledge(self, api_version: str, kind: str, revision: int) -> None:
        served = self.by_name(api_version, kind)
        if served is not None:
            served.acknowledge(revision)

    # writes

    async def txn(
        self, compares: Sequence[Compare], operations: Sequence[Operation], condition: Condition | None = None
    ) -> TxnResult:
        """`current` of the result is that of `compares`, whatever the condition adds."""
        if condition is None:
            return await self._txn(compares, operations)
        for _ in range(_CONDITION_TRIES):
            more, along = condition.plan()
            result = await self._txn((*compares, *more), (*operations, *along))
            if result.succeeded:
                return result
            own, others = result.current[: len(compares)], result.current[len(compares) :]
            if not all(map(_holds, compares, own)):
                return replace(result, current=own)
            condition.failed(others)
        raise ServiceUnavailable("the conditions of this write change faster than it is made", retry_after_s=1)

    async def _txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        try:
            return await self.store.txn(compares, operations)
        except store_base.StoreError as error:
            self._doubts += isinstance(error, store_base.Unavailable)
            raise translated(error) from error

    async def batch(self, items: Sequence[BatchItem]) -> Sequence[TxnResult]:
        try:
            return await self.store.batch(items)
        except store_base.StoreError as error:
            self._doubts += isinstance(error, store_base.Unavailable)
            raise translated(error) from error


def _holds(compare: Compare, found: KeyValue | None) -> bool:
    return compare.mod_revision == (0 if found is None else found.mod_revision)


def shared_message(kind: Kind, value: bytes, memo: dict[Any, Any]) -> Any:
    """The parsed object of one revision, kept with it: only for kinds of which there are few, or that are read often."""
    message = memo.get("message")
    if message is None:
        message = memo["message"] = kind.message.FromString(value)
    return message
