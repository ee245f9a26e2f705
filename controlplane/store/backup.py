"""Backups in a form that any backend can restore. Called by the CLI and the server; SQLite also has `SqliteStore.copy_to`.

The file: the line MAGIC; a line of JSON with `format` and `revision`; per key its length and that of its value (two big-endian
uint32), the key, the value; then two zero lengths, the number of keys (uint64) and the SHA-256 of all bytes before it. It is
the state at one revision, without history. Revisions are not restored (the new store counts its own), and neither are times to
live, which a list does not tell: `restore` is told which keys have one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from controlplane.store.base import (
    MAX_VALUE_BYTES,
    BatchItem,
    Compacted,
    Compare,
    Delete,
    FormatTooNew,
    Put,
    Store,
    StoreError,
)

MAGIC = b"wherry-backup\n"
FORMAT = 1
PAGE = 200
BATCH_BYTES = 1 << 20
HEADER_BYTES = 4096
MAX_KEY_BYTES = 64 * 1024
LENGTHS = struct.Struct(">II")
COUNT = struct.Struct(">Q")
# In a store that is being restored; it is gone when all keys are there.
MARKER = "!restoring"


class BadBackup(StoreError):
    """The file is not a backup, is cut off or damaged."""


@dataclass(frozen=True, slots=True)
class BackupInfo:
    revision: int
    keys: int
    digest: str


async def backup(store: Store, path: Path | str) -> BackupInfo:
    """Writes the state at one revision to `path`, which either is complete afterwards or is what it was before."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            while True:
                try:
                    info = await _write(store, file)
                    break
                except Compacted:  # it took longer than the history is kept: from the start
                    file.seek(0)
                    file.truncate()
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        os.replace(temporary, path)
        await asyncio.to_thread(sync_directory, path.parent)
        return info
    except OSError as error:
        raise StoreError(f"cannot write the backup {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def verify(path: Path | str) -> BackupInfo:
    """Reads the whole file. Raises BadBackup, FormatTooNew."""
    info = None
    for info in _records(Path(path)):  # noqa: B007
        pass
    assert isinstance(info, BackupInfo), "the last record is the summary"
    return info


async def restore(path: Path | str, store: Store, *, ttl_s: Callable[[str], int] = lambda key: 0) -> BackupInfo:
    """Fills an empty store. `ttl_s` gives a key's time to live, 0 for none. The file is verified before anything is
    written. One that was interrupted can be repeated with the same file; `unfinished` tells of it.
    Raises BadBackup, FormatTooNew, StoreError (not empty), Unavailable."""
    info = await asyncio.to_thread(verify, path)
    mark = f"{info.digest} {info.keys}".encode()
    listed = await store.list("", limit=1)
    if listed.items:
        marker = await store.get(MARKER)
        if marker is None:
            raise StoreError(f"the store is not empty ({listed.count} keys, the first is {listed.items[0].key})")
        if marker.value != mark:
            raise StoreError("the store holds part of another backup, whose restoration was interrupted")
    else:
        await store.txn([Compare(MARKER, 0)], [Put(MARKER, mark)])
    batch: list[BatchItem] = []
    size = 0
    for record in _records(Path(path)):
        if isinstance(record, BackupInfo):
            break
        key, value = record
        batch.append(BatchItem((Compare(key, 0),), (Put(key, value, ttl_s(key)),)))
        size += len(value)
        if len(batch) >= PAGE or size >= BATCH_BYTES:
            await store.batch(batch)  # a compare that fails: written by the interrupted attempt
            batch, size = [], 0
    await store.batch(batch)
    restored = (await store.list("", limit=1)).count - 1
    if restored > info.keys:
        raise StoreError(f"{restored} keys are in the store, {info.keys} in the backup: who else is writing to it?")
    await store.txn([], [Delete(MARKER)])
    return info


async def unfinished(store: Store) -> bool:
    """Whether a restoration was interrupted. A server must not start on such a store."""
    return await store.get(MARKER) is not None


async def _write(store: Store, file: BinaryIO) -> BackupInfo:
    digest = hashlib.sha256()
    keys, after, revision = 0, "", await store.revision()

    def write(data: bytes) -> None:
        digest.update(data)
        file.write(data)

    write(MAGIC)
    write(json.dumps({"format": FORMAT, "revision": revision}).encode() + b"\n")
    while True:
        page = await store.list("", after=after, limit=PAGE, revision=revision)
        for kv in page.items:
            key = kv.key.encode()
            write(LENGTHS.pack(len(key), len(kv.value)) + key)
            write(kv.value)
            keys += 1
        if not page.more:
            break
        after = page.items[-1].key
        await asyncio.sleep(0)
    write(LENGTHS.pack(0, 0) + COUNT.pack(keys))
    file.write(digest.digest())
    return BackupInfo(revision, keys, digest.hexdigest())


def _records(path: Path) -> Iterator[tuple[str, bytes] | BackupInfo]:
    """The keys with their values, then the summary."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:

            def read(count: int) -> bytes:
                data = file.read(count)
                if len(data) != count:
                    raise BadBackup(f"{path}: the backup is cut off after {file.tell()} bytes")
                digest.update(data)
                return data

            if file.read(len(MAGIC)) != MAGIC:
                raise BadBackup(f"{path}: not a backup of Wherry's")
            digest.update(MAGIC)
            line = file.readline(HEADER_BYTES)
            digest.update(line)
            revision = _header(path, line)
            keys = 0
            while True:
                key_length, value_length = LENGTHS.unpack(read(LENGTHS.size))
                if key_length == 0:
                    break
                if key_length > MAX_KEY_BYTES or value_length > MAX_VALUE_BYTES:
                    raise BadBackup(f"{path}: the backup is damaged near byte {file.tell()}")
                try:
                    key = read(key_length).decode()
                except UnicodeDecodeError as error:
                    raise BadBackup(f"{path}: the backup is damaged near byte {file.tell()}") from error
                yield key, read(value_length)
                keys += 1
            (count,) = COUNT.unpack(read(COUNT.size))
            expected = digest.digest()
            if file.read(len(expected)) != expected or count != keys or file.read(1):
                raise BadBackup(f"{path}: the backup is damaged: its checksum does not fit its contents")
            yield BackupInfo(revision, keys, digest.hexdigest())
    except OSError as error:
        raise BadBackup(f"cannot read the backup {path}: {error}") from error


def _header(path: Path, line: bytes) -> int:
    try:
        header = json.loads(line)
        version, revision = int(header["format"]), int(header["revision"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadBackup(f"{path}: the backup's header is damaged") from error
    if version > FORMAT:
        raise FormatTooNew(
            f"{path}: the backup has format {version}, this Wherry knows up to {FORMAT}: use a newer Wherry"
        )
    return revision


def sync_directory(path: Path) -> None:
    """So that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
