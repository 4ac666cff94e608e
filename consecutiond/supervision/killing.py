"""The end of a stop that took too long: workers are killed, the bottom of the graph last; pure."""

from collections.abc import Callable, Sequence
from typing import Final

from consecutiond.logs import get_logger

log = get_logger("heart")

#: seconds to wait for the acker's word that nobody is charged for it, and for the deaths of one depth of the graph:
#: neither the one nor the other should take long, and none of it may hold up the end
_PATIENCE_S: Final = 2.0


class Killing:
    """Kills one depth of the graph after the other, from the top.

    First the acker has to know, since an item that is in execution when its worker is killed did not kill it.

    Args:
        tiers: names of parts, those that are killed together in one tuple, in order.
        kill: kills one part, if it is there.
        lives: says whether a part is there.
        now: monotonic seconds.
    """

    def __init__(
        self, tiers: Sequence[Sequence[str]], kill: Callable[[str], None], lives: Callable[[str], bool], now: float
    ) -> None:
        self._tiers, self._kill, self._lives = list(tiers), kill, lives
        self._until = now + _PATIENCE_S
        #: the acker knows
        self.announced = False
        self._dying: Sequence[str] = ()

    def step(self, now: float) -> bool:
        """Go on; return whether it is over. To be called whenever somebody may have died."""
        if not self.announced and now < self._until:
            return False
        self.announced = True
        while not any(map(self._lives, self._dying)) or now >= self._until:
            if not self._tiers:
                return True
            self._dying = self._tiers.pop(0)
            self._until = now + _PATIENCE_S
            for name in self._dying:
                if self._lives(name):
                    log.warning("part.killed", part=name, reason="the stop took too long")
                    self._kill(name)
        return False
