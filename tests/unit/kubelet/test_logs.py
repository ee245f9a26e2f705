"""Container logs: CRI's format, tail, since, limits, rotated files, follow."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import BinaryIO

import pytest

from kubelet.housekeeping import rotate
from kubelet.runtime.hollow import HollowRuntime
from kubelet.streams import logs
from kubelet.streams.logs import LogQuery, parse_line, read_logs, tail_position, tail_text
from wherry.api.context import Env
from wherry.testing.loop import EPOCH


def line(number: int, text: str, tag: str = "F", stream: str = "stdout") -> str:
    return f"2030-01-01T00:00:{number:02d}.000000000Z {stream} {tag} {text}\n"


TEN = "".join(line(number, f"line {number}") for number in range(10))
PARTS = line(0, "a", "P") + line(0, "b", "P") + line(0, "c") + line(1, "d") + line(2, "e", stream="stderr")


async def read(path: Path, **query: object) -> str:
    made = LogQuery(**query)  # type: ignore[arg-type]  # a table's row
    return b"".join([piece async for piece in read_logs(path, made, lambda: False)]).decode()


ROWS = {
    "everything": (TEN, {}, "".join(f"line {n}\n" for n in range(10))),
    "tail": (TEN, {"tail_lines": 2}, "line 8\nline 9\n"),
    "tail of more than there is": (TEN, {"tail_lines": 50}, "".join(f"line {n}\n" for n in range(10))),
    "tail 0": (TEN, {"tail_lines": 0}, ""),
    "since": (TEN, {"since": EPOCH + 8}, "line 8\nline 9\n"),
    "limit": (TEN, {"limit_bytes": 9}, "line 0\nli"),
    "timestamps": (line(3, "x"), {"timestamps": True}, "2030-01-01T00:00:03.000000000Z x\n"),
    "parts make one line": (PARTS, {}, "abc\nd\ne\n"),
    "parts have one timestamp": (
        PARTS, {"timestamps": True, "tail_lines": 3},
        "2030-01-01T00:00:00.000000000Z abc\n2030-01-01T00:00:01.000000000Z d\n2030-01-01T00:00:02.000000000Z e\n",
    ),
    "tail counts whole lines": (PARTS, {"tail_lines": 3}, "abc\nd\ne\n"),
    "one stream": (PARTS, {"stream": "Stderr"}, "e\n"),
    "empty lines": (line(0, "") + line(1, "x"), {"tail_lines": 2}, "\nx\n"),
    "a cut-off last line is left out": (TEN + "2030-01-01T00:00:30", {"tail_lines": 1}, "line 9\n"),
    "rubbish is skipped": ("rubbish\n" + line(0, "x"), {}, "x\n"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "query", "expected"), ROWS.values(), ids=ROWS)
async def test_queries(tmp_path: Path, text: str, query: dict[str, object], expected: str) -> None:
    path = tmp_path / "0.log"
    path.write_text(text)
    assert await read(path, **query) == expected


def test_tail_position_against_counting(tmp_path: Path) -> None:
    rng = random.Random(1)
    path = tmp_path / "0.log"
    for _ in range(20):
        lines = [line(0, "x" * rng.randrange(3000), rng.choice("FFP")) for _ in range(rng.randrange(1, 120))]
        lines.append(line(1, "end"))
        path.write_text("".join(lines))
        for wanted in (1, 2, 7, 500):
            full = [index for index, text in enumerate(lines) if " F " in text[:45]]
            begin = full[-wanted - 1] + 1 if len(full) > wanted else 0
            assert tail_position(path, wanted) == (sum(len(t) for t in lines[:begin]), min(wanted, len(full)))


async def test_rotated_files_are_one_log(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.with_name("0.log.2").write_text(line(0, "a"))
    path.with_name("0.log.1").write_text(line(1, "b"))
    path.write_text(line(2, "c"))
    assert await read(path) == "a\nb\nc\n"
    assert await read(path, tail_lines=2) == "b\nc\n"


async def test_follow_sees_what_comes_through_a_rotation_and_ends_with_the_container(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(line(0, "a"))
    alive = True
    got: list[bytes] = []

    async def follow() -> None:
        async for piece in read_logs(path, LogQuery(follow=True), lambda: alive):
            got.append(piece)

    task = asyncio.ensure_future(follow())
    await asyncio.sleep(1)
    with path.open("a") as log:
        log.write(line(1, "b") + line(2, "half")[:-3])
    await asyncio.sleep(1)
    assert b"".join(got) == b"a\nb\n"
    with path.open("a") as log:
        log.write(line(2, "half")[-3:])
    path.rename(path.with_name("0.log.1"))
    path.write_text(line(3, "c"))
    await asyncio.sleep(1)
    assert b"".join(got) == b"a\nb\nhalf\nc\n"
    with path.open("a") as log:
        log.write(line(4, "last words"))
    alive = False
    await task
    assert b"".join(got).endswith(b"c\nlast words\n")


def turn(path: Path, text: str) -> None:
    for number in (4, 3, 2, 1):
        old = path.with_name(f"{path.name}.{number}")
        if number == 4:
            old.unlink(missing_ok=True)
        elif old.exists():
            old.rename(path.with_name(f"{path.name}.{number + 1}"))
    path.rename(path.with_name(path.name + ".1"))
    path.write_text(text)


@pytest.mark.parametrize("turns", [1, 2, 7])
@pytest.mark.parametrize("after", [1, 2, 3])
async def test_what_is_rotated_while_it_is_read_is_read_once(tmp_path: Path, turns: int, after: int) -> None:
    """Who reads has taken so many pieces when the files move on, also by more than are kept."""
    path = tmp_path / "0.log"
    path.with_name("0.log.2").write_text("".join(line(0, f"a{n:05d}") for n in range(4000)))
    path.with_name("0.log.1").write_text("".join(line(1, f"b{n:05d}") for n in range(4000)))
    path.write_text("".join(line(2, f"c{n:05d}") for n in range(4000)))
    got: list[str] = []
    pieces = 0
    async for piece in read_logs(path, LogQuery(), lambda: True):
        got.append(piece.decode())
        pieces += 1
        if pieces == after:
            for number in range(turns):
                turn(path, line(3, f"d{number}"))
    expected = [f"{letter}{n:05d}" for letter in "abc" for n in range(4000)]
    kept = range(max(0, turns - 5), turns)  # the file and four more; what went before anybody had opened it is lost
    assert "".join(got).split() == expected + [f"d{number}" for number in kept]


async def test_what_is_written_just_before_the_rotation_is_read(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(line(0, "a"))
    looks = 0

    def running() -> bool:
        nonlocal looks
        looks += 1
        return looks < 8

    original = logs._newer

    def newer(path: Path, file: BinaryIO) -> BinaryIO | None:
        if looks == 2:  # the look that found nothing more has been
            with path.open("a") as log:
                log.write(line(1, "b"))
            turn(path, line(2, "c"))
        return original(path, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_newer", newer)
        got = b"".join([piece async for piece in read_logs(path, LogQuery(follow=True), running)])
    assert got == b"a\nb\nc\n"


async def test_no_log_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await read(tmp_path / "none.log")


def test_parse_line() -> None:
    entry = parse_line(b"2030-01-01T00:00:00Z stderr P:x text with  spaces ")
    assert entry is not None
    assert (entry.stream, entry.full, entry.content) == (b"stderr", False, b"text with  spaces ")
    assert parse_line(b"one two") is None


def test_tail_text_is_for_termination_messages(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(TEN)
    assert tail_text(path, 2, 100) == "line 8\nline 9\n"
    assert tail_text(path, 5, 6) == "ine 9\n"
    assert tail_text(tmp_path / "none", 5, 5) == ""


async def test_rotation(tmp_path: Path, env: Env) -> None:
    runtime = HollowRuntime(env)
    path = tmp_path / "0.log"
    reopened: list[str] = []

    async def reopen(container_id: str) -> None:
        reopened.append(container_id)
        path.touch()

    runtime.reopen_log = reopen  # type: ignore[method-assign]  # what is asked of the runtime is all that matters here
    for number in range(8):
        path.write_text(f"{number}" * 10)
        assert await rotate(runtime, "id", path, limit_bytes=10, files=5)
    assert [path.with_name(f"0.log.{number}").exists() for number in (1, 2, 3, 4, 5)] == [True] * 4 + [False]
    assert (tmp_path / "0.log.1").read_text() == "7" * 10
    assert (tmp_path / "0.log.4").read_text() == "4" * 10
    path.write_text("small")
    assert not await rotate(runtime, "id", path, limit_bytes=10, files=5)
    path.unlink()
    assert await rotate(runtime, "id", path, limit_bytes=10, files=5), "renamed and then killed: reopened the next time"
    assert len(reopened) == 9
