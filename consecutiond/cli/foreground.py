"""A run in the foreground: outputs on stdout, what went wrong and a summary on stderr, and the exit code."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import msgspec

from consecutiond.cli import exits
from consecutiond.consecutor import Consecutor, Summary
from consecutiond.feeder import GoneError
from consecutiond_broker.recorder import RefusedError


class ReaderGoneError(GoneError):
    """Whoever read our output has ended, as `head` does; no item can be completed any more."""


class Printer:
    """The container of everything that is written to an output nobody registered: a line each on stdout."""

    def __init__(self) -> None:
        #: nobody reads stdout any more
        self.reader_gone = False

    def append(self, pair: tuple[str, Any]) -> None:
        """Print one value."""
        try:
            print_value(*pair)
        except BrokenPipeError:
            self._give_up()
            raise

    def flush(self) -> None:
        """Hand the lines over before what they stand for counts as done."""
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """Wake the main thread, once: else every item would fail and be tried again, to the end of the input."""
        if not self.reader_gone:
            self.reader_gone = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


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
    printer = Printer()
    if not consecutor.outputs:
        consecutor.other_output = printer
    _catch_signals(printer)
    try:
        summary = produce() or consecutor.last
    except RefusedError as error:
        print(f"consecutiond: {error}; what is open stays in the log", file=sys.stderr)
        return exits.STOPPED
    except ReaderGoneError:
        _say_stopped("nobody reads the output any more", consecutor, quiet=quiet)
        _forget_stdout()
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
    return exits.SOME_FAILED if summary.failed or summary.lost or summary.node_errors else exits.OK


def _catch_signals(printer: Printer) -> None:
    """Whoever ends us with TERM, a time limit say, wants what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise ReaderGoneError("nobody reads the output") if printer.reader_gone else KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _forget_stdout() -> None:
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
        head = f"\n{failure['count']} item(s) failed in node {failure['node']} ({failure['kind']}): {failure['error']}"
        print(f"{head}\n{failure['traceback']}".rstrip(), file=sys.stderr)


def _line(summary: Summary) -> str:
    rate = summary.accepted / summary.seconds if summary.seconds else 0
    time = f"{summary.seconds:.1f} s, {rate:,.0f} items/s"
    if summary.completed is None:
        return f"{summary.accepted:,} accepted, {summary.failed:,} failed, {summary.lost:,} lost (not tracked); {time}"
    taken = f" + {summary.taken_over:,} taken over" if summary.taken_over else ""
    return (
        f"{summary.accepted:,} accepted{taken} = {summary.completed:,} completed + {summary.failed:,} failed and "
        f"kept + {summary.open:,} open; {time}"
    )
