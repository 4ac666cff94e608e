"""Which failed items a command means: filters, groups, positions, and expressions."""

import difflib
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from consecutiond.acker.stores.base import EVERY, Failed, Group, Where
from consecutiond.acker.stores.shapes import shape
from consecutiond.cli.choosing import ChoiceError, expression, moment_of
from consecutiond.cli.failedvalues import value_of
from consecutiond.deadletters import MOST
from consecutiond.operator import Operator

_RANGE: Final = re.compile(r"(\d+)(?:-(\d+))?")
#: positions of the last root that a log can have
_LAST: Final = 2**63

#: what names of groups are made of: no vowels, so no words, and no digits, so no numbers
_LETTERS: Final = "bcdfghjklmnpqrstvwxz"
_NAME_LENGTH: Final = 5

Test = Callable[[Failed], bool]


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said, as it stands there."""

    positions: tuple[str, ...] = ()
    node: str = ""
    kind: str = ""
    error: str = ""
    group: str = ""
    since: str = ""
    until: str = ""
    where: str = ""

    def __bool__(self) -> bool:
        return self != Filters()

    def __str__(self) -> str:
        """Return them for the audit trail and for people."""
        parts = [f"--{name} {getattr(self, name)}" for name in self.__struct_fields__[1:] if getattr(self, name)]
        return " ".join([*self.positions, *parts]) or "all"


class Choice:
    """The failed items that filters mean.

    Attributes:
        where: what the store is asked for.
        words: what was chosen, for people.
    """

    def __init__(self, where: Where, spans: tuple[range, ...], tests: tuple[Test, ...], words: str) -> None:
        self.where, self._spans, self._tests, self.words = where, spans, tests, words

    @property
    def by_store(self) -> bool:
        """Whether the store alone can tell which are meant."""
        return not self._spans and not self._tests

    def count(self, operator: Operator) -> int:
        """Return how many there are."""
        if self.by_store:
            return operator.count(self.where)
        return sum(map(len, self.pages(operator)))

    def pages(self, operator: Operator, after: int = 0, limit: int = MOST) -> Iterator[list[Failed]]:
        """Yield them in pages that may be short, in the order of their positions."""
        for span in self._spans or (range(after + 1, _LAST),):
            for page in operator.pages(self.where, max(after, span.start - 1), min(limit, len(span))):
                found = [letter for letter in page if letter.position in span and self._fits(letter)]
                if found:
                    yield found
                if page[-1].position >= span.stop:
                    break

    def _fits(self, letter: Failed) -> bool:
        return all(test(letter) for test in self._tests)

    def until(self, moment: float) -> "Choice":
        """Return the same without what fails later."""
        where = replace(self.where, until=min(self.where.until, moment))
        return Choice(where, self._spans, self._tests, self.words)


def choose(operator: Operator, filters: Filters, now: float | None = None) -> Choice:
    """Understand filters.

    Args:
        operator: the consecutor's.
        filters: the command line's.
        now: from when "2h ago" counts; seconds since 1970.

    Raises:
        ChoiceError: one is wrong; the text says what is right.
    """
    now = time.time() if now is None else now
    if filters.node:
        _check_node(operator, filters.node)
    where = Where(
        node=filters.node, kind=filters.kind, error=filters.error,
        since=moment_of(filters.since, "--since", now) if filters.since else EVERY.since,
        until=moment_of(filters.until, "--until", now) if filters.until else EVERY.until,
    )  # fmt: skip
    tests: list[Test] = []
    words = str(filters)
    if filters.group:
        where, group_words = _group(operator, where, filters.group, tests)
        words = f"{words} ({group_words})"
    if filters.where:
        tests.append(_test(filters.where))
    spans = _spans(filters.positions)
    single = sorted({span.start for span in spans if len(span) == 1})
    _check_there(operator, single)
    if single and len(single) == len(spans) and len(single) <= MOST:
        where, spans = replace(where, positions=tuple(single)), ()
    return Choice(where, spans, tuple(tests), words)


def one(operator: Operator, position: int) -> Failed:
    """Return the failed item at a position.

    Raises:
        ChoiceError: there is none.
    """
    _check_there(operator, [position])
    found = operator.page(Where(positions=(position,)), limit=1)
    if not found:
        # Somebody was quicker.
        raise _nothing_at(operator, [position])
    return found[0]


def one_position(text: str) -> int:
    """Read the position of one root."""
    spans = _spans((text,))
    if len(spans[0]) != 1:
        raise ChoiceError(f"{text!r} is several positions, and this takes one at a time")
    return spans[0].start


# --- positions -------------------------------------------------------------------------------------------------------


def _spans(words: tuple[str, ...]) -> tuple[range, ...]:
    """Read `17 20-25`; what overlaps is joined, so that nobody is meant twice."""
    found: list[range] = []
    for word in words:
        match = _RANGE.fullmatch(word)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if not 1 <= first <= last < _LAST:
            raise ChoiceError(f"{word!r} is no position: write a number like 17, or a range like 20-25")
        found.append(range(first, last + 1))
    joined: list[range] = []
    for span in sorted(found, key=lambda each: each.start):
        if joined and span.start < joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, span.stop))
        else:
            joined.append(span)
    return tuple(joined)


def _check_there(operator: Operator, positions: list[int]) -> None:
    there: set[int] = set()
    for start in range(0, len(positions), MOST):
        where = Where(positions=tuple(positions[start : start + MOST]))
        there |= {letter.position for page in operator.pages(where) for letter in page}
    if missing := [position for position in positions if position not in there]:
        raise _nothing_at(operator, missing)


def _nothing_at(operator: Operator, positions: list[int]) -> ChoiceError:
    open_now = sorted(operator.still_open(positions))
    shown = ", ".join(map(str, positions[:10])) + (", …" if len(positions) > 10 else "")
    why = f"replayed, discarded (`consecutiond failed audit {operator.words}` says so), or never failed"
    if open_now:
        why = f"{', '.join(map(str, open_now[:10]))} is open: it is being tried, or will be"
    return ChoiceError(
        f"{operator.id} has no failed item at position {shown}: {why}. "
        f"`consecutiond failed list {operator.words} --each` lists those that there are"
    )


# --- names, times, groups --------------------------------------------------------------------------------------------


def nodes_of(edges: Mapping[str, str]) -> list[str]:
    """Return the nodes that the edges of a plan lead to."""
    return sorted(set(edges.values()))


def _check_node(operator: Operator, node: str) -> None:
    known = nodes_of(operator.edges)
    if node in known:
        return
    # One that the graph had when it failed, and has no more.
    known = sorted({*known, *(group.node for group in operator.groups())})
    if node not in known:
        close = difflib.get_close_matches(node, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
        raise ChoiceError(f"{operator.id} has no node {node!r}; {hint}")


def group_name(group: Group) -> str:
    """Return a short name of a group, which stays when others come and go: numbers do not."""
    number = int.from_bytes(hashlib.blake2b("\0".join((group.node, group.kind, group.shape)).encode()).digest()[:8])
    return "".join(_LETTERS[number // len(_LETTERS) ** place % len(_LETTERS)] for place in range(_NAME_LENGTH))


def _group(operator: Operator, where: Where, wanted: str, tests: list[Test]) -> tuple[Where, str]:
    groups = operator.groups(where)
    group = next(
        (each for number, each in enumerate(groups, 1) if wanted in (str(number), group_name(each))), None
    )  # fmt: skip
    if group is None:
        raise ChoiceError(
            f"there is no group {wanted}; `consecutiond failed list {operator.words}`, with the same filters, numbers "
            f"and names them: there are {len(groups)} now"
        )
    if not (group.node and group.kind and group.shape):
        # An empty text chooses everything in a store, and here it is meant as it is.
        alike = group.node, group.kind, group.shape
        tests.append(lambda letter: (letter.node, letter.kind, shape(letter.error)) == alike)
    words = f"node {group.node}, {group.kind}, {group.shape}"
    return replace(where, node=group.node, kind=group.kind, shape=group.shape), words


# --- expressions -----------------------------------------------------------------------------------------------------


def _test(text: str) -> Test:
    """Return what tells whether a Python expression holds for a failed item.

    Args:
        text: it knows ``value``, the value of the root, ``item``, the item that failed (None where it is not known),
            and ``letter``, all of it.

    Raises:
        ChoiceError: it is no expression; or later, where it raises something, with the position.
    """
    holds = expression(text, "value, item and letter")

    def test(letter: Failed) -> bool:
        item = value_of(letter.failed_item) if letter.failed_item else None
        return holds(letter.position, {"value": value_of(letter.body), "item": item, "letter": letter})

    return test
