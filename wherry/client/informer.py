"""A local copy of the objects of one kind, kept up to date by list and watch, with indexes and handlers.

Controllers, the scheduler and others read the copy in place of asking the server, and enqueue keys from its handlers. It
resumes a broken watch from the last revision, lists again when that revision is gone, and backs off with jitter.
`SharedInformers` lets all controllers of a process share one copy per kind and selection.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from wherry.api.context import Env
from wherry.api.errors import APIError, Expired
from wherry.api.tasks import TaskGroup
from wherry.client.base import ClientAPI, Selection, WatchBatch

M = TypeVar("M", bound=Message)
# (old, new): (None, object) when it appeared, (object, object) when it changed, (object, None) when it went.
Handler = Callable[[Any, Any], None]
IndexFunction = Callable[[Any], Iterable[str]]

log = logging.getLogger(__name__)

PAGE = 500
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 10.0
# A watch that lasted this long was healthy, and the back-off starts anew.
HEALTHY_S = 5.0


def key_of(obj: Any) -> str:
    """`namespace/name`, or `name` for what has no namespace."""
    metadata = obj.metadata
    return f"{metadata.namespace}/{metadata.name}" if metadata.namespace else str(metadata.name)


def split_key(key: str) -> tuple[str, str]:
    """(namespace, name)."""
    namespace, _, name = key.rpartition("/")
    return namespace, name


def without_managers(obj: M) -> M:
    """The object without its managedFields, and no larger in memory than it then must be. An update that leaves them out keeps
    those that are stored."""
    if not obj.metadata.managed_fields:  # type: ignore[attr-defined]
        return obj
    cls = type(obj)
    bare: Any = cls()
    bare.CopyFrom(obj)
    bare.metadata.ClearField("managed_fields")
    return cls.FromString(bare.SerializeToString())  # what is cleared stays in the message's arena


class Informer(Generic[M]):
    """Objects it gives out are shared: read them, never change them (copy first). They have no managedFields: half of an
    object's memory, and nobody reads them here.

    Invariants: each index maps a value to exactly the keys of the objects in `_objects` that have it, in order of arrival;
    handlers are called once per change, in the order of the changes, when the copy already shows the new state.
    """

    def __init__(
        self,
        client: ClientAPI,
        cls: type[M],
        env: Env,
        *,
        selection: Selection | None = None,
        indexers: Mapping[str, IndexFunction] | None = None,
    ) -> None:
        self._client = client
        self._cls = cls
        self._env = env
        self._selection = selection or Selection()
        self._objects: dict[str, M] = {}
        self._indexers: dict[str, IndexFunction] = {}
        self._indexes: dict[str, dict[str, dict[str, None]]] = {}
        self._handlers: list[Handler] = []
        self._synced = asyncio.Event()
        self._usable = asyncio.Event()
        self._primed = False
        self._version = ""
        self._generation = 0
        for name, function in (indexers or {}).items():
            self.add_indexer(name, function)

    @property
    def kind(self) -> str:
        return self._cls.DESCRIPTOR.name

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    @property
    def known(self) -> bool:
        """Synced, or primed."""
        return self._primed or self.synced

    @property
    def usable(self) -> bool:
        """Synced, or primed and trusted."""
        return self._usable.is_set()

    @property
    def resource_version(self) -> str:
        """The copy shows at least everything up to this revision; empty before the first list."""
        return self._version

    @property
    def generation(self) -> int:
        """Grows with every change of the copy."""
        return self._generation

    def add_indexer(self, name: str, function: IndexFunction) -> None:
        """`function(obj)` gives the values under which `by_index(name, value)` finds it. Raises ValueError when the
        name is taken by another function."""
        if name in self._indexers:
            if self._indexers[name] is not function:
                raise ValueError(f'informer of {self.kind}: there is an index "{name}" already')
            return
        self._indexers[name] = function
        index: dict[str, dict[str, None]] = {}
        self._indexes[name] = index
        for key, obj in self._objects.items():
            for value in function(obj):
                index.setdefault(value, {})[key] = None

    def add_handler(self, handler: Handler) -> None:
        """Called for every change from now on, and at once as an appearance for each object that is there."""
        self._handlers.append(handler)
        for obj in list(self._objects.values()):
            self._call(handler, None, obj)

    def get(self, name: str, namespace: str = "") -> M | None:
        return self._objects.get(f"{namespace}/{name}" if namespace else name)

    def by_key(self, key: str) -> M | None:
        return self._objects.get(key)

    def list(self, namespace: str = "") -> list[M]:
        """In order of their appearance here."""
        if not namespace:
            return list(self._objects.values())
        return [obj for obj in self._objects.values() if obj.metadata.namespace == namespace]  # type: ignore[attr-defined]

    def keys(self) -> Iterable[str]:
        return self._objects.keys()

    def by_index(self, index: str, value: str) -> builtins.list[M]:
        """Raises KeyError for an index that does not exist."""
        return [self._objects[key] for key in self._indexes[index].get(value, ())]

    async def wait_synced(self) -> None:
        """Returns when the first list is in the copy and all handlers have seen it."""
        await self._synced.wait()

    def prime(self, objects: Iterable[M]) -> None:
        """What was known in an earlier life stands in until the first list, which takes its place; nothing once that has come."""
        if self.synced:
            return
        for obj in objects:
            self._put(key_of(obj), obj)
        self._primed = True

    def trust(self) -> None:
        """What it was primed with is to be acted on."""
        if self._primed:
            self._usable.set()

    async def wait_usable(self) -> None:
        """As `wait_synced`, or until what it was primed with is trusted."""
        await self._usable.wait()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Expired:
                log.debug("informer of %s: revision %s is gone, listing again", self.kind, self._version)
                self._version = ""
                continue_at_once = failures == 0
            except APIError as error:
                log.debug("informer of %s: %s", self.kind, error)
                continue_at_once = False
            else:
                continue_at_once = True  # the server ended the watch in good order
            if loop.time() - started >= HEALTHY_S:
                failures = 0
            if not (continue_at_once and failures == 0):
                delay = min(BACKOFF_MIN_S * 2 ** min(failures, 20), BACKOFF_MAX_S)
                await asyncio.sleep(delay * (0.5 + self._env.rng.random()))
            failures += 1

    def check_invariants(self) -> None:
        for name, function in self._indexers.items():
            wanted: dict[str, set[str]] = {}
            for key, obj in self._objects.items():
                for value in function(obj):
                    wanted.setdefault(value, set()).add(key)
            assert {value: set(keys) for value, keys in self._indexes[name].items()} == wanted, (self.kind, name)

    async def _list(self) -> None:
        found: dict[str, M] = {}
        token = ""
        while True:
            page = await self._client.list(self._cls, self._selection, limit=PAGE, continue_token=token)
            for obj in page.items:
                found[key_of(obj)] = without_managers(obj)
            token = page.continue_token
            if not token:
                break
        for key in [key for key in self._objects if key not in found]:
            self._remove(key, None)
        for key, obj in found.items():
            self._put(key, obj)
        self._version = page.resource_version
        self._synced.set()
        self._usable.set()

    async def _watch(self) -> None:
        stream: Any = self._client.watch(self._cls, self._selection, resource_version=self._version, bookmarks=True)
        try:
            async for batch in stream:
                self._take(batch)
        finally:
            await stream.aclose()

    def _take(self, batch: WatchBatch[M]) -> None:
        for event in batch.events:
            if event.type == "BOOKMARK":
                continue
            key = key_of(event.object)
            if event.type == "DELETED":
                self._remove(key, without_managers(event.object))
            else:
                self._put(key, without_managers(event.object))
        if batch.resource_version:
            self._version = batch.resource_version

    def _put(self, key: str, obj: M) -> None:
        old = self._objects.get(key)
        if old is not None:
            before, after = old.metadata, obj.metadata  # type: ignore[attr-defined]
            # What it was primed with may be of another store, whose revisions say nothing here.
            if before.resource_version == after.resource_version and (self.synced or old == obj):
                return
            if before.uid != after.uid:
                # Deleted and made anew while we did not look: two changes for those who listen.
                self._remove(key, None)
                old = None
        self._objects[key] = obj
        self._generation += 1
        self._reindex(key, old, obj)
        for handler in self._handlers:
            self._call(handler, old, obj)

    def _remove(self, key: str, last: M | None) -> None:
        old = self._objects.pop(key, None)
        if old is None:
            return
        self._generation += 1
        self._reindex(key, old, None)
        for handler in self._handlers:
            self._call(handler, last if last is not None else old, None)

    def _reindex(self, key: str, old: M | None, new: M | None) -> None:
        for name, function in self._indexers.items():
            index = self._indexes[name]
            before = list(function(old)) if old is not None else []
            after = list(function(new)) if new is not None else []
            if before == after:
                continue
            for value in before:
                keys = index.get(value)
                if keys is not None:
                    keys.pop(key, None)
                    if not keys:
                        del index[value]
            for value in after:
                index.setdefault(value, {})[key] = None

    def _call(self, handler: Handler, old: M | None, new: M | None) -> None:
        try:
            handler(old, new)
        except Exception:
            # A handler only enqueues; one that fails must not stop the others from seeing the change.
            log.exception("informer of %s: a handler failed", self.kind)


class SharedInformers:
    """One informer per kind and selection for all that run in a process. `run()` keeps all of them going, those that are
    asked for later included."""

    def __init__(self, client: ClientAPI, env: Env) -> None:
        self._client = client
        self._env = env
        self._informers: dict[tuple[type[Message], Selection], Informer[Any]] = {}
        self._group: TaskGroup | None = None

    def informer(
        self,
        cls: type[M],
        *,
        selection: Selection | None = None,
        indexers: Mapping[str, IndexFunction] | None = None,
    ) -> Informer[M]:
        """The informer of this kind, with these indexes beside those that it has."""
        place = (cls, selection or Selection())
        informer = self._informers.get(place)
        if informer is None:
            informer = Informer(self._client, cls, self._env, selection=selection)
            self._informers[place] = informer
            if self._group is not None:
                self._start(self._group, informer)
        for name, function in (indexers or {}).items():
            informer.add_indexer(name, function)
        return informer

    async def wait_synced(self) -> None:
        """All that have been asked for so far."""
        for informer in list(self._informers.values()):
            await informer.wait_synced()

    async def run(self) -> None:
        """Until cancelled."""
        async with TaskGroup() as group:
            self._group = group
            try:
                for informer in list(self._informers.values()):
                    self._start(group, informer)
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    def check_invariants(self) -> None:
        for informer in self._informers.values():
            informer.check_invariants()

    def _start(self, group: TaskGroup, informer: Informer[Any]) -> None:
        group.keep(informer.run, name=f"informer-{informer.kind}")
