"""What the acker does when nothing is tracked: it counts, and it tells when nothing moves any more.

No item passes through it. Producers send to the broker of the input's edge, workers to the brokers of theirs, and
brokers report only what has failed. Instead of a ledger that knows when all trees are complete, two looks at all
brokers tell that nothing is left (:mod:`consecutiond.acker.backstop`), and then the next node may end.
"""

from typing import Any, Final

from consecutiond.acker.groups import Groups
from consecutiond.guarantee import OFF
from consecutiond_broker import wire

#: seconds between looks at the brokers' counters while a graph runs
LOOK_S: Final = 1.0


class Tally:
    """Counts items when nothing is tracked.

    Args:
        input_edge: the edge at which input enters.
    """

    def __init__(self, input_edge: str) -> None:
        self._input_edge = input_edge
        self._epoch = self._before = self._accepted = 0
        #: items whose node raised, or that a worker died of
        self.failed = 0
        #: items that went down with a part
        self.lost = 0
        self.failures = Groups()

    def see(self, edge: str, epoch: int, accepted: int) -> None:
        """Note what a broker says that it has accepted in this incarnation."""
        if edge != self._input_edge:
            return
        if epoch != self._epoch:
            self._epoch, self._before = epoch, self._before + self._accepted
        self._accepted = accepted

    def fail(self, fail: wire.Fail) -> None:
        """Count a failure that a broker reports."""
        count = len(fail.roots) // 8
        if fail.charged:
            self.failed += count
        else:
            self.lost += count
        self.failures.add(fail.node or "(none)", fail.kind, fail.error, fail.traceback, count)

    def stats(self, lost: int) -> dict[str, Any]:
        """Return the counters; nobody can know how many roots are complete, and none stays open in a log.

        Args:
            lost: values that producers have lost.
        """
        return {
            "tracking": False, "accepted": self._before + self._accepted, "completed": None, "failed": self.failed,
            "lost": self.lost + lost, "open": 0, "waiting": 0, "guarantee": OFF, "failures": self.failures.show(),
        }  # fmt: skip
