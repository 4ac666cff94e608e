"""``consecutiond doctor``: what is really set, and what it comes to."""

import sys
from typing import Final

import msgspec

from consecutiond.cli import exits
from consecutiond.doctor.check import Check
from consecutiond.doctor.examine import Report, examine
from consecutiond.doctor.subject import subject_of
from consecutiond.effective import Given

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "bold red", "unknown": "cyan"}


def diagnose(what: str, given: Given, *, as_json: bool, strict: bool) -> int:
    """Examine a consecutor, a graph or the options, print what was found, and return the exit code.

    Args:
        what: an id, a target, or "".
        given: the options of the command line.
        as_json: print one object instead.
        strict: what is a warning, or cannot be seen, has an exit code of its own, too.

    """
    report = examine(subject_of(what, given))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _print(report)
    if report.worst == "problem":
        return exits.UNSOUND
    return exits.DOUBTFUL if strict and report.worst != "ok" else exits.OK


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    # In a pipe there is no width to keep to; and colours are for terminals.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    console.print(Text.assemble((report.subject, "bold"), f"\nstore: {report.store}\n"), soft_wrap=True)
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        for line in _lines(check, width):
            console.print(line, soft_wrap=True)
    counts = {status: sum(check.status == status for check in report.checks) for status in _STYLES}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    console.print(Text.assemble(f"\n{told}\n", (report.guarantee, "bold")), soft_wrap=True)


def _lines(check: Check, width: int) -> "list[object]":
    """Return what is said of a check: one line where all is well, else also why it matters and what to do."""
    from rich.text import Text

    status = (f"{check.status:<7}", _STYLES[check.status])
    lines: list[object] = [Text.assemble(status, f"  {check.name:<{width}}  {check.seen}")]
    if check.status != "ok":
        margin = " " * (len(status[0]) + width + 4)
        lines += [Text(f"{margin}{text}") for text in (check.why, f"-> {check.do}" if check.do else "") if text]
    return lines
