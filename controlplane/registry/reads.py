"""Get, list and watch, from the watch caches; the past from the store. Called by `registry.Registry`.

Long lists are worked through in slices with a pause after each, so that no request holds the loop for long; what is gone
through is a snapshot of references, taken in one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from controlplane.registry import keys, violations
from controlplane.registry.base import ListOptions, ListResult, Stored, WatchBatch, WatchEvent, WatchOptions
from controlplane.registry.selection import Selection
from controlplane.registry.state import Served, State, translated
from controlplane.registry.writes import not_found
from controlplane.store import base as store_base
from controlplane.store.cache import CacheBatch, Entry, EventType, WatchCache
from wherry.api import integers
from wherry.api.errors import BadRequest, Cause, Expired, InternalError, Invalid
from wherry.pb import resources_pb2

SLICE = 128  # entries looked at between two pauses: up to 20 us each, the first time that a revision is selected
PAGE = 500  # keys read from the store at once for a list in the past
BOOKMARK_INTERVAL_S = 60.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
EXPIRED_CONTINUE = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter."
)


def parse_revision(text: str) -> int:
    revision = integers.parse_unsigned(text)
    if revision is None:
        raise BadRequest(
            f"invalid resource version: resourceVersion: Invalid value: {violations.quote(text)}: "
            f"strconv.ParseUint: parsing {violations.quote(text)}: invalid syntax"
        )
    return revision


class Reader:
    def __init__(self, state: State) -> None:
        self._state = state

    async def get(self, served: Served, namespace: str, name: str, resource_version: str = "") -> Stored:
        at_least = parse_revision(resource_version) if resource_version else 0
        cache = await self._state.fresh(served, at_least)
        entry = cache.get(keys.key(served.kind, namespace, name))
        if entry is None:
            raise not_found(served.kind, name)
        return _stored(served, entry)

    async def list(self, served: Served, options: ListOptions) -> ListResult:
        _check_match(options)
        selection = Selection(served, options.namespace, options.label_selector, options.field_selector)
        limit = max(options.limit, 0)
        if options.continue_token:
            if options.resource_version not in ("", "0"):
                raise BadRequest("specifying resource version is not allowed when using continue")
            revision, start = keys.decode_continue(options.continue_token)
            after = served.prefix + start
            cache = await self._state.fresh(served)
            return await self._list_past(served, cache, selection, revision, after, limit, token=True)
        at = parse_revision(options.resource_version) if options.resource_version else 0
        if options.resource_version_match == "Exact":
            cache = await self._state.fresh(served)
            return await self._list_past(served, cache, selection, at, "", limit, token=False)
        cache = await self._state.fresh(served, at)
        return await self._list_now(served, cache, selection, "", limit)

    async def _list_now(
        self, served: Served, cache: WatchCache, selection: Selection, after: str, limit: int
    ) -> ListResult:
        revision = cache.revision
        candidates = _candidates(cache, selection, after)
        if selection.everything and limit:
            items = []
            for position, entry in enumerate(candidates[:limit]):
                if served.look is not None and position % SLICE == SLICE - 1:
                    await asyncio.sleep(0)  # a custom resource is looked at closely the first time
                items.append(_stored(served, entry))
            left = len(candidates) - len(items)
            token = keys.encode_continue(revision, candidates[limit - 1].key[len(served.prefix) :]) if left else ""
            return ListResult(items, revision, token, left if left else None)
        indexed = selection.index is not None and not selection.key
        items = []
        for position, entry in enumerate(candidates):
            if position % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            if selection.matches(entry.key, entry.value, entry.memo, indexed=indexed):
                items.append(_stored(served, entry))
                if limit and len(items) == limit:
                    more = position + 1 < len(candidates)
                    token = keys.encode_continue(revision, entry.key[len(served.prefix) :]) if more else ""
                    return ListResult(items, revision, token, None)
        return ListResult(items, revision)

    async def _list_past(
        self,
        served: Served,
        cache: WatchCache,
        selection: Selection,
        revision: int,
        after: str,
        limit: int,
        *,
        token: bool,
    ) -> ListResult:
        """At a revision of the past, from the store's history."""
        if selection.prefix > after:
            after = ""
        items: list[Stored] = []
        left: int | None = None
        try:
            while True:
                page = await self._state.store.list(
                    selection.prefix, after=after, limit=min(limit, PAGE) if limit else PAGE, revision=revision
                )
                for number, kv in enumerate(page.items):
                    entry = cache.get(kv.key)
                    memo = entry.memo if entry is not None and entry.mod_revision == kv.mod_revision else {}
                    if not selection.matches(kv.key, kv.value, memo):
                        continue
                    items.append(served.stored(kv.value, kv.mod_revision, memo))
                    if limit and len(items) == limit:
                        left = page.count - number - 1
                        resume = keys.encode_continue(revision, kv.key[len(served.prefix) :]) if left else ""
                        shown = left if left and selection.everything else None
                        return ListResult(items, revision, resume, shown)
                if not page.more:
                    return ListResult(items, revision)
                after = page.items[-1].key
                await asyncio.sleep(0)
        except store_base.Compacted as error:
            raise Expired(
                EXPIRED_CONTINUE if token else "The resourceVersion for the provided list is too old."
            ) from error
        except store_base.StoreError as error:
            raise translated(error) from error

    async def watch(self, served: Served, options: WatchOptions) -> AsyncIterator[WatchBatch]:
        """Everything that is there as one batch of ADDED (unless a revision to start from is named), then what changes."""
        selection = Selection(served, options.namespace, options.label_selector, options.field_selector)
        start = _watch_revision(options.resource_version)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + options.timeout_s if options.timeout_s > 0 else None
        initial = options.send_initial_events or start == 0
        cache = await self._state.fresh(served, start)
        revision = cache.revision if initial else start
        subscription = cache.watch(selection.prefix, revision + 1)
        try:
            if initial:
                present = await _present(served, cache, selection, revision, options.send_initial_events)
                if present:
                    yield WatchBatch(present, revision)
            bookmark_at = loop.time() + BOOKMARK_INTERVAL_S
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        batch = await anext(subscription)
                except TimeoutError:
                    if options.bookmarks:  # so that the client need not go through what it has seen when it comes back
                        yield _bookmarked(served, revision)
                    return
                except StopAsyncIteration:
                    return
                revision = batch.revision
                events = _events(served, selection, batch)
                if events:
                    yield WatchBatch(events, revision)
                elif options.bookmarks and loop.time() >= bookmark_at:
                    bookmark_at = loop.time() + BOOKMARK_INTERVAL_S
                    yield _bookmarked(served, revision)
        except store_base.Compacted as error:
            raise Expired(f"too old resource version: {start} ({error.compacted})") from error
        except store_base.StoreError as error:
            raise translated(error) from error
        finally:
            await subscription.aclose()


async def _present(
    served: Served, cache: WatchCache, selection: Selection, revision: int, tell_end: bool
) -> list[WatchEvent]:
    """ADDED for everything that is selected, and, if asked for, the bookmark that says that this is all."""
    events = []
    for position, entry in enumerate(_candidates(cache, selection, "")):
        if position % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        if selection.matches(entry.key, entry.value, entry.memo):
            events.append(WatchEvent("ADDED", _stored(served, entry)))
    if tell_end:
        events.append(_bookmark(served, revision, ends_initial=True))
    return events


def _stored(served: Served, entry: Entry) -> Stored:
    return served.stored(entry.value, entry.mod_revision, entry.memo)


def _candidates(cache: WatchCache, selection: Selection, after: str) -> Sequence[Entry]:
    """What an index or the key can narrow the list down to."""
    if selection.key:
        entry = cache.get(selection.key)
        return [entry] if entry is not None and entry.key > after else []
    if selection.index is not None:
        found = cache.by_index(*selection.index)
        return [entry for entry in found if entry.key.startswith(selection.prefix) and entry.key > after]
    return cache.list(selection.prefix, after=after)


def _events(served: Served, selection: Selection, batch: CacheBatch) -> list[WatchEvent]:
    """As the watcher sees them: what enters its selection is ADDED, what leaves it DELETED."""
    events = []
    for event in batch.events:
        entry, previous = event.entry, event.previous_entry
        if event.type is EventType.DELETED:
            if previous is None or selection.matches(previous.key, previous.value, previous.memo):
                events.append(WatchEvent("DELETED", _stored(served, entry)))
            continue
        now = selection.matches(entry.key, entry.value, entry.memo)
        before = previous is not None and selection.matches(previous.key, previous.value, previous.memo)
        if now:
            events.append(WatchEvent("MODIFIED" if before else "ADDED", _stored(served, entry)))
        elif before:
            assert previous is not None
            left = entry.memo.get(("left", served.kind))
            if left is None:
                # The last state that was selected, at the revision at which it no longer was.
                left = entry.memo["left", served.kind] = served.stored(previous.value, entry.mod_revision, {})
            events.append(WatchEvent("DELETED", left))
    return events


def _bookmark(served: Served, revision: int, *, ends_initial: bool) -> WatchEvent:
    obj: Any = served.kind.message()
    if isinstance(obj, resources_pb2.Unstructured):
        obj.api_version, obj.kind = served.kind.api_version, served.kind.kind
    if ends_initial:
        obj.metadata.annotations[INITIAL_EVENTS_END] = "true"
    return WatchEvent("BOOKMARK", Stored(served.kind, obj.SerializeToString(deterministic=True), revision, {}))


def _bookmarked(served: Served, revision: int) -> WatchBatch:
    return WatchBatch((_bookmark(served, revision, ends_initial=False),), revision)


def _watch_revision(text: str) -> int:
    if not text:
        return 0
    try:
        return parse_revision(text)
    except BadRequest as error:
        raise InternalError(error.message.removeprefix("invalid resource version: ")) from error


def _check_match(options: ListOptions) -> None:
    match, revision = options.resource_version_match, options.resource_version
    if not match:
        return
    path = "resourceVersionMatch"
    if options.continue_token:
        cause = violations.forbidden(path, "resourceVersionMatch is forbidden when continue is provided")
    elif not revision:
        cause = violations.forbidden(path, "resourceVersionMatch is forbidden unless resourceVersion is provided")
    elif match not in ("Exact", "NotOlderThan"):
        cause = violations.unsupported(path, match, ("Exact", "NotOlderThan", ""))
    elif match == "Exact" and revision == "0":
        cause = violations.forbidden(path, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    else:
        return
    raise _invalid_options(cause)


def _invalid_options(cause: Cause) -> Invalid:
    return violations.invalid_object("meta.k8s.io", "ListOptions", "", [cause])
