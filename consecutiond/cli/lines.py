"""Lines of files as input."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from consecutiond.cli import exits


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


def lines(names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of some files, without their ends; bytes that are no UTF-8 become U+FFFD."""
    for name in names:
        if name == "-":
            sys.stdin.reconfigure(encoding="utf-8", errors="replace", newline="\n")  # type: ignore[union-attr]
            yield from map(_without_end, sys.stdin)
        else:
            with open(name, encoding="utf-8", errors="replace", newline="\n") as file:
                yield from map(_without_end, file)


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
