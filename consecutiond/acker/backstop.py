"""The last net: roots that are open although nothing anywhere holds a part of their trees were lost, and are retried.

It should never catch anything; what it catches is logged as a bug. One look at all brokers is not enough, because an
item can move from a broker that has not answered yet to one that has. Two looks with the same activity counters in
between are: every live item is in some broker's queue or custody, and moving it would have moved a counter.

The same two looks tell that nothing moves but items are left that nodes hold on purpose, which is what the end of a
graph has to know.
"""

from enum import Enum, auto
from typing import Final

#: seconds without progress before the brokers are asked
QUIET_S: Final = 5.0
#: the same, while a graph is about to end
ENDING_S: Final = 0.05
#: seconds for which answers are waited for before the brokers are asked anew; busy ones need longer than `ENDING_S`
PATIENCE_S: Final = 1.0


class Verdict(Enum):
    """What two looks at all brokers have shown."""

    #: something moves, or not all have answered
    NOTHING = auto()
    #: only items are left that nodes hold
    HELD = auto()
    #: nothing is left
    LOST = auto()


class Backstop:
    """Decides when to ask, and what the answers mean. Pure."""

    def __init__(self, edges: frozenset[str]) -> None:
        self._edges = edges
        self._number, self._asked = 0, -1
        self._answers: dict[str, tuple[int, int]] = {}
        self._last: dict[str, tuple[int, int]] | None = None
        self._progress = -1
        self._since = 0.0

    def ask(self, progress: int, now: float, quiet_s: float = QUIET_S) -> int | None:
        """Return the number of a probe to send to every broker, if there was no progress for long enough.

        Args:
            progress: any counter that moves when a report is applied or a root is emitted.
            now: monotonic seconds.
            quiet_s: how long is long enough, seconds.
        """
        if progress != self._progress:
            self._progress, self._since, self._last = progress, now, None
            return None
        if self._number == self._asked and self._answers.keys() != self._edges:
            quiet_s = max(quiet_s, PATIENCE_S)
        if now - self._since < quiet_s:
            return None
        self._since = now
        self._number = self._asked = self._number + 1
        self._answers = {}
        return self._number

    def forget_looks(self) -> None:
        """What was seen until now says nothing any more."""
        self._last = None
        self._number += 1

    def answer(self, edge: str, number: int, left: int, activity: int, parked: int = 0) -> Verdict:
        """Take a broker's answer; return what all of them together mean.

        Args:
            edge: whose broker answers.
            number: of the probe.
            left: what moves there: queued, in workers' hands, reports.
            activity: its counter.
            parked: batches of which nodes hold items.
        """
        if number != self._number:
            return Verdict.NOTHING
        if left:
            self._last = None
            self._number += 1
            return Verdict.NOTHING
        self._answers[edge] = activity, parked
        if self._answers.keys() != self._edges:
            return Verdict.NOTHING
        same, self._last = self._answers == self._last, self._answers
        if not same:
            return Verdict.NOTHING
        return Verdict.HELD if any(parked for _, parked in self._answers.values()) else Verdict.LOST
