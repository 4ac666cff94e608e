"""The cell of a worker: a small shared file that says, after any death, what the worker had in hand.

It is a memory-mapped file, so a write costs some fifty nanoseconds and survives ``kill -9``; the page cache keeps it.
Layout, unsigned 64-bit words:

    0 magic   1 epoch   2 slots   3 slot   4 delivery   5 index + 1   6 since   7 time-out
    8 …   outputs of slot 0, slot 1, …

``slot`` is which of the worker's incoming edges the batch in execution came from, ``delivery`` the number of that
batch, ``index`` the item in execution (0: none). ``since`` is when its execution began and ``time-out`` how long that
may take, in nanoseconds of the monotonic clock; both are 0 where nobody wants to know. ``outputs[slot]`` is the newest
delivery of that edge of which any output has left the worker. It is written before the output leaves, so a batch above
it can safely be given to another worker inside the same trees, and a batch at or below it cannot.
"""

import mmap
import time
from pathlib import Path
from typing import Final, NamedTuple

_MAGIC: Final = 0x6C6C65635F64636F
SLOT: Final = 3
DELIVERY: Final = 4
INDEX: Final = 5
SINCE: Final = 6
TIMEOUT: Final = 7
OUTPUTS: Final = 8
#: in the place of a position: every item of the delivery may be in execution
ALL: Final = 1 << 32
#: in the place of a position: none was, and yet the delivery was in execution
BETWEEN: Final = -2


class Remains(NamedTuple):
    """What a dead worker's cell says about one of its incoming edges."""

    #: the delivery in execution, 0 when it was none of this edge
    delivery: int
    #: the position of the item in execution, -1 for none, `ALL` when it may be any
    position: int
    #: the newest delivery of which an output has left
    outputs: int
    #: the item in execution had taken longer than it may
    timed_out: bool = False


class Cell:
    """The writing side, owned by the worker.

    Args:
        path: the file; it is made anew. None keeps the words in plain memory, for a worker that cannot die alone.
        epoch: the worker's epoch.
        slots: how many incoming edges the worker has.
    """

    def __init__(self, path: Path | None, epoch: int, slots: int) -> None:
        self.path = path
        size = 8 * (OUTPUTS + slots)
        self._map: mmap.mmap | bytearray
        if path is None:
            self._map = bytearray(size)
        else:
            with path.open("wb+") as file:
                file.truncate(size)
                self._map = mmap.mmap(file.fileno(), size)
        #: the words; the hot loop writes ``words[INDEX]`` itself
        self.words = memoryview(self._map).cast("Q")
        self.words[1], self.words[2] = epoch, slots
        self.words[0] = _MAGIC

    def start(self, slot: int, delivery: int) -> None:
        """A batch begins; no item is in execution yet."""
        self.words[INDEX] = 0
        self.words[SLOT], self.words[DELIVERY] = slot, delivery

    def outputs_leave(self, slot: int, delivery: int) -> None:
        """Say that outputs of this delivery are about to leave; call it before they do."""
        self.words[OUTPUTS + slot] = delivery

    def finish(self) -> None:
        """No batch is in execution."""
        self.words[INDEX] = 0
        self.words[DELIVERY] = 0

    def close(self, *, keep: bool = False) -> None:
        """Release the memory and remove the file, unless somebody has yet to read it: the worker ended in order."""
        self.words.release()
        if isinstance(self._map, mmap.mmap):
            self._map.close()
        if self.path is not None and not keep:
            self.path.unlink(missing_ok=True)


def read_remains(path: Path, epoch: int, slot: int) -> Remains | None:
    """Read what a dead worker left.

    Args:
        path: its cell file.
        epoch: the incarnation that died; the cell of another one says nothing about it.
        slot: the edge that asks.

    Returns:
        What was in hand, or None when it cannot be proved (no file, another epoch, garbage).
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < 8 * OUTPUTS or len(data) % 8:
        return None
    words = memoryview(data).cast("Q")
    if words[0] != _MAGIC or words[1] != epoch or slot >= words[2] or len(words) < OUTPUTS + words[2]:
        return None
    mine = words[SLOT] == slot and words[DELIVERY] != 0
    return Remains(
        delivery=words[DELIVERY] if mine else 0,
        position=words[INDEX] - 1 if mine else -1,
        outputs=words[OUTPUTS + slot],
        timed_out=mine and _is_overdue(words[SINCE], words[TIMEOUT], time.monotonic_ns()),
    )


class Glance(NamedTuple):
    """What a living worker is at."""

    #: which of its incoming edges the batch in execution came from
    slot: int
    #: the number of that batch, 0 for none
    delivery: int
    #: the item in execution, counted from 1; 0 for none
    item: int
    #: since when it runs and how long it may, nanoseconds of the monotonic clock; 0 where nobody wants to know
    since: int
    timeout: int

    def is_overdue(self, grace_s: float) -> bool:
        """Tell whether its item has run for so many seconds longer than it may."""
        return self.item != 0 and _is_overdue(self.since, self.timeout, time.monotonic_ns() - int(1e9 * grace_s))


def glance(path: Path, epoch: int) -> Glance | None:
    """Read the cell of a worker that lives; what it says may be over already.

    Args:
        path: its cell file.
        epoch: its incarnation.

    Returns:
        What it is at; None where there is no such cell.
    """
    try:
        words = memoryview(path.read_bytes()).cast("Q")
    except (OSError, TypeError):
        return None
    if len(words) < OUTPUTS or words[0] != _MAGIC or words[1] != epoch:
        return None
    return Glance(words[SLOT], words[DELIVERY], words[INDEX], words[SINCE], words[TIMEOUT])


def _is_overdue(since: int, timeout: int, now: int) -> bool:
    return since > 0 and timeout > 0 and now - since > timeout
