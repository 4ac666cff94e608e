"""Which completed inputs a command means: times and an expression."""

import sys
import time
from collections.abc import Callable, Iterator

import msgspec

from consecutiond.cli.choosing import expression, moment_of
from consecutiond.kept import Root, roots
from consecutiond.operator import Operator, OperatorError

Test = Callable[[Root], bool]


class Filters(msgspec.Struct, frozen=True):
    """What the command line said, as it stands there."""

    since: str = ""
    until: str = ""
    where: str = ""

    def __str__(self) -> str:
        """Return them for the audit trail and for people."""
        parts = [f"--{name} {getattr(self, name)}" for name in self.__struct_fields__ if getattr(self, name)]
        return " ".join(parts) or "all"


class Choice:
    """The completed inputs that filters mean.

    Attributes:
        words: what was chosen, for people.
        damaged: how many of them could not be read, so far.
    """

    def __init__(self, since: float, until: float, test: Test | None, words: str) -> None:
        self._since, self._until, self._test, self.words = since, until, test, words
        self.damaged = 0
        #: the number of the last batch that is meant
        self._last: int | None = None

    def count(self, operator: Operator) -> int:
        """Return how many there are, and leave it at these: what completes later is not meant."""
        self._last = 0
        count = 0
        for page in operator.kept(self._since, self._until, values=self._test is not None):
            for batch in page:
                self._last = batch.number
                count += batch.count if self._test is None else sum(map(self._test, roots(batch)))
        return count

    def roots(self, operator: Operator) -> Iterator[Root]:
        """Yield them in the order in which their batches were over; only a page of them is in memory."""
        for page in operator.kept(self._since, self._until, values=True):
            for batch in page:
                if self._last is not None and batch.number > self._last:
                    return
                self.damaged += 0 if batch.chunk.body else batch.count
                yield from filter(self._test, roots(batch)) if self._test else roots(batch)

    def warn(self) -> bool:
        """Say on stderr what could not be read; return whether there was any."""
        if self.damaged:
            print(
                f"consecutiond: warning: {self.damaged:,} left out: their batches were damaged in the store, so that "
                "nobody knows their values. `consecutiond doctor` looks at the rest of it",
                file=sys.stderr,
            )
        return bool(self.damaged)


def choose(operator: Operator, filters: Filters, now: float | None = None) -> Choice:
    """Understand filters.

    Args:
        operator: the consecutor's.
        filters: the command line's.
        now: from when "2h ago" counts; seconds since 1970.

    Raises:
        ChoiceError: one is wrong; the text says what is right.
        OperatorError: it keeps no completed inputs.
    """
    now = time.time() if now is None else now
    since = moment_of(filters.since, "--since", now) if filters.since else 0.0
    until = moment_of(filters.until, "--until", now) if filters.until else float("inf")
    test = _test(filters.where) if filters.where else None
    if not operator.retains and not any(operator.kept()):
        raise OperatorError(
            f"{operator.id} keeps no completed inputs: each is forgotten when it is done. Start it with the option "
            "retain_s, --retain-s 86400 say, to keep them for so many seconds (here a day)"
        )
    return Choice(since, until, test, str(filters))


def _test(text: str) -> Test:
    """Return what tells whether a Python expression holds for a completed input.

    Args:
        text: it knows ``value`` and ``root``, all of it.
    """
    holds = expression(text, "value and root")
    return lambda root: holds(root.position, {"value": msgspec.msgpack.decode(root.value), "root": root})
