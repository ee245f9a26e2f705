"""Leader election between candidates that share one Lease. Virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, Conflict, NotFound, ServiceUnavailable
from wherry.client.leader import LeaderElector
from wherry.pb.coordination_v1_pb2 import Lease


class LeaseServer:
    """One Lease with optimistic concurrency."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.revision = 0

    def store(self, obj: Any) -> Lease:
        self.revision += 1
        self.lease = Lease()
        self.lease.CopyFrom(obj)
        self.lease.metadata.resource_version = str(self.revision)
        copy = Lease()
        copy.CopyFrom(self.lease)
        return copy


class Candidate:
    """A client that can be cut off."""

    def __init__(self, server: LeaseServer) -> None:
        self.server = server
        self.cut_off = False

    def check(self) -> None:
        if self.cut_off:
            raise ServiceUnavailable("cut off")

    async def get(self, cls: Any, name: str, namespace: str = "") -> Lease:
        await asyncio.sleep(0.01)
        self.check()
        if self.server.lease is None:
            raise NotFound("no lease")
        copy = Lease()
        copy.CopyFrom(self.server.lease)
        return copy

    async def create(self, obj: Any) -> Lease:
        await asyncio.sleep(0.01)
        self.check()
        if self.server.lease is not None:
            raise AlreadyExists("there")
        return self.server.store(obj)

    async def update(self, obj: Any) -> Lease:
        await asyncio.sleep(0.01)
        self.check()
        if obj.metadata.resource_version != str(self.server.revision):
            raise Conflict("changed")
        return self.server.store(obj)


class Run:
    """Some electors whose leading spans are recorded; two at once is a failure of the test."""

    def __init__(self, env: Env, count: int) -> None:
        self.server = LeaseServer()
        self.clients = [Candidate(self.server) for _ in range(count)]
        self.electors = [
            LeaderElector(client, env, f"replica-{n}", name="test")  # type: ignore[arg-type]
            for n, client in enumerate(self.clients)
        ]
        self.leading: list[int] = []
        self.history: list[tuple[float, int]] = []
        self.tasks = [asyncio.create_task(e.run(lambda n=n: self.lead(n))) for n, e in enumerate(self.electors)]  # type: ignore[misc]

    async def lead(self, number: int) -> None:
        assert self.leading == []
        self.leading.append(number)
        self.history.append((asyncio.get_running_loop().time(), number))
        try:
            await asyncio.Event().wait()
        finally:
            self.leading.remove(number)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_one_leads_and_keeps_leading(env: Env) -> None:
    run = Run(env, 3)
    await asyncio.sleep(300)
    assert len(run.history) == 1
    assert len(run.leading) == 1
    assert run.electors[run.leading[0]].revision == run.server.revision
    await run.stop()


async def test_a_leader_that_is_cut_off_stops_before_the_next_begins(env: Env) -> None:
    run = Run(env, 2)
    await asyncio.sleep(30)
    first = run.leading[0]
    run.clients[first].cut_off = True
    cut_at = asyncio.get_running_loop().time()
    await asyncio.sleep(11)
    assert run.leading == []  # its deadline has passed, the other one still waits
    assert run.electors[first].revision == 0
    await asyncio.sleep(20)
    assert run.leading == [1 - first]
    assert 12 < run.history[-1][0] - cut_at < 20
    run.clients[first].cut_off = False
    await asyncio.sleep(60)
    assert run.leading == [1 - first]
    await run.stop()


async def test_a_leader_that_stops_in_order_hands_over_soon(env: Env) -> None:
    run = Run(env, 2)
    await asyncio.sleep(30)
    first = run.leading[0]
    run.tasks[first].cancel()
    stopped_at = asyncio.get_running_loop().time()
    await asyncio.sleep(10)
    assert run.leading == [1 - first]
    assert run.history[-1][0] - stopped_at < 5
    assert run.server.lease is not None
    assert run.server.lease.spec.lease_transitions >= 1
    await run.stop()
