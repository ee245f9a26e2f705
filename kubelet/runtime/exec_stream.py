"""An exec or attach session with a CRI streaming server, a `kubelet.runtime.base.ByteStream`. Called by `kubelet.runtime.cri`.

CRI answers Exec with a URL; there, after an HTTP upgrade, Kubernetes' remote command protocol (v4.channel.k8s.io) runs with
one SPDY stream each for error, stdin, stdout, stderr and, with a terminal, resize. The exit code comes last, as a Status on the
error stream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from kubelet.runtime import netns as netns_module
from kubelet.runtime import spdy
from kubelet.runtime.base import RuntimeFailure, RuntimeNotFound
from kubelet.runtime.sockets import LINGER_S, end

PROTOCOL = "v4.channel.k8s.io"
UPGRADE_TIMEOUT_S = 30.0
_MAX_STATUS_BYTES = 1 << 20
_MAX_HEADER_BYTES = 64 << 10
# Pieces read from the runtime that nobody has taken yet; then the connection is not read further.
_QUEUE_LENGTH = 32
_NORMAL, _STDOUT, _STDERR = 0, 1, 2


async def open_session(url: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, netns: str = "") -> ExecSession:
    """Connects to the URL that CRI named and opens the streams. Raises RuntimeFailure."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None or parts.port is None:
        raise RuntimeFailure(f'streaming URL "{url}": want http://HOST:PORT/PATH (is TLS streaming enabled?)')
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        async with asyncio.timeout(UPGRADE_TIMEOUT_S):
            sock = await netns_module.connect(netns, parts.hostname, parts.port)
            reader, writer = await asyncio.open_connection(sock=sock)
            try:
                await _upgrade(reader, writer, f"{parts.hostname}:{parts.port}", path)
                session = ExecSession(reader, writer)
                await session.start(stdin=stdin, stdout=stdout, stderr=stderr, resize=tty)
            except BaseException:
                writer.close()
                raise
    except TimeoutError as error:
        raise RuntimeFailure(f"streaming server did not answer within {UPGRADE_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise RuntimeFailure(f"streaming server at {parts.netloc}: {error}") from error
    return session


async def _upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str) -> None:
    writer.write(
        (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            f"X-Stream-Protocol-Version: {PROTOCOL}\r\nContent-Length: 0\r\n\r\n"
        ).encode("ascii")
    )
    await writer.drain()
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise RuntimeFailure("streaming server closed the connection before the upgrade") from error
    status = head.split("\r\n", 1)[0]
    if " 101 " not in f"{status} ":
        body = (await reader.read(_MAX_HEADER_BYTES)).decode("utf-8", "replace").strip()
        text = f"streaming server refused the session: {status} {body}".strip()
        raise RuntimeNotFound(text) if " 404" in status else RuntimeFailure(text)


class ExecSession:
    """One session. `start` is called once by `open_session`; `output` has one reader; the owner calls `close`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._encoder = spdy.Encoder()
        self._ids: dict[str, int] = {}
        self._output: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(_QUEUE_LENGTH)
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._status = bytearray()
        self._open: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._stdin_open = False

    async def start(self, *, stdin: bool, stdout: bool, stderr: bool, resize: bool) -> None:
        wanted = {"error": True, "stdin": stdin, "stdout": stdout, "stderr": stderr, "resize": resize}
        for number, name in enumerate(name for name, on in wanted.items() if on):
            self._ids[name] = 2 * number + 1
            self._writer.write(self._encoder.syn_stream(self._ids[name], {"streamtype": name}))
        self._stdin_open = stdin
        self._open = {self._ids[name] for name in ("error", "stdout", "stderr") if name in self._ids}
        await self._writer.drain()
        self._task = asyncio.create_task(self._read(), name="exec-session")

    # -- ByteStream

    async def send(self, data: bytes) -> None:
        if not self._stdin_open:
            raise RuntimeFailure("the session has no stdin, or it was closed", retryable=False)
        stream = self._ids["stdin"]
        for start in range(0, len(data), spdy.MAX_DATA_BYTES):
            await self._write(spdy.data(stream, data[start : start + spdy.MAX_DATA_BYTES]))

    async def send_eof(self) -> None:
        if self._stdin_open:
            self._stdin_open = False
            await self._write(spdy.data(self._ids["stdin"], b"", fin=True))

    async def resize(self, width: int, height: int) -> None:
        if "resize" in self._ids and not self._exit.done():
            size = json.dumps({"Width": width, "Height": height}).encode()
            await self._write(spdy.data(self._ids["resize"], size))

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        while (item := await self._output.get()) is not None:
            yield item
        self._output.put_nowait(None)  # whoever asks again sees the end again

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def close(self) -> None:
        ended = self._exit.done()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._exit.done():
            self._exit.exception()  # seen, whether or not anyone waited
        else:
            self._exit.cancel()
        # A command that has ended reads no more; one whose client has left may still read what that has said.
        await end(self._writer, 0.0 if ended else LINGER_S)

    # -- the connection

    async def _write(self, frame: bytes) -> None:
        try:
            self._writer.write(frame)
            await self._writer.drain()
        except OSError as error:
            # The process may have ended while its stdin was still being fed: `wait` tells.
            if not self._exit.done():
                raise RuntimeFailure(f"the session broke: {error}") from error

    async def _read(self) -> None:
        try:
            while self._open:
                frame = await spdy.read_frame(self._reader)
                if frame is None:
                    break
                await self._handle(frame)
        except asyncio.CancelledError:
            self._finish(RuntimeFailure("the session was closed"))
            raise
        except (OSError, ValueError) as error:
            self._finish(RuntimeFailure(f"the session broke: {error}"))
        else:
            self._finish(None)
            await self._output.put(None)
            return
        # Broken: the end must be seen even by a reader that is behind.
        while self._output.full():
            self._output.get_nowait()
        self._output.put_nowait(None)

    async def _handle(self, frame: spdy.Data | spdy.Control) -> None:
        if isinstance(frame, spdy.Control):
            if frame.type == spdy.FrameType.PING:
                await self._write(spdy.ping(frame.payload))
            elif frame.type == spdy.FrameType.RST_STREAM or frame.fin:
                self._open.discard(frame.stream_id)
            elif frame.type == spdy.FrameType.GOAWAY:
                self._open.clear()
            return
        if frame.payload:
            if frame.stream_id == self._ids["error"]:
                self._status += frame.payload[: _MAX_STATUS_BYTES - len(self._status)]
            elif frame.stream_id == self._ids.get("stdout"):
                await self._output.put((_STDOUT, frame.payload))
            elif frame.stream_id == self._ids.get("stderr"):
                await self._output.put((_STDERR, frame.payload))
        if frame.fin:
            self._open.discard(frame.stream_id)

    def _finish(self, broken: RuntimeFailure | None) -> None:
        if self._exit.done():
            return
        try:
            self._exit.set_result(exit_code(bytes(self._status)))
        except RuntimeFailure as error:
            self._exit.set_exception(broken or error)


def exit_code(status: bytes) -> int:
    """From the Status object on the error stream. Raises RuntimeFailure when there is none, or it tells of another failure."""
    if not status:
        raise RuntimeFailure("the session ended without an exit status")
    try:
        document = json.loads(status)
    except ValueError as error:
        raise RuntimeFailure(status.decode("utf-8", "replace").strip()) from error
    if document.get("status") == "Success":
        return 0
    for cause in (document.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise RuntimeFailure(str(document.get("message") or document.get("reason") or "the command failed"))
