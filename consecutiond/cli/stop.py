"""``consecutiond stop``."""

import sys

from consecutiond.cli import exits
from consecutiond.effective import Given, resolve
from consecutiond.rundir import RunDir
from consecutiond.stopping import stop_running


def stop_consecutor(id: str, given: Given, timeout_s: float | None) -> int:
    """Drain and stop; return when every process is gone."""
    settings = resolve(given=given).settings
    directory = RunDir(settings.dir, id)
    if not directory.is_live():
        print(f"consecutiond: error: no consecutor {id!r} is running in {settings.dir}", file=sys.stderr)
        return exits.NOT_RUNNING
    if not stop_running(directory, timeout_s):
        print(f"consecutiond: {id} did not end in time and was killed; what was open stays in the log", file=sys.stderr)
    print(f"{id} has stopped")
    return exits.OK
