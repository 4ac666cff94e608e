"""``consecutiond run``: a target in the foreground."""

from consecutiond.cli.feed import produce_of
from consecutiond.cli.foreground import run_foreground
from consecutiond.cli.target import consecutor_of
from consecutiond.effective import Given


def run_target(target: str, inputs: list[str] | None, given: Given, *, quiet: bool) -> int:
    """Run a target to the end of its input; return the exit code."""
    consecutor = consecutor_of(target, given.with_inputs(inputs or ()))
    return run_foreground(consecutor, produce_of(consecutor, consecutor.settings, quiet=quiet), quiet=quiet)
