"""Informer against a scripted client: resume, relist, handlers, indexes. Virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from wherry.api.context import Env
from wherry.api.errors import APIError, Expired, ServiceUnavailable
from wherry.client.base import Page, WatchBatch, WatchEvent
from wherry.client.informer import Informer, SharedInformers
from wherry.pb.core_v1_pb2 import Pod


def make_pod(name: str, version: int, *, node: str = "", uid: str = "") -> Pod:
    pod = Pod()
    pod.metadata.namespace = "default"
    pod.metadata.name = name
    pod.metadata.uid = uid or f"uid-{name}"
    pod.metadata.resource_version = str(version)
    pod.spec.node_name = node
    return pod


class Script:
    """Answers `list` with `pods` at `revision`, and each `watch` with the next of `watches`: batches, an error, or the end."""

    def __init__(self) -> None:
        self.pods: list[Pod] = []
        self.revision = 1
        self.lists = 0
        self.watched_from: list[str] = []
        self.watches: list[list[Any]] = []
        self.list_errors: list[APIError] = []

    async def list(self, cls: Any, selection: Any = None, **options: Any) -> Page[Any]:
        self.lists += 1
        if self.list_errors:
            raise self.list_errors.pop(0)
        return Page(list(self.pods), str(self.revision))

    async def watch(self, cls: Any, selection: Any = None, **options: Any) -> AsyncIterator[WatchBatch[Any]]:
        self.watched_from.append(options["resource_version"])
        steps = self.watches.pop(0) if self.watches else [asyncio.Event()]
        for step in steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                yield step


def batch(version: str, *events: tuple[str, Pod]) -> WatchBatch[Any]:
    return WatchBatch([WatchEvent(kind, pod) for kind, pod in events], version)


def changes(informer: Informer[Any]) -> list[tuple[str, str]]:
    """What a handler sees, as (version before, version after)."""
    log: list[tuple[str, str]] = []

    def handler(old: Any, new: Any) -> None:
        log.append((old.metadata.resource_version if old else "", new.metadata.resource_version if new else ""))

    informer.add_handler(handler)
    return log


async def settle(informer: Informer[Any], seconds: float = 60) -> None:
    task = asyncio.create_task(informer.run())
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    informer.check_invariants()


async def test_lists_then_follows_the_watch(env: Env) -> None:
    script = Script()
    script.pods = [make_pod("a", 1)]
    script.watches = [[batch("3", ("ADDED", make_pod("b", 2)), ("MODIFIED", make_pod("a", 3))), asyncio.Event()]]
    informer = Informer(script, Pod, env)  # type: ignore[arg-type]
    log = changes(informer)
    await settle(informer)
    assert [pod.metadata.name for pod in informer.list()] == ["a", "b"]
    assert log == [("", "1"), ("", "2"), ("1", "3")]
    assert informer.resource_version == "3"


@pytest.mark.parametrize(
    "end", [None, ServiceUnavailable("gone")], ids=["the server ends the watch", "the connection breaks"]
)
async def test_a_broken_watch_resumes_from_the_last_revision_without_a_list(env: Env, end: Exception | None) -> None:
    script = Script()
    script.watches = [[batch("7", ("ADDED", make_pod("a", 7)))] + ([end] if end else []), [asyncio.Event()]]
    informer = Informer(script, Pod, env)  # type: ignore[arg-type]
    await settle(informer)
    assert script.watched_from == ["1", "7"]
    assert script.lists == 1


async def test_an_expired_revision_lists_again_and_tells_what_changed_meanwhile(env: Env) -> None:
    script = Script()
    script.pods = [make_pod("gone", 1), make_pod("same", 1), make_pod("reborn", 1, uid="first")]

    async def expire() -> None:
        await asyncio.sleep(1)
        script.pods = [make_pod("same", 1), make_pod("reborn", 9, uid="second"), make_pod("new", 8)]
        script.revision = 9
        gate.set()

    gate = asyncio.Event()
    script.watches = [[gate, Expired("too old")], [asyncio.Event()]]
    informer = Informer(script, Pod, env)  # type: ignore[arg-type]
    log = changes(informer)
    task = asyncio.create_task(expire())
    await settle(informer)
    await task
    assert script.lists == 2
    assert log[3:] == [("1", ""), ("1", ""), ("", "9"), ("", "8")]
    assert script.watched_from == ["1", "9"]
    assert informer.generation == len(log)  # one more for every change, however it came to be known


async def test_a_part_of_a_batch_is_no_place_to_resume_from(env: Env) -> None:
    script = Script()
    script.watches = [
        [batch("", ("ADDED", make_pod("a", 2))), ServiceUnavailable("broken in between")],
        [asyncio.Event()],
    ]
    informer = Informer(script, Pod, env)  # type: ignore[arg-type]
    await settle(informer)
    assert script.watched_from == ["1", "1"]
    assert script.lists == 1


async def test_what_goes_has_no_managed_fields_either(env: Env) -> None:
    gone = make_pod("a", 2)
    gone.metadata.managed_fields.add(manager="m", operation="Update").fields_v1.raw = b"{}"
    script = Script()
    script.pods = [make_pod("a", 1)]
    script.watches = [[batch("2", ("DELETED", gone)), asyncio.Event()]]
    informer = Informer(script, Pod, env)  # type: ignore[arg-type]
    went: list[Any] = []
    informer.add_handler(lambda old, new: went.append(old) if new is None else None)
    await settle(informer)
    assert went == [make_pod("a", 2)]


async def test_objects_have_no_managed_fields(env: Env) -> None:
    script = Script()
    listed, watched = make_pod("a", 1), make_pod("b", 2)
    for pod in (listed, watched):
        pod.metadata.managed_fields.add(manager="m", operation="Update").fields_v1.raw = b"{}"
    script.pods = [listed]
    script.watches = [[batch("2", ("ADDED", watched)), asyncio.Event()]]
    informer = Informer(script, Pod, env)  # type: ignore[arg-type]
    seen: list[Pod] = []
    informer.add_handler(lambda old, new: seen.append(new))
    await settle(informer)
    assert [pod.metadata.name for pod in seen] == ["a", "b"]
    assert not any(pod.metadata.managed_fields for pod in [*seen, *informer.list()])
    listed.metadata.ClearField("managed_fields")
    assert informer.get("a", "default") == listed
    assert watched.metadata.managed_fields, "what the client gave is not changed"


async def test_failing_lists_back_off(env: Env) -> None:
    script = Script()
    script.list_errors = [ServiceUnavailable("down") for _ in range(100)]
    informer = Informer(script, Pod, env)  # type: ignore[arg-type]
    await settle(informer, 100)
    assert 10 <= script.lists <= 30
    assert not informer.synced


async def test_indexes_follow_changes(env: Env) -> None:
    script = Script()
    script.pods = [make_pod("a", 1, node="n1"), make_pod("b", 1, node="n1")]
    script.watches = [
        [
            batch("2", ("MODIFIED", make_pod("a", 2, node="n2"))),
            batch("3", ("DELETED", make_pod("b", 3, node="n1"))),
            asyncio.Event(),
        ]
    ]
    informer = Informer(script, Pod, env, indexers={"node": lambda pod: [pod.spec.node_name]})  # type: ignore[arg-type]
    await settle(informer)
    assert [pod.metadata.name for pod in informer.by_index("node", "n2")] == ["a"]
    assert informer.by_index("node", "n1") == []


async def test_informers_of_one_kind_are_shared_and_late_ones_are_started(env: Env) -> None:
    script = Script()
    script.pods = [make_pod("a", 1)]
    shared = SharedInformers(script, env)  # type: ignore[arg-type]
    task = asyncio.create_task(shared.run())
    await asyncio.sleep(0)
    first = shared.informer(Pod)
    assert shared.informer(Pod, indexers={"node": lambda pod: [pod.spec.node_name]}) is first
    await shared.wait_synced()
    assert first.get("a", "default") is not None
    late = changes(first)
    assert late == [("", "1")]
    assert script.lists == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_it_was_primed_with_stands_in_until_the_first_list(env: Env) -> None:
    script = Script()
    script.pods, script.revision = [make_pod("same", 5), make_pod("changed", 9), make_pod("new", 8)], 9
    script.list_errors = [ServiceUnavailable("away")] * 4
    informer = Informer(script, Pod, env)  # type: ignore[arg-type]
    informer.add_indexer("node", lambda pod: [pod.spec.node_name])
    informer.prime([make_pod("same", 5), make_pod("changed", 6, node="n1"), make_pod("gone", 7)])
    assert (informer.known, informer.synced, informer.usable) == (True, False, False)
    assert [pod.metadata.name for pod in informer.by_index("node", "n1")] == ["changed"]
    seen = changes(informer)
    assert seen == [("", "5"), ("", "6"), ("", "7")]
    await settle(informer, 0.01)
    assert (informer.known, informer.synced, informer.usable) == (True, False, False)
    informer.trust()
    assert (informer.synced, informer.usable) == (False, True)
    await informer.wait_usable()
    await settle(informer)
    assert informer.synced
    assert seen[3:] == [("7", ""), ("6", "9"), ("", "8")]
    informer.prime([make_pod("late", 3)])
    assert informer.get("late", "default") is None


async def test_what_it_was_primed_with_may_be_of_another_store(env: Env) -> None:
    script = Script()
    script.pods = [make_pod("p", 5, node="n2")]
    informer = Informer(script, Pod, env)  # type: ignore[arg-type]
    informer.prime([make_pod("p", 5, node="n1")])
    await settle(informer)
    found = informer.get("p", "default")
    assert found is not None
    assert found.spec.node_name == "n2"


async def test_nothing_is_trusted_that_is_not_there(env: Env) -> None:
    informer = Informer(Script(), Pod, env)  # type: ignore[arg-type]
    informer.trust()
    assert (informer.known, informer.usable) == (False, False)
