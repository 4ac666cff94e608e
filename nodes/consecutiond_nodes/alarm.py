"""The time that one `process` may take: the alarm that ends the item which takes longer."""

import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import consecutiond_broker
from consecutiond_broker.cell import SINCE, TIMEOUT

#: directories of our own code, in which nothing may be interrupted
_OURS: Final = (str(Path(__file__).parent), str(Path(consecutiond_broker.__file__).parent))
#: seconds until the next try, when our own code is at work
_AGAIN_S: Final = 0.001


class ProcessTimeout(BaseException):
    """A `process` has taken too long. No `Exception`, so that user code that catches these does not catch it."""


class Alarm:
    """Raises `ProcessTimeout` in the user's code when one call takes too long.

    It works by SIGALRM, which reaches python code only: a call that does not return from a library is ended by the
    heart, which kills the worker. What our own code does for the call, such as sending, is never interrupted.

    Args:
        timeout_s: seconds.
        words: of the worker's cell, where others see since when a call runs.
    """

    def __init__(self, timeout_s: float, words: memoryview) -> None:
        self._timeout_s, self._words = timeout_s, words
        words[TIMEOUT] = int(1e9 * timeout_s)
        self._fired = self._armed = False
        signal.signal(signal.SIGALRM, self._ring)

    @staticmethod
    def works_here() -> bool:
        """Tell whether signals can be had: only in the main thread of a process."""
        return threading.current_thread() is threading.main_thread()

    def guarded(self, call: Callable[[Any], object]) -> Callable[[Any], None]:
        """Return the call with the alarm set for it."""
        return partial(self._run, call)

    def _run(self, call: Callable[[Any], object], value: Any) -> None:
        self._fired, self._armed = False, True
        self._words[SINCE] = time.monotonic_ns()
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s)
        try:
            call(value)
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._words[SINCE] = 0
        if self._fired:
            # The user's code has caught it.
            raise ProcessTimeout(self._text())

    def pause(self) -> float:
        """The call waits for others: stop the clock; return what is left of its time."""
        left = signal.setitimer(signal.ITIMER_REAL, 0)[0]
        self._words[SINCE] = 0
        return left

    def resume(self, left: float) -> None:
        """Go on with the clock."""
        if self._armed:
            self._words[SINCE] = time.monotonic_ns() - int(1e9 * (self._timeout_s - left))
            signal.setitimer(signal.ITIMER_REAL, max(left, _AGAIN_S))

    def _ring(self, _number: int, frame: FrameType | None) -> None:
        if not self._armed:
            return
        if self._ours_at_work(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
            return
        self._fired = True
        raise ProcessTimeout(self._text())

    def _text(self) -> str:
        return f"process has taken longer than timeout_s = {self._timeout_s:g}"

    @staticmethod
    def _ours_at_work(frame: FrameType | None) -> bool:
        """Tell whether code of ours runs that the user's code has called, such as `push`."""
        while frame is not None and frame.f_code is not Alarm._run.__code__:
            if frame.f_code.co_filename.startswith(_OURS):
                return True
            frame = frame.f_back
        return frame is None
