"""``consecutiond failed replay`` and ``discard``: many at once, asked first, in pages."""

import sys
import time
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from consecutiond.acker.stores.base import Where
from consecutiond.cli import exits
from consecutiond.cli.failedchoice import Choice
from consecutiond.cli.failedvalues import plural, pretty
from consecutiond.cli.pacing import paced, page_size, progress
from consecutiond.deadletters import MOST, Outcome, Request, decide
from consecutiond.operator import Operator, OperatorError

Start = Literal["root", "node"]

#: seconds between two looks at what was replayed
_LOOK_S: Final = 0.2
#: positions that a message names
_NAMED: Final = 10


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done."""

    verb: Literal["replay", "discard"]
    start: Start = "root"
    dry_run: bool = False
    #: replays per second at the utmost; 0: as many as possible
    rate: float = 0.0
    wait: bool = False
    yes: bool = False
    as_json: bool = False

    @property
    def did(self) -> str:
        """What the report calls it."""
        return ("would be " if self.dry_run else "") + f"{self.verb}ed"

    def whence(self, count: int) -> str:
        """Say where a replay of so many begins."""
        if self.verb == "discard" or not count:
            return ""
        if count == 1:
            return " from its root" if self.start == "root" else " from the node in which it failed"
        return " from their roots" if self.start == "root" else " from the nodes in which they failed"


class Report(msgspec.Struct):
    """What has come of it."""

    count: int = 0
    #: reason -> the positions that were left for it
    left: dict[str, list[int]] = {}
    #: what --wait has seen
    completed: int | None = None
    failed_again: int | None = None
    still_open: int | None = None
    #: the positions of all that were acted on, where somebody waits for them
    positions: list[int] = []

    def add(self, outcome: Outcome) -> None:
        """Count what one request has done."""
        self.count += outcome.count
        for position, reason in outcome.left:
            self.left.setdefault(reason, []).append(position)


def carry_out(operator: Operator, choice: Choice, order: Order) -> int:
    """Ask, act, wait if that is wanted, and report; return the exit code."""
    if order.wait and not operator.live and not order.dry_run:
        raise OperatorError(
            f"--wait needs a running consecutor, and {operator.id} does not run: leave it out, and what is replayed is "
            "tried at the next start"
        )
    # What fails again while we are at it is not meant a second time.
    choice = choice.until(time.time())
    count = choice.count(operator)
    if count > 1 and not order.dry_run and not order.yes and not _agreed(operator, choice, order, count):
        print("consecutiond: nothing was changed", file=sys.stderr)
        return exits.REFUSED
    report = Report()
    with progress(order.verb, count, wanted=not order.as_json) as advance:
        for outcome, positions in _outcomes(operator, choice, order):
            report.add(outcome)
            if order.wait:
                left = {position for position, _ in outcome.left}
                report.positions += [position for position in positions if position not in left]
            advance(report.count)
    if order.wait and not order.dry_run:
        _await(operator, report, wanted=not order.as_json)
    _print(operator, order, report)
    if report.still_open:
        return exits.STOPPED
    return exits.SOME_FAILED if report.left or report.failed_again else exits.OK


def _agreed(operator: Operator, choice: Choice, order: Order, count: int) -> bool:
    """Ask whoever sits at a terminal; without one, a replay may go on and a discard may not."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        if order.verb == "discard":
            print(
                f"consecutiond: refused: {plural(count)} of {operator.id} would be thrown away for good; --yes does it",
                file=sys.stderr,
            )
        return order.verb == "replay"
    what = f"{order.verb} {plural(count)} of {operator.id}{order.whence(count)}: {choice.words}"
    print(f"{what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# --- page by page ----------------------------------------------------------------------------------------------------


def _outcomes(operator: Operator, choice: Choice, order: Order) -> Iterator[tuple[Outcome, list[int]]]:
    """Act in pages; yield what each did, and the positions that were asked for where somebody has looked."""
    request = Request(order.verb, limit=page_size(order.rate, MOST), start=order.start, which=choice.words)
    if order.dry_run:
        for page in choice.pages(operator):
            yield decide(request, page, operator.edges.keys() or None, ()).outcome, []
    elif choice.by_store and not order.wait:
        for outcome in paced(_by_store(operator, choice, request), _count, order.rate):
            yield outcome, []
    else:
        yield from _by_position(operator, choice, request, order.rate)


def _by_store(operator: Operator, choice: Choice, request: Request) -> Iterator[Outcome]:
    after = 0
    while (outcome := operator.act(msgspec.structs.replace(request, where=choice.where, after=after))).last:
        yield outcome
        after = outcome.last


def _by_position(
    operator: Operator, choice: Choice, request: Request, rate: float
) -> Iterator[tuple[Outcome, list[int]]]:
    asked: list[int] = []

    def outcomes() -> Iterator[Outcome]:
        for page in choice.pages(operator, limit=request.limit):
            asked[:] = [letter.position for letter in page]
            yield operator.act(msgspec.structs.replace(request, where=Where(positions=tuple(asked))))

    for outcome in paced(outcomes(), _count, rate):
        yield outcome, list(asked)


def _count(outcome: Outcome) -> int:
    return outcome.count


def _await(operator: Operator, report: Report, *, wanted: bool) -> None:
    """Wait until all that was replayed is completed or has failed again; Ctrl-C ends the wait alone."""
    pending = report.positions
    report.completed = report.failed_again = 0
    with progress("waiting", len(pending), wanted=wanted) as advance:
        try:
            while pending:
                # The oldest first: what is behind them takes its time as well.
                page, rest = pending[:MOST], pending[MOST:]
                still_open = operator.still_open(page)
                ended = [position for position in page if position not in still_open]
                again = operator.count(Where(positions=tuple(ended))) if ended else 0
                report.failed_again += again
                report.completed += len(ended) - again
                pending = sorted(still_open) + rest
                advance(report.completed + report.failed_again)
                if still_open:
                    if not operator.is_live():
                        break
                    time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            print("consecutiond: not waiting any more; what was replayed goes on", file=sys.stderr)
    report.still_open = len(pending)


# --- telling ---------------------------------------------------------------------------------------------------------


def _print(operator: Operator, order: Order, report: Report) -> None:
    if order.as_json:
        left = [{"reason": reason, "positions": positions} for reason, positions in report.left.items()]
        found = {"id": operator.id, "dry_run": order.dry_run, f"{order.verb}ed": report.count, "left": left}
        if report.completed is not None:
            found |= {
                "completed": report.completed, "failed_again": report.failed_again, "open": report.still_open,
            }  # fmt: skip
        print(pretty(found))
        return
    print(f"{plural(report.count)} of {operator.id} {order.did}{order.whence(report.count)}")
    for reason, positions in report.left.items():
        named = ", ".join(map(str, positions[:_NAMED])) + (", …" if len(positions) > _NAMED else "")
        print(f"{len(positions):,} left: {reason} (position {named})")
    if report.completed is not None:
        print(f"{report.completed:,} completed, {report.failed_again:,} failed again")
        if report.still_open:
            print(f"{report.still_open:,} still open", file=sys.stderr)
    elif order.verb == "replay" and report.count and not operator.live and not order.dry_run:
        print(f"{operator.id} does not run: tried when it is started again")
