"""How fast a counter moves: its rise over the last seconds."""

from collections import deque
from typing import Final

from consecutiond_broker.clock import Clock

#: seconds over which a rate is taken; long enough to be steady for batches, short enough to show a stop soon
SPAN_S: Final = 5.0


class Meter:
    """The rate of one counter that never falls, from readings in any rhythm.

    Args:
        clock: the time.
        span_s: seconds to look back; readings that are further apart look back to the one before.
    """

    def __init__(self, clock: Clock, span_s: float = SPAN_S) -> None:
        self._clock, self._span_s = clock, span_s
        self._readings: deque[tuple[float, int]] = deque([(clock.now(), 0)])

    def rate(self, count: int) -> float:
        """Take a reading and return the rise per second.

        Args:
            count: what the counter shows now; it began with 0.
        """
        now = self._clock.now()
        # The oldest reading that is kept is the newest of those that are old enough.
        while len(self._readings) > 1 and self._readings[1][0] <= now - self._span_s:
            self._readings.popleft()
        then, before = self._readings[0]
        self._readings.append((now, count))
        return (count - before) / (now - then) if now > then else 0.0
