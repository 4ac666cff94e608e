"""Lines of files as input."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from consecutiond.inputs.errors import InputError
from consecutiond.inputs.raw import Wait, open_raw


def check(names: Sequence[str]) -> None:
    """Look at every file before anything is started.

    Raises:
        InputError: some cannot be read; the text has all of them.
    """
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
        raise InputError("cannot read the input\n  " + "\n  ".join(bad))


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
