"""Looks into an SQLite store without leaving a trace, not even the companions of the file that a reader would make."""

import sqlite3
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

from consecutiond.acker.stores import schema
from consecutiond.acker.stores.base import StoreError
from consecutiond.acker.stores.sqlite import SqliteReader, set_synchronous
from consecutiond.doctor.check import Check

#: seconds that the check of the file may take; a store of 1 GiB takes some
_PATIENCE_S: Final = 5.0
#: steps of SQLite's machine between looks at the time
_STEPS: Final = 10_000
#: where the header says how large pages are
_PAGE_SIZE: Final = slice(16, 18)
#: where the header says how the file is written: 2 is a write-ahead log, 1 a rollback journal
_WRITE_VERSION: Final = 18
#: where it says which version of which program's the file is
_USER_VERSION, _PROGRAM = slice(60, 64), slice(68, 72)
_WAL: Final = 2
_MAGIC: Final = b"SQLite format 3\0"
_LEVELS: Final = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}


class SqliteFacts(Struct, frozen=True):
    """What is known of a file.

    Attributes:
        path: of the file.
        size: in bytes; None where there is no file.
        error: why it cannot be read, else "".
        unseen: why it was not looked into although it may be sound, else "".
        wal: it has a write-ahead log.
        former: it is of the version before this one, which a start brings up to date.
        synchronous: what a connection has that was set as the acker sets its own.
        fault: the first that SQLite's quick check found, "" for none; None where it was not done to the end.

    """

    path: str
    size: int | None = None
    error: str = ""
    unseen: str = ""
    wal: bool = False
    former: bool = False
    synchronous: int | None = None
    fault: str | None = None


class UnseenError(StoreError):
    """The file may be sound, but nobody can look into it without changing something."""


class UntouchingReader(SqliteReader):
    """Reads a store of which no companion may be made or changed; else opening it raises UnseenError."""

    def _connect(self, mode: str) -> sqlite3.Connection:
        wal, shm = Path(f"{self._path}-wal"), Path(f"{self._path}-shm")
        if not wal.exists() or (not wal.stat().st_size and not shm.exists()):
            return super()._connect(f"{mode}&immutable=1")
        if not shm.exists():
            raise UnseenError(
                f"{self._path} was left by a killed acker and has lost its -shm file, which only a start makes again"
            )
        return super()._connect(f"{mode}&readonly_shm=1")

    def look(self, *, durable: bool) -> tuple[int, str | None]:
        """Return the `synchronous` of a connection of ours, and what the quick check found; None: it took too long."""
        connection = self._connection()
        set_synchronous(connection, durable=durable)
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        return int(level), _quick_check(connection)


def read(path: Path, *, durable: bool) -> SqliteFacts:
    """Look at a file.

    Args:
        path: of it.
        durable: what is recorded has to survive a power cut.

    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return SqliteFacts(str(path))
    except OSError as error:
        return SqliteFacts(str(path), 0, f"{path} cannot be read: {error.strerror}")
    if not size:
        return SqliteFacts(str(path), 0)
    if not header.startswith(_MAGIC):
        return SqliteFacts(str(path), size, f"{path} is no SQLite database, or its beginning is damaged")
    # 1 stands for 65536, which has no place in two bytes.
    page = int.from_bytes(header[_PAGE_SIZE], "big")
    if size % (page if page > 1 else 1 << 16):
        return SqliteFacts(str(path), size, f"{path} is damaged: its end is cut off, it has no whole number of pages")
    wal = header[_WRITE_VERSION] == _WAL
    if (header[_USER_VERSION], header[_PROGRAM]) == (_packed(schema.FORMER_VERSION), _packed(schema.APPLICATION_ID)):
        return SqliteFacts(str(path), size, wal=wal, former=True)
    reader = UntouchingReader(path)
    try:
        reader.open()
        level, fault = reader.look(durable=durable)
    except UnseenError as error:
        return SqliteFacts(str(path), size, unseen=str(error), wal=wal)
    except StoreError as error:
        return SqliteFacts(str(path), size, str(error), wal=wal)
    except sqlite3.Error as error:
        return SqliteFacts(str(path), size, f"{path} cannot be read: {error}", wal=wal)
    finally:
        reader.close()
    return SqliteFacts(str(path), size, wal=wal, synchronous=level, fault=fault)


def _packed(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _quick_check(connection: sqlite3.Connection) -> str | None:
    deadline = time.monotonic() + _PATIENCE_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_INTERRUPT":
            raise
        return None
    finally:
        connection.set_progress_handler(None, 0)
    return "" if found == "ok" else str(found).replace("\n", " ")


def check(facts: SqliteFacts, *, durable: bool) -> list[Check]:
    """Judge a file.

    Args:
        facts: of it.
        durable: what is recorded has to survive a power cut.

    """
    why = "The log is in it."
    if not facts.size and not facts.error:
        seen = f"there is none yet at {facts.path}; the first start makes it"
        return [Check("sqlite.file", "ok", seen if facts.size is None else f"{facts.path} is empty", why)]
    if facts.former:
        seen, do = (
            f"{facts.path} was written by the version before this one",
            "Start it; that brings the file up to date.",
        )
        return [Check("sqlite.file", "warning", seen, why, do)]
    if facts.unseen:
        do = "Start the consecutor; then ask again."
        return [Check("sqlite.file", "unknown", facts.unseen, why, do)]
    if facts.error:
        do = "Keep a copy of the file and its -wal; then do what is said, or give the store another path."
        takes = "the file cannot be used as it is, so nothing is accepted now"
        return [Check("sqlite.file", "problem", facts.error.rstrip("."), why, do, takes)]
    found = Check("sqlite.file", "ok", f"{facts.path}, {facts.size:,} bytes, of this schema", why)
    return [found, _journal(facts), _synchronous(facts, durable=durable), _integrity(facts)]


def _journal(facts: SqliteFacts) -> Check:
    name, why = "sqlite.journal", "Without a write-ahead log readers and the acker wait for each other."
    if facts.wal:
        return Check(name, "ok", "journal_mode wal", why)
    return Check(
        name, "warning", "it has no write-ahead log", why, "A start makes it one; where it cannot, use a local disk."
    )


def _synchronous(facts: SqliteFacts, *, durable: bool) -> Check:
    name, why = "sqlite.synchronous", "FULL has each commit on the disk before its receipt."
    level = facts.synchronous if facts.synchronous is not None else -1
    seen = f"a connection set as the acker sets its own has synchronous {_LEVELS.get(level, 'unknown')}"
    if level >= (2 if durable else 1):
        return Check(name, "ok", seen, why)
    takes = "SQLite does not wait for the disk"
    return Check(name, "problem", seen, why, "Use a Python whose SQLite obeys PRAGMA synchronous.", takes)


def _integrity(facts: SqliteFacts) -> Check:
    name, why = "sqlite.integrity", "A damaged file may lack what was accepted."
    if facts.fault is None:
        do = "`sqlite3 FILE 'PRAGMA quick_check'` on a copy, for as long as it takes."
        return Check(name, "unknown", f"the quick check was not through after {_PATIENCE_S:.0f} s", why, do)
    if not facts.fault:
        return Check(name, "ok", "SQLite's quick check found no fault", why)
    do = "Stop the consecutor, keep a copy, and try sqlite3's .recover on it."
    return Check(name, "problem", f"the file is damaged: {facts.fault}", why, do, "its file is damaged")
