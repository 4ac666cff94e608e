"""Files as bytes; one that has nothing yet, like a pipe or a terminal, is waited for as its reader wants."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from consecutiond.inputs.errors import InputError

#: returns when the descriptor can be read; what it raises ends the reading
Wait = Callable[[int], None]

_STDIN: Final = 0


class Stream(io.RawIOBase):
    """A descriptor that may have nothing for a long time.

    Args:
        fd: the descriptor; closed with this, unless it is stdin.
        wait: called before each read.
    """

    def __init__(self, fd: int, wait: Wait) -> None:
        self._fd, self._wait = fd, wait

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Read what there is, when there is something; 0 is the end."""
        self._wait(self._fd)
        return os.readv(self._fd, [buffer])

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed and self._fd != _STDIN:
            os.close(self._fd)
        super().close()


def open_raw(name: str, wait: Wait) -> io.RawIOBase:
    """Open a file for reading, unbuffered.

    Args:
        name: of a file, or ``-`` for stdin.
        wait: called before each read of stdin or of a named pipe.

    Raises:
        InputError: stdin is closed, or the program has read from it.
        OSError: the file cannot be opened.
    """
    if name == "-":
        _check_stdin()
        return Stream(_STDIN, wait)
    if Path(name).is_fifo():
        # Without the flag, opening waits for a writer, and nothing could end that.
        return Stream(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), wait)
    return open(name, "rb", buffering=0)


def _check_stdin() -> None:
    if sys.stdin is None:
        raise InputError("stdin is closed; redirect it, as in: script.py < file")
    if isinstance(sys.stdin, io.TextIOWrapper):
        try:
            sys.stdin.reconfigure(encoding="utf-8", newline="\n")
        except io.UnsupportedOperation:
            # What has been read ahead is in there, and cannot be had.
            raise InputError(
                "stdin: the program has read from sys.stdin before, which has taken more than it gave; leave the "
                "whole of stdin to the consecutor, or feed it with produce_from_iterable(sys.stdin)"
            ) from None
