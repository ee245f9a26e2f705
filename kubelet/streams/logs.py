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
from typing import BinaryIO

from wherry.api.times import parse_rfc3339

BLOCK = 64 * 1024
CHUNK = 32 * 1024  # of one message
POLL_MIN_S, POLL_MAX_S = 0.05, 0.5
OPEN_ATTEMPTS = 10


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


def open_generations(path: Path) -> list[BinaryIO]:
    """The file and its rotated forerunners as they are at one moment, oldest first, which the caller closes: who reads by name
    would miss a file, or read one twice, when they are rotated meanwhile. Raises FileNotFoundError when there is none."""
    for attempt in range(OPEN_ATTEMPTS):
        opened: list[BinaryIO] = []
        try:
            opened.extend(file.open("rb") for file in _existing(path))
            agree = _places(opened) == [_place(os.stat(file)) for file in _existing(path)]
            # Some file systems number a file anew each time: what is open has to do then.
            if opened and (agree or attempt == OPEN_ATTEMPTS - 1):
                return opened
        except FileNotFoundError:
            pass  # rotated between two steps
        except BaseException:
            _close(opened)
            raise
        _close(opened)
        if not _existing(path):
            break
    raise FileNotFoundError(path)


def _existing(path: Path) -> list[Path]:
    return [file for file in generations(path) if file.exists()]


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _places(files: list[BinaryIO]) -> list[tuple[int, int]]:
    return [_place(os.fstat(file.fileno())) for file in files]


def _close(files: list[BinaryIO]) -> None:
    for file in files:
        file.close()


def tail_position(path: Path, lines: int) -> tuple[int, int]:
    """(offset at which the last `lines` whole lines begin, how many of them there are)."""
    with path.open("rb") as file:
        return _tail_of(file, lines)


def _tail_of(file: BinaryIO, lines: int) -> tuple[int, int]:
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
    files = open_generations(path)
    try:
        offset = 0
        if query.tail_lines is not None:
            files, offset = _start_of_tail(files, query.tail_lines)
        for file in files[:-1]:
            file.seek(offset)
            offset = 0
            while block := file.readlines(BLOCK):
                for piece in _feed(writer, block):
                    yield piece
                if writer.exhausted:
                    return
                await asyncio.sleep(0)
        files[-1].seek(offset)
        async for piece in _read_last(path, files, query, writer, running):
            yield piece
    finally:
        _close(files)


def _start_of_tail(files: list[BinaryIO], lines: int) -> tuple[list[BinaryIO], int]:
    """The files from the one that the tail begins in, and where in it; the others are closed."""
    left, offset, first = lines, 0, len(files)
    while first:
        first -= 1
        offset, found = _tail_of(files[first], left)
        left -= found
        if left <= 0:
            break
    _close(files[:first])
    return files[first:], offset


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
    path: Path, files: list[BinaryIO], query: LogQuery, writer: _Writer, running: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """The last of `files`, which is still written to, and what is begun after it."""
    poll_s = POLL_MIN_S
    put_aside = False
    while True:
        alive = running()  # before reading: what was written until then is read below
        lines = files[-1].readlines(BLOCK)
        if lines and not lines[-1].endswith(b"\n"):
            # Half a line: leave it for the next look, if there will be one.
            files[-1].seek(-len(lines[-1]), 1)
            lines.pop()
        for piece in _feed(writer, lines):
            yield piece
        if writer.exhausted:
            return
        if lines:
            poll_s = POLL_MIN_S
            await asyncio.sleep(0)
            continue
        newer = _newer(path, files[-1])
        if newer is not None and not put_aside:
            newer.close()
            put_aside = True  # once more: what came between the look at it and its rotation
            continue
        if newer is not None:
            _close(files)
            files[:] = [newer]
            put_aside = False
            continue
        if not query.follow or not alive:
            return
        await asyncio.sleep(poll_s)
        poll_s = min(poll_s * 2, POLL_MAX_S)


def _newer(path: Path, file: BinaryIO) -> BinaryIO | None:
    """The generation after this one, open; None for the newest. One that is gone was followed by the oldest that is left."""
    (mine,) = _places([file])
    try:
        if _place(path.stat()) == mine:
            return None
    except FileNotFoundError:
        pass  # put aside, and the runtime has not begun anew: it still writes into this one
    try:
        now = open_generations(path)
    except FileNotFoundError:
        return None
    places = _places(now)
    next_one = places.index(mine) + 1 if mine in places else 0
    chosen = now.pop(next_one) if next_one < len(now) else None
    _close(now)
    return chosen
