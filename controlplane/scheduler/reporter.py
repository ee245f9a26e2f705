"""Says why a pod waits: its PodScheduled condition, written when it changed, and the events of the scheduler.

Writing never holds up scheduling: `waits` only notes what the condition should be (the latest word per pod counts), and a
few workers write it. A word that cannot be written after some tries is dropped, since the next attempt says it again.
Called by `Scheduler`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from controlplane.scheduler.cluster import PodInfo
from wherry.api import meta
from wherry.api.context import Env
from wherry.api.errors import APIError, Conflict, Forbidden, NotFound
from wherry.api.tasks import TaskGroup
from wherry.client.base import ClientAPI
from wherry.client.events import NORMAL, WARNING, EventRecorder
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

UNSCHEDULABLE = "Unschedulable"
SCHEDULER_ERROR = "SchedulerError"
GATED = "SchedulingGated"
GATED_MESSAGE = "Scheduling is blocked due to non-empty scheduling gates"

WORKERS = 4
TRIES = 4
RETRY_S = 1.0


class _Word(NamedTuple):
    info: PodInfo
    reason: str
    message: str


class Reporter:
    def __init__(self, client: ClientAPI, env: Env, component: str) -> None:
        self._client = client
        self._env = env
        self._recorder = EventRecorder(client, env, component)
        self._words: dict[str, _Word] = {}
        self._ready = asyncio.Event()

    def scheduled(self, info: PodInfo, node: str) -> None:
        self._words.pop(info.key, None)
        self._recorder.event(
            info.pod, NORMAL, "Scheduled", f"Successfully assigned {info.key} to {node}", action="Binding"
        )

    def waits(self, info: PodInfo, message: str, reason: str = UNSCHEDULABLE) -> None:
        self._recorder.event(info.pod, WARNING, "FailedScheduling", message, action="Scheduling")
        self._note(_Word(info, reason, message))

    def gated(self, info: PodInfo) -> None:
        """No event, as in Kubernetes."""
        self._note(_Word(info, GATED, GATED_MESSAGE))

    def gone(self, key: str) -> None:
        self._words.pop(key, None)

    def _note(self, word: _Word) -> None:
        if _says(word.info.pod, word):
            self._words.pop(word.info.key, None)
            return
        self._words[word.info.key] = word
        self._ready.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with TaskGroup() as group:
            group.keep(self._recorder.run, name="scheduler-events")
            for number in range(WORKERS):
                group.keep(self._work, name=f"scheduler-conditions-{number}")

    async def _work(self) -> None:
        while True:
            while not self._words:
                self._ready.clear()
                await self._ready.wait()
            word = self._words.pop(next(iter(self._words)))
            await self._write(word)

    async def _write(self, word: _Word) -> None:
        metadata = word.info.pod.metadata
        pod = core_v1_pb2.Pod()
        pod.CopyFrom(word.info.pod)
        for _ in range(TRIES):
            if word.info.key in self._words:
                return  # there is a newer word
            try:
                _say(pod, word, self._env.now())
                await self._client.update_status(pod)
                return
            except Conflict:
                try:
                    pod = await self._client.get(core_v1_pb2.Pod, metadata.name, metadata.namespace)
                except APIError:
                    return
                if pod.metadata.uid != metadata.uid or pod.spec.node_name or _says(pod, word):
                    return
            except (NotFound, Forbidden):
                return
            except APIError as error:
                log.debug("condition of %s: %s", word.info.key, error)
                await asyncio.sleep(RETRY_S * (0.5 + self._env.rng.random()))


def _says(pod: core_v1_pb2.Pod, word: _Word) -> bool:
    condition = meta.get_condition(pod.status.conditions, "PodScheduled")
    return condition is not None and (condition.status, condition.reason, condition.message) == (
        "False",
        word.reason,
        word.message,
    )


def _say(pod: core_v1_pb2.Pod, word: _Word, now: float) -> None:
    meta.set_condition(
        pod.status.conditions,
        "PodScheduled",
        "False",
        reason=word.reason,
        message=word.message,
        now=now,
        observed_generation=0 if word.reason == GATED else pod.metadata.generation,
    )
