"""Completed inputs that stay in the log for a while: what is kept, and when it is taken away."""

from collections.abc import Callable
from itertools import takewhile
from math import inf
from typing import Final

from consecutiond.acker.committer import Committer
from consecutiond.acker.stores.base import Chunk, Retained
from consecutiond_broker.clock import Clock

#: batches and, about, bytes of values that one group commit takes away at the utmost: deleting holds up what follows
SLICE: Final = 256
SLICE_BYTES: Final = 8 << 20
#: seconds between two looks for what is too old; not less, as each is a question to the store, nor more, as clocks jump
_LOOK_S: Final = 0.5
_LOOK_MAX_S: Final = 60.0


class Retention:
    """Decides what is kept, and finds what is kept no longer.

    Args:
        committer: the store's thread.
        clock: the time; wall time is what is recorded.
        retain_s: seconds that completed inputs are kept; 0: not at all; infinite: for ever.
    """

    def __init__(self, committer: Committer, clock: Clock, retain_s: float) -> None:
        self._committer, self._clock, self._retain_s = committer, clock, retain_s
        self._next_look = -inf
        self._asking = False

    @property
    def keeps(self) -> bool:
        """Whether what completes from now on is kept."""
        return self._retain_s > 0

    def keep(self, chunk: Chunk, completed: bytes, size: int) -> Retained:
        """Return how a batch is recorded that is over.

        Args:
            chunk: the batch; without its body if the store has it.
            completed: bitmap of the roots that completed.
            size: bytes of the body.
        """
        self._next_look = min(self._next_look, self._clock.now() + self._retain_s)
        return Retained(chunk, completed, self._clock.wall(), size)

    def look(self, retained: int, purge: Callable[[list[Retained]], None]) -> None:
        """Have a bounded part taken away of what is too old, if it is time to look.

        Args:
            retained: how many roots the store keeps.
            purge: called later, with batches that the next group commit is to take away.
        """
        if not retained or self._asking or self._retain_s == inf or self._clock.now() < self._next_look:
            return
        self._asking = True
        store = self._committer.store

        def found(page: list[Retained]) -> None:
            self._asking = False
            old = self._old(page)
            young = page[len(old) : len(old) + 1]
            if young and self._is_old(young[0]):
                # More than one commit should take.
                self._next_look = -inf
            elif young:
                age = self._clock.wall() - young[0].completed_at
                wait = min(max(self._retain_s - age, _LOOK_S), _LOOK_MAX_S)
                self._next_look = self._clock.now() + wait
            else:
                self._next_look = -inf if len(page) == SLICE else self._clock.now() + _LOOK_S
            if old:
                purge(old)

        self._committer.ask(lambda: store.retained(0, SLICE), found)

    def _old(self, page: list[Retained]) -> list[Retained]:
        """Return the first batches of a page, as far as they are too old and not too large together."""
        old: list[Retained] = []
        size = 0
        for batch in takewhile(self._is_old, page):
            size += batch.size
            if old and size > SLICE_BYTES:
                break
            old.append(batch)
        return old

    def _is_old(self, batch: Retained) -> bool:
        # One from a future that a clock was set back from must not hold up those behind it much longer.
        return abs(self._clock.wall() - batch.completed_at) >= self._retain_s

    def wait_s(self, retained: int) -> float:
        """Return the seconds until it is time to look."""
        if not retained or self._asking or self._retain_s == inf:
            return inf
        return max(0.0, self._next_look - self._clock.now())
