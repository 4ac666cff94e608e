"""The part of the log of which nothing is in memory: what an earlier acker left, and what was accepted far ahead."""

from collections.abc import Sequence
from typing import Final

from consecutiond.acker.stores.base import OpenChunk

#: chunks read at a time
PAGE: Final = 1000


class Unread:
    """Which chunks are only in the store: those behind a cursor, but for some that were taken up at once. Pure.

    The acker's memory must not grow with its backlog, nor the time of its start: a chunk costs some hundred bytes, even
    one of a single root. So chunks are read in the order of their ids, a page when the last one is nearly used up.
    """

    def __init__(self) -> None:
        self._after = 0
        self._known: set[int] = set()
        #: whether there may be any
        self.some = False
        self.reading = False

    def begin(self, after: int) -> None:
        """What is recorded behind this chunk is only in the store, from now on."""
        self._after, self.some = after, True

    def know(self, chunk: int) -> None:
        """A chunk is taken up at once, as it is recorded."""
        if self.some:
            self._known.add(chunk)

    def next_page(self) -> int | None:
        """Return behind which chunk to read the next page; None while one is being read, or when there is none."""
        if self.reading or not self.some:
            return None
        self.reading = True
        return self._after

    def read(self, page: Sequence[OpenChunk]) -> list[OpenChunk]:
        """Go on behind a page; return those of its chunks that nobody has taken up."""
        self.reading = False
        if len(page) < PAGE:
            # Whatever is recorded later than this was read is taken up as it comes.
            known, self._known, self.some = self._known, set(), False
        else:
            self._after = page[-1].chunk.id
            known = self._known
            self._known = {chunk for chunk in known if chunk > self._after}
        return [row for row in page if row.chunk.id not in known]
