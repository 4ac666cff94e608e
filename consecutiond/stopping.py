"""Stopping a consecutor of another process: through its kill socket, or by signals if nobody listens there."""

import os
import signal
import time
from typing import TYPE_CHECKING, Final

from consecutiond.control import ControlError
from consecutiond.inputs.killsocket import NoAnswerError, request_stop
from consecutiond.rundir import RunDir
from consecutiond.runtime import wait_dead
from consecutiond_broker.deaths import kill_if_ours

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor, Summary

#: seconds to wait for an answer, which comes at once unless the listener is being started, or hangs
_ANSWER_S: Final = 10.0
#: seconds of a stop that nobody has confirmed, if the caller names none
_UNCONFIRMED_S: Final = 60.0
#: seconds for the processes to go when the time of the stop is over
_GONE_S: Final = 30.0


def stop_running(directory: RunDir, stop_s: float | None) -> bool:
    """Stop a live consecutor; return when it is gone.

    Args:
        directory: of the consecutor.
        stop_s: seconds that it may take; None leaves it to the consecutor's own ``stop_timeout_s``.

    Returns:
        Whether it went by itself. False: it was killed; what was open stays in the log.

    Raises:
        ControlError: it is still there.
    """
    try:
        seconds = request_stop(directory.socket_uri("kill"), stop_s, _ANSWER_S, directory.is_live)
    except NoAnswerError:
        seconds = _UNCONFIRMED_S if stop_s is None else stop_s
        _signal(directory, signal.SIGTERM)
    if wait_dead(directory, seconds + _GONE_S):
        return True
    # Its processes end with it: the kernel sees to that.
    _signal(directory, signal.SIGKILL)
    if not wait_dead(directory, _GONE_S):
        raise ControlError(
            f"{directory.id} is still there after it was killed, probably because its disk does not answer; "
            f"see {directory.log_dir}"
        )
    return False


def stop_elsewhere(consecutor: "Consecutor", stop_s: float | None) -> "Summary":
    """Stop what runs in another process under the id, and in the directory, of a consecutor.

    Raises:
        StateError: nothing does.
        ControlError: it is still there.
    """
    from consecutiond.consecutor import StateError, Summary
    from consecutiond.session import Session

    runtime = Session(consecutor).runtime
    runtime.context.term()
    if not runtime.dir.is_live():
        raise StateError(
            f"stop needs a running consecutor: call up() first; no other process runs {runtime.dir.id!r} in "
            f"{runtime.settings.dir} either"
        )
    began, before = time.monotonic(), runtime.logged()
    stop_running(runtime.dir, stop_s)
    after = runtime.logged()
    accepted, completed, failed = (
        after.get(name, 0) - before.get(name, 0) for name in ("accepted", "completed", "failed")
    )
    return Summary(
        accepted=accepted, taken_over=before.get("open", 0), completed=completed, failed=failed,
        open=after.get("open", 0), seconds=time.monotonic() - began, stats=dict(after),
    )  # fmt: skip


def _signal(directory: RunDir, number: signal.Signals) -> None:
    """Send a signal to the process that holds the lock: the root, or the script of a consecutor in threads."""
    holder = directory.signature()
    if directory.is_live() and holder is not None and holder.pid != os.getpid():
        kill_if_ours(holder.pid, holder.started, number)
