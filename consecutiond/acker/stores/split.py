"""Stores put together of two: the accounts are in one place, and the values of inputs in another or nowhere."""

from typing import Final

from msgspec.structs import replace

from consecutiond.acker.stores.base import (
    EVERY,
    Append,
    Audit,
    Changes,
    Failed,
    Group,
    Head,
    OpenChunk,
    Retained,
    Store,
    StoreError,
    Totals,
    Where,
)
from consecutiond.acker.stores.memory import MemoryStore
from consecutiond.acker.stores.pins import Pins
from consecutiond.guarantee import sentence

#: chunks read at a time when the store is opened
_PAGE: Final = 1000


class _Split:
    """Answers what is asked of the accounts from the store that has them."""

    def __init__(self, accounts: Store) -> None:
        self._accounts = accounts
        self.salt = 0
        self.durable = False

    def next_chunk(self) -> int:
        """Return the id at which chunks go on."""
        return self._accounts.next_chunk()

    def next_position(self) -> int:
        """Return the position at which roots go on."""
        return self._accounts.next_position()

    def last_sequence(self, producer: bytes) -> int:
        """Return the highest sequence recorded for a producer, 0 when it is unknown."""
        return self._accounts.last_sequence(producer)

    def open_chunks(self, after: int = 0, limit: int = 1000) -> list[OpenChunk]:
        """Return up to `limit` chunks with an id above `after`, without their bodies."""
        return self._accounts.open_chunks(after, limit)

    def waiting(self, after: int = 0, limit: int = 1000) -> list[Failed]:
        """Return up to `limit` roots that wait for another attempt, at positions above `after`."""
        return self._accounts.waiting(after, limit)

    def dead_letters(self, after: int = 0, limit: int = 1000, where: Where = EVERY) -> list[Failed]:
        """Return up to `limit` dead letters at positions above `after`."""
        return self._accounts.dead_letters(after, limit, where)

    def count_dead(self, where: Where = EVERY) -> int:
        """Return how many dead letters there are."""
        return self._accounts.count_dead(where)

    def groups(self, where: Where = EVERY) -> list[Group]:
        """Return the groups of dead letters that look alike, the largest first."""
        return self._accounts.groups(where)

    def totals(self) -> Totals:
        """Return the totals as of the last commit."""
        return self._accounts.totals()

    def head(self) -> Head:
        """Return what a copy needs beside the rows."""
        return self._accounts.head()


class ValuesApart(_Split):
    """Accounts in a store, and the values of inputs in the acker's memory, or nowhere.

    Only what was never tried in vain is meant: a root that has failed moves with its value to a row of its own, which
    is among the accounts, so that memory holds no more than what is under way.

    Args:
        accounts: the store of the accounts, which gets chunks with empty bodies.
        keep: whether the values are in memory until their chunk is over.

    """

    def __init__(self, accounts: Store, *, keep: bool) -> None:
        super().__init__(accounts)
        self.keeps_values = keep
        self._bodies: dict[int, bytes] = {}

    def open(self) -> None:
        """Open the store of the accounts."""
        self._accounts.open()
        self.salt, self.durable = self._accounts.salt, self._accounts.durable

    def close(self) -> None:
        """Close it, and forget the values."""
        self._accounts.close()
        self._bodies.clear()

    def describe(self) -> str:
        """Say in one sentence what is guaranteed."""
        return sentence(self._accounts.describe(), "disk", "memory" if self.keeps_values else "off")

    def commit(self, changes: Changes) -> None:
        """Apply one group: the accounts first, as memory refuses nothing."""
        self._accounts.commit(replace(changes, appends=_bare(changes.appends)))
        if self.keeps_values:
            self._bodies.update((append.chunk.id, append.chunk.body) for append in changes.appends)
        for chunk, bitmap in changes.done.items():
            if bitmap is None:
                self._bodies.pop(chunk, None)

    def adopt(self, head: Head) -> None:
        """Become the log whose rows were committed here."""
        self._accounts.adopt(head)
        self.salt = self._accounts.salt

    def body(self, chunk: int) -> bytes:
        """Return the body of a chunk; the store has those that were recorded when it was to keep them."""
        return self._bodies.get(chunk) or self._accounts.body(chunk)

    def audits(self, after: int = 0, limit: int = 1000) -> list[Audit]:
        """Return up to `limit` actions of operators with numbers above `after`."""
        return self._accounts.audits(after, limit)

    def retained(self, after: int = 0, limit: int = 1000) -> list[Retained]:
        """Return up to `limit` batches that are kept from the time when completed inputs were."""
        return self._accounts.retained(after, limit)


class AccountsApart(_Split):
    """The values of inputs in a store, and the accounts in the acker's memory.

    Invariant: the store holds the chunk of every root that is not completed or discarded. So when it is opened again,
    every root of every chunk in it is open, and none has been tried. What operators did is there, too.

    Args:
        values: the store of the values.

    """

    keeps_values = True

    def __init__(self, values: Store) -> None:
        super().__init__(MemoryStore())
        self._values = values
        self._pins = Pins()
        self._is_open = False
        #: what the store keeps of completed inputs, from a time when it was to
        self._retained = Totals(0, 0, 0, 0, 0)

    def open(self) -> None:
        """Open the store of the values, and begin the accounts of what it holds; does nothing when it is open.

        Raises:
            StoreError: it cannot be opened, or has accounts that memory would lose.

        """
        if self._is_open:
            return
        self._values.open()
        try:
            self._refuse_accounts()
            self._take_up()
        except BaseException:
            self.close()
            raise
        self._is_open = True

    def _refuse_accounts(self) -> None:
        totals = self._values.totals()
        if totals.failed or totals.waiting:
            raise StoreError(
                f"the log holds {totals.failed:,} failed items and {totals.waiting:,} that wait for a retry, from a "
                "run with acker_store = disk; accounts in memory (acker_store = memory) would lose them. Let it run to "
                "its end with acker_store = disk and replay or discard what has failed, or give another store."
            )

    def _take_up(self) -> None:
        self._accounts.open()
        after = 0
        while page := self._values.open_chunks(after, _PAGE):
            for row in page:
                self._pins.add(row.chunk, row.done)
            appends = [Append(row.chunk, None) for row in page]
            self._accounts.commit(Changes(appends=appends, done={row.chunk.id: row.done for row in page if row.done}))
            after = page[-1].chunk.id
        self._accounts.adopt(self._values.head())
        self._retained = self._values.totals()
        self.salt, self.durable = self._values.salt, self._values.durable

    def close(self) -> None:
        """Close the store of the values, and forget the accounts."""
        self._is_open = False
        self._values.close()
        self._accounts.close()
        self._pins = Pins()

    def describe(self) -> str:
        """Say in one sentence what is guaranteed."""
        return sentence(self._values.describe(), "memory", "disk")

    def commit(self, changes: Changes) -> None:
        """Apply one group: the values first, as memory refuses nothing.

        Raises:
            StoreError: nothing was changed.

        """
        staged = self._pins.stage(changes)
        if staged.changes != Changes():
            self._values.commit(staged.changes)
        self._accounts.commit(replace(changes, appends=_bare(changes.appends), audits=[], purged=[]))
        self._pins.apply(staged)
        if changes.purged:
            self._retained = self._values.totals()

    def totals(self) -> Totals:
        """Return the totals as of the last commit."""
        kept = self._retained
        return replace(super().totals(), retained=kept.retained, retained_bytes=kept.retained_bytes)

    def adopt(self, head: Head) -> None:
        """Become the log whose rows were committed here."""
        self._values.adopt(head)
        self._accounts.adopt(head)
        self.salt = head.salt

    def body(self, chunk: int) -> bytes:
        """Return the body of a chunk."""
        return self._values.body(chunk)

    def audits(self, after: int = 0, limit: int = 1000) -> list[Audit]:
        """Return up to `limit` actions of operators with numbers above `after`."""
        return self._values.audits(after, limit)

    def retained(self, after: int = 0, limit: int = 1000) -> list[Retained]:
        """Return up to `limit` batches that are kept from the time when completed inputs were."""
        return self._values.retained(after, limit)


def _bare(appends: list[Append]) -> list[Append]:
    return [replace(append, chunk=replace(append.chunk, body=b"")) for append in appends]
