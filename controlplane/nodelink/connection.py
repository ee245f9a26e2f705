"""One agent's control stream: its pods go down, heartbeats and statuses come up.

Three tasks beside the servicer that sends: `_read` takes what the agent says and never waits for the store, so a slow disk
does not make a node look silent; `_write_statuses` commits the latest status of each pod; `_send_pods` follows the pods that are
bound to the node. Whichever fails ends the stream; the agent dials again and both sides start from the whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from controlplane.fronts.call import Call
from controlplane.fronts.commit import Commits
from controlplane.nodelink.channel import Channel
from controlplane.nodelink.heartbeats import Heartbeats
from controlplane.nodelink.nodestatus import write_node_status
from controlplane.nodelink.routing import Routing
from controlplane.registry.base import ListOptions, RegistryAPI, WatchBatch, WatchOptions
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import APIError, BadRequest, Conflict, Expired, NotFound, ServiceUnavailable
from wherry.api.tasks import TaskGroup
from wherry.pb import core_v1_pb2, nodelink_pb2

log = logging.getLogger(__name__)

OUTBOX_LIMIT = 64
POD_BATCH = 100
STATUS_BATCH = 100


class Connection:
    """Invariants: `_pods` holds key and uid of every pod that the agent was told of and not told to drop; `_statuses` holds at
    most one entry per pod in it; an acknowledged sequence is durable."""

    def __init__(
        self,
        node: str,
        hello: nodelink_pb2.Hello,
        call: Call,
        registry: RegistryAPI,
        commits: Commits,
        heartbeats: Heartbeats,
        routing: Routing,
        env: Env,
    ) -> None:
        self.node = node
        self.hello = hello
        self.outbox = Channel(OUTBOX_LIMIT)
        self.settings: nodelink_pb2.Settings | None = None  # as the agent was told last
        self._call = call
        self._registry = registry
        self._commits = commits
        self._heartbeats = heartbeats
        self._routing = routing
        self._env = env
        self._kind = kinds.by_name("v1", "Pod")
        self._pods: dict[tuple[str, str], str] = {}
        self._listed = asyncio.Event()
        self._statuses: dict[tuple[str, str, str], nodelink_pb2.PodStatusUpdate] = {}
        self._unknown: dict[tuple[str, str, str], None] = {}
        self._node_status: core_v1_pb2.NodeStatus | None = None
        self._sequence = 0
        self._pending = asyncio.Event()

    def end(self, error: APIError) -> None:
        """Breaks the stream off; the agent sees `error`."""
        self.outbox.abandon(error)

    async def run(self, requests: AsyncIterator[nodelink_pb2.AgentMessage]) -> None:
        """Until the agent goes, something fails, or the task is cancelled; then `outbox` is closed with the reason."""
        try:
            async with TaskGroup() as group:
                tasks = [
                    group.create_task(self._send_pods(), name=f"node-{self.node}-pods"),
                    group.create_task(self._write_statuses(), name=f"node-{self.node}-statuses"),
                ]
                await self._read(requests)
                for task in tasks:
                    task.cancel()
            self.outbox.close()
        except BaseExceptionGroup as group_error:
            self.outbox.close(_reason(group_error))
        finally:
            self.outbox.close()

    async def _read(self, requests: AsyncIterator[nodelink_pb2.AgentMessage]) -> None:
        async for message in requests:
            self._heartbeats.beat(self.node)
            which = message.WhichOneof("message")
            if which == "status":
                await self._take(message.status)
            elif which == "routes_request":
                self._routing.ask(self.node, message.routes_request.request, message.routes_request.revision)
            elif which == "routes_level":
                self._routing.level(self.node, message.routes_level.query)
            elif which == "hello":
                raise BadRequest("hello: it was said already; it is the first message of a stream only")

    async def _take(self, batch: nodelink_pb2.StatusBatch) -> None:
        await self._listed.wait()  # what is not in the list is unknown, so the list comes first
        for update in batch.pods:
            key = (update.namespace, update.name, update.uid)
            if self._pods.get(key[:2]) != update.uid:
                self._unknown[key] = None
                continue
            copy = nodelink_pb2.PodStatusUpdate()
            copy.CopyFrom(update)
            self._statuses.pop(key, None)
            self._statuses[key] = copy
        if batch.HasField("node"):
            status = core_v1_pb2.NodeStatus()
            status.CopyFrom(batch.node)
            self._node_status = status
        self._sequence = max(self._sequence, batch.sequence)
        self._pending.set()

    async def _write_statuses(self) -> None:
        while True:
            await self._pending.wait()
            self._pending.clear()
            sequence = self._sequence
            unknown, self._unknown = self._unknown, {}
            updates, self._statuses = self._statuses, {}
            node_status, self._node_status = self._node_status, None
            if node_status is not None:
                now = self._env.now()
                await self._commits.run(
                    write_node_status(self._registry, self._call.context(), self.node, node_status, now)
                )
            waiting = list(updates.values())
            for start in range(0, len(waiting), STATUS_BATCH):
                for key in await self._commit(waiting[start : start + STATUS_BATCH]):
                    unknown[key] = None
            ack = nodelink_pb2.StatusAck(
                sequence=sequence,
                unknown=[nodelink_pb2.PodKey(namespace=key[0], name=key[1], uid=key[2]) for key in unknown],
                server_time=self._env.now(),
            )
            await self.outbox.put(nodelink_pb2.ControlMessage(ack=ack))

    async def _commit(self, updates: Sequence[nodelink_pb2.PodStatusUpdate]) -> list[tuple[str, str, str]]:
        """Writes a batch; returns the pods that are no more. Raises what makes the whole stream useless."""
        ctx = self._call.context()
        ctx.cause = next((update.cause for update in updates if update.cause), ctx.cause)
        results = await self._commits.run(
            self._registry.update_pod_statuses(
                ctx, [(u.namespace, u.name, u.uid, u.status, u.terminated) for u in updates]
            )
        )
        gone = []
        for update, error in zip(updates, results, strict=True):
            if error is None:
                continue
            if isinstance(error, NotFound | Conflict):
                gone.append((update.namespace, update.name, update.uid))
            elif isinstance(error, APIError) and error.code < 500:
                # Sent again it would be refused again: said once in the log, and left.
                log.warning("node %s: status of %s/%s: %s", self.node, update.namespace, update.name, error)
            else:
                raise error
        return gone

    async def _send_pods(self) -> None:
        selector = f"spec.nodeName={self.node}"
        context = self._call.context()
        listed = await self._registry.list(context, self._kind, ListOptions(field_selector=selector))
        items = list(listed.items)
        for start in range(0, max(len(items), 1), POD_BATCH):
            batch = nodelink_pb2.PodBatch(synced=start + POD_BATCH >= len(items))
            for stored in items[start : start + POD_BATCH]:
                self._upsert(batch, stored.message())
            await self.outbox.put(nodelink_pb2.ControlMessage(pods=batch))
        self._listed.set()
        options = WatchOptions(field_selector=selector, resource_version=str(listed.revision))
        watch: Any = self._registry.watch(context, self._kind, options)
        try:
            async for changes in watch:
                for batch in self._batches(changes):
                    await self.outbox.put(nodelink_pb2.ControlMessage(pods=batch))
        except Expired as error:
            raise ServiceUnavailable(f"the pods of node {self.node} have to be listed again") from error
        finally:
            await watch.aclose()
        raise ServiceUnavailable("the watch of pods has ended")

    def _batches(self, changes: WatchBatch) -> list[nodelink_pb2.PodBatch]:
        batches = [nodelink_pb2.PodBatch()]
        for event in changes.events:
            if event.type == "BOOKMARK":
                continue
            if len(batches[-1].upserts) + len(batches[-1].removed) >= POD_BATCH:
                batches.append(nodelink_pb2.PodBatch())
            pod = event.stored.message()
            if event.type == "DELETED":
                self._remove(batches[-1], pod)
            else:
                self._upsert(batches[-1], pod)
        return [batch for batch in batches if batch.upserts or batch.removed]

    def _upsert(self, batch: nodelink_pb2.PodBatch, pod: core_v1_pb2.Pod) -> None:
        key = (pod.metadata.namespace, pod.metadata.name)
        self._pods[key] = pod.metadata.uid
        batch.upserts.append(pod)

    def _remove(self, batch: nodelink_pb2.PodBatch, pod: core_v1_pb2.Pod) -> None:
        key = (pod.metadata.namespace, pod.metadata.name)
        if self._pods.get(key) == pod.metadata.uid:
            del self._pods[key]
        self._statuses.pop((*key, pod.metadata.uid), None)
        batch.removed.add(namespace=key[0], name=key[1], uid=pod.metadata.uid)


def _reason(group: BaseExceptionGroup[BaseException]) -> APIError:
    """The error that the agent is told: the first of ours, else a defect."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _reason(error)
        if isinstance(error, APIError):
            return error
    log.error("a control stream failed", exc_info=group)
    return ServiceUnavailable(f"the control stream failed: {group.exceptions[0]!r}")
