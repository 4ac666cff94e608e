"""``consecutiond stop``."""

import sys

from consecutiond.cli import exits
from consecutiond.control import ControlError, ask
from consecutiond.effective import Given, resolve
from consecutiond.rundir import RunDir
from consecutiond.runtime import wait_dead

#: seconds for the processes to go after the drain
_GONE_S = 30.0


def stop_consecutor(id: str, given: Given) -> int:
    """Drain and stop; return when every process is gone."""
    settings = resolve(given=given).settings
    directory = RunDir(settings.dir, id)
    if not directory.is_live():
        print(f"consecutiond: error: no consecutor {id!r} is running in {settings.dir}", file=sys.stderr)
        return exits.NOT_RUNNING
    try:
        ask(directory.socket_uri("control"), "stop", settings.stop_timeout_s + 10, directory.is_live)
    except ControlError:
        # It went before it could answer, which is what was asked for; the lock tells.
        if not wait_dead(directory, 1.0):
            raise
    if not wait_dead(directory, _GONE_S):
        raise ControlError(f"{id} is still there {_GONE_S:g} s after its shutdown; see {directory.log_dir}")
    print(f"{id} has stopped")
    return exits.OK
