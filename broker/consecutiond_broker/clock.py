"""Time as an argument: monotonic for liveness and expiry, wall time only for what people read."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def wall(self) -> float:
        """Return seconds since the epoch; it may jump."""


class SystemClock:
    """The real time."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class FakeClock:
    """A clock that moves when told, for tests of policies."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now

    def now(self) -> float:
        """Return the time set by the test."""
        return self._now

    def wall(self) -> float:
        """Return the same time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._now += seconds
