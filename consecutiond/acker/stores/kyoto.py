"""The store in one file of Kyoto Cabinet: a tree, its transactions as hard as the durability asks."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import randbits
from typing import Final

import msgspec

from consecutiond.acker.stores import keyed, rows
from consecutiond.acker.stores.base import Changes, Durability, NoStoreError, StoreError
from consecutiond.acker.stores.keyed import Counters, Decision, Key
from consecutiond.acker.stores.keyedreader import KeyedReader, Page
from consecutiond.acker.stores.kyotolib import CREATE, NO_LOCK, READER, WRITER, Database, KyotoError
from consecutiond.acker.stores.numbered import Numbered

#: raised by every change of the rows; a file of another one is refused, never guessed at
SCHEMA_VERSION: Final = 1
#: seconds to wait for another process to close the file; readers have it for milliseconds
LOCK_PATIENCE_S: Final = 5.0
_LOCK_PAUSE_S: Final = 0.02

#: a tree; no memory-mapped part, as a full disk would then kill the process; unused places are used again
_TUNING: Final = b"#type=kct#msiz=0#dfunit=8#opts=l"
#: the key of the row with schema, salt and counters; table keys begin with the letters below
_LOG: Final = b"_log"
_LETTERS: Final = {
    keyed.CHUNKS: b"c", keyed.DONE: b"d", keyed.WAITING: b"w", keyed.DEAD: b"x", keyed.AUDITS: b"a",
    keyed.BODIES: b"b", keyed.PRODUCERS: b"p",
}  # fmt: skip
#: bytes of the longest value that is never zero, for a new file with mode 0600
_REMEDIES: Final = {
    "no permission": "this user must be allowed to write the file and its directory",
    "no repository": "the directory must exist",
    "broken file": "the file is no Kyoto Cabinet database or is damaged: keep a copy of it, and give the store another "
    "path",
    "system error": "the disk is full or failed: make room; what was not recorded is tried again",
}


class _Log(msgspec.Struct, frozen=True):
    """The one row that every commit replaces."""

    schema: int
    salt: int
    commit: int
    counters: Counters


_logs: Final = msgspec.msgpack.Decoder(_Log)


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
                self._database = Database(self._tuned(), READER | NO_LOCK)
            self.salt = self._log().salt
        except BaseException:
            self.close()
            raise

    def _recover(self) -> None:
        """Undo a transaction that a kill has cut off; only a writer does that."""
        if self._write_ahead.exists() and self._write_ahead.stat().st_size:
            Database(self._tuned(), WRITER | NO_LOCK).close()
            self._path.chmod(0o600)

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

    def _log(self) -> _Log:
        database = self._opened()
        with self._explained("read"):
            row = database.get(_LOG)
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
        if log.schema != SCHEMA_VERSION:
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
            return database.get(_place(key))

    def _pages(self, *pages: Page) -> list[list[tuple[int, bytes]]]:
        # One moment by itself: nobody else has the file, and one thread at a time has us.
        return [self._page(page) for page in pages]

    def _page(self, page: Page) -> list[tuple[int, bytes]]:
        database, letter = self._opened(), _LETTERS[page.table]
        with self._explained("read"):
            start = letter + rows.number_key(page.after + 1)
            found = database.page(start, bytes([letter[0] + 1]), page.limit)
        return [(rows.number(key[1:]), row) for key, row in found]

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


def _place(key: Key) -> bytes:
    return _LETTERS[key.table] + key.key


class KyotoStore(KyotoReader):
    """The acker's `Store` in one Kyoto Cabinet file.

    Invariants: one commit is one transaction; after a fault of the library the file is closed and opened again, which
    undoes what was cut off; the file and its companions have mode 0600.
    """

    def __init__(self, path: str | Path, durability: Durability) -> None:
        super().__init__(path)
        self.durable = durability == "durable"
        self._numbered = Numbered()
        self._is_open = False

    def open(self) -> None:
        """Open the file, created if need be; does nothing when it is open already."""
        if self._is_open:
            return
        self._lock(fcntl.LOCK_EX)
        try:
            self._connect()
            self._create_if_new()
            log = self._log()
        except BaseException:
            self.close()
            raise
        self.salt = log.salt
        self._numbered = Numbered(log.commit)
        self._is_open = True

    def close(self) -> None:
        """Close the file; does nothing when it is closed."""
        self._is_open = False
        super().close()

    def _connect(self) -> None:
        with self._explained("opened"):
            _create_private(self._path)
            self._database = Database(self._tuned(), WRITER | CREATE | NO_LOCK)
            # A repair makes a new file.
            self._path.chmod(0o600)
            _create_private(self._write_ahead)

    def _create_if_new(self) -> None:
        database = self._opened()
        with self._explained("created"):
            if database.page(b"", b"\xff", 1):
                return
            database.begin(hard=True)
            database.set(_LOG, msgspec.msgpack.encode(_Log(SCHEMA_VERSION, randbits(64), 0, Counters())))
            database.end(commit=True)

    def describe(self) -> str:
        """Say in one sentence what the store guarantees as it is configured."""
        if self.durable:
            return f"{self.name}: a receipted item is on the disk and survives a power cut."
        return f"{self.name}: a receipted item survives the kill of any process; a power cut may damage the file."

    def _opened(self) -> Database:
        if self._is_open and self._database is None:
            # It was closed by a fault.
            self._connect()
        return super()._opened()

    def commit(self, changes: Changes) -> None:
        """Apply one group in one transaction.

        Raises:
            StoreError: nothing was changed, or it is not known whether anything was; the same `changes` may be
                committed again, and are applied once.

        """
        log = self._log()
        if self._numbered.is_applied(changes, log.commit):
            self._numbered.end(log.counters.accepted)
            return
        with self._explained("read"):
            found = {key: self._opened().get(_place(key)) for key in keyed.looked_up(changes)}
        decision = keyed.decide(changes, log.counters, found)
        self._numbered.begin(changes)
        with self._explained("written (nothing of this group was recorded)"):
            self._transact(log, decision)
        self._numbered.end(decision.counters.accepted)

    def _transact(self, log: _Log, decision: Decision) -> None:
        database = self._opened()
        replaced = msgspec.structs.replace(log, commit=self._numbered.next, counters=decision.counters)
        try:
            database.begin(hard=self.durable)
            for key, value in decision.writes.items():
                if value is None:
                    database.remove(_place(key))
                else:
                    database.set(_place(key), value)
            database.set(_LOG, msgspec.msgpack.encode(replaced))
            database.end(commit=True)
        except BaseException:
            self._undo(database)
            raise

    def _undo(self, database: Database) -> None:
        """Close the file without the group; what the library cannot undo now is undone when it is opened again."""
        self._database = None
        try:
            database.end(commit=False)
            database.close()
        except KyotoError:
            # The fault that led here is the one to tell.
            return


def _create_private(path: Path) -> None:
    """Create an empty file with mode 0600, unless there is one."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
