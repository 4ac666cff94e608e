"""Whether anything moves: a graph that has work and makes no progress is `stalled`, however alive its processes are."""

from collections.abc import Mapping
from typing import Any, Final

#: the acker's counters of which one moves whenever anything does
_COUNTERS: Final = ("accepted", "completed", "failed", "discarded", "emitted", "reports")


class Stall:
    """Decides from the acker's counters, and from what the workers do. Pure.

    What waits for a retry, and what nodes hold on purpose, is no backlog: nothing is to be done about it now.

    Args:
        stall_s: seconds without progress after which a graph with a backlog is stalled.
        now: monotonic seconds.
    """

    def __init__(self, stall_s: float, now: float) -> None:
        self._stall_s, self._since = stall_s, now
        self._seen: tuple[Any, ...] = ()
        #: the graph has a backlog and makes no progress
        self.stalled = False

    def observe(self, stats: Mapping[str, Any], moves: int, now: float) -> bool:
        """Take a look in.

        Args:
            stats: of the acker; empty while it does not answer, which is no progress either.
            moves: a counter of what workers have done.
            now: monotonic seconds.

        Returns:
            Whether the graph has stalled with this look.
        """
        counters = tuple(stats.get(name) for name in _COUNTERS) if stats else self._seen[:-1]
        seen = (*counters, moves)
        if seen != self._seen or not _has_backlog(stats):
            self._seen, self._since, self.stalled = seen, now, False
            return False
        begins = not self.stalled and now - self._since >= self._stall_s
        self.stalled = self.stalled or begins
        return begins

    def seconds(self, now: float) -> float:
        """Return for how long nothing has moved."""
        return now - self._since


def _has_backlog(stats: Mapping[str, Any]) -> bool:
    if stats.get("open") is None:
        return True
    return bool(stats["open"] > stats.get("waiting", 0) and not stats.get("only_held"))
