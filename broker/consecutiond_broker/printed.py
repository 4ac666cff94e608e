"""What is printed, line by line, as events of the log."""

import atexit
import io
import logging
import threading
from typing import Final, TextIO

#: characters after which a line that does not end is an event all the same
_MOST_LINE: Final = 1 << 16


def _begun_anew(line: str) -> str:
    """Return what a terminal shows of a line with carriage returns in it, if each piece covers the one before."""
    return line.rstrip("\r").rpartition("\r")[2]


class Printed(io.TextIOBase):
    """A standard stream whose lines become events. What goes past it, to the descriptor, stays as it is.

    A carriage return begins the line anew, as on a terminal: of a progress bar only what stands in the end is an event.

    Args:
        name: of the logger that gets the lines.
        stream: what it stands for.
    """

    encoding = "utf-8"

    def __init__(self, name: str, stream: TextIO) -> None:
        self._logger, self._stream, self._line = logging.getLogger(name), stream, ""
        self.buffer = stream.buffer
        # Two threads that print at once must not lose each other's text.
        self._lock = threading.Lock()
        atexit.register(self._say_rest)

    def fileno(self) -> int:
        """Return the descriptor behind it; what is written there goes past the log."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Never: its lines are no longer what a person reads."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Take text; each line that it ends is an event."""
        with self._lock:
            *lines, rest = (self._line + text).split("\n")
            # One at its end may yet be the first half of a line's end.
            self._line = _begun_anew(rest) + "\r" * rest.endswith("\r")
            if len(self._line) > _MOST_LINE:
                lines.append(self._line)
                self._line = ""
        # Outside of the lock: a handler that fails prints, too.
        for line in lines:
            self._logger.info("%s", _begun_anew(line))
        return len(text)

    def flush(self) -> None:
        """Keep what is not a whole line yet: `print(end="")` goes on."""

    def _say_rest(self) -> None:
        if self._line:
            self.write("\n")
