"""What the SQLite store promises when things end badly: kill -9, a power cut, a full disk, a second process.

A killed process alone proves little, since the kernel still has its writes. So the system calls of a writing process are
recorded (strace), which shows that the sync comes before the acknowledgement, and the recorded writes are replayed without
those that were not synced, as after a power cut, at many points.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controlplane.store.base import Compare, FormatTooNew, Put, StoreError, Unavailable
from controlplane.store.sqlite import SqliteStore
from wherry.testing.require import require_binary, require_root

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import asyncio, os, sys
from controlplane.store.base import BatchItem, Compare, Delete, Put
from controlplane.store.sqlite import SqliteStore

async def main(path, mode, count):
    store = await SqliteStore.open(path)
    os.write(1, b"ready\\n")

    async def write(n):
        key = f"/{n % 50}/{n}"
        result = await store.txn([Compare(key, 0)], [Put(key, b"%d." % n * (1 + n % 40) * 10)])
        assert result.succeeded
        os.write(1, f"ack {n} {result.revision}\\n".encode())

    if mode == "one":
        for n in range(count):
            await write(n)
    elif mode == "compacting":
        for n in range(count):
            await write(n)
            await store.txn([], [Put("/hot", b"x" * 3000)])
            if n % 10 == 9:
                await store.compact(await store.revision() - 5)
    else:
        width = 16
        async def lane(start):
            for n in range(start, count, width):
                await write(n)
        await asyncio.gather(*(lane(start) for start in range(width)))
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""

ACK = re.compile(rb"ack (\d+) (\d+)\n")


def value_of(n: int) -> bytes:
    return b"%d." % n * (1 + n % 40) * 10


def writer(path: Path, mode: str, count: int) -> list[str]:
    return [sys.executable, "-c", WRITER, str(path), mode, str(count)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def start_writer(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(writer(path, "many", 100_000), stdout=subprocess.PIPE, env=environment())


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(arguments, capture_output=True, check=False, timeout=60, env=environment())


async def check_acknowledged(path: Path, acknowledged: dict[int, int]) -> None:
    """Opens the store and finds every acknowledged write at its revision; then writes."""
    store = await SqliteStore.open(str(path), inline=True)
    try:
        store.check_invariants()
        found = {kv.key: kv for kv in (await store.list("/")).items}
        for n, revision in acknowledged.items():
            kv = found.get(f"/{n % 50}/{n}")
            assert kv is not None, f"write {n}, acknowledged at revision {revision}, is lost"
            assert (kv.value, kv.mod_revision) == (value_of(n), revision)
        result = await store.txn([Compare("/after", 0)], [Put("/after", b"")])
        assert result.succeeded
        assert result.revision > max(acknowledged.values(), default=1)
    finally:
        await store.close()


@pytest.mark.parametrize(
    "round", [0, 1, pytest.param(2, marks=pytest.mark.full), pytest.param(3, marks=pytest.mark.full)]
)
async def test_acknowledged_writes_survive_kill_9(tmp_path: Path, round: int) -> None:
    path = tmp_path / "store.db"
    process = start_writer(path)
    assert process.stdout is not None
    output = b""
    try:
        while len(ACK.findall(output)) < 300 + 500 * round:
            output += await asyncio.to_thread(os.read, process.stdout.fileno(), 65536)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    output += process.stdout.read()
    process.stdout.close()
    acknowledged = {int(n): int(revision) for n, revision in ACK.findall(output)}
    assert len(acknowledged) >= 300
    await check_acknowledged(path, acknowledged)


# What strace records


@dataclass(frozen=True, slots=True)
class Call:
    """One finished system call on the store's files, or an acknowledgement."""

    name: str
    file: str = ""
    offset: int = 0
    data: bytes = b""


def record(folder: Path, mode: str, count: int) -> list[Call]:
    strace = require_binary("strace", "strace")
    log = folder / "strace.log"
    (folder / "live").mkdir()
    command = writer(folder / "live" / "store.db", mode, count)
    traced = "openat,close,pwrite64,write,fsync,fdatasync,ftruncate,unlink"
    subprocess.run(
        [strace, "-f", "-xx", "-s", "4000000", "-e", f"trace={traced}", "-e", "signal=none", "-o", str(log), *command],
        check=True,
        stdout=subprocess.PIPE,
        env=environment(),
        timeout=100,
    )
    return list(parse(log.read_text().splitlines()))


LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)\) += (-?\d+)")
UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")


def parse(lines: list[str]) -> Iterator[Call]:
    files: dict[int, str] = {}
    started: dict[str, str] = {}
    for line in lines:
        if unfinished := UNFINISHED.match(line):
            started[unfinished[1]] = f"{unfinished[1]} {unfinished[2]}({unfinished[3]}"
            continue
        if resumed := RESUMED.match(line):
            line = started.pop(resumed[1]) + resumed[3]
        match = LINE.match(line)
        if match is None or int(match[4]) < 0:
            continue
        name, arguments, result = match[2], match[3], int(match[4])
        strings = [bytes.fromhex(text.replace("\\x", "")) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        if name == "openat":
            files[result] = Path(strings[0].decode()).name
            continue
        if name == "unlink":
            yield Call(name, Path(strings[0].decode()).name)
            continue
        descriptor = int(arguments.split(",")[0].split(")")[0])
        if name == "close":
            files.pop(descriptor, None)
        elif name == "write" and descriptor == 1:
            yield Call("told", data=strings[0])
        elif (
            descriptor in files and files[descriptor].startswith("store.db") and not files[descriptor].endswith("-shm")
        ):
            file = files[descriptor]
            if name == "pwrite64":
                yield Call("write", file, int(arguments.rsplit(",", 1)[1]), strings[0])
            elif name == "ftruncate":
                yield Call("truncate", file, int(arguments.rsplit(",", 1)[1]))
            elif name in ("fsync", "fdatasync"):
                yield Call("sync", file)


@pytest.mark.parametrize("mode", ["one", "many"])
def test_the_sync_comes_before_the_acknowledgement(tmp_path: Path, mode: str) -> None:
    calls = record(tmp_path, mode, 60)
    unsynced: set[str] = set()
    acknowledged = synced = 0
    for call in calls:
        if call.name in ("write", "truncate") and call.file.endswith("-wal"):
            unsynced.add(call.file)
        elif call.name == "sync":
            unsynced.discard(call.file)
            synced += 1
        elif call.name == "told" and ACK.fullmatch(call.data):
            acknowledged += 1
            if mode == "one":  # with several in flight the next group is being written while the last is acknowledged
                assert not unsynced, f"{call.data!r} was acknowledged with unsynced writes to {unsynced}"
                assert synced >= 1, f"{call.data!r} was acknowledged without a sync of its own"
                synced = 0
    assert acknowledged == 60
    if mode == "many":
        assert synced < 60, "no group commit: as many syncs as writes"


@dataclass(slots=True)
class Disk:
    """Files with what is on the platter, and what the kernel has yet to bring there."""

    durable: dict[str, bytearray] = field(default_factory=dict)
    pending: dict[str, list[Call]] = field(default_factory=dict)

    def apply(self, call: Call) -> None:
        if call.name in ("write", "truncate"):
            self.durable.setdefault(call.file, bytearray())
            self.pending.setdefault(call.file, []).append(call)
        elif call.name == "sync":
            for write in self.pending.pop(call.file, []):
                carry_out(self.durable[call.file], write)
        elif call.name == "unlink":
            self.durable.pop(call.file, None)
            self.pending.pop(call.file, None)

    def image(self, rng: random.Random, survival: float) -> dict[str, bytes]:
        """After a power cut: each unsynced write has reached the disk with that chance, perhaps in part."""
        image = {}
        for name in sorted(self.durable):
            content = bytearray(self.durable[name])
            for write in self.pending.get(name, []):
                if rng.random() < survival:
                    torn = write.data and rng.random() < (1 - survival) / 2
                    kept = 512 * rng.randrange(len(write.data) // 512 + 1) if torn else len(write.data)
                    carry_out(content, Call(write.name, write.file, write.offset, write.data[:kept]))
            image[name] = bytes(content)
        return image


def carry_out(content: bytearray, call: Call) -> None:
    if call.name == "truncate":
        del content[call.offset :]
        content.extend(bytes(max(0, call.offset - len(content))))
    else:
        content.extend(bytes(max(0, call.offset - len(content))))
        content[call.offset : call.offset + len(call.data)] = call.data


@pytest.mark.parametrize(
    ("mode", "count", "images"),
    [
        pytest.param("compacting", 40, 60, id="few"),
        pytest.param("compacting", 120, 1500, id="many", marks=[pytest.mark.full, pytest.mark.timeout(600)]),
        pytest.param("many", 400, 1000, id="many, in groups", marks=[pytest.mark.full, pytest.mark.timeout(600)]),
    ],
)
async def test_a_power_cut_loses_nothing_acknowledged(tmp_path: Path, mode: str, count: int, images: int) -> None:
    calls = record(tmp_path, mode, count)
    assert any(call.file == "store.db" and call.name == "write" for call in calls[len(calls) // 4 :]), "no checkpoint"
    rng = random.Random(count)
    points = sorted(rng.sample(range(len(calls)), min(images, len(calls))))
    disk, acknowledged, done = Disk(), dict[int, int](), 0
    for number, point in enumerate(points):
        for call in calls[done : point + 1]:
            disk.apply(call)
            acknowledged |= {
                int(n): int(revision) for n, revision in ACK.findall(call.data if call.name == "told" else b"")
            }
        done = point + 1
        for survival in (0.0, 0.5, 1.0) if number % 3 == 0 else (0.0,):
            folder = tmp_path / f"image-{point}-{survival}"
            folder.mkdir()
            for name, content in disk.image(rng, survival).items():
                (folder / name).write_bytes(content)
            await check_acknowledged(folder / "store.db", acknowledged)
    assert len(acknowledged) > count // 2


# A full disk


async def fill(store: SqliteStore) -> dict[str, bytes]:
    """Writes until it is refused; gives what was acknowledged."""
    written: dict[str, bytes] = {}
    for n in range(10_000):
        key, value = f"/{n}", b"%d" % n * 2000
        try:
            await store.txn([Compare(key, 0)], [Put(key, value), Put("/last", value)])
        except Unavailable:
            return written
        written[key] = value
    raise AssertionError("the disk did not fill up")


async def check_after_full(store: SqliteStore, written: dict[str, bytes]) -> None:
    """Nothing half visible, and reads go on."""
    state = {kv.key: kv.value for kv in (await store.list("/")).items}
    assert state.pop("/last") == list(written.values())[-1]
    assert state == written
    watch = store.watch("/", from_revision=2)
    events = []
    while len(events) < 2 * len(written):
        events += (await anext(watch)).events
    assert [event.kv.key for event in events[::2]] == list(written)
    store.check_invariants()


async def test_a_full_disk_refuses_writes_and_recovers(tmp_path: Path) -> None:
    require_root()
    place = tmp_path / "small"
    place.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place))
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        ballast = place / "ballast"
        ballast.write_bytes(bytes(1 << 20))
        store = await SqliteStore.open(str(place / "store.db"))
        try:
            written = await fill(store)
            assert len(written) > 10
            await check_after_full(store, written)
            for n in range(3):  # still full, still refused, still readable
                with pytest.raises(Unavailable):
                    await store.txn([], [Put(f"/more/{n}", b"x" * 50_000)])
            ballast.unlink()
            result = await store.txn([Compare("/more", 0)], [Put("/more", b"x" * 50_000)])
            assert result.succeeded
            assert (await store.list("/")).count == len(written) + 2
            # What history takes can be given back.
            await store.compact(result.revision)
        finally:
            await store.close()
        store = await SqliteStore.open(str(place / "store.db"))
        store.check_invariants()
        assert (await store.list("/")).count == len(written) + 2
        await store.close()
    finally:
        assert run("umount", str(place)).returncode == 0


async def test_a_full_file_refuses_the_whole_group(tmp_path: Path) -> None:
    """The same without a mount: SQLite's own limit on the size of the file."""
    store = await SqliteStore.open(str(tmp_path / "store.db"))
    store._database.connection.execute("PRAGMA max_page_count = 200")
    written = await fill(store)
    await check_after_full(store, written)
    results = await asyncio.gather(
        *(store.txn([], [Put(f"/group/{n}", b"x" * 100_000)]) for n in range(20)), return_exceptions=True
    )
    assert all(isinstance(result, Unavailable) for result in results)
    assert len({id(result) for result in results}) == 20
    await check_after_full(store, written)
    store._database.connection.execute("PRAGMA max_page_count = 100000")
    assert (await store.txn([], [Put("/more", b"x" * 100_000)])).succeeded
    await store.close()


# The file


async def test_a_newer_format_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await (await SqliteStore.open(str(path))).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(FormatTooNew, match=r"format 99.*newer Wherry"):
        await SqliteStore.open(str(path))
    assert path.read_bytes() == before


async def test_another_programs_file_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a store"):
        await SqliteStore.open(str(path))
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(StoreError, match="not a database"):
        await SqliteStore.open(str(path))


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none/store.db: cannot open the store: .*No such file"):
        await SqliteStore.open(str(tmp_path / "none" / "store.db"))


async def test_a_second_opening_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(str(path))
    with pytest.raises(Unavailable, match=f"in use by another process .pid {os.getpid()}"):
        await SqliteStore.open(str(path))
    process = run(*writer(path, "one", 1))
    assert process.returncode != 0
    assert b"in use by another process" in process.stderr
    await store.close()
    await (await SqliteStore.open(str(path))).close()


async def test_the_file_is_private(tmp_path: Path) -> None:
    store = await SqliteStore.open(str(tmp_path / "store.db"))
    await store.txn([], [Put("/secret", b"x")])
    names = ("store.db", "store.db-wal", "store.db-shm", "store.db.lock")
    assert {name: (tmp_path / name).stat().st_mode & 0o077 for name in names} == dict.fromkeys(names, 0)
    await store.close()


async def test_compaction_gives_space_back(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(str(path))
    for _ in range(40):
        await asyncio.gather(*(store.txn([], [Put(f"/{n}", os.urandom(5000))]) for n in range(50)))
    await store.compact(1)
    grown = path.stat().st_size
    assert grown > 8_000_000
    await store.compact(await store.revision())
    store.check_invariants()
    await store.close()
    assert path.stat().st_size < grown / 5
    store = await SqliteStore.open(str(path))
    assert (await store.list("/")).count == 50
    await store.close()


async def test_history_survives_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    for round in range(3):
        store = await SqliteStore.open(path)
        for n in range(10):
            await store.txn([], [Put(f"/{n}", b"%d" % round)])
        watch = store.watch("/", from_revision=2)
        events = []
        while len(events) < 10 * (round + 1):
            events += (await asyncio.wait_for(anext(watch), 10)).events
        assert [event.kv.mod_revision for event in events] == list(range(2, 2 + 10 * (round + 1)))
        old = await store.get("/3", revision=5)
        assert old is not None
        assert old.value == b"0"
        await store.close()
