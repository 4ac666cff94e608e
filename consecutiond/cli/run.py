"""``consecutiond run``: a target in the foreground, fed with lines."""

import sys
from typing import Any

from consecutiond.cli.foreground import run_foreground
from consecutiond.cli.lines import check, lines
from consecutiond.cli.target import consecutor_of


def run_target(target: str, inputs: list[str] | None, options: dict[str, Any], *, quiet: bool) -> int:
    """Run a target to the end of its input; return the exit code."""
    names = inputs or ([] if sys.stdin.isatty() else ["-"])
    check(names)
    consecutor = consecutor_of(target, options)
    progress = False if quiet else None
    return run_foreground(
        consecutor, lambda: consecutor.produce_from_iterable(lines(names), progress=progress), quiet=quiet
    )
