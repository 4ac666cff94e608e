"""A batch in a worker's hands: where it came from, what became of each item, and the report that settles it."""

import numpy as np

from consecutiond_broker import wire
from consecutiond_broker.ids import U64, as_u64


class Job:
    """One delivery, from its arrival to its settlement.

    ``xors`` starts as the ids of the items themselves (they are consumed) and collects the ids of their children
    (they are produced), so that it becomes the report. ``waiting`` counts the output messages that no downstream
    broker has accepted yet.
    """

    __slots__ = (
        "acker_epoch", "body", "failed", "fails", "finished", "ids", "lost", "roots", "seq", "skip", "slot",
        "stale", "waiting", "xors",
    )  # fmt: skip

    def __init__(self, slot: int, head: wire.Deliver, frames: list[bytes]) -> None:
        self.slot = slot
        self.seq = head.seq
        self.acker_epoch = head.acker_epoch
        self.skip = head.skip
        self.roots: U64 = as_u64(frames[1])
        self.ids: U64 = as_u64(frames[2])
        self.body = frames[3]
        self.xors: U64 = self.ids.copy()
        self.fails: list[wire.Fail] = []
        self.failed: list[int] = []
        self.waiting = 0
        self.finished = False
        #: a downstream broker died before it accepted an output
        self.lost = ""
        #: the upstream broker died: nobody waits for the settlement
        self.stale = False

    def fail(self, position: int, kind: str, node: str, error: str, traceback: str) -> None:
        """One item has failed by its own fault; its root is retried, with an attempt charged."""
        root = self.roots[position : position + 1].tobytes()
        self.fails.append(wire.Fail(kind, True, root, node, error, traceback))
        self.failed.append(position)

    @property
    def settled(self) -> bool:
        """Whether the report may go out."""
        return self.finished and (self.waiting == 0 or bool(self.lost))

    def report(self) -> list[bytes]:
        """Return the three frames of the report."""
        if self.lost:
            # What was sent cannot be told from what was not, so every root of the batch is tried anew.
            return [
                b"",
                b"",
                wire.pack_fails([wire.Fail("broker died", False, self.roots.tobytes(), "", self.lost, "")]),
            ]
        roots, xors = self.roots, self.xors
        if self.failed or self.skip:
            keep = np.ones(len(roots), dtype=bool)
            keep[[*self.failed, *self.skip]] = False
            roots, xors = roots[keep], xors[keep]
        if len(roots) > 1:
            roots, xors = _by_root(roots, xors)
        return [roots.tobytes(), xors.tobytes(), wire.pack_fails(self.fails)]


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
