"""A rolling restart: one part at a time is asked to end, and its successor waited for before the next; pure."""

from collections.abc import Sequence
from typing import Final, Protocol

#: seconds for a part to be gone once it was killed
_GONE_S: Final = 10.0


class Members(Protocol):
    """What a rolling restart needs of the parts."""

    def epoch(self, name: str) -> int:
        """Return the newest incarnation that has beaten, 0 before the first."""

    def lives(self, name: str) -> bool:
        """Return whether a part has a process that has beaten and is not proven dead."""

    def is_ready(self, name: str) -> bool:
        """Return whether a part is up."""

    def reason(self, name: str) -> str:
        """Return what the newest incarnation said when it could not start, or nothing."""

    def end(self, name: str) -> None:
        """Ask a part to end in order; its successor is started as soon as it is dead."""

    def kill(self, name: str) -> None:
        """Kill a part."""

    def revive(self, name: str) -> None:
        """Start a part that is dead, now, even if it was given up."""


class Rolling:
    """Restarts parts, one after the other. It ends at the first whose successor does not come up: the others stay.

    Args:
        names: of the parts, in order.
        members: the parts.
        end_s: seconds that each may take to end; then it is killed.
        start_s: seconds that each successor may take to be up.
    """

    def __init__(self, names: Sequence[str], members: Members, end_s: float, start_s: float) -> None:
        self._members, self._end_s, self._start_s = members, end_s, start_s
        #: those that were not begun with
        self.left = list(names)
        #: the one at which it is, or nothing
        self.at = ""
        #: those whose successors are up
        self.restarted: list[str] = []
        #: of all begun with, those that did not end in time
        self.killed: list[str] = []
        #: why it ended before the last, or nothing
        self.error = ""
        #: nothing is wrong with the parts; somebody did not want it any more
        self.broken_off = False
        self._before = 0
        self._ending = False
        self._until = 0.0

    @property
    def over(self) -> bool:
        """Whether it is at its end, or was broken off."""
        return bool(self.error) or not (self.left or self.at)

    def break_off(self, why: str) -> None:
        """Begin with no other part."""
        if not self.over:
            self.error, self.broken_off = why, True

    def step(self, now: float) -> None:
        """Go on, `now` in monotonic seconds; to be called whenever somebody may have died or come up."""
        while not self.over and self._moved(now):
            pass

    def _moved(self, now: float) -> bool:
        """Do one thing; return whether there may be another to do at once."""
        if not self.at:
            self._begin(self.left.pop(0), now)
            return True
        if self._ending:
            return self._see_end(now)
        return self._see_start(now)

    def _begin(self, name: str, now: float) -> None:
        self.at, self._before = name, self._members.epoch(name)
        self._ending = self._members.lives(name)
        if self._ending:
            self._until = now + self._end_s
            self._members.end(name)
        else:
            self._until = now + self._start_s
            self._members.revive(name)

    def _see_end(self, now: float) -> bool:
        # A successor may have beaten in the turn in which the death was seen.
        if not self._members.lives(self.at) or self._members.epoch(self.at) > self._before:
            self._ending, self._until = False, now + self._start_s
            return True
        if now >= self._until and self.at not in self.killed:
            self.killed.append(self.at)
            self._until = now + _GONE_S
            self._members.kill(self.at)
        elif now >= self._until:
            self.error = f"{self.at} was killed and is still there; probably a disk or a device does not answer it"
        return False

    def _see_start(self, now: float) -> bool:
        new = self._members.epoch(self.at) > self._before
        why = self._members.reason(self.at) if new else ""
        if new and self._members.is_ready(self.at):
            self.restarted.append(self.at)
            self.at = ""
            return True
        if why:
            self.error = f"{self.at} could not start:\n{why.rstrip()}"
        elif now >= self._until:
            self.error = f"{self.at} did not come up within {self._start_s:g} s; see its log"
        return False
