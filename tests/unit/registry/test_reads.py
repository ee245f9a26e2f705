"""Lists and watches: selectors, pages, revisions, what enters and leaves a selection."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry.base import ListOptions, WatchOptions
from controlplane.registry.registry import Registry
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import BadRequest, Expired, Timeout
from wherry.pb import meta_v1_pb2, pods_pb2
from wherry.testing.registries import admin, obj, open_registry, pod

CONFIG_MAP = kinds.by_name("v1", "ConfigMap")
POD = kinds.by_name("v1", "Pod")


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


async def config_map(registry: Registry, name: str, namespace: str = "default", **labels: str) -> Any:
    created = await registry.create(
        admin(), CONFIG_MAP, namespace, obj("v1", "ConfigMap", name, meta={"labels": labels})
    )
    return created.message()


def names(items: Any) -> list[str]:
    return [item.message().metadata.name for item in items]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(ListOptions(), ["a", "b", "c", "b"], id="everything, by namespace and name"),
        pytest.param(ListOptions("default"), ["a", "b", "c"], id="one namespace"),
        pytest.param(ListOptions("nosuch"), [], id="a namespace that is not there"),
        pytest.param(ListOptions("default", label_selector="x=1"), ["a", "c"], id="label"),
        pytest.param(ListOptions(label_selector="x in (1,2),!y"), ["a", "b"], id="label set and absence"),
        pytest.param(ListOptions(field_selector="metadata.name=b"), ["b", "b"], id="name"),
        pytest.param(ListOptions("default", field_selector="metadata.name=b"), ["b"], id="one object"),
        pytest.param(ListOptions(field_selector="metadata.namespace!=default"), ["b"], id="other namespaces"),
        pytest.param(ListOptions("default", field_selector="metadata.namespace=kube-system"), [], id="contradiction"),
    ],
)
async def test_selection(registry: Registry, options: ListOptions, expected: list[str]) -> None:
    await config_map(registry, "a", x="1")
    await config_map(registry, "b", x="2")
    await config_map(registry, "c", x="1", y="")
    await config_map(registry, "b", "kube-system")
    assert names((await registry.list(admin(), CONFIG_MAP, options)).items) == expected


async def test_pods_by_node_come_from_the_index(registry: Registry) -> None:
    for name in ("p1", "p2", "p3"):
        await registry.create(admin(), POD, "default", pod(name))
    await registry.bind(admin(), [pods_pb2.BindRequest(namespace="default", name="p2", node="n1")])
    on_node = await registry.list(admin(), POD, ListOptions(field_selector="spec.nodeName=n1"))
    unassigned = await registry.list(admin(), POD, ListOptions(field_selector="spec.nodeName="))
    assert names(on_node.items) == ["p2"]
    assert names(unassigned.items) == ["p1", "p3"]


async def test_pages_are_of_one_revision(registry: Registry) -> None:
    for number in range(5):
        await config_map(registry, f"c{number}")
    first = await registry.list(admin(), CONFIG_MAP, ListOptions("default", limit=2))
    assert names(first.items) == ["c0", "c1"]
    assert first.remaining == 3
    await config_map(registry, "c00")
    await registry.delete(admin(), CONFIG_MAP, "default", "c3", meta_v1_pb2.DeleteOptions())
    second = await registry.list(
        admin(), CONFIG_MAP, ListOptions("default", limit=2, continue_token=first.continue_token)
    )
    third = await registry.list(
        admin(), CONFIG_MAP, ListOptions("default", limit=2, continue_token=second.continue_token)
    )
    assert names([*second.items, *third.items]) == ["c2", "c3", "c4"]
    assert second.revision == third.revision == first.revision
    assert third.continue_token == ""


async def test_exact_lists_the_past(registry: Registry) -> None:
    first = await config_map(registry, "a")
    await config_map(registry, "b")
    options = ListOptions("default", resource_version=first.metadata.resource_version, resource_version_match="Exact")
    assert names((await registry.list(admin(), CONFIG_MAP, options)).items) == ["a"]


async def test_a_revision_that_has_not_happened_is_a_timeout(registry: Registry) -> None:
    with pytest.raises(Timeout, match="Too large resource version: 999"):
        await registry.get(admin(), CONFIG_MAP, "default", "a", resource_version="999")


def token_at(revision: str) -> str:
    """Of a list that goes on, with any JSON for its revision."""
    return base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":%s,"start":"a"}' % revision.encode()).decode()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(ListOptions(field_selector="data=x"), "field label not supported: data", id="field"),
        pytest.param(ListOptions(label_selector="a b"), "unable to parse requirement: found 'b'", id="label"),
        pytest.param(ListOptions(continue_token="nope"), "continue key is not valid", id="token"),
        *(
            pytest.param(
                ListOptions(continue_token=token_at(revision)), "continue key is not valid", id=f"at {revision}"
            )
            for revision in ("-1", "true", "1.0", str(2**63))
        ),
        pytest.param(ListOptions(resource_version="-1"), "invalid resource version", id="revision"),
    ],
)
async def test_bad_options_are_refused(registry: Registry, options: ListOptions, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        await registry.list(admin(), CONFIG_MAP, options)
    assert words in caught.value.message


class Watcher:
    """Collects what a watch tells, in the background."""

    def __init__(self, registry: Registry, options: WatchOptions, kind: Any = CONFIG_MAP) -> None:
        self._batches: Any = registry.watch(admin(), kind, options)
        self.events: list[tuple[str, str]] = []
        self.stored: list[Any] = []
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async for batch in self._batches:
            for event in batch.events:
                self.events.append((event.type, event.stored.message().metadata.name))
                self.stored.append(event.stored)

    async def stop(self) -> list[tuple[str, str]]:
        await asyncio.sleep(0.1)
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._batches.aclose()
        return self.events


async def test_a_watch_tells_what_enters_and_leaves_its_selection(registry: Registry) -> None:
    await config_map(registry, "in", x="1")
    await config_map(registry, "out")
    watcher = Watcher(registry, WatchOptions("default", label_selector="x=1"))
    await asyncio.sleep(0.1)
    await relabel(registry, "out", {"x": "1"})
    await relabel(registry, "in", {"x": "1", "y": ""})
    await relabel(registry, "in", {})
    await relabel(registry, "in", {"z": ""})
    await registry.delete(admin(), CONFIG_MAP, "default", "in", meta_v1_pb2.DeleteOptions())
    await registry.delete(admin(), CONFIG_MAP, "default", "out", meta_v1_pb2.DeleteOptions())
    assert await watcher.stop() == [
        ("ADDED", "in"), ("ADDED", "out"), ("MODIFIED", "in"), ("DELETED", "in"), ("DELETED", "out"),
    ]  # fmt: skip
    left = watcher.stored[3].message()
    assert dict(left.metadata.labels) == {"x": "1", "y": ""}, "the last state that was selected"


async def relabel(registry: Registry, name: str, labels: dict[str, str]) -> None:
    current: Any = (await registry.get(admin(), CONFIG_MAP, "default", name)).message()
    current.metadata.labels.clear()
    current.metadata.labels.update(labels)
    await registry.update(admin(), CONFIG_MAP, "default", name, current)


async def test_a_watch_resumes_from_a_list(registry: Registry) -> None:
    await config_map(registry, "a")
    listed = await registry.list(admin(), CONFIG_MAP, ListOptions())
    await config_map(registry, "b")
    watcher = Watcher(registry, WatchOptions(resource_version=str(listed.revision)))
    await asyncio.sleep(0.1)
    await config_map(registry, "c")
    assert await watcher.stop() == [("ADDED", "b"), ("ADDED", "c")]


async def test_initial_events_end_with_a_bookmark(registry: Registry) -> None:
    await config_map(registry, "a")
    watcher = Watcher(registry, WatchOptions(send_initial_events=True, bookmarks=True))
    assert await watcher.stop() == [("ADDED", "a"), ("BOOKMARK", "")]
    bookmark = watcher.stored[-1].message()
    assert bookmark.metadata.annotations["k8s.io/initial-events-end"] == "true"
    assert int(bookmark.metadata.resource_version) >= watcher.stored[0].revision


async def test_a_watch_ends_at_its_timeout_with_a_bookmark(registry: Registry) -> None:
    await config_map(registry, "a")
    found = [
        event.type
        async for batch in registry.watch(admin(), CONFIG_MAP, WatchOptions(bookmarks=True, timeout_s=5.0))
        for event in batch.events
    ]
    assert found == ["ADDED", "BOOKMARK"]


async def test_a_watch_from_a_compacted_revision_is_expired(env: Env) -> None:
    from controlplane.store.open import open_store

    store = await open_store("sqlite::memory:", env, inline=True)
    first = Registry(store, env)
    await first.start()
    for number in range(3):
        await config_map(first, f"c{number}")
    await store.compact(await store.revision())
    await first.close()
    second = Registry(store, env)
    await second.start()
    with pytest.raises(Expired):
        async for _ in second.watch(admin(), CONFIG_MAP, WatchOptions(resource_version="2")):
            pass
    with pytest.raises(Expired):
        await second.list(admin(), CONFIG_MAP, ListOptions(resource_version="2", resource_version_match="Exact"))
    await second.close()
    await store.close()


async def test_readers_of_one_revision_share_its_memo(registry: Registry) -> None:
    await config_map(registry, "a")
    one = await registry.get(admin(), CONFIG_MAP, "default", "a")
    one.memo["json"] = b"{}"
    listed = await registry.list(admin(), CONFIG_MAP, ListOptions("default"))
    assert listed.items[0].memo["json"] == b"{}"
