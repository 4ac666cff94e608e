"""The input log: which accepted roots are recorded, waiting to be emitted, on their way, or due for another attempt.

Every root that is recorded and not completed is in exactly one of these places: a lane, where it is *todo* (its values
are in the store only), *ready* (values at hand) or *waiting* (for its next attempt); the ledger (emitted); or *limbo*
(its failure is being recorded). That makes "nothing is open" one look at a few counters.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from zlib import crc32

import numpy as np
from msgspec.structs import replace

from consecutiond.acker.committer import Committer
from consecutiond.acker.groups import Groups
from consecutiond.acker.lanes import Entry, Indices, Lane, Ready
from consecutiond.acker.ledger import Closed
from consecutiond.acker.policies import Policies, Policy
from consecutiond.acker.retention import Retention
from consecutiond.acker.stores.base import Append, Audit, Changes, Chunk, Failed, OpenChunk, Origin, Retained, Totals
from consecutiond.acker.unread import PAGE, Unread
from consecutiond.deadletters import first_attempt
from consecutiond.logs import get_logger
from consecutiond_broker import codec, wire
from consecutiond_broker.clock import Clock

log = get_logger("acker.inputlog")

#: seconds that completions may wait for a commit of their own; a crash in between only repeats work
_LINGER_S: Final = 0.05
#: `Failed.kind` of roots that were too old to be tried (again)
EXPIRED: Final = "expired"
#: `Failed.kind` of roots that were to be tried (again) and whose values nobody has
LOST: Final = "lost"
#: `Failed.kind` of roots whose values are not any more what was accepted
DAMAGED: Final = "damaged"
_DAMAGE: Final = (
    "its batch was damaged in the store (the checksum does not fit), so that nobody knows its value. Probably the disk "
    "or the memory of the store's machine fails: `consecutiond doctor` looks at the rest; whoever sent it has it"
)
#: `Failed.kind` of roots that may have killed their worker, or held it up
_SUSPECT: Final = frozenset({"crashed", wire.TIMED_OUT, wire.BETWEEN})
#: chunks of the input whose values are still to be loaded, below which the next page of them is read
_FEW: Final = 200


class _Open:
    """A chunk of the log that is not over: which of its roots need something more."""

    __slots__ = ("chunk", "completed", "done", "left", "size")

    def __init__(self, chunk: Chunk, done: bytes = b"", *, keeps: bool = False) -> None:
        self.chunk = chunk
        length = (chunk.count + 7) // 8
        self.done = _unpacked(done[:length], chunk.count)
        #: which of them completed, if those are kept; of a time when they were not, nobody knows
        self.completed = _unpacked(done[length:], chunk.count) if keeps else None
        self.left = chunk.count - int(self.done.sum())
        #: bytes of its values, known once they were at hand
        self.size = 0

    def mark(self, indices: Indices, *, completed: bool) -> None:
        self.done[indices] = True
        self.left -= len(indices)
        if completed and self.completed is not None:
            self.completed[indices] = True

    def bitmap(self) -> bytes | None:
        if self.left == 0:
            return None
        return _packed(self.done) + (b"" if self.completed is None else _packed(self.completed))


def _unpacked(packed: bytes, count: int) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    if not packed:
        return np.zeros(count, dtype=bool)
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count, bitorder="little")
    return bits.astype(bool)


def _packed(flags: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> bytes:
    return np.packbits(flags, bitorder="little").tobytes()


class InputLog:
    """The log's state in memory, and the changes that the next group commit will carry.

    Args:
        committer: the store's thread.
        clock: monotonic time decides when a retry is due, so that it may jump; wall time is what is recorded.
        policies: how often roots are tried, and when.
        input_entry: the edge at which input enters; roots that enter elsewhere are exempt from the bounds.
        retain_s: seconds that completed inputs are kept; 0: not at all.
    """

    def __init__(
        self, committer: Committer, clock: Clock, policies: Policies, input_entry: Entry, retain_s: float = 0.0
    ) -> None:
        self._retention = Retention(committer, clock, retain_s)
        self._committer, self._clock, self._policies, self._input = committer, clock, policies, input_entry
        self._random = random.Random()  # noqa: S311 - jitter, not secrets
        #: of all that fail within one group: they are due together, and go out in one batch
        self._jitter = self._random.random()
        self._open: dict[int, _Open] = {}
        self._rows: dict[int, Failed] = {}
        #: the roots that are in no tree, by where they enter
        self.lanes: dict[Entry, Lane] = {}
        self._limbo = 0
        self._unread = Unread()
        #: bytes recorded here and not emitted, and the chunks of these whose values are in the store only
        self.backlog_bytes = 0
        self._ahead: set[int] = set()
        self._changes = Changes()
        self._urgent = False
        self._dirty: set[int] = set()
        #: what is to be done once the next group is committed, and what once its appends are
        self._after: list[Callable[[], None]] = []
        self._after_appends: list[Callable[[], None]] = []
        #: groups of roots that failed for good: the first of each, and their number
        #: the dead letters of this acker's life, for people; the store has them all
        self.failures = Groups()
        self._committing = self._relieving = False
        self._linger_until: float | None = None
        #: why the consecutor is to stop, because a node's policy says so; empty otherwise
        self.stop = ""
        store = committer.store
        self.salt: int = store.salt
        self._next_chunk: int = committer.now(store.next_chunk)
        #: chunks below are of an earlier acker
        self._first_own = self._next_chunk
        self._next_position: int = committer.now(store.next_position)
        self.totals: Totals = committer.now(store.totals)
        self._recover()

    def _lane(self, entry: Entry) -> Lane:
        lane = self.lanes.get(entry)
        if lane is None:
            lane = self.lanes[entry] = Lane(entry)
        return lane

    def _recover(self) -> None:
        """Take up every root that an earlier acker left open."""
        store, now = self._committer.store, self._committer.now
        # One page, so that a log of another graph is refused at once; the others when their turn comes.
        self._unread.begin(0)
        self._read(self._unread.read(now(partial(store.open_chunks, 0, PAGE))))
        after, wall = 0, self._clock.wall()
        while rows := now(partial(store.waiting, after, PAGE)):
            for failed in rows:
                # The wall clock may have jumped since it was recorded: no delay is longer than the longest.
                delay = min(max(0.0, failed.due - wall), self._policies.longest_s)
                self._wait(failed.position, failed.enters, delay)
            after = rows[-1].position

    def _keeps(self, entry: Entry) -> bool:
        """Whether roots that entered there, and complete, are kept: inputs are, what the graph itself pushed is not."""
        return self._retention.keeps and entry == self._input

    def _read(self, page: Sequence[OpenChunk]) -> None:
        for row in page:
            chunk = row.chunk
            state = self._open[chunk.id] = _Open(chunk, row.done, keeps=self._keeps(chunk.entry))
            indices = None if state.left == chunk.count else np.flatnonzero(~state.done)
            self._lane(chunk.entry).todo.append((chunk.id, indices))
            if chunk.id >= self._first_own and chunk.entry == self._input:
                self._ahead.add(chunk.id)

    def _wait(self, position: int, entry: Entry, delay: float) -> None:
        heapq.heappush(self._lane(entry).waiting, (self._clock.now() + delay, position))

    # --- in --------------------------------------------------------------------------------------------------

    def append(
        self, body: bytes, count: int, entry: Entry, origin: Origin, then: Callable[[], None],
        audit: Audit | None = None,
    ) -> int:  # fmt: skip
        """Record a batch, and what an operator has done with it; `then` is called when it is safe.

        Its roots are ready to be emitted then.

        Returns:
            The position of its first root.
        """
        now, checksum = self._clock.wall(), crc32(body)
        chunk = Chunk(self._next_chunk, self._next_position, count, entry, body, now, checksum)
        self._next_chunk += 1
        self._next_position += count
        self._changes.appends.append(Append(chunk, origin))
        if audit is not None:
            self._changes.audits.append(audit)
        self._urgent = True
        self.backlog_bytes += len(body) if entry == self._input else 0

        def recorded() -> None:
            self._take_up(chunk, body)
            then()

        self._after_appends.append(recorded)
        return chunk.first

    def _take_up(self, chunk: Chunk, body: bytes) -> None:
        lane, mine = self._lane(chunk.entry), chunk.entry == self._input
        keeps_values = self._committer.store.keeps_values
        if mine and keeps_values and (self._unread.some or lane.is_full):
            if not self._unread.some:
                self._unread.begin(chunk.id - 1)
            return
        self._unread.know(chunk.id)
        self._open[chunk.id] = _Open(replace(chunk, body=b""), keeps=self._keeps(chunk.entry))
        if not mine and keeps_values and lane.is_ahead:
            # Nobody withholds receipts from the graph itself; what it pushes faster than it works stays in the store.
            lane.todo.append((chunk.id, None))
        else:
            lane.add_fresh(self._part(chunk.id, None, body)._replace(backlog=len(body) if mine else 0))

    def forget(self, producer: bytes) -> None:
        """A producer has said goodbye."""
        self._changes.forget.append(producer)
        self._linger()

    # --- out -------------------------------------------------------------------------------------------------

    def completed(self, closed: Closed) -> None:
        """Roots are complete: they leave the log."""
        self._changes.completed += len(closed.indices)
        self._release(closed)

    def _release(self, closed: Closed) -> None:
        """Mark roots as needing nothing more from where they stand."""
        if closed.emission.chunk == 0:
            for position in closed.positions.tolist():
                self._changes.recovered.append(position)
                self._keep_alone(self._rows.pop(position))
        else:
            self._mark(closed.emission.chunk, self._chunk_indices(closed), completed=True)
        self._linger()

    def _linger(self) -> None:
        if self._linger_until is None:
            self._linger_until = self._clock.now() + _LINGER_S

    def _keep_alone(self, row: Failed) -> None:
        """A root has completed from a row of its own: if inputs are kept, it is, as a batch of one."""
        if self._keeps(row.entry):
            checksum = crc32(row.body)
            chunk = Chunk(self._next_chunk, row.position, 1, row.entry, row.body, row.accepted_at, checksum)
            self._next_chunk += 1
            self._changes.retained.append(self._retention.keep(chunk, b"\x01", len(row.body)))

    def _mark(self, chunk: int, indices: Indices, *, completed: bool = False) -> None:
        self._open[chunk].mark(indices, completed=completed)
        self._dirty.add(chunk)

    def _chunk_indices(self, closed: Closed) -> Indices:
        first = self._open[closed.emission.chunk].chunk.first
        return (closed.positions - np.uint64(first)).astype(np.intp)

    def again(self, closed: Closed) -> None:
        """Roots lost their way without a fault of theirs: emit them anew, uncharged."""
        lane = self._lane(closed.emission.entry)
        if closed.emission.chunk:
            lane.todo.appendleft((closed.emission.chunk, self._chunk_indices(closed)))
            return
        for position in closed.positions.tolist():
            lane.add_row(_alone(self._rows[position]))

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
        accepted_at = self._open[chunk].chunk.accepted_at
        store = self._committer.store

        def move(body: bytes) -> None:
            values = _alone_each(body if self._open[chunk].chunk.fits(body) else b"", indices)
            for position, value in zip(positions, values, strict=True):
                row = Failed(position, 0, entry, value, 0.0, "", "", "", "", 0.0, accepted_at, handed_out=1)
                self._charge(row, fail)
            self._mark(chunk, indices)

        self._committer.read(lambda: store.body(chunk), move)

    def _charge(self, row: Failed, fail: wire.Fail) -> None:
        policy = self._policies.of(fail.node)
        attempts, now = row.attempts + 1, self._clock.wall()
        delay = policy.delay(attempts, self._jitter)
        row = replace(
            row, attempts=attempts, due=now + delay, node=fail.node, kind=fail.kind, error=fail.error,
            traceback=fail.traceback, failed_at=now, edge=fail.edge, path=fail.path,
            # Where values are not to be kept, those that came of them are not either.
            item=fail.item if row.value and fail.item != row.value else b"",
        )  # fmt: skip
        over = attempts >= policy.max_attempts or not row.value
        if not over and policy.too_old(now + delay - row.tried_since):
            over, error = True, f"its next attempt would come after max_age_s = {policy.max_age_s:g}; {row.error}"
            row = replace(row, kind=EXPIRED, error=error)
        if over:
            self._give_up(row, policy)
            return
        # The attempt is recorded before the item goes out again, or a crash could repeat for ever.
        self._changes.waiting.append(row)
        self._urgent = True

        def recorded() -> None:
            self._limbo -= 1
            self._wait(row.position, row.enters, delay)

        self._after.append(recorded)

    def _give_up(self, row: Failed, policy: Policy) -> None:
        """A root in limbo is tried no more."""
        self.failures.add(row.node, row.kind, row.error, row.traceback)
        if policy.exhausted == "drop":
            self._changes.dropped.append(row.position)
        else:
            self._changes.dead.append(row)
        if policy.exhausted == "stop":
            self.stop = f"an item failed for good in node {row.node or '(none)'}, whose policy is to stop: {row.error}"
        self._urgent = True

        def recorded() -> None:
            self._limbo -= 1

        self._after.append(recorded)

    def _expire(self, ready: Ready) -> None:
        """Roots are too old to be tried: give them up."""
        error = f"it was not tried within max_age_s = {self._policies.default.max_age_s:g} of its acceptance"
        if ready.chunk:
            indices = (ready.positions - np.uint64(self._open[ready.chunk].chunk.first)).astype(np.intp)
            bodies = _alone_each(ready.body, np.arange(len(indices)))
            self._end_untried(self._untried(ready.chunk, indices, bodies), EXPIRED, error)
        else:
            self._end_untried([self._rows.pop(position) for position in ready.positions.tolist()], EXPIRED, error)

    def _lose(self, chunk: int, indices: Indices | None, body: bytes) -> None:
        """Roots are to be tried, and nobody has their values, or only damaged ones: give them up."""
        if indices is None:
            indices = np.arange(self._open[chunk].chunk.count)
        bodies = _alone_each(b"", indices)
        if body:
            log.error("inputlog.damaged", chunk=chunk, roots=len(indices))
            self._end_untried(self._untried(chunk, indices, bodies), DAMAGED, _DAMAGE)
            return
        if chunk < self._first_own:
            why = "the acker that had it in its memory has ended"
        else:
            why = "a part of the graph that had it in hand, or was to get it, died"
        error = f"its value was not kept (input_store = memory or off), and {why}"
        self._end_untried(self._untried(chunk, indices, bodies), LOST, error)

    def _untried(self, id: int, indices: Indices, bodies: Sequence[bytes]) -> list[Failed]:
        """Take roots out of a chunk without an attempt of theirs that has failed."""
        chunk = self._open[id].chunk
        self._mark(id, indices)
        return [
            Failed(chunk.first + index, 0, chunk.entry, body, 0.0, "", "", "", "", 0.0, chunk.accepted_at)
            for index, body in zip(indices.tolist(), bodies, strict=True)
        ]

    def _end_untried(self, rows: Sequence[Failed], kind: str, error: str) -> None:
        now = self._clock.wall()
        self._limbo += len(rows)
        for row in rows:
            self._give_up(replace(row, due=now, kind=kind, error=error, failed_at=now), self._policies.default)

    # --- operators -------------------------------------------------------------------------------------------

    def revive(self, letters: Sequence[Failed], audit: Audit, then: Callable[[], None]) -> None:
        """Have dead letters tried again, from the first attempt on; `then` is called when that is recorded."""
        rows = [first_attempt(letter, self._clock.wall()) for letter in letters]
        self._limbo += len(rows)
        self._changes.waiting += rows
        self._changes.revived += [row.position for row in rows]

        def recorded() -> None:
            self._limbo -= len(rows)
            for row in rows:
                self._wait(row.position, row.enters, 0.0)
            then()

        self._operated(audit, recorded)

    def discard(self, positions: Sequence[int], audit: Audit, then: Callable[[], None]) -> None:
        """Throw dead letters away; `then` is called when that is recorded."""
        self._changes.revived += positions
        self._operated(audit, then)

    def edit(self, letter: Failed, audit: Audit, then: Callable[[], None]) -> None:
        """Replace a dead letter; `then` is called when that is recorded."""
        self._changes.dead.append(letter)
        self._operated(audit, then)

    def _operated(self, audit: Audit, then: Callable[[], None]) -> None:
        self._changes.audits.append(audit)
        self._urgent = True
        self._after.append(then)

    # --- towards emission --------------------------------------------------------------------------------------

    def _part(self, chunk: int, indices: Indices | None, body: bytes) -> Ready:
        state = self._open[chunk]
        state.size = len(body)
        if indices is None:
            indices = np.arange(state.chunk.count)
        else:
            values = codec.split(body)
            body = codec.join([values[index] for index in indices.tolist()])
        positions = np.uint64(state.chunk.first) + indices.astype(np.uint64)
        return Ready(positions, body, chunk, 1, int(1000 * state.chunk.accepted_at))

    def load(self, may_enter: Callable[[Entry], bool]) -> None:
        """Load values of roots that could be emitted next, and wake the retries that are due."""
        now = self._clock.now()
        mine = self.lanes.get(self._input)
        if (mine is None or (len(mine.todo) < _FEW and not mine.is_ahead)) and may_enter(self._input):
            self._read_on()
        for lane in self.lanes.values():
            if not may_enter(lane.entry):
                continue
            while (part := lane.next_chunk()) is not None:
                self._load_chunk(lane, *part)
            while (position := lane.next_row(now)) is not None:
                self._load_row(lane, position)

    def _read_on(self) -> None:
        after, store = self._unread.next_page(), self._committer.store
        if after is not None:
            self._committer.read(
                partial(store.open_chunks, after, PAGE), lambda page: self._read(self._unread.read(page))
            )

    def _load_chunk(self, lane: Lane, chunk: int, indices: Indices | None) -> None:
        store = self._committer.store

        def loaded(body: bytes) -> None:
            backlog = len(body) if chunk in self._ahead else 0
            self._ahead.discard(chunk)
            if not body or not self._open[chunk].chunk.fits(body):
                self.backlog_bytes -= backlog
                lane.lost()
                self._lose(chunk, indices, body)
                return
            lane.loaded(self._part(chunk, indices, body)._replace(backlog=backlog))

        self._committer.read(lambda: store.body(chunk), loaded)

    def _load_row(self, lane: Lane, position: int) -> None:
        store = self._committer.store

        def loaded(rows: list[Failed]) -> None:
            if rows and rows[0].position == position:
                self._rows[position] = rows[0]
                lane.loaded(_alone(rows[0]))
            else:
                lane.gone()

        self._committer.read(lambda: store.waiting(position - 1, 1), loaded)

    def take(self, lane: Lane, room: int = 1) -> Ready | None:
        """Return the next roots of a lane, which go into the ledger now; None if they are too old to be tried.

        Args:
            lane: where they enter.
            room: roots that may be open in addition; a batch as it came in is not parted for it.

        """
        ready = lane.take(room)
        self.backlog_bytes -= ready.backlog
        since = ready.accepted_ms / 1000 if ready.chunk else ready.since
        if self._policies.default.too_old(self._clock.wall() - since):
            self._expire(ready)
            return None
        if not ready.chunk:
            for position in ready.positions.tolist():
                row = self._rows[position]
                self._rows[position] = replace(row, handed_out=row.handed_out + 1)
        return ready

    # --- commits -----------------------------------------------------------------------------------------------

    def flush(self, *, everything: bool = False) -> None:
        """Start the next group commit if it is time; while one is running the next group gathers."""
        if self._may_purge and not everything:
            self._retention.look(self.totals.retained, self._purge)
        if not (self._urgent or everything or self._linger_over()):
            return
        if self._committing:
            if self._committer.trouble and not self._relieving:
                self._relieve()
            return
        self._gather()
        changes, after = self._changes, self._after + self._after_appends
        if not after and not changes:
            self._linger_until = None
            return
        self._changes, self._after, self._after_appends = Changes(), [], []
        self._jitter = self._random.random()
        self._urgent, self._linger_until, self._committing = False, None, True

        def committed(totals: Totals) -> None:
            self._committing = False
            self._totalled(totals, after)

        self._committer.commit(changes, committed)

    def _gather(self) -> None:
        """Add what became of the chunks."""
        for chunk in self._dirty:
            state = self._open[chunk]
            self._changes.done[chunk] = state.bitmap()
            if state.left == 0:
                del self._open[chunk]
                if state.completed is not None and state.completed.any():
                    kept = self._retention.keep(state.chunk, _packed(state.completed), state.size)
                    self._changes.retained.append(kept)
        self._dirty.clear()

    def _relieve(self) -> None:
        """The group that is being committed finds no room: what has ended since goes past its appends."""
        self._gather()
        changes = self._changes
        apart = changes.apart() if changes.appends else (changes, Changes())
        # What is kept for later makes no room, and has a number after those of the appends.
        if apart is None or not apart[0] or changes.retained:
            return
        ends, self._changes = apart
        after, self._after, self._relieving = self._after, [], True

        def committed(totals: Totals) -> None:
            self._relieving = False
            self._totalled(totals, after)

        self._committer.relieve(ends, committed)

    def _totalled(self, totals: Totals, after: Sequence[Callable[[], None]]) -> None:
        self.totals = totals
        for call in after:
            call()

    @property
    def _may_purge(self) -> bool:
        """Whether the store holds what the last look for old batches has left there."""
        return not self._committing and not self._changes.purged

    def _purge(self, batches: list[Retained]) -> None:
        self._changes.purged += batches
        self._linger()

    def _linger_over(self) -> bool:
        return self._linger_until is not None and self._clock.now() >= self._linger_until

    def wait_s(self, may_enter: Callable[[Entry], bool]) -> float:
        """Return the seconds until something is to be done without a message: a linger, a retry, a purge."""
        times = [60.0]
        if self._linger_until is not None and not self._committing:
            times.append(self._linger_until - self._clock.now())
        if self._may_purge:
            times.append(self._retention.wait_s(self.totals.retained))
        for lane in self.lanes.values():
            due = lane.due()
            if due is not None and may_enter(lane.entry):
                times.append(due - self._clock.now())
        return max(0.0, min(times))

    # --- state -------------------------------------------------------------------------------------------------

    def moving(self, may_enter: Callable[[Entry], bool]) -> bool:
        """Whether any root is on its way to the ledger or out of it, but for those that may not enter."""
        if self._limbo or self._committing or self._relieving or self._after or self._after_appends:
            return True
        if self._unread.some and may_enter(self._input):
            return True
        return any(lane.moving and may_enter(lane.entry) for lane in self.lanes.values())

    def clean(self) -> bool:
        """Whether everything is committed."""
        under_way = self._committing or self._relieving or self._linger_until is not None
        return not (under_way or self._after or self._after_appends or self._limbo or self._dirty)

    def waits(self, may_enter: Callable[[Entry], bool]) -> bool:
        """Whether a root that may enter waits for another attempt."""
        return any(lane.waiting and may_enter(lane.entry) for lane in self.lanes.values())

    def holds(self) -> bool:
        """Whether any root is in no tree, and is not being recorded."""
        return self._unread.some or any(lane.moving or lane.waiting for lane in self.lanes.values())

    @property
    def waiting(self) -> int:
        """Roots that wait for another attempt."""
        return sum(len(lane.waiting) for lane in self.lanes.values())


def _alone_each(body: bytes, indices: Indices) -> list[bytes]:
    """Encode some values of a chunk each as a batch of one; b"" for each if they were not kept."""
    if not body:
        return [b""] * len(indices)
    values = codec.split(body)
    return [codec.join([values[index]]) for index in indices.tolist()]


def _alone(row: Failed) -> Ready:
    positions = np.array([row.position], dtype=np.uint64)
    accepted_ms, suspect = int(1000 * row.accepted_at), row.kind in _SUSPECT
    return Ready(positions, row.value, 0, row.attempts + 1, accepted_ms, since=row.tried_since, alone=suspect)
