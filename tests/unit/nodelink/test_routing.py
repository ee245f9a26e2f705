"""Whether every node routes by a revision: who is asked, who is waited for, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from controlplane.auth.names import INGRESS_USER
from controlplane.nodelink.routing import GATHER_S, LIMIT_S, Routing
from controlplane.nodelink.servicer import NodeLinkServicer
from wherry.api.context import Env
from wherry.api.errors import ServiceUnavailable
from wherry.pb import nodelink_pb2


class Nodes:
    """`absent`: a live node that has no stream here."""

    def __init__(self, *names: str, absent: bool = False) -> None:
        self.names = list(names)
        self.queries: list[tuple[str, int, int]] = []
        self.settled: list[tuple[str, int, list[str], float]] = []
        self.routing = Routing(self.send, lambda: self.names, lambda elsewhere: absent)

    def send(self, node: str, message: nodelink_pb2.ControlMessage) -> bool:
        if message.WhichOneof("message") == "routes_query":
            self.queries.append((node, message.routes_query.query, message.routes_query.revision))
        else:
            told = message.routes_settled
            self.settled.append((node, told.request, list(told.missing), asyncio.get_running_loop().time()))
        return True


async def test_questions_that_come_together_are_one_query() -> None:
    nodes = Nodes("a", "b")
    nodes.routing.ask("a", 1, 70)
    nodes.routing.ask("b", 1, 90)
    nodes.routing.ask("a", 2, 80)
    await asyncio.sleep(GATHER_S * 2)
    assert nodes.queries == [("a", 1, 90), ("b", 1, 90)]
    nodes.routing.level("a", 1)
    assert nodes.settled == []
    nodes.routing.level("b", 1)
    nodes.routing.level("b", 1)
    assert [item[:3] for item in nodes.settled] == [("a", 1, []), ("b", 1, []), ("a", 2, [])]


@pytest.mark.parametrize(
    ("names", "absent", "answers", "missing", "waits"),
    [
        ([], False, [], [], False),
        (["a"], False, ["a"], [], False),
        (["a", "b"], False, ["a"], ["b"], True),
        (["a"], True, ["a"], [], True),
    ],
    ids=["nobody routes", "all answer", "one is silent", "one is not connected"],
)
async def test_waits(names: list[str], absent: bool, answers: list[str], missing: list[str], waits: bool) -> None:
    nodes = Nodes(*names, absent=absent)
    began = asyncio.get_running_loop().time()
    nodes.routing.ask("a", 7, 50)
    await asyncio.sleep(GATHER_S * 2)
    for node in answers:
        nodes.routing.level(node, 1)
    await asyncio.sleep(LIMIT_S * 2)
    ((node, request, told, at),) = nodes.settled
    assert (node, request, told) == ("a", 7, missing)
    assert (at - began >= LIMIT_S) == waits


async def test_an_ingress_whose_messages_cannot_be_read_dials_anew(caplog: pytest.LogCaptureFixture) -> None:
    nothing: Any = None
    servicer = NodeLinkServicer(Env(), nothing, nothing, nothing, nothing)

    async def requests() -> AsyncIterator[nodelink_pb2.AgentMessage]:
        yield nodelink_pb2.AgentMessage(hello=nodelink_pb2.Hello(node_name="i"))
        raise ValueError("a defect")

    call: Any = SimpleNamespace(identity=SimpleNamespace(user=INGRESS_USER, groups=()))
    with pytest.raises(ServiceUnavailable, match="edge/i cannot be heard any more"):
        async for _ in servicer.Route(requests(), call):
            pass
    assert "a defect" in caplog.text, "somebody is told why"
