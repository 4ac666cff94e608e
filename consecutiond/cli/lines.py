"""Lines of files as input."""

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from consecutiond.cli import exits
from consecutiond.inputs.raw import Wait, open_raw


def check(names: Sequence[str]) -> None:
    """Exit with every file that cannot be read, before anything is started."""
    bad = []
    for name in names:
        if name == "-" or Path(name).is_fifo():
            # Opening a pipe to try it would take it from its writer.
            continue
        try:
            with Path(name).open("rb"):
                pass
        except OSError as error:
            bad.append(f"{name}: {error.strerror}")
    if bad:
        print("consecutiond: error: cannot read the input\n  " + "\n  ".join(bad), file=sys.stderr)
        raise typer.Exit(exits.USAGE)


def lines(names: Sequence[str], wait: Wait) -> Iterator[str]:
    """Yield the lines of some files, without their ends; bytes that are no UTF-8 become U+FFFD.

    Args:
        names: of the files; ``-`` is stdin.
        wait: called before each read of a pipe or a terminal.
    """
    for name in names:
        buffered = io.BufferedReader(open_raw(name, wait))
        with io.TextIOWrapper(buffered, encoding="utf-8", errors="replace", newline="\n") as file:
            yield from map(_without_end, file)


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
