"""Which custom kinds are served: follows the definitions in the store, and makes of each established one a `Served` per
version.

Implements `state.CustomKinds`. It looks at the cache of the definitions whenever it is asked for a kind, and compares
revisions, so that what this or another replica has written is served as soon as it is seen. The versions of a kind
share one cache of objects, that of their `home`. What a definition needs is imported with the first one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from controlplane.registry.keys import ROOT
from controlplane.registry.state import Served
from controlplane.store.base import Store
from controlplane.store.cache import Entry, WatchCache

log = logging.getLogger(__name__)

PREFIX = f"{ROOT}apiextensions.k8s.io/customresourcedefinitions/"


@dataclass(slots=True)
class Defined:
    """What one definition makes. `mark` changes with all that matters of it here."""

    mark: tuple[str, ...]
    group: str
    plural: str
    home: Served
    versions: dict[str, Served]


class Catalogue:
    """`await start()` before use, `await close()` after it."""

    def __init__(self, store: Store) -> None:
        self.cache = WatchCache(store, PREFIX)
        self._started = False
        self._seen = -1
        self._revisions: dict[str, int] = {}
        self._defined: dict[str, Defined] = {}
        self._by_resource: dict[tuple[str, str], Defined] = {}
        self._by_name: dict[tuple[str, str], Served] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        if not self._started:
            self._started = True
            await self.cache.start()

    async def await_any(self) -> None:
        """Returns when there is a definition."""
        while not len(self.cache):
            changes = self.cache.watch()
            try:
                if not len(self.cache):
                    await anext(changes)
            finally:
                await changes.aclose()

    async def close(self) -> None:
        await self.cache.stop()
        if self._stopping:
            await asyncio.wait(self._stopping)

    # lookups

    def by_resource(self, group: str, plural: str, version: str) -> Served | None:
        self._follow()
        found = self._by_resource.get((group, plural))
        if found is None:
            return None
        return found.versions.get(version) if version else found.home

    def by_name(self, api_version: str, kind: str) -> Served | None:
        self._follow()
        return self._by_name.get((api_version, kind))

    def versions(self) -> Iterable[Served]:
        self._follow()
        return [served for key in sorted(self._defined) for served in self._defined[key].versions.values()]

    def homes(self) -> Iterable[Served]:
        return [found.home for found in self._defined.values()]

    # following

    def _follow(self) -> None:
        revision = self.cache.revision
        if revision == self._seen:
            return
        self._seen = revision
        entries = self.cache.list()
        revisions = {entry.key: entry.mod_revision for entry in entries}
        if revisions == self._revisions:
            return
        for entry in entries:
            if self._revisions.get(entry.key) != entry.mod_revision:
                self._take(entry)
        for key in sorted(set(self._defined) - set(revisions)):
            self._drop(key)
        self._revisions = revisions
        self._by_resource = {(found.group, found.plural): found for found in self._defined.values()}
        self._by_name = {
            (served.kind.api_version, served.kind.kind): served
            for found in self._defined.values()
            for served in found.versions.values()
        }

    def _take(self, entry: Entry) -> None:
        from controlplane.registry.custom import build

        old = self._defined.get(entry.key)
        try:
            obj: Any = build.parse(entry.value)
            mark = build.mark_of(obj)
            if old is not None and old.mark == mark:
                return
            if not build.is_served(obj):
                self._drop(entry.key)
                return
            home = old.home if old is not None and old.mark[0] == mark[0] else None
            if old is not None and home is None:
                self._drop(entry.key)  # another one of that name
            made_home, versions = build.served(obj, home)
            self._defined[entry.key] = Defined(mark, obj.spec.group, obj.spec.names.plural, made_home, versions)
        except Exception as error:
            # One definition that cannot be served, from another release perhaps, must not take the others along.
            log.error("definition %s cannot be served: %s", entry.key.removeprefix(PREFIX), error, exc_info=error)
            self._drop(entry.key)

    def _drop(self, key: str) -> None:
        """Ends the watches of its objects too."""
        found = self._defined.pop(key, None)
        if found is not None and found.home.cache is not None:
            task = asyncio.get_running_loop().create_task(found.home.cache.stop(), name="custom-kind-stop")
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
