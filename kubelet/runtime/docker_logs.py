"""Copies what Docker's containers write into the log files that the agent reads: CRI's format, at the pod's path.

Docker keeps the output itself meanwhile (json-file, two files of 10 MB), so that nothing is lost while no agent runs: the copy
goes on behind the last line that the file has. Owned by `kubelet.runtime.docker`, one task per container that runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from kubelet.runtime import docker_streams
from kubelet.runtime.base import RuntimeFailure, RuntimeNotFound
from wherry.api.times import parse_rfc3339

log = logging.getLogger(__name__)

_STREAMS = {1: b"stdout", 2: b"stderr"}
_TAIL_BYTES = 64 << 10
RETRY_S = 1.0
# The kubelet's bound of one line of a log file; longer ones are in parts.
MAX_LINE_BYTES = 16 << 10


class LogCopies:
    """Invariant: at most one task per container."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._files: dict[str, _LogFile] = {}

    def start(self, container_id: str, path: str, *, tty: bool) -> None:
        """Copies until the container has ended. Does nothing when it is being done."""
        task = self._tasks.get(container_id)
        if not path or (task is not None and not task.done()):
            return
        file = self._files[container_id] = _LogFile(Path(path))
        self._tasks[container_id] = asyncio.get_running_loop().create_task(
            self._copy(container_id, file, tty), name=f"log-{container_id[:12]}"
        )

    def reopen(self, container_id: str) -> None:
        """The file was renamed: go on in a new one."""
        file = self._files.get(container_id)
        if file is not None:
            file.reopen()

    async def finish(self, container_id: str, timeout_s: float) -> None:
        """Waits for the last lines of a container that has ended."""
        task = self._tasks.get(container_id)
        if task is not None:
            await asyncio.wait((task,), timeout=timeout_s)

    async def drop(self, container_id: str) -> None:
        task = self._tasks.pop(container_id, None)
        self._files.pop(container_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def close(self) -> None:
        for container_id in list(self._tasks):
            await self.drop(container_id)

    async def _copy(self, container_id: str, file: _LogFile, tty: bool) -> None:
        try:
            again = True
            while again:
                try:
                    # The stream may end before the container's last words are in Docker's file: look until there is no more.
                    again = await self._pass(container_id, file, tty) > 0
                    continue
                except RuntimeNotFound:
                    return
                except RuntimeFailure as error:
                    log.debug("the log of %s: %s; trying again", container_id[:12], error.message)
                await asyncio.sleep(RETRY_S)
        except OSError as error:
            log.warning("the log of container %s cannot be written: %s", container_id[:12], error)
        finally:
            file.close()

    async def _pass(self, container_id: str, file: _LogFile, tty: bool) -> int:
        """How many lines were new. Returns when the container has ended."""
        since, last = await asyncio.to_thread(file.open_after)
        count = 0
        rest = {1: b"", 2: b""}
        async for stream, piece in docker_streams.logs(self._socket, container_id, tty=tty, since=since):
            *lines, rest[stream] = (rest[stream] + piece).split(b"\n")
            for line in lines:
                count += file.write(stream, line, True, after=last)
        for stream, line in rest.items():
            if line:
                count += file.write(stream, line, False, after=last)
        return count


class _LogFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def open_after(self) -> tuple[str, bytes]:
        """Opens it for appending; (the time of its last line for Docker's `since`, that time as it stands in the file)."""
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        last = b""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                lines = [line for line in file.read().split(b"\n") if line.count(b" ") >= 2]
                last = lines[-1].split(b" ", 1)[0] if lines else b""
        except FileNotFoundError:
            pass
        self._open()
        if not last:
            return "", b""
        try:
            seconds, nanos = parse_rfc3339(last.decode("ascii"))
        except ValueError:
            return "", b""
        return f"{seconds}.{nanos:09d}", last

    def write(self, stream: int, line: bytes, full: bool, *, after: bytes) -> bool:
        """A line with Docker's time in front; False for one that is not later than `after`."""
        stamp, _, content = line.partition(b" ")
        if not stamp or (after and stamp <= after):
            return False
        while len(content) > MAX_LINE_BYTES:
            head, content = content[:MAX_LINE_BYTES], content[MAX_LINE_BYTES:]
            os.write(self._fd, b"%s %s P %s\n" % (stamp, _STREAMS[stream], head))
        os.write(self._fd, b"%s %s %s %s\n" % (stamp, _STREAMS[stream], b"F" if full else b"P", content.rstrip(b"\r")))
        return True

    def reopen(self) -> None:
        if self._fd >= 0:
            self.close()
            self._open()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
