"""The typed client, over both transports, against the real registry: what holds for one holds for the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from controlplane.registry.base import Identity
from wherry.api.context import Env, cause
from wherry.api.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    ServiceUnavailable,
    Timeout,
)
from wherry.client.base import DeleteOptions, Selection, WatchBatch
from wherry.client.client import Client
from wherry.client.informer import Informer
from wherry.pb import apps_v1_pb2, core_v1_pb2, pods_pb2, resources_pb2
from wherry.testing.serving import Serving, serving

ConfigMap = core_v1_pb2.ConfigMap


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Serving]:
    async with serving(Env()) as made:
        yield made


def open_client(running: Serving, transport: str, user: str = "tester", *groups: str) -> Client:
    if transport == "local":
        return running.plane.local_client(Identity(user, (*groups, "system:authenticated")))
    return running.client(user, groups)


@pytest_asyncio.fixture(params=["grpc", "local"])
async def client(running: Serving, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    made = open_client(running, request.param, "tester", "system:masters")
    yield made
    await made.close()


@pytest_asyncio.fixture(params=["grpc", "local"])
async def stranger(running: Serving, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    made = open_client(running, request.param, "alice", "devs")
    yield made
    await made.close()


def config_map(name: str, **data: str) -> core_v1_pb2.ConfigMap:
    made = ConfigMap(data=data)
    made.metadata.name = name
    made.metadata.namespace = "default"
    return made


async def test_an_object_lives_through_all_verbs(client: Client) -> None:
    given = config_map("a", x="1")
    made = await client.create(given, field_manager="test")
    assert not given.metadata.resource_version
    assert made.metadata.uid
    read = await client.get(ConfigMap, "a", "default")
    assert read == made
    read.data["x"] = "2"
    updated = await client.update(read)
    assert updated.data["x"] == "2"
    assert int(updated.metadata.resource_version) > int(made.metadata.resource_version)
    patched = await client.patch(ConfigMap, "a", "default", {"data": {"y": "ü"}})
    assert dict(patched.data) == {"x": "2", "y": "ü"}
    page = await client.list(ConfigMap, Selection("default"))
    assert [item for item in page.items if item.metadata.name == "a"] == [patched]
    assert await client.delete(ConfigMap, "a", "default") is None
    with pytest.raises(NotFound) as caught:
        await client.get(ConfigMap, "a", "default")
    assert (caught.value.message, caught.value.kind, caught.value.name) == (
        'configmaps "a" not found', "configmaps", "a",
    )  # fmt: skip


async def test_apply_takes_a_message_or_bytes(client: Client) -> None:
    made = await client.apply(config_map("s", a="1"), ConfigMap, "s", "default", field_manager="one")
    assert dict(made.data) == {"a": "1"}
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"b": "2"}}).encode()
    both = await client.apply(body, ConfigMap, "s", "default", field_manager="two")
    assert dict(both.data) == {"a": "1", "b": "2"}
    with pytest.raises(Conflict) as caught:
        await client.apply(config_map("s", b="3"), ConfigMap, "s", "default", field_manager="one")
    assert caught.value.causes[0].reason == "FieldManagerConflict"


async def test_errors_arrive_with_all_their_parts(client: Client) -> None:
    await client.create(config_map("a"))
    with pytest.raises(AlreadyExists):
        await client.create(config_map("a"))
    with pytest.raises(Invalid) as caught:
        await client.create(config_map("Not A Name"))
    assert caught.value.causes[0].field == "metadata.name"
    assert caught.value.causes[0].reason == "FieldValueInvalid"
    stale = await client.get(ConfigMap, "a", "default")
    await client.patch(ConfigMap, "a", "default", {"data": {"x": "1"}})
    with pytest.raises(Conflict):
        await client.update(stale)
    with pytest.raises(BadRequest):
        await client.patch(ConfigMap, "a", "default", b"{", patch_type="application/merge-patch+json")


async def test_a_stranger_may_discover_and_nothing_else(stranger: Client) -> None:
    assert any(resource.plural == "pods" for resource in (await stranger.discover()).resources)
    with pytest.raises(Forbidden) as caught:
        await stranger.list(core_v1_pb2.Pod, Selection("golden"))
    assert caught.value.message == (
        'pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "golden"'
    )
    with pytest.raises(Forbidden, match='cannot get resource "pods/log" in API group "" in the namespace "default"'):
        [chunk async for chunk in stranger.logs("x", "default", core_v1_pb2.PodLogOptions())]
    with pytest.raises(Forbidden, match=r"deployments.apps is forbidden: .* cannot watch .* at the cluster scope"):
        [batch async for batch in stranger.watch(apps_v1_pb2.Deployment)]
    with pytest.raises(Forbidden, match=r'configmaps "a" is forbidden: .* cannot create'):
        await stranger.create(config_map("a"))
    results = stranger.bind_batch([pods_pb2.BindRequest(namespace="default", name="x", node="n")])
    with pytest.raises(Forbidden):
        await results


async def test_a_watch_shows_every_change_once_and_resumes(client: Client) -> None:
    start = (await client.list(ConfigMap)).resource_version
    seen: list[str] = []
    version = start
    for round_number in range(4):  # each with a watch of its own, and changes before and during it
        wanted = 5 * (round_number + 1)
        for number in range(wanted - 5, wanted - 2):
            await client.create(config_map(f"w{number}"))
        stream = client.watch(ConfigMap, resource_version=version)
        late = [asyncio.create_task(client.create(config_map(f"w{number}"))) for number in (wanted - 2, wanted - 1)]
        async for batch in stream:
            seen.extend(event.object.metadata.name for event in batch.events)
            version = batch.resource_version or version
            if len(seen) >= wanted:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.gather(*late)
    assert sorted(seen, key=lambda name: int(name[1:])) == [f"w{number}" for number in range(20)]


async def test_a_long_first_batch_comes_in_parts_and_is_whole(client: Client) -> None:
    await asyncio.gather(*(client.create(config_map(f"big{number}", x="y" * 5000)) for number in range(700)))
    sizes: list[int] = []
    names: set[str] = set()
    stream = client.watch(ConfigMap, Selection("default"))
    async for batch in stream:
        sizes.append(len(batch.events))
        names.update(event.object.metadata.name for event in batch.events)
        if batch.resource_version:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    assert sum(sizes) == 700
    assert len(names) == 700
    assert max(sizes) <= 500


async def test_pages_continue(client: Client) -> None:
    for number in range(7):
        await client.create(config_map(f"p{number}"))
    names: list[str] = []
    token = ""
    while True:
        page = await client.list(ConfigMap, Selection("default"), limit=3, continue_token=token)
        names += [item.metadata.name for item in page.items]
        token = page.continue_token
        if not token:
            break
    assert names == [f"p{number}" for number in range(7)]


async def test_delete_collection_by_label(client: Client) -> None:
    for number in range(4):
        made = config_map(f"d{number}")
        made.metadata.labels["even"] = str(number % 2 == 0)
        await client.create(made)
    gone = await client.delete_collection(ConfigMap, Selection("default", "even=True"))
    assert sorted(item.metadata.name for item in gone) == ["d0", "d2"]
    assert [item.metadata.name for item in (await client.list(ConfigMap, Selection("default"))).items] == ["d1", "d3"]


async def test_preconditions_and_dry_run_of_delete(client: Client) -> None:
    await client.create(config_map("a"))
    with pytest.raises(Conflict):
        await client.delete(ConfigMap, "a", "default", DeleteOptions(uid="another"))
    await client.delete(ConfigMap, "a", "default", DeleteOptions(dry_run=True))
    assert (await client.get(ConfigMap, "a", "default")).metadata.name == "a"


async def test_tables_and_health(client: Client, running: Serving) -> None:
    await client.create(config_map("a", x="1"))
    table = await client.table("", "v1", "configmaps", selection=Selection("default"))
    assert [column.name for column in table.columns][:2] == ["Name", "Data"]
    assert [row.name for row in table.rows] == ["a"]
    assert (await client.server_status()).status == "Success"
    running.plane.health.set_serving(False)
    assert (await client.server_status()).reason == "ServiceUnavailable"


async def test_a_call_ends_at_its_deadline(client: Client, running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = asyncio.Event()

    async def never(*given: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    monkeypatch.setattr(running.plane.registry, "list", never)
    hurried = Client(client.transport, timeout_s=0.05)
    with pytest.raises(Timeout):
        await hurried.list(ConfigMap)
    await cancelled.wait()


async def test_unknown_resources_and_wrong_messages(client: Client) -> None:
    ref = resources_pb2.ResourceRef(version="v1", resource="nonsense")
    with pytest.raises(NotFound, match="the server could not find the requested resource"):
        await client.transport.unary("/wherry.v1.Resources/List", resources_pb2.ListRequest(resource=ref))
    request = resources_pb2.CreateRequest(
        resource=resources_pb2.ResourceRef(version="v1", resource="pods"), namespace="default"
    )
    request.object.Pack(config_map("a"))
    with pytest.raises(BadRequest, match=r'object: it is "wherry.core.v1.ConfigMap"; wanted "wherry.core.v1.Pod"'):
        await client.transport.unary("/wherry.v1.Resources/Create", request)


async def test_the_cause_reaches_the_server(client: Client, running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    create = running.plane.registry.create

    async def spy(ctx, *given, **named):  # type: ignore[no-untyped-def]
        seen.append(ctx.cause)
        return await create(ctx, *given, **named)

    monkeypatch.setattr(running.plane.registry, "create", spy)
    cause.set("story-1")
    await client.create(config_map("a"))
    assert seen == ["story-1"]


async def test_a_commit_outlives_its_caller(client: Client, running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    create = running.plane.registry.create

    async def slow(*given, **named):  # type: ignore[no-untyped-def]
        begun.set()
        await go.wait()
        return await create(*given, **named)

    monkeypatch.setattr(running.plane.registry, "create", slow)
    task = asyncio.create_task(client.create(config_map("survivor")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.05)  # gRPC takes the cancellation to the server
    go.set()
    async for batch in client.watch(ConfigMap, Selection("default")):
        if any(event.object.metadata.name == "survivor" for event in batch.events):
            break


async def test_an_informer_follows(client: Client) -> None:
    informer = Informer(client, ConfigMap, Env(), selection=Selection("default"))
    changes: asyncio.Queue[str] = asyncio.Queue()
    informer.add_handler(lambda old, new: changes.put_nowait((new or old).metadata.name))
    task = asyncio.create_task(informer.run())
    await informer.wait_synced()
    await client.create(config_map("late"))
    assert await asyncio.wait_for(changes.get(), 5) == "late"
    informer.check_invariants()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_closed_client_says_so(client: Client) -> None:
    await client.create(config_map("a"))
    stream = client.watch(ConfigMap)
    first: asyncio.Task[WatchBatch[core_v1_pb2.ConfigMap]] = asyncio.create_task(anext(aiter(stream)))  # type: ignore[arg-type]
    await first
    second: asyncio.Task[WatchBatch[core_v1_pb2.ConfigMap]] = asyncio.create_task(anext(aiter(stream)))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    await client.close()
    with pytest.raises(ServiceUnavailable):
        await client.list(ConfigMap)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_batch_of_creates_has_an_answer_for_each(client: Client) -> None:
    await client.create(config_map("there"))
    generated = config_map("", k="v")
    generated.metadata.generate_name = "made-"
    bad = config_map("Not_A_Name")
    first, taken, wrong, named = await client.create_batch([config_map("new"), config_map("there"), bad, generated])
    assert first == "new"
    assert isinstance(taken, AlreadyExists)
    assert taken.name == "there"
    assert isinstance(wrong, Invalid)
    assert isinstance(named, str)
    assert (await client.get(ConfigMap, named, "default")).data["k"] == "v"
    assert await client.create_batch([]) == []
    with pytest.raises(BadRequest, match="101 in one batch; wanted at most 100"):
        await client.create_batch([config_map(f"n{number}") for number in range(101)])


async def test_a_batch_of_creates_needs_the_right_to_each(stranger: Client) -> None:
    (refused,) = await stranger.create_batch([config_map("new")])
    assert isinstance(refused, Forbidden)
