"""What is read back from a store of keys and values, told once for all of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from consecutiond.acker.stores import rows
from consecutiond.acker.stores.base import (
    EVERY,
    Audit,
    Failed,
    Group,
    Head,
    OpenChunk,
    Retained,
    StoreError,
    Totals,
    Where,
    grouped,
)
from consecutiond.acker.stores.keyed import (
    AUDITS,
    BODIES,
    CHUNKS,
    DEAD,
    DONE,
    PRODUCERS,
    RETAINED,
    WAITING,
    Counters,
    Key,
)

#: rows that are asked for at once; more would hold up the server, or be too much in one answer
_PAGE: Final = 500


class Page(NamedTuple):
    """Asks for up to `limit` rows of a table with numbers above `after`."""

    table: str
    after: int
    limit: int


class KeyedReader(ABC):
    """All questions of `ReadableStore`, by four of a driver."""

    salt: int
    keeps_values = True

    #: how messages call the store
    name: str

    @abstractmethod
    def _counters(self) -> Counters:
        """Return the counters as of the last commit."""

    @abstractmethod
    def _value(self, key: Key) -> bytes | None:
        """Return one value of a table that is read by key."""

    @abstractmethod
    def _pages(self, *pages: Page) -> list[list[tuple[int, bytes]]]:
        """Return several pages as of one moment, each as numbers and rows in rising order."""

    @abstractmethod
    def _producers(self) -> dict[bytes, bytes]:
        """Return the whole table of producers."""

    def next_chunk(self) -> int:
        """Return the id at which chunks go on."""
        return self._counters().next_chunk

    def next_position(self) -> int:
        """Return the position at which roots go on."""
        return self._counters().next_position

    def totals(self) -> Totals:
        """Return the totals as of the last commit."""
        return self._counters().totals()

    def head(self) -> Head:
        """Return what a copy needs beside the rows."""
        counters = self._counters()
        producers = {name: int(sequence) for name, sequence in self._producers().items()}
        counts = counters.accepted, counters.completed, counters.discarded
        return Head(self.salt, counters.next_chunk, counters.next_position, *counts, producers)

    def last_sequence(self, producer: bytes) -> int:
        """Return the highest sequence recorded for a producer, 0 when it is unknown."""
        return int(self._value(Key(PRODUCERS, producer)) or 0)

    def body(self, chunk: int) -> bytes:
        """Return the body of a chunk."""
        body = self._value(Key(BODIES, rows.number_key(chunk)))
        if body is None:
            raise StoreError(f"{self.name} holds no chunk {chunk}: it is over, or was never recorded.")
        return body

    def open_chunks(self, after: int = 0, limit: int = 1000) -> list[OpenChunk]:
        """Return up to `limit` chunks with an id above `after`, without their bodies."""
        found: list[OpenChunk] = []
        while len(found) < limit:
            many = min(_PAGE, limit - len(found))
            # Bitmaps are of chunks, so the first `many` of them cover whatever the first `many` chunks have.
            chunks, done = self._pages(Page(CHUNKS, after, many), Page(DONE, after, many))
            bitmaps = dict(done)
            found += [OpenChunk(rows.chunk(row), bitmaps.get(id, b"")) for id, row in chunks]
            if len(chunks) < many:
                break
            after = chunks[-1][0]
        return found

    def waiting(self, after: int = 0, limit: int = 1000) -> list[Failed]:
        """Return up to `limit` roots that wait for another attempt, at positions above `after`."""
        return [rows.failed(row) for row in self._rows(WAITING, after, limit)]

    def dead_letters(self, after: int = 0, limit: int = 1000, where: Where = EVERY) -> list[Failed]:
        """Return up to `limit` dead letters at positions above `after`."""
        if where == EVERY:
            return [rows.failed(row) for row in self._rows(DEAD, after, limit)]
        return list(islice(self._dead(where, after), limit))

    def count_dead(self, where: Where = EVERY) -> int:
        """Return how many dead letters there are."""
        return self.totals().failed if where == EVERY else sum(1 for _ in self._dead(where, 0))

    def groups(self, where: Where = EVERY) -> list[Group]:
        """Return the groups of dead letters that look alike, the largest first."""
        return grouped(self._dead(where, 0))

    def audits(self, after: int = 0, limit: int = 1000) -> list[Audit]:
        """Return up to `limit` actions of operators with numbers above `after`."""
        return [rows.audit(row) for row in self._rows(AUDITS, after, limit)]

    def retained(self, after: int = 0, limit: int = 1000) -> list[Retained]:
        """Return up to `limit` batches that are kept, with numbers above `after`, without their bodies."""
        return [rows.retained(row) for row in self._rows(RETAINED, after, limit)]

    def _dead(self, where: Where, after: int) -> Iterator[Failed]:
        """Yield the dead letters that are meant, in order; only a page of them is in memory."""
        if where.positions:
            chosen = sorted({position for position in where.positions if position > after})
            pages = ((position, self._pages(Page(DEAD, position - 1, 1))[0]) for position in chosen)
            # Behind a position that holds none comes another one's.
            letters = (rows.failed(row) for position, page in pages for number, row in page if number == position)
        else:
            letters = (rows.failed(row) for row in self._rows(DEAD, after, None))
        return filter(where.fits, letters)

    def _rows(self, table: str, after: int, limit: int | None) -> Iterator[bytes]:
        left = limit
        while left is None or left > 0:
            many = _PAGE if left is None else min(_PAGE, left)
            page = self._pages(Page(table, after, many))[0]
            for _, row in page:
                yield row
            if len(page) < many:
                return
            after = page[-1][0]
            left = None if left is None else left - many
