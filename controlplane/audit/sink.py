"""The audit log's file: lines are collected and written in a thread, the file is rotated by size and old ones are deleted.

`batch`: a request does not wait, and when the disk can't follow, lines are dropped and counted. `blocking`: a request waits
until its line is written (many at a time go in one write). Made by `recorder`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from wherry.api import times
from wherry.api.context import Env

log = logging.getLogger(__name__)

MAX_BUFFER_LINES = 10_000
MAX_BUFFER_BYTES = 64 << 20
MAX_BATCH_BYTES = 4 << 20
DAY_S = 86400


@dataclass(frozen=True, slots=True)
class FileOptions:
    """`path` "-" is standard output. Of the limits, 0 is none."""

    path: str
    max_size_bytes: int = 100 << 20
    max_age_days: int = 366
    max_backups: int = 100
    blocking: bool = False


class Sink:
    """`run` it; `await stop()` writes what is left. Invariant: `_bytes` is what the lines in the buffer have together."""

    def __init__(self, options: FileOptions, env: Env) -> None:
        self._options = options
        self._env = env
        self._buffer: deque[tuple[bytes, asyncio.Future[None] | None]] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def start(self) -> None:
        """Raises OSError when the file can't be opened."""
        if self._options.path != "-":
            with open(self._options.path, "ab"):
                pass
        self._task = asyncio.get_running_loop().create_task(self._run(), name="audit-log")

    async def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def write(self, line: bytes) -> None:
        """Returns when it is written (blocking), or at once. Raises OSError (blocking) when it can't be."""
        if len(self._buffer) >= MAX_BUFFER_LINES or self._bytes + len(line) > MAX_BUFFER_BYTES:
            self._drop()
            return
        done = asyncio.get_running_loop().create_future() if self._options.blocking else None
        self._push(line, done)
        if done is not None:
            await asyncio.shield(done)

    def post(self, line: bytes) -> None:
        """Without waiting, whatever the mode."""
        if len(self._buffer) >= MAX_BUFFER_LINES or self._bytes + len(line) > MAX_BUFFER_BYTES:
            self._drop()
        else:
            self._push(line, None)

    def _push(self, line: bytes, done: asyncio.Future[None] | None) -> None:
        self._buffer.append((line, done))
        self._bytes += len(line)
        self._wake.set()

    def _drop(self) -> None:
        if not self.dropped:
            log.error("the audit log can't follow: events are dropped")
        self.dropped += 1

    async def _run(self) -> None:
        while self._buffer or not self._stopping:
            if not self._buffer:
                self._wake.clear()
                await self._wake.wait()
                continue
            lines: list[bytes] = []
            waiting: list[asyncio.Future[None]] = []
            size = 0
            while self._buffer and size < MAX_BATCH_BYTES:
                line, done = self._buffer.popleft()
                lines.append(line)
                size += len(line)
                if done is not None:
                    waiting.append(done)
            self._bytes -= size
            error = await asyncio.to_thread(self._append, b"\n".join(lines) + b"\n", self._env.now())
            if error is not None:
                log.error("the audit log: %s", error)
            for done in waiting:
                if not done.done():
                    done.set_result(None)

    # in the thread

    def _append(self, data: bytes, now: float) -> Exception | None:
        """What went wrong: the task goes on, whatever it is."""
        path = Path(self._options.path)
        try:
            if self._options.path == "-":
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                return None
            limit = self._options.max_size_bytes
            if limit and path.exists() and path.stat().st_size and path.stat().st_size + len(data) > limit:
                self._rotate(path, now)
            with path.open("ab") as file:
                file.write(data)
        except Exception as error:
            return error
        return None

    def _rotate(self, path: Path, now: float) -> None:
        millis = round(now * 1000)
        stamp = times.format_seconds(millis // 1000).rstrip("Z").replace(":", "-") + f".{millis % 1000:03d}"
        os.replace(path, path.with_name(f"{path.stem}-{stamp}{path.suffix}"))
        keep = backups(path)
        for index, old in enumerate(keep):
            age_s = now - old.stat().st_mtime
            too_many = self._options.max_backups and index >= self._options.max_backups
            if too_many or (self._options.max_age_days and age_s > self._options.max_age_days * DAY_S):
                old.unlink(missing_ok=True)


def backups(path: Path) -> list[Path]:
    """Rotated files, newest first: their names sort by time."""
    shape = re.compile(re.escape(path.stem) + r"-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}" + re.escape(path.suffix))
    return sorted((found for found in path.parent.iterdir() if shape.fullmatch(found.name)), reverse=True)
