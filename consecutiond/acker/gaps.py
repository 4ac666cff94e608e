"""Roots whose workers died between two items, and how often that happened."""

from collections.abc import Iterable
from typing import Final

import numpy as np

#: such deaths of one root from which on each is charged as an attempt. A worker that is killed by accident is rarely
#: killed in that moment, and hardly ever so often with the same root in hand; a batch that cannot be decoded, sent or
#: flushed without a crash is met each time.
_FREE: Final = 4
#: roots that are remembered, in the order in which they came
_MOST: Final = 100_000


class Gaps:
    """Remembers deaths that nobody is to blame for, so that they do not repeat for ever."""

    def __init__(self) -> None:
        self._deaths: dict[int, int] = {}

    def seen(self, positions: Iterable[int]) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Note that a worker died between items with these roots in hand; return which of them are charged for it."""
        found = []
        for position in positions:
            deaths = self._deaths.pop(position, 0) + 1
            self._deaths[position] = deaths
            found.append(deaths > _FREE)
        while len(self._deaths) > _MOST:
            del self._deaths[next(iter(self._deaths))]
        return np.array(found, dtype=bool)
