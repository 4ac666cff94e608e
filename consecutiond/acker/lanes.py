"""Lanes: the roots that enter at the same edges and are in no tree, and how far ahead their values are loaded."""

import heapq
from collections import deque
from typing import Final, NamedTuple

import numpy as np

from consecutiond_broker import codec
from consecutiond_broker.ids import U64

#: parts of chunks whose values are in memory ahead of their emission, a lane; enough to keep the edge busy
_CHUNKS_AHEAD: Final = 4
#: fresh chunks of the input that are in memory, and bytes of their values; what is accepted beyond stays in the store
_FRESH_CHUNKS: Final = 20_000
_FRESH_BYTES: Final = 8 << 20
#: roots with a row of their own that are, a lane; the others wait in the store, however many are due
_ROWS_AHEAD: Final = 32

Indices = np.ndarray[tuple[int], np.dtype[np.intp]]
Entry = tuple[str, ...]


class Ready(NamedTuple):
    """Roots whose values are at hand, to be emitted together."""

    positions: U64
    body: bytes
    #: the chunk that holds them; 0 for a root with a row of its own
    chunk: int
    #: which attempt this is, 1 for the first
    attempt: int = 1
    #: when the input was accepted, wall clock, milliseconds since 1970
    accepted_ms: int = 0
    #: bytes that it adds to the backlog until it is taken
    backlog: int = 0
    #: since when its age counts, wall clock, seconds since 1970; for a root with a row of its own
    since: float = 0.0
    #: it may be what killed its worker, or held it up: it is tried alone
    alone: bool = False

    def goes_with(self, other: "Ready") -> bool:
        """Tell whether two roots with rows of their own can go out in one batch, which says things once for all."""
        return self.chunk == other.chunk == 0 and not self.alone and not other.alone and self[3:7] == other[3:7]


class Lane:
    """Where roots with one entry wait. Pure.

    A lane whose edge has no credit, or whose node has ended, holds up no other. Within it, roots that were accepted
    long ago (recovered, swept, retried) go before fresh ones, or an input that never pauses would starve them.
    """

    __slots__ = ("_chunks", "_fresh", "_old", "_rows", "entry", "fresh_bytes", "todo", "waiting")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        #: ``(chunk, indices of its roots)``, None for all of them; their values are in the store only
        self.todo: deque[tuple[int, Indices | None]] = deque()
        #: ``(monotonic time when it is due, position)`` of the roots that wait for another attempt, a heap
        self.waiting: list[tuple[float, int]] = []
        self._old: deque[Ready] = deque()
        self._fresh: deque[Ready] = deque()
        self._chunks = self._rows = 0
        #: of the values of fresh roots
        self.fresh_bytes = 0

    def add_fresh(self, ready: Ready) -> None:
        """Take roots that have just been recorded."""
        self._fresh.append(ready)
        self.fresh_bytes += len(ready.body)

    def add_row(self, ready: Ready) -> None:
        """Take a root with a row of its own that lost its way."""
        self._rows += 1
        self._old.append(ready)

    def loaded(self, ready: Ready) -> None:
        """Take roots that `next_chunk` or `next_row` had asked for."""
        self._old.append(ready)

    def lost(self) -> None:
        """The values of a part of a chunk that `next_chunk` had asked for are nowhere."""
        self._chunks -= 1

    def gone(self) -> None:
        """A row that `next_row` had asked for is not in the store any more."""
        self._rows -= 1

    def next_chunk(self) -> tuple[int, Indices | None] | None:
        """Return the next part of a chunk to load, if there is room for one."""
        if not self.todo or self._chunks >= _CHUNKS_AHEAD:
            return None
        self._chunks += 1
        return self.todo.popleft()

    def next_row(self, now: float) -> int | None:
        """Return the position of the next retry to load, if one is due and there is room."""
        if not self.waiting or self._rows >= _ROWS_AHEAD or self.waiting[0][0] > now:
            return None
        self._rows += 1
        return heapq.heappop(self.waiting)[1]

    def due(self) -> float | None:
        """Return when the next retry is to be loaded, if there is room for one."""
        return self.waiting[0][0] if self.waiting and self._rows < _ROWS_AHEAD else None

    @property
    def has_ready(self) -> bool:
        """Whether something can be taken."""
        return bool(self._old or self._fresh)

    @property
    def is_ahead(self) -> bool:
        """Whether enough fresh roots are in memory to keep the edge busy."""
        return len(self._fresh) >= _CHUNKS_AHEAD

    @property
    def is_full(self) -> bool:
        """Whether as many fresh roots are in memory as there may be."""
        return len(self._fresh) >= _FRESH_CHUNKS or self.fresh_bytes >= _FRESH_BYTES

    def take(self, room: int = 1) -> Ready:
        """Return what is to be emitted next.

        Args:
            room: roots with rows of their own that may go out together.

        """
        if not self._old:
            ready = self._fresh.popleft()
            self.fresh_bytes -= len(ready.body)
            return ready
        ready = self._old.popleft()
        if ready.chunk:
            self._chunks -= 1
            return ready
        same = [ready]
        while len(same) < room and self._old and ready.goes_with(self._old[0]):
            same.append(self._old.popleft())
        self._rows -= len(same)
        return ready if len(same) == 1 else _together(same)

    @property
    def moving(self) -> bool:
        """Whether anything but a retry that is not due is here."""
        return bool(self.todo or self._fresh or self._chunks or self._rows)


def _together(rows: list[Ready]) -> Ready:
    """Make one batch of several that are alike: what a batch costs is much more than what one item does."""
    body = codec.join([value for row in rows for value in codec.split(row.body)])
    return rows[0]._replace(positions=np.concatenate([row.positions for row in rows]), body=body)
