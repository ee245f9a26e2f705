"""Binds what the cycle has placed: one `BindBatch` per round, and what follows from each of its results.

A binding that fails is one of three: refused by the server (the pod backs off and is tried again), moot (the pod is gone, or
bound by someone else), or of unknown outcome (the server could not be reached, or answered too late). In the last case
the pod stays assumed on its node until a read has told what became of it, so that its room is not given away twice.
Called by `Scheduler`, which hands in `Outcomes`: what it does with each result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from controlplane.scheduler.queue import Entry
from wherry.api.context import Env
from wherry.api.errors import APIError, Conflict, NotFound, ServiceUnavailable, Timeout
from wherry.client.base import ClientAPI
from wherry.pb import core_v1_pb2, pods_pb2

log = logging.getLogger(__name__)

VERIFY_RETRY_MIN_S = 0.5
VERIFY_RETRY_MAX_S = 10.0
# Whether the server did it can't be told from these: the first two because no answer came, Conflict because it may
# speak of our own earlier attempt.
UNKNOWN = (ServiceUnavailable, Timeout, Conflict)


class LeaseFence(Protocol):
    """The lease that this scheduler leads by (design, section 9): the server compares its revision in the transaction
    of every binding, so a leader that was paused past its time binds nothing. `wherry.client.leader` has one."""

    @property
    def lease(self) -> str:
        """namespace/name."""
        ...

    @property
    def revision(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Binding:
    entry: Entry
    node: str


class Outcomes(Protocol):
    def bound(self, binding: Binding) -> None:
        """By us, durably; the watch will confirm it."""
        ...

    def moot(self, binding: Binding, pod: core_v1_pb2.Pod | None) -> None:
        """None: the pod is gone; else it is bound (to whatever node it says)."""
        ...

    def failed(self, binding: Binding, error: Exception | None) -> None:
        """It is not bound. With an error: the server's refusal."""
        ...


class Binder:
    def __init__(self, client: ClientAPI, env: Env, outcomes: Outcomes, lease: LeaseFence | None) -> None:
        self._client = client
        self._env = env
        self._outcomes = outcomes
        self._lease = lease

    async def bind(self, bindings: Sequence[Binding]) -> None:
        """Every binding gets exactly one outcome, unless this is cancelled. Never raises APIError."""
        requests = [self._request(binding) for binding in bindings]
        results: Sequence[str | Exception]
        try:
            results = await self._client.bind_batch(requests)
        except APIError as error:
            results = [error] * len(bindings)
        unknown: list[Binding] = []
        for binding, result in zip(bindings, results, strict=True):
            if isinstance(result, str):
                self._outcomes.bound(binding)
            elif isinstance(result, NotFound):
                self._outcomes.moot(binding, None)
            elif isinstance(result, UNKNOWN):
                unknown.append(binding)
            else:
                self._outcomes.failed(binding, result)
        await self.verify(unknown)

    async def verify(self, bindings: Sequence[Binding]) -> None:
        """Settles each binding by reading the pod. There is no giving up: as long as the server does not answer, nothing
        else can be bound either, and the room of a pod that may be bound is not given away."""
        for binding in bindings:
            await self._verify(binding)

    def _request(self, binding: Binding) -> pods_pb2.BindRequest:
        metadata = binding.entry.info.pod.metadata
        # No resourceVersion: a label that changed meanwhile, or our own condition, does not make the placement wrong.
        request = pods_pb2.BindRequest(
            namespace=metadata.namespace, name=metadata.name, uid=metadata.uid, node=binding.node
        )
        if self._lease is not None:
            request.lease, request.lease_revision = self._lease.lease, self._lease.revision
        return request

    async def _verify(self, binding: Binding) -> None:
        delay_s = VERIFY_RETRY_MIN_S
        metadata = binding.entry.info.pod.metadata
        while True:
            try:
                pod = await self._client.get(core_v1_pb2.Pod, metadata.name, metadata.namespace)
            except NotFound:
                self._outcomes.moot(binding, None)
                return
            except APIError as error:
                log.warning("binding %s to %s: outcome unknown: %s", binding.entry.info.key, binding.node, error)
                await asyncio.sleep(delay_s * (0.5 + self._env.rng.random()))
                delay_s = min(2 * delay_s, VERIFY_RETRY_MAX_S)
                continue
            if pod.metadata.uid != metadata.uid:
                self._outcomes.moot(binding, None)
            elif pod.spec.node_name:
                self._outcomes.moot(binding, pod)
            else:
                self._outcomes.failed(binding, None)
            return
