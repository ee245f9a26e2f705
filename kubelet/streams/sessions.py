"""Serves one session each: dials `NodeLink.Session`, joins it with the runtime. Called by the agent for every OpenSession.

Frames to the client wait for room in the RPC (its flow control), frames from the client wait for the runtime; nothing is
buffered beyond that. A session ends with a `result` frame, as Kubernetes' v4.channel.k8s.io: Success, or NonZeroExitCode with
the code as a cause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from kubelet.link import SESSION
from kubelet.pods.worker import PodWorker
from kubelet.runtime.base import ByteStream, ContainerState, Runtime, RuntimeFailure
from kubelet.stats import StatsKeeper
from kubelet.streams.logs import LogQuery, read_logs
from kubelet.streams.ports import Forwarding
from wherry.api.context import Env
from wherry.api.errors import APIError, BadRequest, NotFound
from wherry.api.tasks import TaskGroup
from wherry.api.times import from_time
from wherry.client.base import BidiStream, Transport
from wherry.client.status import to_status
from wherry.pb import meta_v1_pb2, nodelink_pb2, pods_pb2

log = logging.getLogger(__name__)

SESSION_KEY = "wherry-session"
MAX_SESSIONS = 256
STATS_PIECE_BYTES = 256 << 10
Kind = pods_pb2.StreamStart
# In the kubelet's words; the others are the reason itself.
_WAITING = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}


class Sessions:
    """Runs sessions as tasks of the agent's group. `find(namespace, name, uid)` finds the pod's worker."""

    def __init__(
        self,
        env: Env,
        transport: Transport,
        runtime: Runtime,
        find: Callable[[str, str, str], PodWorker | None],
        stats: StatsKeeper,
    ) -> None:
        self._env, self._transport, self._runtime, self._find = env, transport, runtime, find
        self._stats = stats
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def open(self, group: TaskGroup, session: nodelink_pb2.OpenSession) -> None:
        session_id = session.session_id
        if session_id in self._tasks or len(self._tasks) >= MAX_SESSIONS:
            log.warning("session %s refused: %d are open", session_id, len(self._tasks))
            return
        start = pods_pb2.StreamStart()
        start.CopyFrom(session.start)
        task = group.create_task(self._serve(session_id, start))
        self._tasks[session_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(session_id, None))

    def close(self, session_id: str) -> None:
        task = self._tasks.get(session_id)
        if task is not None:
            task.cancel()

    async def _serve(self, session_id: str, start: pods_pb2.StreamStart) -> None:
        stream = self._transport.bidi(SESSION, metadata={SESSION_KEY: session_id})
        try:
            await stream.send(pods_pb2.StreamFrame())
            result = await self._answer(stream, start)
            await stream.send(pods_pb2.StreamFrame(result=result))
            await stream.done_sending()
            # Until the server has taken it all: cancelling now could overtake the last frames.
            async for _ in stream:
                pass
        except APIError as error:
            log.info("session %s of %s/%s ended: %s", session_id, start.namespace, start.name, error.message)
        except Exception:
            # Whatever one client's session runs into, the node and its pods go on.
            log.exception("session %s of %s/%s failed", session_id, start.namespace, start.name)
        finally:
            await stream.cancel()

    async def _answer(self, stream: BidiStream, start: pods_pb2.StreamStart) -> meta_v1_pb2.Status:
        """The result. Failures of ours become one; those of the stream are raised."""
        try:
            if start.kind == Kind.STATS:
                await _while_listening(stream, self._figures(stream))
                return meta_v1_pb2.Status(status="Success")
            worker = self._find(start.namespace, start.name, start.uid)
            if worker is None:
                raise NotFound(f'pods "{start.name}" not found on this node', kind="pods", name=start.name)
            match start.kind:
                case Kind.LOGS:
                    await _while_listening(stream, self._logs(stream, worker, start))
                case Kind.EXEC:
                    return await self._exec(stream, worker, start)
                case Kind.ATTACH:
                    return await self._attach(stream, worker, start)
                case Kind.PORT_FORWARD:
                    await self._port_forward(stream, worker, start)
                case _:
                    raise BadRequest(f"start.kind: {start.kind} is no kind of session")
        except APIError as error:
            return to_status(error)
        except RuntimeFailure as error:
            return _failure(error.message)
        return meta_v1_pb2.Status(status="Success")

    # -- logs

    async def _logs(self, stream: BidiStream, worker: PodWorker, start: pods_pb2.StreamStart) -> None:
        options = start.log_options
        name = start.container or options.container or worker.pod.spec.containers[0].name
        status = worker.container(name, previous=options.previous)
        pod = worker.pod.metadata.name
        if status is None or (status.state is ContainerState.CREATED and not options.follow):
            if options.previous:
                raise BadRequest(f'previous terminated container "{name}" in pod "{pod}" not found')
            waiting = _waiting_reason(worker, name)
            raise BadRequest(f'container "{name}" in pod "{pod}" is waiting to start: {waiting}')
        since: float | None = None
        if options.HasField("since_seconds"):
            since = self._env.now() - options.since_seconds
        elif options.HasField("since_time"):
            since = from_time(options.since_time)
        query = LogQuery(
            follow=options.follow,
            tail_lines=options.tail_lines if options.HasField("tail_lines") else None,
            since=since,
            timestamps=options.timestamps,
            limit_bytes=options.limit_bytes if options.HasField("limit_bytes") else None,
            stream=options.stream or "All",
        )
        container_id = status.id

        def running() -> bool:
            return any(c.id == container_id and c.state is ContainerState.RUNNING for c in worker.observed.containers)

        try:
            async for piece in read_logs(Path(status.log_path), query, running):
                await stream.send(pods_pb2.StreamFrame(stdout=piece))
        except FileNotFoundError as error:
            if status.log_path and status.state is ContainerState.RUNNING:
                return  # it has not written anything yet
            raise NotFound(f'the log of container "{name}" in pod "{pod}" is not there (any more)') from error

    # -- exec and attach

    async def _exec(self, stream: BidiStream, worker: PodWorker, start: pods_pb2.StreamStart) -> meta_v1_pb2.Status:
        container_id = _running(worker, start.container)
        session = await self._runtime.exec(
            container_id,
            list(start.command),
            stdin=start.stdin,
            stdout=start.stdout,
            stderr=start.stderr,
            tty=start.tty,
        )
        return await _join(stream, session)

    async def _attach(self, stream: BidiStream, worker: PodWorker, start: pods_pb2.StreamStart) -> meta_v1_pb2.Status:
        container_id = _running(worker, start.container)
        session = await self._runtime.attach(
            container_id, stdin=start.stdin, stdout=start.stdout, stderr=start.stderr, tty=start.tty
        )
        return await _join(stream, session)

    # -- port-forward

    async def _port_forward(self, stream: BidiStream, worker: PodWorker, start: pods_pb2.StreamStart) -> None:
        sandbox_id = worker.sandbox_id()
        if not sandbox_id:
            raise BadRequest(f'pod "{worker.pod.metadata.name}" is not running')
        address = worker.address() if start.to_address else ""
        if start.to_address and not address:
            raise BadRequest(f'pod "{worker.pod.metadata.name}" has no address')
        await Forwarding(stream, self._runtime, sandbox_id, windows=start.windows, address=address).run()

    # -- stats

    async def _figures(self, stream: BidiStream) -> None:
        document = (await self._stats.collect()).SerializeToString()
        for start in range(0, len(document), STATS_PIECE_BYTES):
            await stream.send(pods_pb2.StreamFrame(stdout=document[start : start + STATS_PIECE_BYTES]))


async def _while_listening(stream: BidiStream, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until the client goes away."""

    async def listen() -> None:
        async for _ in stream:
            pass

    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(listen())
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        else:
            listening.result()
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.wait((working, listening))


async def _join(stream: BidiStream, session: ByteStream) -> meta_v1_pb2.Status:
    """Both directions until the command ends. A client that goes away ends the session, and with it a command that reads."""
    reader: asyncio.Task[None] | None = None
    try:
        reader = asyncio.ensure_future(_from_client(stream, session))
        async for which, data in session.output():
            await stream.send(pods_pb2.StreamFrame(stderr=data) if which == 2 else pods_pb2.StreamFrame(stdout=data))
        code = await session.wait()
    finally:
        if reader is not None:
            reader.cancel()
            await asyncio.wait((reader,))
        await session.close()
    return exit_status(code)


async def _from_client(stream: AsyncIterator[Any] | BidiStream, session: ByteStream) -> None:
    try:
        async for frame in stream:
            match frame.WhichOneof("frame"):
                case "stdin":
                    await session.send(frame.stdin)
                case "stdin_closed":
                    await session.send_eof()
                case "resize":
                    await session.resize(frame.resize.width, frame.resize.height)
        await session.close()  # the client is gone: whoever has only said all sends stdin_closed
    except RuntimeFailure as error:
        log.debug("input of a session: %s", error.message)  # the output side tells the client
    except APIError:
        await session.close()


def exit_status(code: int) -> meta_v1_pb2.Status:
    if code == 0:
        return meta_v1_pb2.Status(status="Success")
    status = meta_v1_pb2.Status(
        status="Failure", reason="NonZeroExitCode",
        message=f"command terminated with non-zero exit code: exit status {code}",
    )  # fmt: skip
    status.details.causes.add(reason="ExitCode", message=str(code))
    return status


def _failure(message: str) -> meta_v1_pb2.Status:
    return meta_v1_pb2.Status(status="Failure", reason="InternalError", message=message, code=500)


def _running(worker: PodWorker, name: str) -> str:
    name = name or worker.pod.spec.containers[0].name
    status = worker.container(name)
    if status is None:
        raise NotFound(f"container {name} not found in pod {worker.pod.metadata.name}_{worker.pod.metadata.namespace}")
    if status.state is not ContainerState.RUNNING:
        raise BadRequest(f'container "{name}" in pod "{worker.pod.metadata.name}" is not running')
    return status.id


def _waiting_reason(worker: PodWorker, name: str) -> str:
    status = worker.memory.status
    if status is not None:
        for entry in [
            *status.container_statuses,
            *status.init_container_statuses,
            *status.ephemeral_container_statuses,
        ]:
            if entry.name == name and entry.state.waiting.reason:
                reason = str(entry.state.waiting.reason)
                return _WAITING.get(reason, reason)
    return "ContainerCreating"
