"""Seats for requests: shares, turns, refusals; on virtual time."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2

from controlplane.fronts import flow
from controlplane.fronts.flow import Flow, Level, Limits, Seat, level_of
from controlplane.registry.base import Identity
from wherry.api.errors import TooManyRequests
from wherry.client.grpc_errors import to_rpc_status
from wherry.testing.loop import virtual_loop

LEVELS = {
    "node": (Identity("system:node:n1", ("system:nodes", "system:authenticated")), "nodes"),
    "scheduler": (Identity("system:kube-scheduler"), "system"),
    "controller in kube-system": (
        Identity("system:serviceaccount:kube-system:x", ("system:serviceaccounts:kube-system",)), "system",
    ),
    "administrator": (Identity("admin", ("system:masters",)), "workload"),
    "anybody": (Identity("system:anonymous", ("system:unauthenticated",)), "workload"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEVELS)
def test_levels(name: str) -> None:
    identity, wanted = LEVELS[name]
    assert level_of(identity) == wanted


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_client_leaves_room_and_waits_in_turn() -> None:
    level = Level(4)
    seats = [await level.enter("greedy") for _ in range(3)]
    more = [asyncio.create_task(level.enter("greedy")) for _ in range(3)]
    await settle()
    assert (level.taken, sum(task.done() for task in more)) == (3, 0)
    other = await level.enter("modest")
    waiting = asyncio.create_task(level.enter("modest"))
    level.check_invariants()
    await settle()
    seats.pop().leave()
    await settle()
    # The modest one has fewer seats, though three requests of the greedy one's are older.
    assert (waiting.done(), [task.done() for task in more]) == (True, [False, False, False])
    seats.pop().leave()
    await settle()
    assert [task.done() for task in more] == [True, False, False]
    level.check_invariants()
    for seat in (*seats, other, more[0].result(), waiting.result()):
        seat.leave()
        seat.leave()  # nothing happens
    await settle()
    for task in more[1:]:
        task.result().leave()
    level.check_invariants()
    assert level.taken == 0


async def test_who_waits_too_long_is_refused() -> None:
    level = Level(1)
    seat = await level.enter("a")
    began = virtual_loop().time()
    with pytest.raises(TooManyRequests) as caught:
        await level.enter("b")
    assert virtual_loop().time() - began == pytest.approx(flow.MAX_WAIT_S)
    assert (caught.value.code, caught.value.retry_after_s, caught.value.message) == (429, 1, flow.MESSAGE)
    level.check_invariants()
    seat.leave()


async def test_a_queue_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "MAX_WAITING_CLIENT", 20)
    level = Level(1)
    seat = await level.enter("a")
    waiting = [asyncio.create_task(level.enter("b")) for _ in range(flow.MAX_WAITING_CLIENT)]
    await settle()
    with pytest.raises(TooManyRequests):
        await level.enter("b")
    other = asyncio.create_task(level.enter("c"))  # whose queue is his own
    await settle()
    for task in waiting:
        task.cancel()
    await settle()
    level.check_invariants()
    seat.leave()
    await settle()
    other.result().leave()


async def test_a_client_that_goes_gives_its_place_and_its_seat_back() -> None:
    level = Level(1)
    seat = await level.enter("a")
    waiting = asyncio.create_task(level.enter("b"))
    await settle()
    seat.leave()  # the seat is `b`'s now, who does not know it yet
    waiting.cancel()
    await settle()
    level.check_invariants()
    assert level.taken == 0


async def test_nodes_do_not_wait_for_clients() -> None:
    found = Flow(Limits(reads=4, writes=4))
    client = Identity("admin", ("system:masters",))
    taken: list[Seat] = [await found.enter(client, writes=True) for _ in range(3)]
    waiting = asyncio.create_task(found.enter(client, writes=True))
    await settle()
    assert not waiting.done()
    node = await found.enter(Identity("system:node:n", ("system:nodes",)), writes=True)
    read = await found.enter(client, writes=False)
    found.check_invariants()
    for seat in (*taken, node, read):
        seat.leave()
    await settle()
    waiting.result().leave()


def test_grpc_says_when_to_come_back() -> None:
    status = to_rpc_status(TooManyRequests(flow.MESSAGE, retry_after_s=2))
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.retry_delay.seconds == 2
