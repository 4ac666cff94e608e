"""A wake-up call for a poll loop that runs in a thread, where no signal arrives."""

import os


class Wake:
    """A descriptor that another thread makes readable."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def call(self) -> None:
        """Wake the loop; from any thread."""
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._fd

    def taken(self) -> bool:
        """Return whether somebody called since the last time."""
        try:
            return os.eventfd_read(self._fd) > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
