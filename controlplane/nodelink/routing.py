"""Whether those who lead connections to endpoints go by what the EndpointSlices said at some revision: asked by an agent whose
pod has left the endpoints and is to get its signal, answered when all have said so. Those are the nodes and the `wherry ingress`
processes, whichever replica they are connected to: the other replicas are asked about theirs. For a live node that no replica
holds (it is on its way to another one), or a replica that does not answer, `LIMIT_S` is waited.

Called by `connection` (what agents say) and for other replicas, through the servicer. Questions that come together are one query
to each. A node that does not answer holds up the others' pods for `LIMIT_S` and no longer; one that was declared silent, not at
all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field

from wherry.pb import nodelink_pb2

GATHER_S = 0.01
LIMIT_S = 2.0

# Of a revision: who elsewhere does not route by it, and which nodes were asked there.
Elsewhere = Callable[[int], Awaitable[tuple[list[str], list[str]]]]
Told = Callable[[list[str]], None]


@dataclass(slots=True)
class _Query:
    """`asking` is under way as long as other replicas are asked; `absent`: somebody whom nobody can ask."""

    askers: list[Told]
    missing: dict[str, None]
    timer: asyncio.TimerHandle
    absent: bool = False
    asking: asyncio.Task[None] | None = field(default=None)


class Routing:
    """`send` puts a message down a node's stream; `routers` are all that is connected here and routes Services; `absent`
    tells whether there are live nodes that are connected neither here nor among those named; `elsewhere` asks the other
    replicas, None where there are none.

    Invariant: each request is in `_gathered` or in one query, and answered once."""

    def __init__(
        self,
        send: Callable[[str, nodelink_pb2.ControlMessage], bool],
        routers: Callable[[], Iterable[str]],
        absent: Callable[[Collection[str]], bool],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._send, self._routers, self._absent = send, routers, absent
        self.elsewhere = elsewhere
        self._gathered: list[Told] = []
        self._revision = 0
        self._queries: dict[int, _Query] = {}
        self._number = 0

    def ask(self, node: str, request: int, revision: int) -> None:
        """The node is told."""

        def tell(missing: list[str]) -> None:
            settled = nodelink_pb2.RoutesSettled(request=request, missing=missing)
            self._send(node, nodelink_pb2.ControlMessage(routes_settled=settled))

        if not self._gathered:
            asyncio.get_running_loop().call_later(GATHER_S, self._start)
        self._gathered.append(tell)
        self._revision = max(self._revision, revision)

    async def here(self, revision: int) -> list[str]:
        """Who of those that are connected here does not say so in time."""
        told: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

        def tell(missing: list[str]) -> None:
            if not told.done():  # else whoever asked has gone
                told.set_result(missing)

        number = self._query([tell], revision)
        self._maybe_finish(number)
        return await told

    def level(self, node: str, number: int) -> None:
        """The node has answered."""
        query = self._queries.get(number)
        if query is not None:
            query.missing.pop(node, None)
            self._maybe_finish(number)

    def _start(self) -> None:
        askers, self._gathered = self._gathered, []
        revision, self._revision = self._revision, 0
        number = self._query(askers, revision)
        query = self._queries[number]
        if self.elsewhere is None:
            query.absent = self._absent(())
        else:
            task = self._ask_elsewhere(self.elsewhere, number, revision)
            query.asking = asyncio.get_running_loop().create_task(task, name="routed-elsewhere")
        self._maybe_finish(number)

    def _query(self, askers: list[Told], revision: int) -> int:
        self._number += 1
        number = self._number
        routers = sorted(self._routers())
        timer = asyncio.get_running_loop().call_later(LIMIT_S, self._finish, number)
        self._queries[number] = _Query(askers, dict.fromkeys(routers), timer)
        for name in routers:
            query = nodelink_pb2.RoutesQuery(query=number, revision=revision)
            self._send(name, nodelink_pb2.ControlMessage(routes_query=query))
        return number

    async def _ask_elsewhere(self, elsewhere: Elsewhere, number: int, revision: int) -> None:
        missing, asked = await elsewhere(revision)
        query = self._queries.get(number)
        if query is not None:
            query.asking = None
            query.missing.update(dict.fromkeys(missing))
            query.absent = self._absent(asked)
            self._maybe_finish(number)

    def _maybe_finish(self, number: int) -> None:
        query = self._queries.get(number)
        if query is not None and not query.missing and not query.absent and query.asking is None:
            self._finish(number)

    def _finish(self, number: int) -> None:
        query = self._queries.pop(number, None)
        if query is None:
            return
        query.timer.cancel()
        if query.asking is not None:
            query.asking.cancel()
            query.missing["other replicas"] = None
        for tell in query.askers:
            tell(list(query.missing))
