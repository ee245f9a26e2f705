"""containerd's event stream as `RuntimeEvent`s. Called by `kubelet.runtime.cri` for `Runtime.events`.

containerd 1.6 has no CRI GetContainerEvents, so this listens to its own Events service, which sees a task's exit before CRI's
part of containerd has written it down. An exit is therefore held back until CRI agrees: a receiver that looks at the state, as
it must, then sees what the event meant.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc

from kubelet.runtime.base import RuntimeEvent, RuntimeFailure
from kubelet.runtime.cri_messages import NAMESPACE, failure
from wherry.pb import containerd_events_pb2 as pb

# CRI usually follows within a few milliseconds; beyond this the event goes out anyway and the relist has the last word.
SETTLE_TIMEOUT_S = 2.0
_FIRST_PAUSE_S = 0.004
_QUEUE_LENGTH = 4096

_KINDS = {
    "/tasks/create": "created",
    "/tasks/start": "started",
    "/tasks/exit": "exited",
    "/tasks/oom": "oom",
    "/tasks/delete": "deleted",
}


async def subscribe(events: Any, has_settled: Callable[[str], Awaitable[bool]]) -> AsyncGenerator[RuntimeEvent, None]:
    """Yields until closed; raises RuntimeFailure when the connection breaks or the reader falls too far behind."""
    request = pb.SubscribeRequest(filters=[f"namespace=={NAMESPACE},topic~=^/tasks/"])
    call = events.Subscribe(request, metadata=(("containerd-namespace", NAMESPACE),))
    queue: asyncio.Queue[RuntimeEvent | RuntimeFailure] = asyncio.Queue(_QUEUE_LENGTH)
    reader = asyncio.create_task(_read(call, queue, has_settled), name="containerd-events")
    try:
        while True:
            item = await queue.get()
            if isinstance(item, RuntimeFailure):
                raise item
            yield item
    finally:
        reader.cancel()
        call.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _read(
    call: Any,
    queue: asyncio.Queue[RuntimeEvent | RuntimeFailure],
    has_settled: Callable[[str], Awaitable[bool]],
) -> None:
    waiting: dict[str, asyncio.Task[None]] = {}  # by container; a container has one exit

    async def when_settled(event: RuntimeEvent) -> None:
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + SETTLE_TIMEOUT_S, _FIRST_PAUSE_S
        try:
            while loop.time() < deadline and not await has_settled(event.container_id):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.1)
        except RuntimeFailure:
            pass  # containerd is going away: the stream is about to say so
        finally:
            waiting.pop(event.container_id, None)
        await queue.put(event)

    try:
        async for envelope in call:
            event = decode(envelope)
            if event is None:
                continue
            if event.kind == "exited" and event.container_id not in waiting:
                waiting[event.container_id] = asyncio.create_task(when_settled(event))
            else:
                queue.put_nowait(event)
        broken = RuntimeFailure("containerd closed the event stream")
    except grpc.aio.AioRpcError as error:
        broken = failure(error)
    except asyncio.QueueFull:
        broken = RuntimeFailure(f"more than {_QUEUE_LENGTH} runtime events were not yet read")
    finally:
        for task in list(waiting.values()):
            task.cancel()
    while queue.full():
        queue.get_nowait()  # the reader relists anyway
    queue.put_nowait(broken)


def decode(envelope: pb.Envelope) -> RuntimeEvent | None:
    """None for what does not concern a container's or sandbox's first process (execs, pauses, checkpoints)."""
    kind = _KINDS.get(envelope.topic)
    if kind is None:
        return None
    if kind == "exited":
        exited = pb.TaskExit.FromString(envelope.event.value)
        return RuntimeEvent(kind, exited.container_id) if exited.id in ("", exited.container_id) else None
    if kind == "deleted":
        deleted = pb.TaskDelete.FromString(envelope.event.value)
        return RuntimeEvent(kind, deleted.container_id) if deleted.id in ("", deleted.container_id) else None
    return RuntimeEvent(kind, pb.TaskEvent.FromString(envelope.event.value).container_id)
