"""What a hollow container says: the few commands that it knows, a shell for them, and its sessions (exec, attach, ports). For
`hollow`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

MAX_LINE_BYTES = 64 << 10


def simulate(command: Sequence[str]) -> tuple[bytes, int]:
    """Output and exit code of the few commands that a hollow container knows; any other prints nothing and succeeds."""
    words = list(command)
    if words[:2] == ["sh", "-c"] and len(words) == 3:
        words = words[2].split()
    match words:
        case ["echo", *rest]:
            return (" ".join(rest) + "\n").encode(), 0
        case ["exit", code]:
            return b"", int(code)
        case ["false"]:
            return b"", 1
        case _:
            return b"", 0


class HollowStream:
    """A session: prints `first`, then sends back what it gets until end of input (`echo`), or ends at once."""

    def __init__(self, *, echo: bool, first: bytes, exit_code: int) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._exit_code = exit_code
        self._done = asyncio.Event()
        self.size: tuple[int, int] | None = None
        if first:
            self._queue.put_nowait(first)
        self._echo = echo
        if not echo:
            self._finish()

    def _finish(self) -> None:
        if not self._done.is_set():
            self._done.set()
            self._queue.put_nowait(None)

    async def send(self, data: bytes) -> None:
        if self._echo and not self._done.is_set():
            self._queue.put_nowait(data)

    async def send_eof(self) -> None:
        self._finish()

    async def resize(self, width: int, height: int) -> None:
        self.size = (width, height)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        while (piece := await self._queue.get()) is not None:
            yield 1, piece

    async def wait(self) -> int:
        await self._done.wait()
        return self._exit_code

    async def close(self) -> None:
        self._finish()


class HollowShell(HollowStream):
    """`sh` with input: a command a line, until `exit` or the end of input. With a terminal it echoes what is typed, as a terminal
    does, and `stty size` says how large that is."""

    def __init__(self, *, tty: bool) -> None:
        super().__init__(echo=True, first=b"", exit_code=0)
        self._tty = tty
        self._line = b""

    async def send(self, data: bytes) -> None:
        if self._done.is_set():
            return
        if self._tty:
            data = data.replace(b"\r", b"\n")
            self._say(data)
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-MAX_LINE_BYTES:]
        for line in lines:
            words = line.decode(errors="replace").split()
            if words[:1] == ["exit"]:
                if words[1:] and words[1].isdigit():
                    self._exit_code = int(words[1]) & 0xFF
                self._finish()
                return
            if words == ["stty", "size"] and self._tty:
                width, height = self.size or (0, 0)
                self._say(f"{height} {width}\n".encode())
            else:
                output, self._exit_code = simulate(words)
                self._say(output)

    def _say(self, data: bytes) -> None:
        if data:
            self._queue.put_nowait(data.replace(b"\n", b"\r\n") if self._tty else data)
