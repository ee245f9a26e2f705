"""Tells people what happened: core/v1 Events, counted and aggregated as client-go does it, without ever blocking the teller.

Called by the scheduler, the controllers and the agent. `event(...)` only enqueues; `run()` writes. What does not fit the
queue, or can't be written after a few tries, is dropped and counted: an event is news, not state.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, APIError, Conflict, Forbidden, NotFound
from wherry.api.times import format_seconds, to_time
from wherry.client.base import ClientAPI
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

NORMAL = "Normal"
WARNING = "Warning"

QUEUE_LIMIT = 1000
# News waits so long, so that what is told while a pod starts is written together, and after the start rather than beside it.
LINGER_S = 0.25
AT_ONCE = 64
CACHE_LIMIT = 4096
TRIES = 3
RETRY_S = 1.0
# Ten different messages of one reason about one object within ten minutes, and the rest becomes one combined event.
AGGREGATE_AFTER = 10
AGGREGATE_WINDOW_S = 600.0
AGGREGATE_PREFIX = "(combined from similar events): "
# Per object: 25 at once, then one in five minutes.
SPAM_BURST = 25.0
SPAM_PER_S = 1.0 / 300.0
MESSAGE_LIMIT = 1024


@dataclass(slots=True)
class _Series:
    """One Event object that was written, or is about to be."""

    name: str
    count: int = 0
    first: float = 0.0


@dataclass(slots=True)
class _Similar:
    messages: dict[str, None]
    last: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class _News:
    reference: bytes  # core/v1 ObjectReference
    subject: bytes  # the same without its resourceVersion: what counts as one object
    namespace: str
    type: str
    reason: str
    message: str
    action: str
    at: float


@dataclass(frozen=True, slots=True)
class _Item:
    """`message` and `key` are the series', which may be a combined one."""

    news: _News
    message: str
    key: tuple[Any, ...]


class EventRecorder:
    """Invariants: at most QUEUE_LIMIT items wait; each cache holds at most CACHE_LIMIT entries, the oldest go first."""

    def __init__(self, client: ClientAPI, env: Env, component: str, *, host: str = "") -> None:
        self._client = client
        self._env = env
        self._component = component
        self._host = host
        self._queue: asyncio.Queue[_News] = asyncio.Queue(QUEUE_LIMIT)
        self._series: OrderedDict[tuple[Any, ...], _Series] = OrderedDict()
        self._similar: OrderedDict[tuple[Any, ...], _Similar] = OrderedDict()
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._last_stamp = 0
        self.dropped = 0

    def event(self, about: Message, type: str, reason: str, message: str, *, action: str = "") -> None:
        """`about` is the object, or a core/v1 ObjectReference. `type` is NORMAL or WARNING. Never blocks, never raises."""
        try:
            reference = reference_to(about)
            whole = reference.SerializeToString(deterministic=True)
            reference.resource_version = ""
            news = _News(
                whole,
                reference.SerializeToString(deterministic=True),
                reference.namespace or "default",
                type,
                reason,
                message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 3] + "...",
                action,
                self._env.now(),
            )
            self._queue.put_nowait(news)
        except asyncio.QueueFull:
            self.dropped += 1
        except Exception:
            self.dropped += 1
            log.exception("event %s about %s", reason, about.DESCRIPTOR.name)

    async def run(self) -> None:
        """Writes what is told, until cancelled."""
        while True:
            batch = [await self._queue.get()]
            try:
                if self._queue.qsize() < AT_ONCE:
                    await asyncio.sleep(LINGER_S)
                while len(batch) < AT_ONCE and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                await self._write(batch)
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def flush(self) -> None:
        """Returns when all that was told has been written or dropped. `run` must be running."""
        await self._queue.join()

    async def _write(self, batch: Sequence[_News]) -> None:
        waiting = []
        for news in batch:
            if self._admitted(news):
                waiting.append(_Item(news, *self._aggregated(news)))
            else:
                self.dropped += 1
        while waiting:
            # Of one series only one at a time: what the first creates, the next counts.
            turn: dict[tuple[Any, ...], _Item] = {}
            later = []
            for item in waiting:
                if turn.setdefault(item.key, item) is not item:
                    later.append(item)
            failed = list(turn.values())
            for attempt in range(TRIES):
                failed = await self._attempt(failed, last=attempt == TRIES - 1)
                if not failed:
                    break
            waiting = later

    async def _attempt(self, items: Sequence[_Item], *, last: bool) -> list[_Item]:
        """Those that are worth another try."""
        new = [item for item in items if item.key not in self._series]
        known = [(item, self._series[item.key]) for item in items if item.key in self._series]
        failed: list[_Item] = []
        unavailable = False
        for item, error in [
            *await self._create(new),
            *[(item, await self._count(item, series)) for item, series in known],
        ]:
            if isinstance(error, NotFound):
                self._series.pop(item.key, None)  # its time to live is over: begin a new one
            if error is None:
                continue
            if last or isinstance(error, Forbidden):
                # Forbidden: the namespace is being deleted, or we may not; no use in trying again.
                log.debug("event %s: %s", item.news.reason, error)
                self.dropped += 1
                continue
            failed.append(item)
            unavailable = unavailable or not isinstance(error, NotFound | AlreadyExists | Conflict)
        if unavailable:
            await asyncio.sleep(RETRY_S * (0.5 + self._env.rng.random()))
        return failed

    async def _create(self, items: Sequence[_Item]) -> list[tuple[_Item, APIError | None]]:
        made = [self._event(item.news, item.message) for item in items]
        results: Sequence[str | APIError]
        try:
            results = await self._client.create_batch(made)
        except APIError as error:
            results = [error] * len(items)
        outcome: list[tuple[_Item, APIError | None]] = []
        for item, event, result in zip(items, made, results, strict=True):
            if isinstance(result, APIError):
                outcome.append((item, result))
                continue
            _remember(self._series, item.key, _Series(event.metadata.name, 1, item.news.at))
            outcome.append((item, None))
        return outcome

    async def _count(self, item: _Item, series: _Series) -> APIError | None:
        news = item.news
        patch = {"count": series.count + 1, "lastTimestamp": format_seconds(int(news.at)), "message": item.message}
        try:
            await self._client.patch(core_v1_pb2.Event, series.name, news.namespace, patch)
        except APIError as error:
            return error
        series.count += 1
        _remember(self._series, item.key, series)
        return None

    def _event(self, news: _News, message: str) -> core_v1_pb2.Event:
        reference = core_v1_pb2.ObjectReference.FromString(news.reference)
        # client-go's form, NAME.HEX; the stamp grows also when two events fall into one tick of the clock.
        self._last_stamp = max(self._last_stamp + 1, int(news.at * 1e9))
        event = core_v1_pb2.Event(
            involved_object=reference,
            reason=news.reason,
            message=message,
            type=news.type,
            action=news.action,
            count=1,
            reporting_component=self._component,
            reporting_instance=self._host,
            source=core_v1_pb2.EventSource(component=self._component, host=self._host),
        )
        event.metadata.name = f"{reference.name}.{self._last_stamp:x}"
        event.metadata.namespace = news.namespace
        event.first_timestamp.CopyFrom(to_time(news.at))
        event.last_timestamp.CopyFrom(to_time(news.at))
        return event

    def _admitted(self, news: _News) -> bool:
        bucket = self._buckets.get(news.subject)
        if bucket is None:
            bucket = _Bucket(SPAM_BURST, news.at)
        bucket.tokens = min(SPAM_BURST, bucket.tokens + max(0.0, news.at - bucket.at) * SPAM_PER_S)
        bucket.at = news.at
        _remember(self._buckets, news.subject, bucket)
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

    def _aggregated(self, news: _News) -> tuple[str, tuple[Any, ...]]:
        """The message to write, and the key of the series that it belongs to."""
        group = (news.subject, news.type, news.reason, news.action)
        similar = self._similar.get(group)
        if similar is None or news.at - similar.last > AGGREGATE_WINDOW_S:
            similar = _Similar({}, news.at)
        similar.messages[news.message] = None
        similar.last = news.at
        _remember(self._similar, group, similar)
        if len(similar.messages) < AGGREGATE_AFTER:
            return news.message, (*group, news.message)
        while len(similar.messages) > AGGREGATE_AFTER:
            del similar.messages[next(iter(similar.messages))]
        return AGGREGATE_PREFIX + news.message, group


def reference_to(about: Message) -> core_v1_pb2.ObjectReference:
    """An ObjectReference to an object, or a copy of the reference that was given."""
    if isinstance(about, core_v1_pb2.ObjectReference):
        copy = core_v1_pb2.ObjectReference()
        copy.CopyFrom(about)
        return copy
    kind = kinds.of(type(about))
    metadata: Any = about.metadata  # type: ignore[attr-defined]
    return core_v1_pb2.ObjectReference(
        kind=kind.kind,
        api_version=kind.api_version,
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        resource_version=metadata.resource_version,
    )


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > CACHE_LIMIT:
        cache.popitem(last=False)
