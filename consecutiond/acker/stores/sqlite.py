"""The embedded store: one SQLite file in WAL mode, durable with nothing to install."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import astuple

from consecutiond.acker.stores import schema
from consecutiond.acker.stores.base import (
    EVERY,
    Audit,
    Changes,
    Durability,
    Failed,
    Group,
    Head,
    NoStoreError,
    OpenChunk,
    Retained,
    StoreError,
    StoreFullError,
    Totals,
    Where,
    numbers_after,
)

#: seconds to wait for a reader or a second opener; readers hold the file for milliseconds; 5 to 30
BUSY_TIMEOUT_S = 10.0
#: bytes of the write-ahead log after which it is copied into the file; 1 MiB and 16 MiB measured slower
CHECKPOINT_BYTES = 4 * 2**20
#: bytes to which the write-ahead log shrinks again after one huge commit
WAL_LIMIT_BYTES = 8 * 2**20
#: bytes of page cache; holds a few group commits, so that what comes and goes is never read from the disk
CACHE_BYTES = 16 * 2**20

#: the values of SQLite's `PRAGMA synchronous`
_SYNCHRONOUS_NORMAL, _SYNCHRONOUS_FULL = 1, 2

#: what SQLite calls a fault -> probable cause and what to do; the first prefix that fits is taken
_REMEDIES = (
    (
        "SQLITE_FULL",
        "the disk is full, or a quota is reached: make room; what was not recorded is tried again",
    ),
    ("SQLITE_IOERR", "the disk or the file system failed: look at free space, quota and the kernel's log"),
    ("SQLITE_NOTADB", "the file is not an SQLite database: give the store another path, or restore a copy"),
    (
        "SQLITE_CORRUPT",
        "the file is damaged: stop the consecutor, keep a copy, and try sqlite3's .recover on it",
    ),
    ("SQLITE_CANTOPEN", "the file and its directory must exist, and this user must be allowed to write both"),
    ("SQLITE_READONLY", "this user must be allowed to write the file and its directory"),
    ("SQLITE_BUSY", "another process holds the file: stop the second acker or the tool that has it open"),
)


class SqliteReader:
    """Reads an SQLite store and changes nothing in it; also while an acker writes to it."""

    keeps_values = True

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).absolute()
        self._open: sqlite3.Connection | None = None
        self.salt = 0
        self.durable = False

    def open(self) -> None:
        """Open the file, which must be a store; does nothing when it is open already."""
        if self._open is not None:
            return
        with self._explained("opened"):
            if not self._path.exists():
                raise NoStoreError(f"there is no store at {self._path}: nothing was ever started with it.")
            connection = self._connect("ro")
            try:
                self._prepare(connection)
                schema.refuse_foreign(connection, str(self._path))
                salt = connection.execute("SELECT salt FROM counters").fetchone()[0]
            except BaseException:
                connection.close()
                raise
        self.salt = int.from_bytes(salt, "little")
        self._open = connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Set what the connection needs before the schema is looked at; a reader needs nothing."""

    def _connect(self, mode: str) -> sqlite3.Connection:
        # The caller promises one thread at a time, not that it is the one which opened the store.
        return sqlite3.connect(
            f"{self._path.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )

    def close(self) -> None:
        """Close the file; does nothing when it is closed."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def describe(self) -> str:
        """Say in one sentence what the store is opened for."""
        return f"SQLite file {self._path}, opened for reading only."

    def next_chunk(self) -> int:
        """Return the id at which chunks go on."""
        return int(self._one("SELECT next_chunk FROM counters")[0])

    def next_position(self) -> int:
        """Return the position at which roots go on."""
        return int(self._one("SELECT next_position FROM counters")[0])

    def last_sequence(self, producer: bytes) -> int:
        """Return the highest sequence recorded for a producer, 0 when it is unknown."""
        return int(self._one("SELECT max(sequence) FROM producers WHERE producer = ?", producer)[0] or 0)

    def open_chunks(self, after: int = 0, limit: int = 1000) -> list[OpenChunk]:
        """Return up to `limit` chunks with an id above `after`, without their bodies."""
        return [schema.open_chunk(row) for row in self._all(schema.GET_CHUNKS, after, limit)]

    def body(self, chunk: int) -> bytes:
        """Return the body of a chunk."""
        rows = self._all("SELECT body FROM bodies WHERE chunk = ?", chunk)
        if not rows:
            raise StoreError(f"{self._path} holds no chunk {chunk}: it is over, or was never recorded.")
        return bytes(rows[0][0])

    def retained(self, after: int = 0, limit: int = 1000) -> list[Retained]:
        """Return up to `limit` batches that are kept, with numbers above `after`, without their bodies."""
        return [schema.retained(row) for row in self._all(schema.GET_RETAINED, after, limit)]

    def waiting(self, after: int = 0, limit: int = 1000) -> list[Failed]:
        """Return up to `limit` roots that wait for another attempt, at positions above `after`."""
        return [schema.failed(row) for row in self._all(schema.GET_WAITING, after, limit)]

    def dead_letters(self, after: int = 0, limit: int = 1000, where: Where = EVERY) -> list[Failed]:
        """Return up to `limit` dead letters at positions above `after`."""
        query, values = schema.get_dead(where, after, limit)
        return [schema.failed(row) for row in self._all(query, *values)]

    def count_dead(self, where: Where = EVERY) -> int:
        """Return how many dead letters there are."""
        if where == EVERY:
            return self.totals().failed
        query, values = schema.count_dead(where)
        return int(self._one(query, *values)[0])

    def groups(self, where: Where = EVERY) -> list[Group]:
        """Return the groups of dead letters that look alike, the largest first."""
        query, values = schema.get_groups(where)
        return [Group(*row) for row in self._all(query, *values)]

    def audits(self, after: int = 0, limit: int = 1000) -> list[Audit]:
        """Return up to `limit` actions of operators with numbers above `after`."""
        return [Audit(*row) for row in self._all(schema.GET_AUDITS, after, limit)]

    def totals(self) -> Totals:
        """Return the totals as of the last commit."""
        accepted, completed, failed, waiting, discarded, *retained = self._one(
            "SELECT accepted, completed, failed, waiting, discarded, retained, retained_bytes FROM counters"
        )
        still_open = accepted - completed - failed - discarded
        return Totals(accepted, completed, failed, waiting, still_open, discarded, *retained)

    def head(self) -> Head:
        """Return what a copy needs beside the rows."""
        row = self._one("SELECT next_chunk, next_position, accepted, completed, discarded FROM counters")
        next_chunk, next_position, accepted, completed, discarded = row
        producers = dict(self._all("SELECT producer, sequence FROM producers"))
        return Head(self.salt, next_chunk, next_position, accepted, completed, discarded, producers)

    def _one(self, query: str, *values: object) -> Any:
        return self._all(query, *values)[0]

    def _all(self, query: str, *values: object) -> list[Any]:
        # Fetched whole: a cursor left half-read would keep the write-ahead log from being reused.
        with self._explained("read"):
            return self._connection().execute(query, values).fetchall()

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            raise StoreError(f"the store {self._path} is not open: call open() before using it.")
        return self._open

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """Turn whatever SQLite raises into a StoreError that says what to do."""
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError) as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            remedy = next((text for prefix, text in _REMEDIES if name.startswith(prefix)), "")
            if isinstance(error, PermissionError):
                remedy = "this user must be allowed to write the file and its directory"
            reason = f"{error} ({name})" + (f". Probably {remedy}" if remedy else "")
            kind = StoreFullError if name.startswith("SQLITE_FULL") else StoreError
            raise kind(f"the store {self._path} could not be {done}: {reason}.") from error


class SqliteStore(SqliteReader):
    """The acker's `Store` in one SQLite file.

    Invariants: one commit is one transaction, begun with the write lock; the file and its companions have
    mode 0600; deleted pages are used again, so the file is as large as the log once was and no larger.
    """

    def __init__(self, path: str | Path, durability: Durability) -> None:
        super().__init__(path)
        self.durable = durability == "durable"

    def open(self) -> None:
        """Open the file, created if need be; does nothing when it is open already."""
        if self._open is None:
            with self._explained("opened"):
                _create_private(self._path)
        super().open()

    def _connect(self, mode: str) -> sqlite3.Connection:
        return super()._connect("rw")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # First of all, because the write-ahead log would already be a change to somebody else's file.
        if not schema.is_empty(connection):
            schema.refuse_foreign(connection, str(self._path), former=True)
        connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
        journal = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if journal != "wal":
            raise StoreError(
                f"{self._path} cannot have a write-ahead log (it stays in mode {journal!r}). Probably its "
                "file system is a network one: put the store on a local disk."
            )
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        set_synchronous(connection, durable=self.durable)
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_BYTES // page}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_BYTES // 1024}")
        # Some builds overwrite what is deleted with zeros, which would write every body twice.
        connection.execute("PRAGMA secure_delete = OFF")
        schema.prepare(connection)

    def describe(self) -> str:
        """Say in one sentence what the store guarantees as it is configured."""
        if self.durable:
            return f"SQLite file {self._path}: a receipted item is on the disk and survives a power cut."
        return (
            f"SQLite file {self._path}: a receipted item survives the kill of any process; "
            "a power cut may take the last moments."
        )

    def commit(self, changes: Changes) -> None:
        """Apply one group in one transaction.

        Raises:
            StoreError: nothing was changed; the same `changes` may be committed again later.

        """
        self._transact(lambda connection: _apply(connection, changes))

    def adopt(self, head: Head) -> None:
        """Become the log whose rows were committed here, in one transaction."""
        self._transact(lambda connection: schema.adopt(connection, head))
        self.salt = head.salt

    def _transact(self, change: Callable[[sqlite3.Connection], None]) -> None:
        connection = self._connection()
        with self._explained("written (nothing of this group was recorded)"):
            try:
                connection.execute("BEGIN IMMEDIATE")
                change(connection)
                connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some faults, a full disk among them.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def set_synchronous(connection: sqlite3.Connection, *, durable: bool) -> None:
    """Have a connection wait for the disk at every commit, or only where the file would break otherwise."""
    connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS_FULL if durable else _SYNCHRONOUS_NORMAL}")


def _apply(connection: sqlite3.Connection, changes: Changes) -> None:
    _append(connection, changes)
    marks = [(bitmap, chunk) for chunk, bitmap in changes.done.items() if bitmap is not None]
    over = [(chunk,) for chunk, bitmap in changes.done.items() if bitmap is None]
    recovered = [(position,) for position in (*changes.recovered, *changes.dropped)]
    recovered += [(failed.position,) for failed in changes.dead]
    connection.executemany("UPDATE chunks SET done = ? WHERE id = ?", marks)
    connection.executemany("DELETE FROM chunks WHERE id = ?", over)
    kept = changes.kept_bodies
    connection.executemany("DELETE FROM bodies WHERE chunk = ?", [each for each in over if each[0] not in kept])
    connection.executemany(schema.PUT_WAITING, map(schema.failed_row, changes.waiting))
    connection.executemany(schema.PUT_DEAD, map(schema.failed_row, changes.dead))
    connection.executemany("DELETE FROM waiting WHERE position = ?", recovered)
    revived = [(position,) for position in changes.revived]
    connection.executemany("DELETE FROM dead WHERE position = ?", revived)
    connection.executemany(schema.DISCARD, revived)
    connection.executemany(schema.PUT_AUDIT, [astuple(audit)[:-1] for audit in changes.audits])
    connection.executemany("DELETE FROM producers WHERE producer = ?", [(name,) for name in changes.forget])
    if changes.retained or changes.purged:
        _retain(connection, changes)


def _retain(connection: sqlite3.Connection, changes: Changes) -> None:
    new = [(batch.chunk.id, batch.chunk.body) for batch in changes.retained if batch.chunk.body]
    connection.executemany(schema.INSERT_BODY, new)
    connection.executemany(schema.PUT_RETAINED, map(schema.retained_row, changes.retained))
    connection.executemany("DELETE FROM bodies WHERE chunk = ?", [(batch.chunk.id,) for batch in changes.purged])
    connection.executemany("DELETE FROM retained WHERE number = ?", [(batch.number,) for batch in changes.purged])


def _append(connection: sqlite3.Connection, changes: Changes) -> None:
    next_numbers = connection.execute("SELECT next_chunk, next_position FROM counters").fetchone()
    next_numbers = numbers_after(changes, *next_numbers)
    chunks = [append.chunk for append in changes.appends]
    origins = [append.origin for append in changes.appends if append.origin is not None]
    connection.executemany(schema.INSERT_CHUNK, map(schema.chunk_row, chunks))
    connection.executemany(schema.INSERT_BODY, [(chunk.id, chunk.body) for chunk in chunks])
    connection.executemany(schema.KEEP_SEQUENCE, [(origin.producer, origin.sequence) for origin in origins])
    accepted = sum(chunk.count for chunk in chunks)
    connection.execute(schema.COUNT, (*next_numbers, accepted, changes.completed, len(changes.dropped)))


def _create_private(path: Path) -> None:
    """Create an empty file with mode 0600, which its companions inherit, unless there is one."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        return
    os.close(file)
    # The name of the file must survive a power cut as well as its content.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
