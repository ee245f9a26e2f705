"""A replica's key in the store: renewed after a failure, and gone once the replica has left. Virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from controlplane.nodelink.others import OtherReplicas
from controlplane.replicas import PREFIX, Replica, Replicas
from controlplane.store.base import Compare, Operation, Put, Store, TxnResult
from controlplane.store.faulty import FaultyStore
from controlplane.store.open import open_store
from wherry.api.context import Env
from wherry.api.errors import ServiceUnavailable
from wherry.api.supervise import keep_running
from wherry.api.tasks import stop
from wherry.pb import nodelink_pb2

KEY = PREFIX + "a"


class SlowStore(FaultyStore):
    """Puts take `delay_s`, also when nobody waits for them, and fail with `error`."""

    def __init__(self, store: Store, env: Env) -> None:
        super().__init__(store, env)
        self.delay_s = 0.0
        self.error: Exception | None = None

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        if not any(isinstance(operation, Put) for operation in operations):
            return await super().txn(compares, operations)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return await asyncio.shield(asyncio.ensure_future(self._late(compares, operations)))

    async def _late(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        await asyncio.sleep(self.delay_s)
        return await super().txn(compares, operations)


@pytest.fixture
async def store(env: Env) -> AsyncIterator[SlowStore]:
    found = await open_store("sqlite::memory:", env, inline=True)
    yield SlowStore(found, env)
    await found.close()


async def test_a_failure_nobody_thought_of_is_no_departure(store: SlowStore, supervised: list[str]) -> None:
    store.error = RuntimeError("a defect")
    running = asyncio.ensure_future(keep_running("replicas", Replicas(store, "a", "at-a").run))
    await asyncio.sleep(3)
    assert await store.get(KEY) is not None
    await stop(running)
    assert await store.get(KEY) is None
    assert "a defect" in supervised.pop()


async def test_a_renewal_under_way_does_not_come_after_the_departure(store: SlowStore) -> None:
    running = asyncio.ensure_future(Replicas(store, "a", "at-a").run())
    await asyncio.sleep(1)
    store.delay_s = 1.0
    await asyncio.sleep(1)
    await stop(running)
    await asyncio.sleep(1.5)
    assert await store.get(KEY) is None


async def test_a_renewal_that_hangs_holds_up_no_other(store: SlowStore) -> None:
    store.delay_s = 1000.0
    running = asyncio.ensure_future(Replicas(store, "a", "at-a").run())
    await asyncio.sleep(1)
    store.delay_s = 0.0
    await asyncio.sleep(2)
    assert await store.get(KEY) is not None
    await stop(running)


class Wire:
    """A transport that answers when it is told to, or is broken."""

    def __init__(self) -> None:
        self.closed = False
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def unary(self, *_: Any, **__: Any) -> Any:
        return await asyncio.shield(self.answer)

    async def close(self) -> None:
        await asyncio.sleep(0.1)
        self.closed = True


class Known:
    def __init__(self) -> None:
        self.replicas = [Replica("b", "at-b", "")]

    async def others(self) -> list[Replica]:
        return self.replicas


async def test_connections_of_questions_side_by_side() -> None:
    wires: list[Wire] = []

    def dial(_: str) -> Any:
        wires.append(Wire())
        return wires[-1]

    known = Known()
    others = OtherReplicas(known, dial)  # type: ignore[arg-type]
    first, second = (asyncio.ensure_future(others.routed(1)) for _ in range(2))
    await asyncio.sleep(1)
    assert len(wires) == 1
    wires[0].answer.set_exception(ServiceUnavailable("broken"))
    await asyncio.sleep(1)
    assert len(wires) == 2  # who found it kept dials once more, and its connection stays
    assert [wire.closed for wire in wires] == [True, False]
    wires[1].answer.set_result(nodelink_pb2.RoutedResponse())
    assert sorted(map(str, await asyncio.gather(first, second))) == ["(['replica/b'], [])", "([], [])"]
    known.replicas = []
    await asyncio.gather(others.routed(1), others.routed(1))
    assert wires[1].closed
    known.replicas = [Replica("c", "at-c", "")]
    await others.close()
    assert await others.routed(1) == (["replica/c"], [])
    assert len(wires) == 2
