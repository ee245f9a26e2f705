"""What goes on for long with a Docker daemon, over its unix socket and without a thread: answers that stream (logs, events) and
the two-way sessions of exec and attach. Called by `kubelet.runtime.docker` and `docker_logs`.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

from kubelet.runtime.base import RuntimeFailure, RuntimeNotFound
from kubelet.runtime.docker_engine import Engine
from kubelet.runtime.sockets import SocketStream

VERSION = "v1.40"
ANSWER_TIMEOUT_S = 30.0
MAX_HEAD_BYTES = 64 << 10
MAX_FRAME_BYTES = 64 << 20
EXIT_POLL_S = 0.05
_PIECE_BYTES = 64 << 10


async def _open(
    socket: str, method: str, path: str, body: Any = None, *, upgrade: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """The connection behind the answer's head, and that head. Raises RuntimeFailure, RuntimeNotFound."""
    content = json.dumps(body).encode() if body is not None else b""
    # HTTP/1.0: the answer is not chunked, and ends with the connection.
    head = [f"{method} /{VERSION}{path} HTTP/{'1.1' if upgrade else '1.0'}", "Host: docker"]
    if upgrade:
        head += ["Connection: Upgrade", "Upgrade: tcp"]
    if body is not None or upgrade:
        head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(socket, limit=MAX_HEAD_BYTES)
            try:
                writer.write("\r\n".join([*head, "", ""]).encode() + content)
                await writer.drain()
                answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                code = int(answer.split(" ", 2)[1])
                if code >= 400:
                    text = (await reader.read(_PIECE_BYTES)).decode(errors="replace")
                    raise (RuntimeNotFound if code == 404 else RuntimeFailure)(_message(text))
            except BaseException:
                writer.close()
                raise
            return reader, writer, answer
    except TimeoutError as error:
        raise RuntimeFailure(f"the Docker daemon did not answer within {ANSWER_TIMEOUT_S:g} s") from error
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise RuntimeFailure(f"the Docker daemon at {socket} does not answer: {error}") from error


def _message(text: str) -> str:
    try:
        return str(json.loads(text[text.index("{") :])["message"])
    except (ValueError, LookupError):
        return text.strip() or "the Docker daemon refused"


async def events(socket: str, filters: dict[str, list[str]]) -> AsyncIterator[dict[str, Any]]:
    """Until the connection breaks (RuntimeFailure)."""
    reader, writer, _ = await _open(socket, "GET", f"/events?{urlencode({'filters': json.dumps(filters)})}")
    try:
        while line := await reader.readline():
            if line.strip():
                yield json.loads(line)
        raise RuntimeFailure("the Docker daemon has ended its events")
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"the Docker daemon's events broke: {error}") from error
    finally:
        writer.close()


async def logs(socket: str, container_id: str, *, tty: bool, since: str) -> AsyncIterator[tuple[int, bytes]]:
    """(1 or 2, a line with its time in front), as they come, until the container ends. `since`: SECONDS.NANOSECONDS."""
    query = {"follow": 1, "stdout": 1, "stderr": 1, "timestamps": 1} | ({"since": since} if since else {})
    reader, writer, _ = await _open(socket, "GET", f"/containers/{container_id}/logs?{urlencode(query)}")
    try:
        async for piece in _raw(reader) if tty else _frames(reader):
            yield piece
    except OSError as error:
        raise RuntimeFailure(f"the logs of {container_id[:12]} broke: {error}") from error
    finally:
        writer.close()


async def _raw(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, bytes]]:
    while piece := await reader.read(_PIECE_BYTES):
        yield 1, piece


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, bytes]]:
    """Docker's multiplexed form: stream, three zeroes, length, content."""
    while True:
        try:
            kind, length = struct.unpack(">BxxxL", await reader.readexactly(8))
            if length > MAX_FRAME_BYTES:
                raise RuntimeFailure(f"the Docker daemon sent a frame of {length} bytes")
            content = await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            return
        yield (2 if kind == 2 else 1), content


Resize = Callable[[int, int], Awaitable[None]]
NeverBegan = Callable[[], Awaitable[bool]]
_NOT_STARTED = b"OCI runtime exec failed: "


async def _has_begun() -> bool:
    return False


class DockerSession(SocketStream):
    """A `kubelet.runtime.base.ByteStream`. `output` has one reader; the owner calls `close`."""

    _name = "the session"
    _linger_s = 0.5  # the client waits for the exit code meanwhile

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tty: bool, resize: Resize,
        exit_code: Callable[[], Awaitable[int]], keeps_stdin: bool = False, never_began: NeverBegan | None = None,
    ) -> None:  # fmt: skip
        """`keeps_stdin`: the process goes on reading what others send it, so the end of what this session sends is not told.
        `never_began`: of a session that is to start a program, whether it could not be started."""
        super().__init__(reader, writer)
        self._keeps_stdin = keeps_stdin
        self._tty = tty
        self._resize = resize
        self._exit_code = exit_code
        self._never_began: NeverBegan = never_began or _has_begun
        self._refusal: tuple[int, bytes] | None = (
            None  # why the program could not be started, which Docker tells as its output
        )
        self._closed = False

    async def resize(self, width: int, height: int) -> None:
        await self._resize(width, height)

    async def send_eof(self) -> None:
        if not self._keeps_stdin:
            await super().send_eof()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        first = True
        try:
            async for piece in _raw(self._reader) if self._tty else _frames(self._reader):
                if first and piece[1].startswith(_NOT_STARTED):
                    self._refusal = piece  # perhaps: `wait` finds out
                elif piece[1]:
                    yield piece
                first = False
            if self._refusal is not None and not await self._never_began():
                refusal, self._refusal = self._refusal, None
                yield refusal
        except OSError as error:
            raise self._broke(error) from error
        finally:
            self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        if self._refusal is not None:
            raise RuntimeFailure(self._refusal[1].decode(errors="replace").strip())
        if self._closed:
            raise RuntimeFailure("the session was closed")
        return await self._exit_code()

    async def close(self) -> None:
        if not self._ended.is_set():
            self._closed = True
        await super().close()


async def hijack(socket: str, path: str, body: Any = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that carries both directions of an exec or attach."""
    reader, writer, _ = await _open(socket, "POST", path, body, upgrade=True)
    return reader, writer


async def start_exec(engine: Engine, exec_id: str, *, tty: bool) -> DockerSession:
    """Begins what `exec_create` has made. The caller closes the session."""
    reader, writer = await hijack(engine.socket, f"/exec/{exec_id}/start", {"Detach": False, "Tty": tty})

    async def resize(width: int, height: int) -> None:
        await engine.call("exec_resize", exec_id, height, width)

    async def exit_code() -> int:
        # The stream may end a moment before the daemon has noted the exit.
        while True:
            told = await engine.call("exec_inspect", exec_id)
            if not told["Running"]:
                return int(told["ExitCode"] or 0)
            await asyncio.sleep(EXIT_POLL_S)

    async def never_began() -> bool:
        code = await exit_code()
        return code in (126, 127) and not (await engine.call("exec_inspect", exec_id)).get("Pid")

    return DockerSession(reader, writer, tty=tty, resize=resize, exit_code=exit_code, never_began=never_began)
