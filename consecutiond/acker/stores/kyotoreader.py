"""Reads a store in a Kyoto Cabinet file.

The file is a hash database, each of whose rows stands by itself, and the order of numbers is kept in memory, made when
the file is opened. Kyoto Cabinet's tree has the order in the file, but writes its root at the end of a transaction only
if the number of rows or leaves has changed (kcplantdb.h), which here is often not so.
"""

import fcntl
import os
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from consecutiond.acker.stores import keyed, rows
from consecutiond.acker.stores.base import NoStoreError, StoreError
from consecutiond.acker.stores.keyed import Counters, Key
from consecutiond.acker.stores.keyedreader import KeyedReader, Page
from consecutiond.acker.stores.kyotolib import NO_REPAIR, READER, TRY_LOCK, WRITER, Database, KyotoError

#: raised by every change of the rows; a file of another one is refused, never guessed at
SCHEMA_VERSION: Final = 2
#: the one before it, which has no retained batches and differs in nothing else
FORMER_VERSION: Final = 1
#: seconds to wait for another process to close the file; readers have it for milliseconds
LOCK_PATIENCE_S: Final = 5.0
_LOCK_PAUSE_S: Final = 0.02

#: no memory-mapped part, as a full disk would then kill the process; what was deleted is used again bit by bit
_TUNING: Final = b"#type=kch#msiz=0#dfunit=8#opts=l#bnum=131072"
#: No repairs: they copy what can be read of a file and drop the rest; what a kill cuts off, the write-ahead log puts
#: back, if only the library locks the file. It does not wait for the lock, since nobody of ours can have it.
MODE: Final = NO_REPAIR | TRY_LOCK
#: the key of the row with schema, salt and counters; table keys begin with the letters below
LOG: Final = b"_log"
_LETTERS: Final = {
    keyed.CHUNKS: b"c", keyed.DONE: b"d", keyed.WAITING: b"w", keyed.DEAD: b"x", keyed.AUDITS: b"a",
    keyed.BODIES: b"b", keyed.PRODUCERS: b"p", keyed.RETAINED: b"r",
}  # fmt: skip
_NO_STORE: Final = (
    "the file is no Kyoto Cabinet database or is damaged: keep a copy of it, and give the store another path"
)
#: what the library calls a fault -> probable cause and what to do
_REMEDIES: Final = {
    "no permission": "this user must be allowed to write the file and its directory",
    "no repository": "the directory must exist",
    "invalid operation": _NO_STORE,
    "broken file": _NO_STORE,
    "system error": "the disk is full or failed: make room; what was not recorded is tried again",
}


class Log(msgspec.Struct, frozen=True):
    """The one row that every commit replaces."""

    schema: int
    salt: int
    commit: int
    counters: Counters


_logs: Final = msgspec.msgpack.Decoder(Log)


class Numbers:
    """The numbers of the rows of one table, in order when somebody asks."""

    def __init__(self) -> None:
        self._all: set[int] = set()
        self._sorted: list[int] | None = None

    def add(self, number: int) -> None:
        """Take a number in."""
        self._all.add(number)
        self._sorted = None

    def discard(self, number: int) -> None:
        """Take a number away, if it is there."""
        self._all.discard(number)
        self._sorted = None

    def page(self, after: int, limit: int) -> list[int]:
        """Return up to `limit` numbers above `after`."""
        if self._sorted is None:
            self._sorted = sorted(self._all)
        start = bisect_right(self._sorted, after)
        return self._sorted[start : start + limit]


class KyotoReader(KeyedReader):
    """Reads a store in a Kyoto Cabinet file while no acker has it open.

    Args:
        path: of the file.

    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).absolute()
        self.name = f"Kyoto Cabinet file {self._path}"
        if "#" in str(self._path):
            raise StoreError(
                f"{self._path} cannot be a Kyoto Cabinet file, since there is a # in it: use another path."
            )
        self._database: Database | None = None
        self._lock_fd = -1
        self._numbers: dict[str, Numbers] = {}
        self.salt = 0
        self.durable = False

    @property
    def _write_ahead(self) -> Path:
        """What a transaction would put back; more than empty when one was cut off."""
        return Path(f"{self._path}.wal")

    def open(self) -> None:
        """Open the file, which must be a store; does nothing when it is open already."""
        if self._database is not None:
            return
        if not self._path.exists():
            raise NoStoreError(f"there is no store at {self._path}: nothing was ever started with it.")
        self._lock(fcntl.LOCK_EX)
        try:
            with self._explained("opened"):
                self._recover()
                self._database = Database(self._tuned(), READER | MODE)
            self.salt = self._log().salt
            self._find_numbers()
        except BaseException:
            self.close()
            raise

    def _recover(self) -> None:
        """Undo a transaction that a kill has cut off; only a writer does that."""
        if self._write_ahead.exists() and self._write_ahead.stat().st_size:
            Database(self._tuned(), WRITER | MODE).close()

    def _find_numbers(self) -> None:
        """Read which rows there are."""
        self._numbers = {table: Numbers() for table in keyed.SORTED}
        tables = {_LETTERS[table][0]: numbers for table, numbers in self._numbers.items()}
        with self._explained("read"):
            for key in self._opened().all_keys():
                if key != LOG and key[0] in tables:
                    tables[key[0]].add(rows.number(key[1:]))

    def _tuned(self) -> bytes:
        return os.fsencode(self._path) + _TUNING

    def close(self) -> None:
        """Close the file; does nothing when it is closed."""
        database, self._database = self._database, None
        try:
            if database is not None:
                with self._explained("closed"):
                    database.close()
        finally:
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
                self._lock_fd = -1

    def describe(self) -> str:
        """Say in one sentence what the store is opened for."""
        return f"{self.name}, opened for reading only."

    def _lock(self, kind: int) -> None:
        """Take the lock of the file, which is one beside it: Kyoto Cabinet's own does not hold between threads.

        Raises:
            StoreError: another process has it.

        """
        with self._explained("opened"):
            self._lock_fd = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._lock_fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.close()
                    raise StoreError(
                        f"{self.name} is in use by another process, and Kyoto Cabinet admits one at a time. "
                        "Probably its acker runs: `consecutiond status` asks it; or stop it first."
                    ) from None
                time.sleep(_LOCK_PAUSE_S)
            else:
                return

    # --- reading ---------------------------------------------------------------------------------------------

    def _opened(self) -> Database:
        if self._database is None:
            raise StoreError(f"{self.name} is not open: call open() before using it.")
        return self._database

    def _log(self) -> Log:
        database = self._opened()
        with self._explained("read"):
            row = database.get(LOG)
        if row is None:
            raise StoreError(
                f"{self.name} holds no store: it is a database of another program, which was not touched, or the acker "
                "never finished its first start. Start the consecutor, or give the store a path of its own."
            )
        try:
            log = _logs.decode(row)
        except msgspec.DecodeError as error:
            raise StoreError(
                f"{self.name} is damaged ({error}): keep a copy, and give the store another path."
            ) from error
        if log.schema not in (SCHEMA_VERSION, FORMER_VERSION):
            raise StoreError(
                f"{self.name} was written by another version of consecutiond (schema {log.schema}, this one reads "
                f"{SCHEMA_VERSION}); it was not touched. Drain it with the version that wrote it, or move it."
            )
        return log

    def _counters(self) -> Counters:
        return self._log().counters

    def _value(self, key: Key) -> bytes | None:
        database = self._opened()
        with self._explained("read"):
            return database.get(place(key))

    def _producers(self) -> dict[bytes, bytes]:
        database, letter = self._opened(), _LETTERS[keyed.PRODUCERS]
        with self._explained("read"):
            names = [key[1:] for key in database.all_keys() if key.startswith(letter)]
        return {name: self._value(Key(keyed.PRODUCERS, name)) or b"0" for name in names}

    def _pages(self, *pages: Page) -> list[list[tuple[int, bytes]]]:
        # One moment by itself: nobody else has the file, and one thread at a time has us.
        return [self._page(page) for page in pages]

    def _page(self, page: Page) -> list[tuple[int, bytes]]:
        database = self._opened()
        found = []
        for number in self._numbers[page.table].page(page.after, page.limit):
            with self._explained("read"):
                row = database.get(place(Key(page.table, rows.number_key(number))))
            if row is None:
                raise StoreError(
                    f"{self.name} is damaged: a row is missing. Keep a copy, and give the store another path."
                )
            found.append((number, row))
        return found

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """Turn a fault into a StoreError that says what to do."""
        try:
            yield
        except KyotoError as error:
            remedy = _REMEDIES.get(error.label, "")
            reason = f"{error}. Probably {remedy}" if remedy else str(error)
            raise StoreError(f"{self.name} could not be {done}: {reason}.") from error
        except OSError as error:
            raise StoreError(
                f"{self.name} could not be {done}: {error.strerror}. Probably the directory is missing, or this "
                "user may not write it."
            ) from error


def place(key: Key) -> bytes:
    """Return the key of a row in the file."""
    return _LETTERS[key.table] + key.key
