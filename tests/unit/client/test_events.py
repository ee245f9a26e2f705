"""EventRecorder: counting, aggregation, limits. Virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from wherry.api.context import Env
from wherry.api.errors import Forbidden, NotFound, ServiceUnavailable
from wherry.client import events
from wherry.client.events import NORMAL, QUEUE_LIMIT, WARNING, EventRecorder
from wherry.pb.core_v1_pb2 import Event, Pod


class Events:
    def __init__(self) -> None:
        self.written: dict[str, Event] = {}
        self.errors: list[Exception] = []

    async def create_batch(self, objs: Any) -> Any:
        results: list[Any] = []
        for obj in objs:
            if self.errors:
                results.append(self.errors.pop(0))
                continue
            self.written[obj.metadata.name] = obj
            results.append(obj.metadata.name)
        return results

    async def patch(self, cls: Any, name: str, namespace: str, patch: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        if name not in self.written:
            raise NotFound("gone")
        event = self.written[name]
        event.count = json.loads(json.dumps(patch))["count"]
        event.message = patch["message"]
        return event

    def told(self) -> list[tuple[str, int]]:
        return [(event.message, event.count) for event in self.written.values()]


def pod(name: str = "web", version: str = "1") -> Pod:
    made = Pod()
    made.metadata.name = name
    made.metadata.namespace = "default"
    made.metadata.uid = "u-" + name
    made.metadata.resource_version = version
    return made


async def tell(env: Env, server: Events, *messages: str, gap_s: float = 1.0) -> EventRecorder:
    recorder = EventRecorder(server, env, "tester")  # type: ignore[arg-type]
    task = asyncio.create_task(recorder.run())
    for number, message in enumerate(messages):
        recorder.event(pod(version=str(number)), NORMAL, "Reason", message)
        await asyncio.sleep(gap_s)
    await recorder.flush()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return recorder


async def test_the_same_news_is_counted_whatever_the_objects_version(env: Env) -> None:
    server = Events()
    await tell(env, server, "hello", "hello", "other", "hello")
    assert server.told() == [("hello", 3), ("other", 1)]
    event = next(iter(server.written.values()))
    assert (event.involved_object.kind, event.involved_object.name, event.source.component) == ("Pod", "web", "tester")
    assert event.metadata.name.startswith("web.")


async def test_many_similar_messages_become_one_combined_event(env: Env) -> None:
    server = Events()
    await tell(env, server, *(f"message {n}" for n in range(15)))
    assert server.told()[:9] == [(f"message {n}", 1) for n in range(9)]
    assert server.told()[9:] == [("(combined from similar events): message 14", 6)]


async def test_a_flood_about_one_object_is_cut_off(env: Env) -> None:
    server = Events()
    recorder = await tell(env, server, *["same"] * 100, gap_s=0.01)
    assert server.told() == [("same", 25)]
    assert recorder.dropped == 75


async def test_an_event_whose_time_to_live_is_over_begins_anew(env: Env) -> None:
    server = Events()
    recorder = EventRecorder(server, env, "tester")  # type: ignore[arg-type]
    task = asyncio.create_task(recorder.run())
    recorder.event(pod(), WARNING, "Reason", "hello")
    await recorder.flush()
    server.written.clear()
    recorder.event(pod(), WARNING, "Reason", "hello")
    await recorder.flush()
    assert server.told() == [("hello", 1)]
    task.cancel()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(ServiceUnavailable("down"), [("hello", 1)], id="a lost connection is tried again"),
        pytest.param(Forbidden("namespace is being terminated"), [], id="a refusal is not"),
    ],
)
async def test_failed_writes(env: Env, error: Exception, told: list[tuple[str, int]]) -> None:
    server = Events()
    server.errors = [error]
    await tell(env, server, "hello")
    assert server.told() == told


async def test_a_full_memory_of_series_costs_a_count_and_no_more(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CACHE_LIMIT", 1)
    server = Events()
    recorder = EventRecorder(server, env, "tester")  # type: ignore[arg-type]
    task = asyncio.create_task(recorder.run())
    recorder.event(pod("first"), NORMAL, "Reason", "hello")
    await recorder.flush()
    # In one batch: what is new pushes out what the other one counts.
    recorder.event(pod("second"), NORMAL, "Reason", "hello")
    recorder.event(pod("first"), NORMAL, "Reason", "hello")
    await recorder.flush()
    assert not task.done()
    assert sorted(server.told()) == [("hello", 1), ("hello", 2)]
    task.cancel()


async def test_a_long_queue_is_written_without_a_pause(env: Env) -> None:
    server = Events()
    recorder = EventRecorder(server, env, "tester")  # type: ignore[arg-type]
    for number in range(events.AT_ONCE * 10):
        recorder.event(pod(f"p{number}"), NORMAL, "Reason", "hello")
    began = env.now()
    task = asyncio.create_task(recorder.run())
    await recorder.flush()
    assert env.now() - began <= 2 * events.LINGER_S
    assert len(server.told()) == events.AT_ONCE * 10
    task.cancel()


async def test_telling_never_blocks_when_nobody_writes(env: Env) -> None:
    recorder = EventRecorder(Events(), env, "tester")  # type: ignore[arg-type]
    for number in range(QUEUE_LIMIT + 7):
        recorder.event(pod(), NORMAL, "Reason", str(number))
    assert recorder.dropped == 7
