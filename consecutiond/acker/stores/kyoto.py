"""The acker's store in one file of Kyoto Cabinet, its transactions as hard as the durability asks."""

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import randbits

import msgspec

from consecutiond.acker.stores import keyed, rows
from consecutiond.acker.stores.base import Changes, Durability, Head
from consecutiond.acker.stores.keyed import Counters, Key
from consecutiond.acker.stores.kyotolib import CREATE, WRITER, Database, KyotoError
from consecutiond.acker.stores.kyotoreader import LOG, MODE, SCHEMA_VERSION, KyotoReader, Log, place
from consecutiond.acker.stores.numbered import Numbered


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
            self._find_numbers()
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
            self._database = Database(self._tuned(), WRITER | CREATE | MODE)
            _create_private(self._write_ahead)

    def _create_if_new(self) -> None:
        database = self._opened()
        with self._explained("created"):
            if next(database.all_keys(), None) is not None:
                return
            database.begin(hard=True)
            database.set(LOG, msgspec.msgpack.encode(Log(SCHEMA_VERSION, randbits(64), 0, Counters())))
            database.end(commit=True)

    def describe(self) -> str:
        """Say in one sentence what the store guarantees as it is configured."""
        if self.durable:
            return f"{self.name}: a receipted item is on the disk and survives a power cut."
        return (
            f"{self.name}: a receipted item survives the kill of any process; "
            "a power cut may take the last moments, or damage the file."
        )

    def _opened(self) -> Database:
        if self._is_open and self._database is None:
            # It was closed by a fault.
            self._connect()
            self._find_numbers()
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
            found = {key: self._opened().get(place(key)) for key in keyed.looked_up(changes)}
        decision = keyed.decide(changes, log.counters, found)
        self._numbered.begin(changes)
        self._transact(
            msgspec.structs.replace(log, schema=SCHEMA_VERSION, commit=self._numbered.next, counters=decision.counters),
            decision.writes,
        )
        for key, value in decision.writes.items():
            if key.table in self._numbers:
                numbers = self._numbers[key.table]
                (numbers.discard if value is None else numbers.add)(rows.number(key.key))
        self._numbered.end(decision.counters.accepted)

    def adopt(self, head: Head) -> None:
        """Become the log whose rows were committed here, in one transaction."""
        log, gone = self._log(), dict.fromkeys(self._producers())
        producers: dict[bytes, bytes | None] = {**gone, **keyed.producer_rows(head)}
        self._transact(
            msgspec.structs.replace(log, salt=head.salt, counters=log.counters.adopted(head)),
            {Key(keyed.PRODUCERS, name): value for name, value in producers.items()},
        )
        self.salt = head.salt

    def _transact(self, log: Log, writes: Mapping[Key, bytes | None]) -> None:
        database = self._opened()
        try:
            with self._explained("written (nothing of this group was recorded)"):
                database.begin(hard=self.durable)
                for key, value in writes.items():
                    if value is None:
                        database.remove(place(key))
                    else:
                        database.set(place(key), value)
                database.set(LOG, msgspec.msgpack.encode(log))
                database.end(commit=True)
        except BaseException:
            self._undo(database)
            raise

    def _undo(self, database: Database) -> None:
        """Close the file without the group; what the library cannot undo now is undone when it is opened again."""
        self._database = None
        for step in (partial(database.end, commit=False), database.close):
            # The fault that led here is the one to tell.
            with suppress(KyotoError):
                step()


def _create_private(path: Path) -> None:
    """Create an empty file with mode 0600, unless there is one."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
