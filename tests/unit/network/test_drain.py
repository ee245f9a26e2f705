"""When a pod that is to end may get its signal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kubelet.network.drain import LIMIT_S, Drain
from wherry.pb import core_v1_pb2, discovery_v1_pb2


class Slices:
    """An informer's copy, changed by hand."""

    synced = True

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._handlers: list[Callable[[Any, Any], None]] = []
        self._index: Callable[[Any], tuple[str, ...]] = lambda found: ()

    def add_indexer(self, name: str, function: Callable[[Any], tuple[str, ...]]) -> None:
        self._index = function

    def add_handler(self, handler: Callable[[Any, Any], None]) -> None:
        self._handlers.append(handler)

    def by_index(self, index: str, value: str) -> list[Any]:
        return [found for found in self.found.values() if value in self._index(found)]

    def put(self, revision: int, *endpoints: tuple[str, bool, bool]) -> None:
        new = discovery_v1_pb2.EndpointSlice()
        new.metadata.name, new.metadata.resource_version = "s", str(revision)
        for uid, ready, terminating in endpoints:
            made = new.endpoints.add(target_ref=core_v1_pb2.ObjectReference(kind="Pod", uid=uid))
            made.conditions.ready, made.conditions.terminating = ready, terminating
        old, self.found["s"] = self.found.get("s"), new
        for handler in self._handlers:
            handler(old, new)


class Asked:
    def __init__(self, connected: bool = True) -> None:
        self.requests: list[tuple[int, int]] = []
        self._connected = connected

    def __call__(self, request: int, revision: int) -> bool:
        self.requests.append((request, revision))
        return self._connected


async def test_a_pod_leaves_its_endpoints_then_the_nodes_say_so_then_it_may_end() -> None:
    slices, asked = Slices(), Asked()
    drain = Drain(slices, asked)  # type: ignore[arg-type]
    slices.put(10, ("u", True, False), ("v", True, False))
    task = asyncio.create_task(drain.drained("u"))
    await asyncio.sleep(0.1)
    assert asked.requests == []
    slices.put(11, ("u", True, False), ("v", True, True))  # the other one
    await asyncio.sleep(0.1)
    assert asked.requests == []
    slices.put(12, ("u", False, True), ("v", True, True))
    await asyncio.sleep(0.1)
    assert asked.requests == [(1, 12)]
    assert not task.done()
    drain.on_settled(9, [])  # another's
    await asyncio.sleep(0.1)
    assert not task.done()
    drain.on_settled(1, ["n9"])
    await task


@pytest.mark.parametrize(
    ("endpoints", "connected", "waits_s", "asks"),
    [
        ([], True, 0, 0),
        ([("other", True, False)], True, 0, 0),
        ([("u", False, False)], False, 0, 1),
        ([("u", True, True)], False, 0, 1),
        ([("u", True, False)], True, LIMIT_S, 0),
        ([("u", False, True)], True, LIMIT_S, 1),
    ],
    ids=[
        "no Service at all", "behind no Service", "was not ready", "published although not ready", "slices do not change",
        "no answer",
    ],
)  # fmt: skip
async def test_waits(endpoints: list[tuple[str, bool, bool]], connected: bool, waits_s: float, asks: int) -> None:
    slices, asked = Slices(), Asked(connected)
    drain = Drain(slices, asked)  # type: ignore[arg-type]
    if endpoints:
        slices.put(10, *endpoints)
    began = asyncio.get_running_loop().time()
    await drain.drained("u")
    assert asyncio.get_running_loop().time() - began == pytest.approx(waits_s)
    assert len(asked.requests) == asks
