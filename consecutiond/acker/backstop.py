"""The last net: roots that are open although nothing anywhere holds a part of their trees were lost, and are retried.

It should never catch anything; what it catches is logged as a bug. One look at all brokers is not enough, because an
item can move from a broker that has not answered yet to one that has. Two looks with the same activity counters in
between are: every live item is in some broker's queue or custody, and moving it would have moved a counter.
"""

from typing import Final

#: seconds without progress before the brokers are asked
QUIET_S: Final = 5.0


class Backstop:
    """Decides when to ask, and what the answers mean. Pure."""

    def __init__(self, edges: frozenset[str]) -> None:
        self._edges = edges
        self._number = 0
        self._answers: dict[str, int] = {}
        self._last: dict[str, int] | None = None
        self._progress = -1
        self._since = 0.0

    def ask(self, progress: int, now: float) -> int | None:
        """Return the number of a probe to send to every broker, if there was no progress for long enough.

        Args:
            progress: any counter that moves when a report is applied or a root is emitted.
            now: monotonic seconds.
        """
        if progress != self._progress:
            self._progress, self._since, self._last = progress, now, None
            return None
        if now - self._since < QUIET_S:
            return None
        self._since = now
        self._number += 1
        self._answers = {}
        return self._number

    def answer(self, edge: str, number: int, left: int, activity: int) -> bool:
        """Take a broker's answer; return whether all that is open was lost.

        Args:
            edge: whose broker answers.
            number: of the probe.
            left: what it holds: queued, in custody, reports.
            activity: its counter.
        """
        if number != self._number:
            return False
        if left:
            self._last = None
            self._number += 1
            return False
        self._answers[edge] = activity
        if self._answers.keys() != self._edges:
            return False
        same, self._last = self._answers == self._last, self._answers
        return same
