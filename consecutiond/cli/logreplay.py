"""``consecutiond log replay``: completed inputs are entered again, asked first, in batches."""

import sys
from collections.abc import Iterator
from typing import Final

import msgspec

from consecutiond.cli import exits
from consecutiond.cli.failedvalues import plural, pretty
from consecutiond.cli.logchoice import Choice
from consecutiond.cli.pacing import Advance, paced, page_size, progress
from consecutiond.entrance import ClosedError, Entrance
from consecutiond.kept import REPLAYED, Root, body_of, grouped
from consecutiond.operator import Operator

#: roots and, about, bytes of values in one batch
_BATCH: Final = 1024
_BATCH_BYTES: Final = 1 << 20
_NOUN: Final = "completed input"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done."""

    #: roots per second at the utmost; 0: as many as possible
    rate: float = 0.0
    dry_run: bool = False
    yes: bool = False
    as_json: bool = False


def replay_completed(operator: Operator, choice: Choice, order: Order) -> int:
    """Ask, enter them again, and report; return the exit code."""
    count = choice.count(operator)
    if order.dry_run or not count:
        _print(operator, order, count if order.dry_run else 0)
        return exits.OK
    if not order.yes and not _agreed(operator, choice, count):
        return exits.REFUSED
    entrance = operator.entrance(REPLAYED, choice.words)
    stopped = ""
    try:
        with progress("replay", count, wanted=not order.as_json) as advance:
            _enter(entrance, choice.roots(operator), order.rate, advance)
    except ClosedError as error:
        stopped = str(error)
    except KeyboardInterrupt:
        stopped = _interrupted(entrance)
    finally:
        entrance.close()
    _print(operator, order, entrance.recorded)
    if stopped:
        left = count - entrance.recorded
        print(f"consecutiond: error: {stopped}; {plural(left, _NOUN)} left as they are", file=sys.stderr)
        return exits.STOPPED
    return exits.SOME_FAILED if choice.warn() else exits.OK


def _agreed(operator: Operator, choice: Choice, count: int) -> bool:
    """Ask whoever sits at a terminal; without one nobody has agreed that all happens again."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        print(
            f"consecutiond: refused: {plural(count, _NOUN)} of {operator.id} would be entered again, and all that they "
            "bring about would happen again; --yes does it",
            file=sys.stderr,
        )
        return False
    what = f"enter {plural(count, _NOUN)} of {operator.id} again: {choice.words}"
    print(f"{what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    print("consecutiond: nothing was entered", file=sys.stderr)
    return False


def _enter(entrance: Entrance, roots: Iterator[Root], rate: float, advance: Advance) -> None:
    for group in paced(grouped(roots, page_size(rate, _BATCH), _BATCH_BYTES), len, rate):
        entrance.put(body_of(group), len(group))
        advance(entrance.recorded)
    entrance.finish()
    advance(entrance.recorded)


def _interrupted(entrance: Entrance) -> str:
    """Wait for what is on its way, so that what is reported is what was done; a second Ctrl-C ends that, too."""
    try:
        entrance.finish()
    except ClosedError as error:
        return str(error)
    return "interrupted"


def _print(operator: Operator, order: Order, count: int) -> None:
    if order.as_json:
        print(pretty({"id": operator.id, "dry_run": order.dry_run, "replayed": count}))
        return
    print(f"{plural(count, _NOUN)} of {operator.id} {'would be ' if order.dry_run else ''}entered again")
    if count and not order.dry_run and not operator.live:
        print(f"{operator.id} does not run: they are taken up when it is started again")
