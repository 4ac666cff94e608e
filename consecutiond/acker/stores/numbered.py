"""Commits have numbers, so that one whose answer was lost is recognised, and a store that went back is found out."""

from consecutiond.acker.stores.base import Changes
from consecutiond_broker.errors import ConsecutiondError


class LogLostError(ConsecutiondError):
    """The store has lost what it had confirmed: only an acker that reads it anew can go on."""


class Numbered:
    """The numbers of a store's commits; pure.

    Args:
        done: of the last one.

    """

    def __init__(self, done: int = 0) -> None:
        #: the last that is known to be applied
        self.done = done
        #: roots that the store had accepted then
        self._accepted = 0
        self._doubtful: Changes | None = None

    @property
    def next(self) -> int:
        """The number of the commit that is next, or under way."""
        return self.done + 1

    def begin(self, changes: Changes) -> None:
        """Note that a group is being sent: from now on it may be applied."""
        self._doubtful = changes

    def abandon(self) -> None:
        """Note that it was not applied."""
        self._doubtful = None

    def end(self, accepted: int) -> None:
        """Note that it was applied, and how many roots the store has accepted with it."""
        self.done, self._accepted, self._doubtful = self.next, accepted, None

    def is_applied(self, changes: Changes, commit: int) -> bool:
        """Tell whether a group was applied although nobody heard of it.

        Args:
            changes: the group that is to be committed.
            commit: the number of the last commit that the store knows.

        """
        if commit == self.next and self._doubtful == changes:
            return True
        # Whoever gave up on the former group: it is applied or not, and this one is another.
        self.done, self._doubtful = max(self.done, commit), None
        return False

    def loss(self, accepted: int) -> str:
        """Say how much is lost.

        Args:
            accepted: roots that the store has accepted, as it says now.

        """
        lost = self._accepted - accepted
        return f"{lost:,} accepted items are lost." if lost > 0 else "What happened to items since is forgotten."
