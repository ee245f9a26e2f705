"""Whether those who lead connections to endpoints go by what the EndpointSlices said at some revision: asked by an agent whose
pod has left the endpoints and is to get its signal, answered when all have said so. Those are the nodes and the `wherry ingress`
processes that are connected to this replica. A live node that is connected to another one is known, so `LIMIT_S` is waited in
its stead; an ingress has no object and no lease, so one that is connected to another replica is not waited for at all.

Called by `connection` (what agents say) through the servicer. Questions that come together are one query to each. A node that
does not answer holds up the others' pods for `LIMIT_S` and no longer; one that was declared silent, not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wherry.pb import nodelink_pb2

GATHER_S = 0.01
LIMIT_S = 2.0


@dataclass(slots=True)
class _Query:
    askers: list[tuple[str, int]]  # node and its request's number
    missing: dict[str, None]
    absent: bool  # somebody whom we cannot ask
    timer: asyncio.TimerHandle


class Routing:
    """`send` puts a message down a node's stream; `routers` are all that is connected here and routes Services; `absent`
    tells whether there are live nodes (never ingresses) that are not connected here.

    Invariant: each request is in `_gathered` or in one query, and answered once."""

    def __init__(
        self,
        send: Callable[[str, nodelink_pb2.ControlMessage], bool],
        routers: Callable[[], Iterable[str]],
        absent: Callable[[], bool],
    ) -> None:
        self._send, self._routers, self._absent = send, routers, absent
        self._gathered: list[tuple[str, int]] = []
        self._revision = 0
        self._queries: dict[int, _Query] = {}
        self._number = 0

    def ask(self, node: str, request: int, revision: int) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_later(GATHER_S, self._start)
        self._gathered.append((node, request))
        self._revision = max(self._revision, revision)

    def level(self, node: str, number: int) -> None:
        """The node has answered."""
        query = self._queries.get(number)
        if query is not None:
            query.missing.pop(node, None)
            if not query.missing and not query.absent:
                self._finish(number)

    def _start(self) -> None:
        askers, self._gathered = self._gathered, []
        revision, self._revision = self._revision, 0
        self._number += 1
        number = self._number
        nodes = dict.fromkeys(sorted(self._routers()))
        timer = asyncio.get_running_loop().call_later(LIMIT_S, self._finish, number)
        self._queries[number] = _Query(askers, nodes, self._absent(), timer)
        for node in list(nodes):
            query = nodelink_pb2.RoutesQuery(query=number, revision=revision)
            self._send(node, nodelink_pb2.ControlMessage(routes_query=query))
        if not nodes and not self._queries[number].absent:
            self._finish(number)

    def _finish(self, number: int) -> None:
        query = self._queries.pop(number, None)
        if query is None:
            return
        query.timer.cancel()
        for node, request in query.askers:
            settled = nodelink_pb2.RoutesSettled(request=request, missing=list(query.missing))
            self._send(node, nodelink_pb2.ControlMessage(routes_settled=settled))
