"""Asks the other replicas whether the nodes and ingresses that they hold route by some revision, and which nodes those are.

Called by `routing` when a pod that has left its endpoints is to get its signal. Connections are made with the first question and
kept; nothing is asked, and nothing written, as long as no pod ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from controlplane.replicas import Replica, Replicas
from controlplane.store.base import StoreError
from wherry.api.errors import APIError, ServiceUnavailable
from wherry.client.base import Transport
from wherry.pb import nodelink_pb2

log = logging.getLogger(__name__)

ROUTED = "/wherry.v1.NodeLink/Routed"
ANSWER_S = 3.0  # longer than the other one waits for its nodes

Dial = Callable[[str], Transport]


class OtherReplicas:
    """`dial` gives a transport to the replica at an address, under the API server's own identity. `close` ends them."""

    def __init__(self, replicas: Replicas, dial: Dial) -> None:
        self._replicas = replicas
        self._dial = dial
        self._transports: dict[str, Transport] = {}
        self._closed = False

    async def routed(self, revision: int) -> tuple[list[str], list[str]]:
        """Who does not route by it, and the nodes that were asked. A replica that does not answer is one of the former: it
        may hold an ingress of which nobody else knows."""
        try:
            replicas = [replica for replica in await self._replicas.others() if replica.address]
        except StoreError as error:
            log.info("the other replicas are not known: %s", error)
            return ["replicas"], []
        await self._forget({replica.address for replica in replicas})
        answers = await asyncio.gather(*(self._ask(replica, revision) for replica in replicas))
        missing: list[str] = []
        nodes: list[str] = []
        for replica, answer in zip(replicas, answers, strict=True):
            if answer is None:
                missing.append(f"replica/{replica.name}")
            else:
                missing += answer.missing
                nodes += answer.nodes
        return missing, nodes

    async def _ask(self, replica: Replica, revision: int) -> nodelink_pb2.RoutedResponse | None:
        request = nodelink_pb2.RoutedRequest(revision=revision)
        why = ""
        for _ in range(2):
            transport = self._transports.get(replica.address)
            kept = transport is not None
            try:
                if transport is None:
                    if self._closed:
                        raise ServiceUnavailable("this replica is stopping")
                    transport = self._transports[replica.address] = self._dial(replica.address)
                answer: nodelink_pb2.RoutedResponse = await transport.unary(ROUTED, request, timeout_s=ANSWER_S)
                return answer
            except APIError as error:
                why = error.message
                if transport is not None and self._transports.get(replica.address) is transport:
                    del self._transports[replica.address]
                    await transport.close()
            if not kept:
                break  # else the connection was from before the replica's last start, or our certificate has ended
        log.info("replica %s did not say whether its nodes route by %d: %s", replica.name, revision, why)
        return None

    async def _forget(self, known: set[str]) -> None:
        for address in sorted(self._transports.keys() - known):
            if (transport := self._transports.pop(address, None)) is not None:
                await transport.close()

    async def close(self) -> None:
        self._closed = True
        await self._forget(set())
