"""The SQLite file of a store: its format and its transactions, as plain synchronous code.

Owns the schema and all SQL that writes. Called by `sqlite`, which decides on which thread each call runs: one `Database`
writes, any number of `Reader`s (`sqlite_read`) read beside it. Knows neither the event loop nor the clock.

Format 1. `history` has one row per change; its id is `revision << 8 | position in the revision`, so a revision's changes
are neighbours. A row with a NULL value is a delete. `previous_id` leads from each row to the one it replaced, so the state at
an older revision is found by walking back from `keys`, and compaction finds what a range of revisions has replaced without an
index over the history. `keys` has the newest row of each key, deleted ones included until they are compacted. `expiry` has
the keys with a time to live, by the lease clock (see `sqlite`). `meta`: `compacted`, the revision; `swept`, the id up
to which the compaction has come; `lease_clock_ms`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.store.base import (
    BatchItem,
    Compacted,
    Event,
    FormatTooNew,
    FutureRevision,
    StoreError,
    TxnResult,
    Unavailable,
)
from controlplane.store.sqlite_group import Group, keys_of, read
from controlplane.store.sqlite_read import POSITION_BITS, READER_CACHE_KIB, Reader, connect

log = logging.getLogger(__name__)

APPLICATION_ID = 0x57485259  # "WHRY"
FORMAT = 1
SWEEP_ROWS = 1000
VACUUM_PAGES = 256

SCHEMA = """
CREATE TABLE history (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, previous_id INTEGER NOT NULL, create_revision INTEGER NOT NULL, value BLOB
);
CREATE TABLE keys (key TEXT PRIMARY KEY, id INTEGER NOT NULL, deleted INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE expiry (key TEXT PRIMARY KEY, id INTEGER NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX expiry_by_time ON expiry (at_ms, key);
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('compacted', 0), ('swept', 0), ('lease_clock_ms', 0);
"""


@dataclass(frozen=True, slots=True)
class Applied:
    """What one group has done. `next_expiry_ms` is None when no key has a time to live."""

    results: tuple[TxnResult, ...]
    revisions: tuple[tuple[int, tuple[Event, ...]], ...]
    next_expiry_ms: int | None


class FileLock:
    """Keeps a second process (or a second store in this one) from opening the same file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise Unavailable(f"{path}: the store is in use by another process (pid {holder})") from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._descriptor)


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Creates the tables in an empty file; refuses a file that is newer than this code or not ours."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application not in (0, APPLICATION_ID) or (application == 0 and tables):
        raise StoreError(f"{path}: an SQLite file, but not a store of Wherry's")
    if version > FORMAT:
        raise FormatTooNew(
            f"{path}: the store has format {version}, this Wherry knows up to {FORMAT}: use a newer Wherry"
        )
    if application == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    if path != ":memory:":
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # 16 MB; checkpoints are what makes a write wait
    if application == 0:
        # One transaction: killed in the middle, the next start finds an empty file again.
        connection.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
        )


class Database(Reader):
    """The one connection that writes. Invariant: `head` is what the committed rows say."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock: FileLock | None = None
        try:
            if path != ":memory:":
                self.lock = FileLock(Path(path + ".lock"))
                self._create_file()
            super().__init__(connect(path))
            prepare(self.connection, path)
            self.head = self.revision()
        except (sqlite3.Error, OSError) as error:
            self._release()
            raise Unavailable(f"{path}: cannot open the store: {error}") from error
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        self.connection.close()
        self._release()

    def reader(self) -> Reader:
        connection = connect(self.path)
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
        return Reader(connection)

    def lease_clock_ms(self) -> int:
        (value,) = self.connection.execute("SELECT value FROM meta WHERE name = 'lease_clock_ms'").fetchone()
        return int(value)

    def next_expiry_ms(self) -> int | None:
        (value,) = self.connection.execute("SELECT min(at_ms) FROM expiry").fetchone()
        return None if value is None else int(value)

    def apply(self, group: Sequence[BatchItem], clock_ms: int) -> Applied:
        """The whole group in one durable transaction. Raises Unavailable, and then none of it has happened as far as any
        reader can see."""
        results: list[TxnResult] = []
        revisions: list[tuple[int, tuple[Event, ...]]] = []
        with self._transaction():
            changes = Group(read(self.connection, keys_of(group)), self.head, clock_ms)
            for item in group:
                result, events = changes.decide(item)
                results.append(result)
                if events:
                    revisions.append((changes.head, events))
            changes.write(self.connection)
            if changes.leased:
                self._set_meta("lease_clock_ms", clock_ms)
            next_expiry = self.next_expiry_ms()
        self.head = changes.head
        return Applied(tuple(results), tuple(revisions), next_expiry)

    def expire(self, clock_ms: int, limit: int) -> Applied:
        """Deletes up to `limit` keys whose time is over, in one revision."""
        with self._transaction():
            due = self.connection.execute(
                "SELECT key, id FROM expiry WHERE at_ms <= ? ORDER BY at_ms, key LIMIT ?", (clock_ms, limit)
            ).fetchall()
            self.connection.executemany("DELETE FROM expiry WHERE key = ?", [(key,) for key, _ in due])
            rows = read(self.connection, [key for key, _ in due])
            changes = Group(rows, self.head, clock_ms)
            events = changes.delete(key for key, id in due if key in rows and rows[key][0] == id)
            changes.write(self.connection)
            self._set_meta("lease_clock_ms", clock_ms)
            next_expiry = self.next_expiry_ms()
        self.head = changes.head
        return Applied((), ((changes.head, events),) if events else (), next_expiry)

    def begin_compaction(self, revision: int) -> None:
        """From here on the history before `revision` is gone, durably; `sweep` gives back its space. Raises."""
        with self._transaction():
            compacted = self.compacted()
            if revision <= compacted:
                raise Compacted(compacted)
            if revision > self.head:
                raise FutureRevision(
                    f"revision {revision} has not happened: the newest is {self.head}", revision, self.head
                )
            self._set_meta("compacted", revision)

    def sweep(self) -> bool:
        """Removes one piece of what is compacted. False when nothing is left to remove."""
        with self._transaction():
            compacted = self.compacted()
            (swept,) = self.connection.execute("SELECT value FROM meta WHERE name = 'swept'").fetchone()
            rows = self.connection.execute(
                "SELECT id, key, previous_id, value IS NULL FROM history WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                (swept, (compacted + 1) << POSITION_BITS, SWEEP_ROWS),
            ).fetchall()
            oldest = compacted << POSITION_BITS
            self.connection.executemany(
                "DELETE FROM history WHERE id = ?", [(previous,) for _, _, previous, _ in rows if previous]
            )
            # A delete at the compacted revision itself stays: it may be the newest row, which tells the revision.
            gone = [(id, key) for id, key, _, deleted in rows if deleted and id < oldest]
            self.connection.executemany("DELETE FROM history WHERE id = ?", [(id,) for id, _ in gone])
            self.connection.executemany("DELETE FROM keys WHERE id = ? AND key = ?", gone)
            # The rows of the compacted revision are looked at again by the next compaction.
            now_swept = min(oldest, rows[-1][0] + 1) if rows else oldest
            if now_swept != swept:
                self._set_meta("swept", now_swept)
            return len(rows) == SWEEP_ROWS and now_swept != swept

    def vacuum(self) -> bool:
        """Gives a piece of the free pages back to the file system; False when there is little left to give."""
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        if free <= VACUUM_PAGES + pages // 10:  # keep some: the next writes will want them
            return False
        with self._transaction():
            self.connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
        return True

    def checkpoint(self) -> None:
        """Moves the log into the file, which is when the file shrinks. Readers or a full disk in the way only put it off."""
        if self.path != ":memory:":
            try:
                self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.OperationalError as error:
                log.warning("cannot move the log of %s into the file yet: %s", self.path, error)

    def set_lease_clock(self, clock_ms: int) -> None:
        with self._transaction():
            self._set_meta("lease_clock_ms", clock_ms)

    def copy_to(self, path: str) -> int:
        """Copies one consistent state to `path`, whatever is written meanwhile, and checks the copy. Gives its revision.
        Runs on any thread: but for ":memory:" it has a connection of its own."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.partial")
        temporary.unlink(missing_ok=True)
        source = self if self.path == ":memory:" else self.reader()
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            source.begin()  # a snapshot, or each commit meanwhile would make the copy start again
            revision = source.revision()
            copy = sqlite3.connect(temporary, isolation_level=None)
            try:
                source.connection.backup(copy, pages=1024)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, complete in itself
                problems = copy.execute("PRAGMA quick_check").fetchall()
                if problems != [("ok",)] or Reader(copy).revision() != revision:
                    raise StoreError(f"the copy {path} is damaged: {problems}")
            finally:
                copy.close()
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, target)
            self._sync_directory(target)
            return revision
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot copy the store to {path}: {error}") from error
        finally:
            source.end()
            if source is not self:
                source.connection.close()
            temporary.unlink(missing_ok=True)

    def check_invariants(self) -> None:
        execute = self.connection.execute
        assert execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the file is damaged"
        assert self.head == self.revision(), f"head is {self.head}, the rows say {self.revision()}"
        assert not execute(
            "SELECT k.key FROM keys k LEFT JOIN history h ON h.id = k.id"
            " WHERE h.id IS NULL OR h.key <> k.key OR (h.value IS NULL) <> k.deleted"
        ).fetchall(), "a key whose newest row is missing or another's"
        assert not execute("SELECT h.id FROM history h JOIN keys k ON k.key = h.key WHERE h.id > k.id").fetchall(), (
            "a row newer than its key's newest"
        )

    def _create_file(self) -> None:
        """With the right mode from the start (it holds secrets), and its directory entry on disk."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        self._sync_directory(Path(self.path))

    def _sync_directory(self, path: Path) -> None:
        directory = os.open(path.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _release(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def _transaction(self) -> _Transaction:
        return _Transaction(self.connection)

    def _set_meta(self, name: str, value: int) -> None:
        self.connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))


class _Transaction:
    """BEGIN IMMEDIATE to COMMIT; whatever goes wrong is rolled back, and SQLite's own errors become Unavailable."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise Unavailable(f"the store cannot be written: {error}") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        failure = error
        if error is None:
            try:
                self._connection.execute("COMMIT")
                return
            except sqlite3.Error as commit_error:
                failure = commit_error
        if self._connection.in_transaction:  # a full disk may have rolled it back already
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as rollback_error:
                raise Unavailable(f"the store cannot be written: {rollback_error}") from failure
        if isinstance(failure, sqlite3.Error):
            raise Unavailable(f"the store cannot be written: {failure}") from failure
