"""Tells the control plane by which endpoints this haproxy leads: a pod that ends gets its signal when it is taken from here too,
as from the nodes' tables. Run by `controller`; the other end is `NodeLink.Route`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from wherry.api.context import Env
from wherry.api.errors import APIError
from wherry.api.tasks import TaskGroup
from wherry.client.base import BidiStream, Transport
from wherry.pb import nodelink_pb2

log = logging.getLogger(__name__)

ROUTE = "/wherry.v1.NodeLink/Route"
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.1, 5.0
STEADY_S = 10.0  # a stream that lasted this long starts the back-off anew
LEVEL_LIMIT_S = 5.0  # longer than anybody waits for the answer


class RouteStream:
    """`routes_by(revision)` returns when haproxy leads by the EndpointSlices of that revision."""

    def __init__(self, transport: Transport, env: Env, name: str, routes_by: Callable[[int], Awaitable[None]]) -> None:
        self._transport, self._env, self._name, self._routes_by = transport, env, name, routes_by
        self._problem = ""
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_MIN_S
        while True:
            began = loop.time()
            try:
                await self._session()
                problem = "the stream has ended"
            except APIError as error:
                problem = error.message
            if loop.time() - began > STEADY_S:
                backoff_s = BACKOFF_MIN_S
            if problem != self._problem:
                self._problem = problem
                log.info("pods do not wait for this ingress before they end: %s", problem)
            await asyncio.sleep(backoff_s * (0.5 + self._env.rng.random()))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _session(self) -> None:
        stream = self._transport.bidi(ROUTE)
        try:
            hello = nodelink_pb2.Hello(node_name=self._name, routes_services=True)
            await stream.send(nodelink_pb2.AgentMessage(hello=hello))
            async with TaskGroup() as group:
                async for message in stream:
                    self._problem = ""
                    if message.WhichOneof("message") == "routes_query":
                        group.create_task(self._answer(stream, message.routes_query), name="routes-query")
        except BaseExceptionGroup as group_error:
            raise next(iter(group_error.exceptions)) from group_error
        finally:
            await stream.cancel()

    async def _answer(self, stream: BidiStream, query: nodelink_pb2.RoutesQuery) -> None:
        try:
            async with asyncio.timeout(LEVEL_LIMIT_S):
                await self._routes_by(query.revision)
                level = nodelink_pb2.RoutesLevel(query=query.query)
                async with self._sending:
                    await stream.send(nodelink_pb2.AgentMessage(routes_level=level))
        except (APIError, TimeoutError) as error:
            log.debug("query %d about routes: %s", query.query, error)
