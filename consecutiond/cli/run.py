"""``consecutiond run``: the foreground."""

import signal
import sys
from typing import Any

import msgspec

from consecutiond.cli import exits
from consecutiond.cli.lines import check, lines
from consecutiond.cli.target import consecutor_of
from consecutiond.consecutor import Summary
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


def run_target(target: str, inputs: list[str] | None, options: dict[str, Any], *, quiet: bool) -> int:
    """Run a target to the end of its input; return the exit code."""
    names = inputs or ([] if sys.stdin.isatty() else ["-"])
    check(names)
    consecutor = consecutor_of(target, options)
    if not consecutor.outputs:
        consecutor.other_output = Printer()
    # Whoever ends us with TERM, a time limit say, wants what Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        summary = consecutor.produce_from_iterable(lines(names), progress=False if quiet else None)
    except RefusedError as error:
        print(f"consecutiond: {error}; what is open stays in the log", file=sys.stderr)
        return exits.STOPPED
    except KeyboardInterrupt:
        print("consecutiond: interrupted; what is open stays in the log", file=sys.stderr)
        if consecutor.last is not None and not quiet:
            print(_line(consecutor.last), file=sys.stderr)
        return exits.STOPPED
    for name, container in consecutor.outputs.items():
        if isinstance(container, list):
            for value in container:
                print_value(name, value)
    sys.stdout.flush()
    _complain(summary)
    if not quiet:
        print(_line(summary), file=sys.stderr)
    return exits.SOME_FAILED if summary.failed or summary.node_errors else exits.OK


def _complain(summary: Summary) -> None:
    """Show what went wrong in the user's code, with the user's own tracebacks."""
    for worker, what, traceback in summary.node_errors:
        print(f"\n{what} of {worker} raised:\n{traceback.rstrip()}", file=sys.stderr)
    for failure in summary.stats.get("failures", []):
        head = f"\n{failure['count']} item(s) failed in node {failure['node']} ({failure['kind']}): {failure['error']}"
        print(f"{head}\n{failure['traceback']}".rstrip(), file=sys.stderr)


def _line(summary: Summary) -> str:
    rate = summary.accepted / summary.seconds if summary.seconds else 0
    taken = f" + {summary.taken_over:,} taken over" if summary.taken_over else ""
    return (
        f"{summary.accepted:,} accepted{taken} = {summary.completed:,} completed + {summary.failed:,} failed and "
        f"kept + {summary.open:,} open; {summary.seconds:.1f} s, {rate:,.0f} items/s"
    )
