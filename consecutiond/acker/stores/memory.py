"""The store that keeps everything in dicts and survives nothing: for scripts and tests."""

import heapq
import secrets
from collections.abc import Iterable

from msgspec.structs import replace

from consecutiond.acker.stores.base import (
    EVERY,
    FIRST_NUMBER,
    Append,
    Audit,
    Changes,
    Chunk,
    Failed,
    Group,
    Head,
    OpenChunk,
    Retained,
    StoreError,
    Totals,
    Where,
    grouped,
    numbers_after,
    printable,
)
from consecutiond.guarantee import MEMORY


class MemoryStore:
    """A `Store` in the acker's own memory; `close` forgets all of it."""

    durable = False
    keeps_values = True

    def __init__(self) -> None:
        self._is_open = False
        self._forget_everything()

    def _forget_everything(self) -> None:
        self.salt = secrets.randbits(64)
        self._next = (FIRST_NUMBER, FIRST_NUMBER)
        self._accepted = self._completed = self._discarded = 0
        self._audits: list[Audit] = []
        self._chunks: dict[int, Chunk] = {}
        self._done: dict[int, bytes] = {}
        self._waiting: dict[int, Failed] = {}
        self._dead: dict[int, Failed] = {}
        self._producers: dict[bytes, int] = {}
        self._retained: dict[int, Retained] = {}
        self._kept_bodies: dict[int, bytes] = {}
        self._last_retained = self._retained_roots = self._retained_bytes = 0

    def open(self) -> None:
        """Make the store ready; a new one is empty."""
        self._is_open = True

    def close(self) -> None:
        """Forget everything."""
        self._is_open = False
        self._forget_everything()

    def describe(self) -> str:
        """Say in one sentence what the store guarantees."""
        return MEMORY

    def commit(self, changes: Changes) -> None:
        """Apply one group; only the check of the numbers can fail, and it comes first."""
        self._require_open()
        self._next = numbers_after(changes, *self._next)
        for append in changes.appends:
            self._append(append)
        for batch in changes.retained:
            self._retain(batch)
        for chunk, bitmap in changes.done.items():
            self._mark(chunk, bitmap)
        for failed in changes.waiting:
            self._waiting[failed.position] = printable(failed)
        for failed in changes.dead:
            self._dead[failed.position] = printable(failed)
            self._waiting.pop(failed.position, None)
        for position in (*changes.recovered, *changes.dropped):
            self._waiting.pop(position, None)
        for position in changes.revived:
            del self._dead[position]
            self._discarded += position not in self._waiting
        self._discarded += len(changes.dropped)
        for audit in changes.audits:
            self._audits.append(replace(audit, number=len(self._audits) + 1))
        for producer in changes.forget:
            self._producers.pop(producer, None)
        self._completed += changes.completed
        for batch in changes.purged:
            self._purge(batch.number)

    def _append(self, append: Append) -> None:
        self._chunks[append.chunk.id] = append.chunk
        self._accepted += append.chunk.count
        if append.origin is not None:
            known = self._producers.get(append.origin.producer, 0)
            self._producers[append.origin.producer] = max(known, append.origin.sequence)

    def _retain(self, batch: Retained) -> None:
        chunk = batch.chunk
        self._kept_bodies[chunk.id] = chunk.body or self._chunks[chunk.id].body
        self._last_retained += 1
        self._retained[self._last_retained] = replace(
            batch, chunk=replace(chunk, body=b""), number=self._last_retained
        )  # fmt: skip
        self._retained_roots += batch.count
        self._retained_bytes += batch.size

    def _purge(self, number: int) -> None:
        batch = self._retained.pop(number, None)
        if batch is not None:
            del self._kept_bodies[batch.chunk.id]
            self._retained_roots -= batch.count
            self._retained_bytes -= batch.size

    def _mark(self, chunk: int, bitmap: bytes | None) -> None:
        if bitmap is None:
            self._chunks.pop(chunk, None)
            self._done.pop(chunk, None)
        elif chunk in self._chunks:
            self._done[chunk] = bitmap

    def next_chunk(self) -> int:
        """Return the id at which chunks go on."""
        self._require_open()
        return self._next[0]

    def next_position(self) -> int:
        """Return the position at which roots go on."""
        self._require_open()
        return self._next[1]

    def last_sequence(self, producer: bytes) -> int:
        """Return the highest sequence recorded for a producer, 0 when it is unknown."""
        self._require_open()
        return self._producers.get(producer, 0)

    def open_chunks(self, after: int = 0, limit: int = 1000) -> list[OpenChunk]:
        """Return up to `limit` chunks with an id above `after`, without their bodies."""
        self._require_open()
        page = _page(self._chunks, after, limit)
        return [OpenChunk(replace(self._chunks[id], body=b""), self._done.get(id, b"")) for id in page]

    def body(self, chunk: int) -> bytes:
        """Return the body of a chunk."""
        self._require_open()
        if chunk in self._chunks:
            return self._chunks[chunk].body
        if chunk in self._kept_bodies:
            return self._kept_bodies[chunk]
        raise StoreError(f"the store in memory holds no chunk {chunk}: it is over, or was never recorded.")

    def retained(self, after: int = 0, limit: int = 1000) -> list[Retained]:
        """Return up to `limit` batches that are kept, with numbers above `after`, without their bodies."""
        self._require_open()
        return [self._retained[number] for number in _page(self._retained, after, limit)]

    def waiting(self, after: int = 0, limit: int = 1000) -> list[Failed]:
        """Return up to `limit` roots that wait for another attempt, at positions above `after`."""
        self._require_open()
        return [self._waiting[position] for position in _page(self._waiting, after, limit)]

    def dead_letters(self, after: int = 0, limit: int = 1000, where: Where = EVERY) -> list[Failed]:
        """Return up to `limit` dead letters at positions above `after`."""
        self._require_open()
        found = [letter.position for letter in self._dead.values() if where.fits(letter)]
        return [self._dead[position] for position in _page(found, after, limit)]

    def count_dead(self, where: Where = EVERY) -> int:
        """Return how many dead letters there are."""
        self._require_open()
        return sum(map(where.fits, self._dead.values()))

    def groups(self, where: Where = EVERY) -> list[Group]:
        """Return the groups of dead letters that look alike, the largest first."""
        self._require_open()
        return grouped(filter(where.fits, self._dead.values()))

    def audits(self, after: int = 0, limit: int = 1000) -> list[Audit]:
        """Return up to `limit` actions of operators with numbers above `after`."""
        self._require_open()
        return self._audits[after : after + limit]

    def totals(self) -> Totals:
        """Return the totals as of the last commit."""
        self._require_open()
        failed, waiting = len(self._dead), len(self._waiting)
        still_open = self._accepted - self._completed - failed - self._discarded
        return Totals(
            self._accepted, self._completed, failed, waiting, still_open, self._discarded,
            self._retained_roots, self._retained_bytes,
        )  # fmt: skip

    def head(self) -> Head:
        """Return what a copy needs beside the rows."""
        self._require_open()
        counts = self._accepted, self._completed, self._discarded
        return Head(self.salt, *self._next, *counts, dict(self._producers))

    def adopt(self, head: Head) -> None:
        """Become the log whose rows were committed here."""
        self._require_open()
        self.salt, self._next = head.salt, (head.next_chunk, head.next_position)
        self._accepted, self._completed, self._discarded = head.accepted, head.completed, head.discarded
        self._producers = dict(head.producers)

    def _require_open(self) -> None:
        if not self._is_open:
            raise StoreError("the store in memory is not open: call open() before using it.")


def _page(numbers: Iterable[int], after: int, limit: int) -> list[int]:
    return heapq.nsmallest(limit, (number for number in numbers if number > after))
