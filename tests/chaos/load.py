"""The load of a chaos row: inputs at a rate, each with an id of its own, and how long the producer was made to wait."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import inf
from typing import Any

from tests.chaos.oracle import Oracle

#: roots a second, unless a row says otherwise
RATE = 300.0
#: items of one push at the utmost
BATCH = 500
#: seconds between looks at what is due
_TURN_S = 0.02

Push = Callable[[list[Any]], None]


class Load(threading.Thread):
    """Pushes at a rate until it is told to end; what was due while it had to wait is pushed afterwards.

    Args:
        oracle: draws the ids, and keeps the receipts.
        pushing: entered in the thread; gives the function that returns once a list of values has its receipts.
        item: makes the value of an id.
        rate: inputs a second; `inf`: as many as are taken.
    """

    def __init__(
        self,
        oracle: Oracle,
        pushing: AbstractContextManager[Push],
        item: Callable[[int], Any],
        rate: float = RATE,
    ) -> None:
        super().__init__(daemon=True)
        self._oracle, self._pushing, self._item, self._rate = oracle, pushing, item, rate
        self._longest_s, self._since = 0.0, inf
        self.error: BaseException | None = None
        self._enough = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with self._pushing as push:
                self._push(push)
        except BaseException as error:
            self.error = error

    def _push(self, push: Push) -> None:
        begun, count = time.monotonic(), 0
        while not self._enough.is_set():
            due = min(BATCH, (time.monotonic() - begun) * self._rate - count)
            if due < 1:
                self._enough.wait(_TURN_S)
                continue
            ids = self._oracle.draw(int(due))
            values = [self._item(number) for number in ids]
            self._since = time.monotonic()
            push(values)
            self._longest_s, self._since = self.longest_s, inf
            self._oracle.receipt(ids)
            count += len(ids)

    @property
    def longest_s(self) -> float:
        """The longest time that one push took, or takes by now, seconds."""
        return max(self._longest_s, time.monotonic() - self._since)

    def check(self) -> None:
        """Raise what has ended it."""
        if self.error is not None:
            raise self.error

    def end(self, *expected: type[BaseException]) -> None:
        """Push no more; raise what went wrong, but for errors that had to be."""
        self._enough.set()
        self.join()
        if not isinstance(self.error, expected):
            self.check()
