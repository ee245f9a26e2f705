"""Reads the logs of a container: CRI's format, rotated files, tail, since, follow. Called by `sessions`.

A line of the file is `TIME STREAM TAG CONTENT`, TAG `F` for the end of a line of the container and `P` for a part of one.
Blocking reads are of bounded size; while following, the file is looked at again at growing intervals.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wherry.api.times import parse_rfc3339

BLOCK = 64 * 1024
CHUNK = 32 * 1024  # of one message
POLL_MIN_S, POLL_MAX_S = 0.05, 0.5


@dataclass(frozen=True, slots=True)
class LogQuery:
    follow: bool = False
    tail_lines: int | None = None
    since: float | None = None  # Unix time
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str = "All"  # "All", "Stdout", "Stderr"


@dataclass(frozen=True, slots=True)
class Entry:
    time: bytes
    stream: bytes
    full: bool
    content: bytes


def parse_line(line: bytes) -> Entry | None:
    """None for what is no line of CRI's format (a file cut off by a crash)."""
    parts = line.split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
        return None
    content = parts[3] if len(parts) == 4 else b""
    return Entry(parts[0], parts[1], not parts[2].startswith(b"P"), content)


def generations(path: Path) -> list[Path]:
    """The file and its rotated forerunners, oldest first."""
    old = []
    for file in path.parent.glob(path.name + ".*"):
        suffix = file.name[len(path.name) + 1 :]
        if suffix.isdigit():
            old.append((int(suffix), file))
    return [file for _, file in sorted(old, reverse=True)] + [path]


def tail_position(path: Path, lines: int) -> tuple[int, int]:
    """(offset at which the last `lines` whole lines begin, how many of them there are)."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        seen, position, rest = 0, end, b""
        while position > 0:
            size = min(BLOCK, position)
            position -= size
            file.seek(position)
            block = file.read(size) + rest
            pieces = block.split(b"\n")
            # The first piece may have begun in the block before this one.
            rest = pieces[0]
            offset = position + len(block)
            for piece in reversed(pieces[1:]):
                offset -= len(piece)
                if piece and _ends_line(piece):
                    if seen == lines:
                        return offset + len(piece) + 1, seen
                    seen += 1
                offset -= 1
        if rest and _ends_line(rest):
            if seen == lines:
                return len(rest) + 1, seen
            seen += 1
        return 0, seen


def _ends_line(line: bytes) -> bool:
    parts = line.split(b" ", 3)
    return len(parts) >= 3 and not parts[2].startswith(b"P")


def tail_text(path: Path, lines: int, limit_bytes: int) -> str:
    """The last lines without their prefixes, for a termination message."""
    try:
        offset, _ = tail_position(path, lines)
        with path.open("rb") as file:
            file.seek(max(offset, path.stat().st_size - BLOCK))
            raw = file.read(BLOCK)
    except OSError:
        return ""
    entries = [entry for line in raw.split(b"\n") if (entry := parse_line(line))]
    text = b"".join(entry.content + (b"\n" if entry.full else b"") for entry in entries)
    return text[-limit_bytes:].decode("utf-8", "replace")


class _Writer:
    """Applies what the query leaves out or adds; gathers chunks."""

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        self._left = query.limit_bytes
        self._started: dict[bytes, bool] = {}  # in the middle of a line of this stream
        self._passed = query.since is None
        self._buffer = bytearray()
        self._wanted = {"Stdout": b"stdout", "Stderr": b"stderr"}.get(query.stream, b"")

    @property
    def exhausted(self) -> bool:
        return self._left is not None and self._left <= 0

    def add(self, entry: Entry) -> None:
        if self._wanted and entry.stream != self._wanted:
            return
        if not self._passed:
            if _seconds(entry.time) < (self._query.since or 0.0):
                return
            self._passed = True
        text = entry.content + b"\n" if entry.full else entry.content
        if self._query.timestamps and not self._started.get(entry.stream):
            text = entry.time + b" " + text
        self._started[entry.stream] = not entry.full
        if self._left is not None:
            text = text[: max(self._left, 0)]
            self._left -= len(text)
        self._buffer += text

    def take(self, *, everything: bool) -> Iterator[bytes]:
        while len(self._buffer) >= CHUNK or (everything and self._buffer):
            yield bytes(self._buffer[:CHUNK])
            del self._buffer[:CHUNK]


def _seconds(stamp: bytes) -> float:
    try:
        whole, nanos = parse_rfc3339(stamp.decode("ascii", "replace"))
    except ValueError:
        return 0.0
    return whole + nanos / 1e9


async def read_logs(path: Path, query: LogQuery, running: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Pieces of the log as the query asks. With `follow` it ends some time after `running()` has become false.
    Raises FileNotFoundError when there is no log at all."""
    writer = _Writer(query)
    files = [file for file in generations(path) if file.exists()]
    if not files:
        raise FileNotFoundError(path)
    offset = 0
    if query.tail_lines is not None:
        files, offset = _start_of_tail(files, query.tail_lines)
    for file in files[:-1]:
        with file.open("rb") as handle:
            handle.seek(offset)
            offset = 0
            while block := handle.readlines(BLOCK):
                for piece in _feed(writer, block):
                    yield piece
                if writer.exhausted:
                    return
                await asyncio.sleep(0)
    async for piece in _read_last(files[-1], offset, query, writer, running):
        yield piece


def _start_of_tail(files: list[Path], lines: int) -> tuple[list[Path], int]:
    chosen: list[Path] = []
    left, offset = lines, 0
    for file in reversed(files):
        chosen.insert(0, file)
        offset, found = tail_position(file, left)
        left -= found
        if left <= 0:
            break
    return chosen, offset


def _feed(writer: _Writer, lines: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        entry = parse_line(line.rstrip(b"\n"))
        if entry is not None:
            writer.add(entry)
        yield from writer.take(everything=False)
        if writer.exhausted:
            break
    yield from writer.take(everything=True)


async def _read_last(
    path: Path, offset: int, query: LogQuery, writer: _Writer, running: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """The file that is still written to; follows it through rotations."""
    handle = path.open("rb")
    try:
        handle.seek(offset)
        poll_s = POLL_MIN_S
        while True:
            alive = running()  # before reading: what was written until then is read below
            lines = handle.readlines(BLOCK)
            if lines and not lines[-1].endswith(b"\n"):
                # Half a line: leave it for the next look, if there will be one.
                handle.seek(-len(lines[-1]), 1)
                lines.pop()
            for piece in _feed(writer, lines):
                yield piece
            if writer.exhausted:
                return
            if lines:
                poll_s = POLL_MIN_S
                await asyncio.sleep(0)
                continue
            if _rotated(path, handle.fileno()):
                handle.close()
                handle = path.open("rb")
                continue
            if not query.follow or not alive:
                return
            await asyncio.sleep(poll_s)
            poll_s = min(poll_s * 2, POLL_MAX_S)
    finally:
        handle.close()


def _rotated(path: Path, descriptor: int) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)
