"""Signals as readable bytes: handlers do nothing, the poll loop acts."""

import signal
import socket
from types import FrameType


class Signals:
    """Turn the given signals into bytes on a socket that a poller can wait for.

    A handler that only sets a flag would leave the loop asleep until its time-out, since polling resumes after an
    interruption. Only the main thread of a process can have one.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = frozenset(numbers)
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _nothing)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._reader.fileno()

    def taken(self) -> list[int]:
        """Return the numbers of the given signals that came since the last call.

        The descriptor wakes for every signal that has a handler in Python: the user's own alarms come here too.
        """
        try:
            return [number for number in self._reader.recv(4096) if number in self._numbers]
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Give the wake-up descriptor back."""
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Stand in for the default action; the wake-up descriptor has the news."""
