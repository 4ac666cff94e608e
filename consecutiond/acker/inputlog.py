"""The input log: which accepted roots are recorded, waiting to be emitted, on their way, or due for another attempt.

Every root that is recorded and not completed is in exactly one of these places: *todo* (in the log, its values not
loaded), *ready* (values at hand), the ledger (emitted), *limbo* (its failure is being recorded) or *waiting* (for its
next attempt). That makes "nothing is open" one look at five counters.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from consecutiond.acker.committer import Committer
from consecutiond.acker.ledger import Closed
from consecutiond.acker.stores.base import Append, Changes, Chunk, Failed, Origin, Totals
from consecutiond_broker import codec, wire
from consecutiond_broker.clock import Clock
from consecutiond_broker.ids import U64

#: seconds that completions may wait for a commit of their own; a crash in between only repeats work
_LINGER_S: Final = 0.05
#: chunks whose values are loaded ahead of their emission
_AHEAD: Final = 4
#: rows read at a time when the log is opened
_PAGE: Final = 1000

#: groups of failures that are remembered
_GROUPS: Final = 20

Indices = np.ndarray[tuple[int], np.dtype[np.intp]]
Entry = tuple[str, ...]


class Retries(NamedTuple):
    """When a failed root is tried again."""

    max_attempts: int = 3
    #: seconds before the second attempt; doubled each time
    backoff_s: float = 0.1
    #: seconds at the utmost
    backoff_max_s: float = 60.0

    def delay(self, attempts: int, random_unit: float) -> float:
        """Return the seconds to wait after `attempts` failures; up to half of it is jitter."""
        full = min(self.backoff_max_s, self.backoff_s * 2.0 ** (attempts - 1))
        return full * (1 - random_unit / 2)


class _Open:
    """A chunk of the log that is not over: which of its roots need something more."""

    __slots__ = ("chunk", "done", "left")

    def __init__(self, chunk: Chunk, done: bytes = b"") -> None:
        self.chunk = chunk
        self.done = np.zeros(chunk.count, dtype=bool)
        if done:
            packed = np.frombuffer(done, dtype=np.uint8)
            self.done |= np.unpackbits(packed, count=chunk.count, bitorder="little").astype(bool)
        self.left = chunk.count - int(self.done.sum())

    def bitmap(self) -> bytes | None:
        return None if self.left == 0 else np.packbits(self.done, bitorder="little").tobytes()


class Ready(NamedTuple):
    """Roots whose values are at hand, to be emitted together."""

    positions: U64
    body: bytes
    entry: Entry
    #: the chunk that holds them; 0 for a root with a row of its own
    chunk: int
    #: bytes counted against the backlog
    backlog: int


class InputLog:
    """The log's state in memory, and the changes that the next group commit will carry.

    Args:
        committer: the store's thread.
        clock: wall time decides when a retry is due, since it must survive a restart.
        retries: the policy.
        input_entry: the edge at which input enters; roots that enter elsewhere are exempt from the bounds.
    """

    def __init__(self, committer: Committer, clock: Clock, retries: Retries, input_entry: Entry) -> None:
        self._committer, self._clock, self._retries, self._input = committer, clock, retries, input_entry
        self._random = random.Random()  # noqa: S311 - jitter, not secrets
        self._open: dict[int, _Open] = {}
        self._rows: dict[int, Failed] = {}
        self._heap: list[tuple[float, int, Entry]] = []
        self._todo: deque[tuple[int, Indices | None]] = deque()
        self.ready: deque[Ready] = deque()
        self._loading = 0
        self._limbo = 0
        self.backlog_bytes = 0
        self._changes = Changes()
        self._urgent = False
        self._dirty: set[int] = set()
        self._after: list[Callable[[], None]] = []
        #: groups of roots that failed for good: the first of each, and their number
        self.failures: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._committing = False
        self._linger_until: float | None = None
        store = committer.store
        self.salt: int = store.salt
        self._next_chunk: int = committer.now(store.next_chunk)
        self._next_position: int = committer.now(store.next_position)
        self.totals: Totals = committer.now(store.totals)
        self._recover()

    def _recover(self) -> None:
        """Take up every root that an earlier acker left open."""
        store, now = self._committer.store, self._committer.now
        after = 0
        while page := now(partial(store.open_chunks, after, _PAGE)):
            for row in page:
                state = self._open[row.chunk.id] = _Open(row.chunk, row.done)
                self._todo.append(
                    (row.chunk.id, None if state.left == row.chunk.count else np.flatnonzero(~state.done))
                )
            after = page[-1].chunk.id
        after = 0
        while rows := now(partial(store.waiting, after, _PAGE)):
            for failed in rows:
                heapq.heappush(self._heap, (failed.due, failed.position, failed.entry))
            after = rows[-1].position

    # --- in --------------------------------------------------------------------------------------------------

    def append(self, body: bytes, count: int, entry: Entry, origin: Origin, then: Callable[[], None]) -> None:
        """Record a batch; `then` is called when it is safe, and its roots are ready to be emitted."""
        chunk = Chunk(self._next_chunk, self._next_position, count, entry, body)
        self._next_chunk += 1
        self._next_position += count
        self._changes.appends.append(Append(chunk, origin))
        self._urgent = True
        self.backlog_bytes += len(body) if entry == self._input else 0

        def recorded() -> None:
            self._open[chunk.id] = _Open(replace(chunk, body=b""))
            self._make_ready(chunk.id, None, body, fresh=True)
            then()

        self._after.append(recorded)

    def forget(self, producer: bytes) -> None:
        """A producer has said goodbye."""
        self._changes.forget.append(producer)

    # --- out -------------------------------------------------------------------------------------------------

    def completed(self, closed: Closed) -> None:
        """Roots are complete: they leave the log."""
        self._changes.completed += len(closed.indices)
        self._release(closed)

    def _release(self, closed: Closed) -> None:
        """Mark roots as needing nothing more from where they stand."""
        if closed.emission.chunk == 0:
            for position in closed.positions.tolist():
                del self._rows[position]
                self._changes.recovered.append(position)
        else:
            self._mark(closed.emission.chunk, self._chunk_indices(closed))
        if self._linger_until is None:
            self._linger_until = self._clock.now() + _LINGER_S

    def _mark(self, chunk: int, indices: Indices) -> None:
        state = self._open[chunk]
        state.done[indices] = True
        state.left -= len(indices)
        self._dirty.add(chunk)

    def _chunk_indices(self, closed: Closed) -> Indices:
        first = self._open[closed.emission.chunk].chunk.first
        return (closed.positions - np.uint64(first)).astype(np.intp)

    def again(self, closed: Closed) -> None:
        """Roots lost their way without a fault of theirs: emit them anew, uncharged."""
        if closed.emission.chunk:
            self._todo.appendleft((closed.emission.chunk, self._chunk_indices(closed)))
            return
        for position in closed.positions.tolist():
            self._ready_row(self._rows[position])

    def failed(self, closed: Closed, fail: wire.Fail) -> None:
        """Roots failed by their own fault: record that, then retry them later or keep them as dead letters."""
        self._limbo += len(closed.indices)
        if closed.emission.chunk == 0:
            for position in closed.positions.tolist():
                self._charge(self._rows.pop(position), fail)
            return
        chunk, indices = closed.emission.chunk, self._chunk_indices(closed)
        entry = closed.emission.entry
        positions = closed.positions.tolist()
        store = self._committer.store

        def move(body: bytes) -> None:
            values = codec.split(body)
            for position, index in zip(positions, indices.tolist(), strict=True):
                row = Failed(position, 0, entry, codec.join([values[index]]), 0.0, "", "", "", "", 0.0)
                self._charge(row, fail)
            self._mark(chunk, indices)

        self._committer.ask(lambda: store.body(chunk), move)

    def _charge(self, row: Failed, fail: wire.Fail) -> None:
        attempts, now = row.attempts + 1, self._clock.wall()
        delay = self._retries.delay(attempts, self._random.random())
        row = replace(
            row, attempts=attempts, due=now + delay, node=fail.node, kind=fail.kind, error=fail.error,
            traceback=fail.traceback, failed_at=now,
        )  # fmt: skip
        self._urgent = True
        if attempts >= self._retries.max_attempts:
            self._changes.dead.append(row)
            self._remember(row)
        else:
            # The attempt is recorded before the item goes out again, or a crash could repeat for ever.
            self._changes.waiting.append(row)

        def recorded() -> None:
            self._limbo -= 1
            if attempts < self._retries.max_attempts:
                heapq.heappush(self._heap, (row.due, row.position, row.entry))

        self._after.append(recorded)

    def _remember(self, row: Failed) -> None:
        """Group the dead letters of this acker's life, for people; the store has them all."""
        key = (row.node, row.kind, row.error.partition(":")[0])
        if key in self.failures or len(self.failures) < _GROUPS:
            first = self.failures.setdefault(
                key,
                {
                    "node": row.node,
                    "kind": row.kind,
                    "error": row.error,
                    "traceback": row.traceback,
                    "count": 0,
                },
            )
            first["count"] += 1

    # --- towards emission --------------------------------------------------------------------------------------

    def _make_ready(self, chunk: int, indices: Indices | None, body: bytes, *, fresh: bool = False) -> None:
        state = self._open.get(chunk)
        if state is None:
            return
        if indices is None:
            indices = np.arange(state.chunk.count)
        else:
            values = codec.split(body)
            body = codec.join([values[index] for index in indices.tolist()])
        positions = np.uint64(state.chunk.first) + indices.astype(np.uint64)
        backlog = len(body) if fresh and state.chunk.entry == self._input else 0
        self.ready.append(Ready(positions, body, state.chunk.entry, chunk, backlog))

    def _ready_row(self, row: Failed) -> None:
        self._rows[row.position] = row
        self.ready.append(Ready(np.array([row.position], dtype=np.uint64), row.body, row.entry, 0, 0))

    def load(self, may_enter: Callable[[Entry], bool]) -> None:
        """Load values of roots that could be emitted next, and wake the retries that are due."""
        while self._todo and len(self.ready) + self._loading < _AHEAD:
            self._load_chunk(*self._todo.popleft())
        now = self._clock.wall()
        blocked = []
        while self._heap and self._heap[0][0] <= now and self._loading < 4 * _AHEAD:
            row = heapq.heappop(self._heap)
            if may_enter(row[2]):
                self._load_row(row[1])
            else:
                blocked.append(row)
        for row in blocked:
            heapq.heappush(self._heap, row)

    def _load_chunk(self, chunk: int, indices: Indices | None) -> None:
        self._loading += 1
        store = self._committer.store

        def loaded(body: bytes) -> None:
            self._loading -= 1
            self._make_ready(chunk, indices, body)

        self._committer.ask(lambda: store.body(chunk), loaded)

    def _load_row(self, position: int) -> None:
        self._loading += 1
        store = self._committer.store

        def loaded(rows: list[Failed]) -> None:
            self._loading -= 1
            if rows and rows[0].position == position:
                self._ready_row(rows[0])

        self._committer.ask(lambda: store.waiting(position - 1, 1), loaded)

    def emitted(self, ready: Ready) -> None:
        """The roots are in the ledger now."""
        self.backlog_bytes -= ready.backlog

    # --- commits -----------------------------------------------------------------------------------------------

    def flush(self, *, everything: bool = False) -> None:
        """Start the next group commit if it is time; while one is running the next group gathers."""
        if self._committing or not (self._urgent or everything or self._linger_over()):
            return
        changes, after = self._changes, self._after
        for chunk in self._dirty:
            changes.done[chunk] = self._open[chunk].bitmap()
            if changes.done[chunk] is None:
                del self._open[chunk]
        self._dirty.clear()
        if not after and not any(getattr(changes, field) for field in Changes.__struct_fields__):
            self._linger_until = None
            return
        self._changes, self._after = Changes(), []
        self._urgent, self._linger_until, self._committing = False, None, True
        store = self._committer.store

        def commit() -> Totals:
            store.commit(changes)
            return store.totals()

        def committed(totals: Any) -> None:
            self._committing = False
            if totals is None:
                return
            self.totals = totals
            for call in after:
                call()

        self._committer.ask(commit, committed)

    def _linger_over(self) -> bool:
        return self._linger_until is not None and self._clock.now() >= self._linger_until

    def wait_s(self, may_enter: Callable[[Entry], bool]) -> float:
        """Return the seconds until something is to be done without a message: a linger or a retry."""
        times = [60.0]
        if self._linger_until is not None and not self._committing:
            times.append(self._linger_until - self._clock.now())
        if self._heap and may_enter(self._heap[0][2]):
            times.append(self._heap[0][0] - self._clock.wall())
        return max(0.0, min(times))

    # --- state -------------------------------------------------------------------------------------------------

    def moving(self) -> bool:
        """Whether any recorded root is on its way to the ledger or out of it."""
        return bool(
            self._todo or self.ready or self._loading or self._limbo or self._committing or self._after
        )  # fmt: skip

    def clean(self) -> bool:
        """Whether everything is committed."""
        return not (self._committing or self._after or self._dirty or self._linger_until is not None)

    def waiting_entries(self) -> Iterable[Entry]:
        """Yield the entries of the roots that wait for a retry."""
        return (entry for _, _, entry in self._heap)

    @property
    def waiting(self) -> int:
        """Roots that wait for another attempt."""
        return len(self._heap)
