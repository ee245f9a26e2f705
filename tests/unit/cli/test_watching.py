"""Watches of commands beside a control plane that goes away and comes back, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controlplane.registry.base import ADMIN
from wherry.api.context import Env
from wherry.api.errors import Expired, ServiceUnavailable
from wherry.cli.commands.change import _until, until_gone
from wherry.cli.resources import Target, UsageError
from wherry.cli.session import Session
from wherry.cli.watching import PATIENCE_S, QUIET_S, resuming
from wherry.client.base import ClientAPI
from wherry.pb import core_v1_pb2, resources_pb2
from wherry.testing.serving import plane


@dataclass
class Batch:
    resource_version: str


@dataclass
class Attempt:
    """Lasts so long, yields these versions at its start, and ends in good order or breaks off."""

    lasts_s: float
    versions: Sequence[str] = ()
    error: Exception | None = None


def broken(lasts_s: float, *versions: str) -> Attempt:
    return Attempt(lasts_s, versions, ServiceUnavailable("Connection refused"))


class Server:
    """What it was asked for; after the given attempts it is away for good."""

    def __init__(self, *attempts: Attempt) -> None:
        self.left = list(attempts)
        self.asked: list[str] = []

    async def watch(self, version: str) -> AsyncIterator[Batch]:
        self.asked.append(version)
        attempt = self.left.pop(0) if self.left else broken(0)
        for number in attempt.versions:
            yield Batch(number)
        await asyncio.sleep(attempt.lasts_s)
        if attempt.error is not None:
            raise attempt.error


async def follow(server: Server, version: str = "") -> None:
    async with aclosing(resuming(server.watch, version)) as batches:
        async for _ in batches:
            pass


@pytest.mark.parametrize(
    ("version", "attempts", "asked", "after_s"),
    [
        pytest.param("", [], [""], 0, id="nobody was ever there"),
        pytest.param("", [broken(1, "")], [""], 1, id="within the first listing"),
        pytest.param("", [broken(1, "5")], ["", "5"], 1 + PATIENCE_S, id="away for good"),
        pytest.param("4", [], ["4"], PATIENCE_S, id="the list before it was answered"),
        pytest.param("", [broken(QUIET_S)], ["", ""], QUIET_S + PATIENCE_S, id="nothing is there, the server was"),
        pytest.param(
            "4",
            [broken(600), broken(0), broken(600)],
            ["4", "4", "4"],
            1201 + PATIENCE_S,
            id="the second restart, long after the first, of a quiet watch",
        ),
        pytest.param("4", [Attempt(600), broken(0)], ["4", "4"], 600 + PATIENCE_S, id="ended in good order before"),
    ],
)
async def test_patience_begins_when_the_server_goes(
    version: str, attempts: list[Attempt], asked: list[str], after_s: float
) -> None:
    loop = asyncio.get_running_loop()
    server, started = Server(*attempts), loop.time()
    with pytest.raises(ServiceUnavailable):
        await follow(server, version)
    assert server.asked[: len(asked)] == asked
    assert set(server.asked[len(asked) :]) <= {asked[-1]}
    assert after_s <= loop.time() - started <= after_s + 3


class Forgetful:
    """A client whose watches, `left` times, end because their version is too old, after `meanwhile` has happened unseen."""

    def __init__(self, client: ClientAPI, meanwhile: Any) -> None:
        self._client, self._meanwhile = client, meanwhile
        self.left = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def watch(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        if self.left:
            self.left -= 1
            await self._meanwhile()
            raise Expired("too old resource version")
        async for batch in self._client.watch(*args, **options):
            yield batch


TARGET = Target(
    resources_pb2.APIResource(version="v1", kind="ConfigMap", plural="configmaps", singular="configmap"), "c"
)


def config_map(value: str = "") -> core_v1_pb2.ConfigMap:
    made = core_v1_pb2.ConfigMap(data={"k": value})
    made.metadata.name, made.metadata.namespace = "c", "default"
    return made


async def test_who_only_waits_looks_anew_after_compaction(env: Env) -> None:
    async with plane(env) as control_plane:
        client = control_plane.local_client(ADMIN)

        async def create() -> None:
            await client.create(config_map("1"))

        async def change() -> None:
            found = await client.get(core_v1_pb2.ConfigMap, "c", "default")
            changed = core_v1_pb2.ConfigMap()
            changed.CopyFrom(found)
            changed.data["k"] = "2"
            await client.update(changed)

        async def remove() -> None:
            await client.delete(core_v1_pb2.ConfigMap, "c", "default")

        def forgetful(meanwhile: Any) -> Session:
            return cast(Session, SimpleNamespace(client=Forgetful(client, meanwhile)))

        def is_two(value: dict[str, Any]) -> bool:
            return bool(value["data"]["k"] == "2")

        async with asyncio.timeout(60):
            await _until(forgetful(create), TARGET, "default", lambda _: True, may_be_absent=True)
            await _until(forgetful(change), TARGET, "default", is_two, may_be_absent=False)
            found = await client.get(core_v1_pb2.ConfigMap, "c", "default")
            await until_gone(forgetful(remove), TARGET, "default", found.metadata.uid)
            await client.create(config_map())
            with pytest.raises(UsageError, match="was deleted while it was waited for"):
                await _until(forgetful(remove), TARGET, "default", is_two, may_be_absent=False)


async def test_waiting_for_what_is_not_there_yet_goes_on_after_a_restart(env: Env) -> None:
    async with plane(env) as control_plane:
        client = control_plane.local_client(ADMIN)

        class Restarting(Forgetful):
            async def watch(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
                if self.left:
                    self.left -= 1
                    await self._meanwhile()
                    raise ServiceUnavailable("Connection refused")
                async for batch in self._client.watch(*args, **options):
                    yield batch

        async def create() -> None:
            await client.create(config_map())

        session = cast(Session, SimpleNamespace(client=Restarting(client, create)))
        async with asyncio.timeout(60):
            await _until(session, TARGET, "default", lambda _: True, may_be_absent=True)


async def test_an_object_that_has_not_changed_for_long_is_waited_for(env: Env) -> None:
    """Its own version is too old to begin at, however often one tries."""
    async with plane(env) as control_plane:
        client = control_plane.local_client(ADMIN)
        old = await client.create(config_map())
        other = config_map()
        other.metadata.name = "other"
        await client.create(other)

        class Compacted(Forgetful):
            async def watch(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
                assert options["resource_version"] != old.metadata.resource_version
                async for batch in self._client.watch(*args, **options):
                    yield batch

        session = cast(Session, SimpleNamespace(client=Compacted(client, None)))
        waiting = asyncio.create_task(until_gone(session, TARGET, "default", old.metadata.uid))
        await asyncio.sleep(1)
        assert not waiting.done()
        await client.delete(core_v1_pb2.ConfigMap, "c", "default")
        async with asyncio.timeout(60):
            await waiting
