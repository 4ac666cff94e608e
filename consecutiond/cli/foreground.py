"""A run in the foreground: outputs on stdout, what went wrong and a summary on stderr, and the exit code."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import msgspec

from consecutiond.cli import exits
from consecutiond.consecutor import Consecutor, Summary
from consecutiond.feeder import ReaderGoneError
from consecutiond.operator import named
from consecutiond.outputthread import stdout_is_unread
from consecutiond.rundir import RunDir
from consecutiond.runtime import default_id, main_name
from consecutiond_broker.recorder import RefusedError


class Printer:
    """The container of everything that is written to an output nobody registered: a line each on stdout."""

    def append(self, pair: tuple[str, Any]) -> None:
        """Print one value."""
        print_value(*pair)

    def flush(self) -> None:
        """Hand the lines over before what they stand for counts as done."""
        sys.stdout.flush()


def print_value(name: str, value: Any) -> None:
    """Print ``NAME<TAB>JSON``."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError):
        text = repr(value)
    sys.stdout.write(f"{name}\t{text}\n")


def run_foreground(consecutor: Consecutor, produce: Callable[[], Summary | None], *, quiet: bool) -> int:
    """Run to the end of the input; return the exit code.

    Args:
        consecutor: what runs; without outputs of its own, everything that is written is printed.
        produce: starts it, feeds it and ends it.
        quiet: print no summary.
    """
    _print_unregistered(consecutor)
    _catch_signals()
    try:
        summary = produce() or consecutor.last
    except RefusedError as error:
        print(f"consecutiond: {error}; what is open stays in the log", file=sys.stderr)
        return exits.STOPPED
    except ReaderGoneError:
        _say_stopped("nobody reads the output any more", consecutor, quiet=quiet)
        forget_stdout()
        return exits.STOPPED
    except KeyboardInterrupt:
        _say_stopped("interrupted before the end of the input", consecutor, quiet=quiet)
        return exits.STOPPED
    _print_lists(consecutor)
    if summary is None:
        return exits.OK
    _complain(summary)
    if not quiet:
        print(_line(summary), file=sys.stderr)
        if summary.failed and summary.completed is not None:
            print(f"failed and kept: consecutiond failed list {_named(consecutor)}", file=sys.stderr)
    return exits.SOME_FAILED if summary.failed or summary.lost or summary.node_errors else exits.OK


def _print_unregistered(consecutor: Consecutor) -> None:
    if not consecutor.outputs and consecutor.other_output is None:
        consecutor.other_output = Printer()


def _catch_signals() -> None:
    """Whoever ends us with TERM, a time limit say, wants what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


@contextmanager
def as_filter(consecutor: Consecutor) -> Iterator[None]:
    """Run a consecutor in a pipe; end the program when nobody reads what it prints any more.

    Args:
        consecutor: what runs; without outputs of its own, everything that is written is printed.

    Raises:
        SystemExit: nobody does; what is open stays in the log.
    """
    _print_unregistered(consecutor)
    try:
        yield
        sys.stdout.flush()
    except (ReaderGoneError, BrokenPipeError) as error:
        if isinstance(error, BrokenPipeError) and not stdout_is_unread():
            raise
        print("consecutiond: nobody reads the output any more; what is open stays in the log", file=sys.stderr)
        forget_stdout()
        raise SystemExit(exits.STOPPED) from None


def forget_stdout() -> None:
    """Let the interpreter, at its end, flush what is left to where nobody complains."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _say_stopped(why: str, consecutor: Consecutor, *, quiet: bool) -> None:
    print(f"consecutiond: {why}; what is open stays in the log", file=sys.stderr)
    if consecutor.last is not None and not quiet:
        print(_line(consecutor.last), file=sys.stderr)


def _print_lists(consecutor: Consecutor) -> None:
    """Print what is in lists that were registered as outputs; nothing else would show it."""
    for name, container in consecutor.outputs.items():
        if isinstance(container, list):
            for value in container:
                print_value(name, value)
    sys.stdout.flush()


def _complain(summary: Summary) -> None:
    """Show what went wrong in the user's code, with the user's own tracebacks."""
    for worker, what, traceback in summary.node_errors:
        print(f"\n{what} of {worker} raised:\n{traceback.rstrip()}", file=sys.stderr)
    for failure in summary.stats.get("failures", []):
        # Those that were never tried, or whose values are lost, failed in none.
        where = f" in node {failure['node']}" if failure["node"] else ""
        head = f"\n{failure['count']} item(s) failed{where} ({failure['kind']}): {failure['error']}"
        print(f"{head}\n{failure['traceback']}".rstrip(), file=sys.stderr)


def _named(consecutor: Consecutor) -> str:
    settings = consecutor.settings
    return named(RunDir(settings.dir, settings.id or default_id(consecutor.target or main_name())))


def _line(summary: Summary) -> str:
    rate = summary.accepted / summary.seconds if summary.seconds else 0
    time = f"{summary.seconds:.1f} s, {rate:,.0f} items/s"
    if summary.completed is None:
        return f"{summary.accepted:,} accepted, {summary.failed:,} failed, {summary.lost:,} lost (not tracked); {time}"
    taken = f" + {summary.taken_over:,} taken over" if summary.taken_over else ""
    discarded = f" + {summary.discarded:,} discarded" if summary.discarded else ""
    return (
        f"{summary.accepted:,} accepted{taken} = {summary.completed:,} completed + {summary.failed:,} failed and "
        f"kept{discarded} + {summary.open:,} open; {time}"
    )
