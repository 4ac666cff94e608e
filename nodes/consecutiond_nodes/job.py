"""A batch in a worker's hands: where it came from, what became of each item, and the report that settles it."""

import time
from typing import Final

import numpy as np
from msgspec import Raw

from consecutiond_broker import codec, spans, wire
from consecutiond_broker.ids import U64, as_u64

#: bytes of the items that are told with the failures of one delivery
_MOST_TOLD: Final = 1 << 20


class Job:
    """One delivery, from its arrival to its settlement.

    ``xors`` starts as the ids of the items themselves (they are consumed) and collects the ids of their children
    (they are produced), so that it becomes the report. ``waiting`` counts the output messages that no downstream
    broker has accepted yet. An item that joins several roots has an entry for each in the columns.
    """

    __slots__ = (
        "_raw", "_told", "accepted_ms", "acker_epoch", "attempt", "body", "count", "covered", "edge", "failed", "fails",
        "finished", "held", "ids", "lost", "offsets", "ordinals", "parked", "path", "reported", "roots",
        "seq", "skip", "slot", "stale", "untracked", "waiting", "xors",
    )  # fmt: skip

    def __init__(self, slot: int, head: wire.Deliver, frames: list[bytes], edge: str = "", node: str = "") -> None:
        self.slot, self.edge = slot, edge
        #: the nodes through which its items came, the one that has them last
        self.path: tuple[str, ...] = (*head.path, node) if node else head.path
        #: the encoded values, once one is needed; bytes of failed items that are told with their failures
        self._raw: list[Raw] = []
        self._told = 0
        self.seq = head.seq
        self.count = head.count
        self.acker_epoch = head.acker_epoch
        self.attempt, self.accepted_ms = head.attempt, head.accepted_ms
        self.skip = head.skip
        #: it has neither roots nor ids (zeros stand for them), must not be processed twice, and outlives its broker
        self.untracked = head.acker_epoch == wire.UNTRACKED
        self.roots: U64 = np.zeros(head.count, dtype="<u8") if self.untracked else as_u64(frames[1])
        self.ids: U64 = self.roots if self.untracked else as_u64(frames[2])
        self.body = frames[3]
        #: where the entries of each item begin; None when each has one
        self.offsets = np.array(spans.offsets(head.spans), dtype=np.int64) if head.spans else None
        self.xors: U64 = self.ids.copy()
        self.fails: list[wire.Fail] = []
        self.failed: list[int] = []
        #: positions that the node keeps for later
        self.held: set[int] = set()
        #: positions that a report has covered, once the node holds anything
        self.reported: set[int] = set()
        #: of these, the positions in the newest report
        self.covered: tuple[int, ...] = ()
        #: the broker knows that the node holds items of this delivery
        self.parked = False
        #: children that were anchored to an item later than in its own `process`, by item and edge
        self.ordinals: dict[tuple[int, int], int] = {}
        self.waiting = 0
        self.finished = False
        #: a downstream broker died before it accepted an output
        self.lost = ""
        #: the upstream broker died: nobody waits for the settlement
        self.stale = False

    @property
    def members(self) -> tuple["Job", ...]:
        """The jobs whose settlement waits for an output of this one.

        Not kept in the job: a cycle through itself would keep its arrays until the collector finds them, which is long
        after a fan-out of a million items is over.
        """
        return (self,)

    def entry(self, position: int) -> int:
        """Return the first entry of an item."""
        return position if self.offsets is None else int(self.offsets[position])

    def entries(self, position: int) -> range:
        """Return all entries of an item."""
        if self.offsets is None:
            return range(position, position + 1)
        return range(int(self.offsets[position]), int(self.offsets[position + 1]))

    def keys(self) -> list[int]:
        """Return the key of every item, zeros where there are none."""
        keys: list[int] = (self.ids if self.offsets is None else self.ids[self.offsets[:-1]]).tolist()
        return keys

    def fail(self, position: int, kind: str, node: str, error: str, traceback: str, item: bytes | None = None) -> None:
        """One item has failed by its own fault; its roots are retried, with an attempt charged.

        Args:
            position: of the item.
            kind: how it failed.
            node: where.
            error: the message.
            traceback: the user's, if there is one.
            item: the item as a batch of one; by default what has come.
        """
        if item is None:
            item = self._item(position)
        if self._told + len(item) > _MOST_TOLD:
            item = b""
        self._told += len(item)
        self.fail_all([position], kind, node, error, traceback, item)

    def _item(self, position: int) -> bytes:
        if self.body and not self._raw:
            self._raw = codec.split(self.body)
        return codec.join([self._raw[position]]) if self._raw else b""

    def fail_all(
        self, positions: list[int], kind: str, node: str, error: str, traceback: str, item: bytes = b""
    ) -> None:
        """Several items have failed for one reason, which is told once."""
        if positions:
            roots = self._roots_of(positions)
            self.fails.append(wire.Fail(kind, True, roots, node, error, traceback, self.edge, item, self.path))
            self.failed.extend(positions)
            self.held.difference_update(positions)

    def _roots_of(self, positions: list[int]) -> bytes:
        return b"".join(
            self.roots[mine.start : mine.stop].tobytes() for position in positions for mine in (self.entries(position),)
        )

    def orphan(self) -> None:
        """The broker that delivered it is gone."""
        # What nobody tracks is not tried anew by anybody either.
        self.stale = not self.untracked

    def lose(self, count: int, why: str) -> None:
        """A broker has died before it accepted ``count`` outputs."""
        if self.untracked:
            self.waiting -= 1
            if count:
                self.fails.append(wire.Fail("broker died", False, bytes(8 * count), "", why, ""))
        elif not self.lost:
            self.lost = why

    @property
    def dead(self) -> bool:
        """Whether nobody waits for its outputs any more."""
        return bool(self.lost) or self.stale

    @property
    def settled(self) -> bool:
        """Whether the report may go out."""
        return self.finished and (self.waiting == 0 or bool(self.lost))

    def report(self) -> list[bytes]:
        """Return the three frames of the report; `covered` then are its positions, if the node holds or held items."""
        self.covered = ()
        if self.lost:
            self.held.clear()
            return self._lost_report()
        if self.untracked and not self.held and not self.parked:
            return [b"", b"", wire.pack_fails(self.fails)]
        over = {*self.failed, *self.skip}
        roots, xors = self.roots, self.xors
        leave = over | self.held | self.reported
        if self.held or self.parked:
            self.covered = tuple(sorted(set(range(self.count)).difference(self.skip, self.held, self.reported)))
            self.reported.update(self.covered)
        if leave:
            keep = self._mask(leave)
            roots, xors = roots[keep], xors[keep]
        if len(roots) > 1:
            roots, xors = _by_root(roots, xors)
        fails, self.fails = self.fails, []
        if self.untracked:
            return [b"", b"", wire.pack_fails(fails)]
        return [roots.tobytes(), xors.tobytes(), wire.pack_fails(fails)]

    def _mask(self, leave: set[int]) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Return which entries stay when some items are left out."""
        keep = np.ones(self.count, dtype=bool)
        keep[list(leave)] = False
        return keep if self.offsets is None else np.repeat(keep, np.diff(self.offsets))

    def _lost_report(self) -> list[bytes]:
        """What was sent cannot be told from what was not, so every root that is not done is tried anew."""
        roots = self.roots
        if self.reported:
            roots = roots[self._mask(self.reported)]
        fail = wire.Fail("broker died", False, roots.tobytes(), "", self.lost, "")
        return [b"", b"", wire.pack_fails([fail])]


class Errand:
    """Untracked values that were pushed outside of `process`; it has the face of a `Job` for whoever sends them."""

    __slots__ = ("accepted_ms", "acker_epoch", "attempt", "dead", "lost", "path", "waiting")

    def __init__(self) -> None:
        self.acker_epoch, self.attempt, self.accepted_ms = wire.UNTRACKED, 1, int(1000 * time.time())
        self.path: tuple[str, ...] = ()
        self.dead = False
        #: messages that no broker has accepted yet, and values that went down with one
        self.waiting = self.lost = 0

    @property
    def members(self) -> tuple["Errand", ...]:
        """Whoever waits for it to be accepted."""
        return (self,)

    def lose(self, count: int, _why: str) -> None:
        """A broker has died before it accepted ``count`` values."""
        self.waiting -= 1
        self.lost += count


class Bundle:
    """The jobs among whose items an output is shared; it has the face of a `Job` for whoever sends it."""

    __slots__ = ("accepted_ms", "acker_epoch", "attempt", "members", "path", "untracked")

    def __init__(self, jobs: tuple[Job, ...]) -> None:
        self.members = jobs
        self.untracked, self.path = jobs[0].untracked, jobs[0].path
        self.acker_epoch = max(job.acker_epoch for job in jobs)
        self.attempt = max(job.attempt for job in jobs)
        self.accepted_ms = min(job.accepted_ms for job in jobs)

    @property
    def dead(self) -> bool:
        """Whether nobody waits for it any more."""
        return all(job.dead for job in self.members)


def _by_root(roots: U64, xors: U64) -> tuple[U64, U64]:
    """Fold neighbours of one root into one entry: the children of a fan-out arrive side by side."""
    starts = run_starts(roots)
    if len(starts) == len(roots):
        return roots, xors
    return roots[starts], np.bitwise_xor.reduceat(xors, starts)


def run_starts(
    values: np.ndarray[tuple[int], np.dtype[np.generic]],
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the positions at which a run of equal values begins."""
    new = np.empty(len(values), dtype=bool)
    new[:1] = True
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return np.flatnonzero(new)
