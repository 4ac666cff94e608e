"""When a part that died is started again, and when it is given up: capped exponential back-off with jitter; pure."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

#: doublings after which any base has reached any cap; keeps the power finite
_MAX_DOUBLINGS: Final = 60


@dataclass(frozen=True)
class BackOff:
    """The numbers of a restart policy."""

    #: seconds before the restart that follows the first short life
    base_s: float = 0.1
    #: seconds; the longest delay
    cap_s: float = 15.0
    #: seconds of life, once it is up, after which what was before is forgiven. A start costs half a second of one core,
    #: so that what dies whenever it is just stable spends most of its time at work
    stable_s: float = 3.0
    #: share of a delay that chance may take away, 0 to 1; spreads parts that died together
    jitter: float = 0.5
    #: short lives within `window_s` after which a part is given up; 0: never
    limit: int = 0
    #: seconds
    window_s: float = 300.0


class RestartPolicy:
    """How long each part waits before it is started again.

    A part that was up for a stable time and died is started again at once. One that keeps dying early waits
    longer each time, up to the cap, until it has been up for a stable time again. When it has died early too often
    within a window it is spent: another start would most likely end like those before.

    Args:
        random: returns a number from 0 up to, but not including, 1.
        back_off: the numbers.

    """

    def __init__(self, random: Callable[[], float], back_off: BackOff | None = None) -> None:
        self._random = random
        self._back_off = back_off or BackOff()
        self._ready: dict[str, float] = {}
        self._short_lives: dict[str, int] = {}
        #: when it died early, the newest last; only those deaths that are the part's own fault
        self._deaths: dict[str, deque[float]] = {}

    def on_start(self, name: str) -> None:
        """Note that a new incarnation of a part has begun, which is not up yet."""
        self._ready.pop(name, None)

    def on_ready(self, name: str, now: float) -> None:
        """Note that a part is up, `now` in monotonic seconds."""
        self._ready[name] = now

    def on_exit(self, name: str, now: float, *, counts: bool = True) -> float:
        """Note that a part ended.

        Args:
            name: of the part; one that was never up counts as short-lived.
            now: monotonic seconds.
            counts: whether it may be given up for it. One that an item has killed is not at fault: the item runs out of
                attempts before that.

        Returns:
            Seconds to wait before it is started again.

        """
        ready = self._ready.pop(name, now)
        if now - ready >= self._back_off.stable_s:
            self.forget(name)
            return 0.0
        if counts:
            self._deaths.setdefault(name, deque(maxlen=self._back_off.limit or 1)).append(now)
        short_lives = self._short_lives[name] = self._short_lives.get(name, 0) + 1
        delay = self._back_off.base_s * 2.0 ** min(short_lives - 1, _MAX_DOUBLINGS)
        return min(delay, self._back_off.cap_s) * (1.0 - self._back_off.jitter * self._random())

    def is_spent(self, name: str, now: float) -> bool:
        """Return whether a part has died early so often that it is to be given up, `now` in monotonic seconds."""
        deaths = self._deaths.get(name, deque())
        return 0 < self._back_off.limit <= len(deaths) and now - deaths[0] <= self._back_off.window_s

    def short_lives(self, name: str) -> int:
        """Return how many times in a row a part has died before it was stable."""
        return self._short_lives.get(name, 0)

    def forget(self, name: str) -> None:
        """Begin anew with a part: it is no more, was stable, or somebody has asked for it."""
        self._ready.pop(name, None)
        self._short_lives.pop(name, None)
        self._deaths.pop(name, None)
