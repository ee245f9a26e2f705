"""The agent's end of one port-forward session: many TCP connections into a pod over one stream.

Called by `kubelet.streams.sessions`. One task reads the stream and never waits for a connection: what arrives goes into the
connection's pipe (bounded by its window), connecting is a task of its own. So a connection that is stuck, slow to be made or
not read holds up none of the others. A client without windows (see proto/pods.proto) holds itself up.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from kubelet.runtime.base import ByteStream, Runtime, RuntimeFailure
from wherry.api.errors import APIError
from wherry.api.tasks import TaskGroup
from wherry.client.base import BidiStream
from wherry.client.windows import Credit, Pipe, Window
from wherry.pb import pods_pb2

log = logging.getLogger(__name__)

MAX_PORTS = 128  # connections of one session at a time


class _Connection:
    def __init__(self, port: int, *, windows: bool) -> None:
        self.port = port
        self.window = Window(limited=windows)
        self.pipe = Pipe()
        self.credit = Credit() if windows else None
        self.task: asyncio.Task[None] | None = None


class Forwarding:
    """Invariant: `_connections` holds those that the client has opened and that have not ended here."""

    def __init__(
        self, stream: BidiStream, runtime: Runtime, sandbox_id: str, *, windows: bool, address: str = ""
    ) -> None:
        self._stream, self._runtime, self._sandbox_id, self._windows = stream, runtime, sandbox_id, windows
        self._address = address
        self._lock = asyncio.Lock()
        self._connections: dict[int, _Connection] = {}

    async def run(self) -> None:
        """Until the client ends its side."""
        async with TaskGroup() as group:
            tasks: dict[asyncio.Task[None], None] = {}
            async for frame in self._stream:
                number = frame.channel
                if frame.WhichOneof("frame") != "start_port":
                    await self._take(frame)
                    continue
                if number in self._connections or len(self._connections) >= MAX_PORTS:
                    task = group.create_task(self._refuse(number, f"{MAX_PORTS} connections are open"))
                else:
                    connection = self._connections[number] = _Connection(frame.start_port, windows=self._windows)
                    task = connection.task = group.create_task(self._serve(number, connection))
                tasks[task] = None
                task.add_done_callback(lambda done: tasks.pop(done, None))
            for task in list(tasks):
                task.cancel()

    async def _take(self, frame: Any) -> None:
        connection = self._connections.get(frame.channel)
        if connection is None:
            return  # it has ended here, and the client does not know yet
        which = frame.WhichOneof("frame")
        if which == "credit":
            connection.window.give(frame.credit)
        elif which == "channel_closed":
            connection.pipe.close()
        elif which == "channel_error" and connection.task is not None:
            connection.task.cancel()  # nobody reads what it would still say
        elif which == "data" and not connection.pipe.offer(frame.data):
            if self._windows:
                log.info("port-forward: channel %d has overrun its window", frame.channel)
            await connection.pipe.put(frame.data)

    async def _refuse(self, number: int, problem: str) -> None:
        try:
            await self._send(channel=number, channel_error=problem)
        except APIError as error:
            log.debug("port-forward: %s", error.message)  # the client is gone: the session's own reader sees it too

    async def _serve(self, number: int, connection: _Connection) -> None:
        port: ByteStream | None = None
        try:
            port = await self._runtime.port_forward(self._sandbox_id, connection.port, self._address)
            uploading = asyncio.ensure_future(self._upload(number, connection, port))
            try:
                await self._download(number, connection, port)
            finally:
                uploading.cancel()
                await asyncio.wait((uploading,))
            await self._send(channel=number, channel_closed=True)
        except RuntimeFailure as error:
            await self._refuse(number, error.message)
        except APIError as error:
            log.debug("port-forward: %s", error.message)
        finally:
            self._connections.pop(number, None)
            connection.pipe.close()
            if port is not None:
                await port.close()

    async def _download(self, number: int, connection: _Connection, port: ByteStream) -> None:
        async for _, data in port.output():
            view = memoryview(data)
            while view:
                size = await connection.window.take(len(view))
                await self._send(channel=number, data=bytes(view[:size]))
                view = view[size:]

    async def _upload(self, number: int, connection: _Connection, port: ByteStream) -> None:
        try:
            while data := await connection.pipe.get():
                await port.send(data)
                credit = connection.credit.taken(len(data)) if connection.credit is not None else 0
                if credit:
                    await self._send(channel=number, credit=credit)
            await port.send_eof()
        except (RuntimeFailure, APIError) as error:
            log.debug("port-forward: %s", error.message)  # the reading side tells the client
            connection.pipe.close()

    async def _send(self, **fields: Any) -> None:
        async with self._lock:
            await self._stream.send(pods_pb2.StreamFrame(**fields))
