"""One part of a consecutor in a thread of the calling process: made, run and closed there."""

import threading
from collections.abc import Callable
from typing import Protocol

from consecutiond.acker.stores import StoreError
from consecutiond.acker.stores.numbered import LogLostError
from consecutiond.logs import get_logger
from consecutiond_broker.pulse import Pulse
from consecutiond_broker.wake import Wake
from consecutiond_nodes.usertrace import user_traceback

log = get_logger("part")


class Part(Protocol):
    """What every part can do: the broker, the acker, a worker, the heart."""

    def listen(self, signals: Wake) -> None:
        """End `run` when the wake-up call comes."""

    def run(self) -> None:
        """Work until told to stop."""

    def close(self) -> None:
        """Let go of every connection."""


class PartThread:
    """A thread that runs a part and tells the heart how it does.

    A part that raises is not started again: in a thread that is a defect, or a target that cannot work. Its traceback
    goes to the heart, and to `on_failure`.

    Args:
        name: of the part.
        make: makes the part, in the thread; it may run the user's code.
        pulse: the part's heartbeat, or None for the heart itself.
        on_failure: is called from the thread with the text of what was raised.

    """

    def __init__(
        self, name: str, make: Callable[[], Part], pulse: Pulse | None, on_failure: Callable[[str], None]
    ) -> None:
        self.name = name
        self.part: Part | None = None
        self._make, self._pulse, self._on_failure = make, pulse, on_failure
        self._wake = Wake()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self.part = self._make()
            self.part.listen(self._wake)
            self._say("ready")
            self.part.run()
        except BaseException as error:  # whatever it is, it must not end a thread in silence
            text = _explain(error)
            log.error("part.failed", part=self.name, error=text)
            self._say("failed", text)
            did_what = "could not start" if self.part is None else "failed"
            self._on_failure(f"{self.name} {did_what}:\n{text.rstrip()}")
        finally:
            if self.part is not None:
                self.part.close()
            if self._pulse is not None:
                self._pulse.close()

    def _say(self, state: str, detail: str = "") -> None:
        if self._pulse is not None:
            self._pulse.say(state, detail)

    def call(self) -> None:
        """Have the part end when it has finished what it has in hand."""
        self._wake.call()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the thread; return whether it came in time."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._wake.close()
        return True


def _explain(error: BaseException) -> str:
    """Return the user's own traceback; of what a store says the text alone, since no code of the user's is in it."""
    if isinstance(error, StoreError | LogLostError):
        return str(error)
    return getattr(error, "user_traceback", "") or user_traceback(error)
