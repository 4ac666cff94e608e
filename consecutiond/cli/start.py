"""``consecutiond start``: the daemon."""

import os
import sys

from consecutiond.cli import exits
from consecutiond.cli.target import consecutor_of
from consecutiond.effective import Given
from consecutiond.runtime import Runtime
from consecutiond.supervision.root import root_argv


def start_target(target: str, given: Given, *, detach: bool) -> int:
    """Start a target's graph; detached, return when it is up, else become its root process."""
    consecutor = consecutor_of(target, given)
    names = tuple(consecutor.outputs) or None
    runtime = Runtime(consecutor.graph, consecutor.settings, target, names, local_output=False)
    runtime.prepare()
    if not detach:
        return _become_root(runtime)
    runtime.spawn(die_with_parent=False)
    try:
        runtime.wait_ready()
    except BaseException:
        runtime.shutdown()
        runtime.wait_gone()
        raise
    pid = runtime.process_or_fail().pid
    print(f"{runtime.settings.id} is up (pid {pid}); stop it with: consecutiond stop {runtime.settings.id}")
    return exits.OK


def _become_root(runtime: Runtime) -> int:
    """Replace this process, so that a service manager's main process is the root itself."""
    id = runtime.settings.id
    print(
        f"consecutiond: starting {id} in the foreground; Ctrl-C or `consecutiond stop {id}` stops it", file=sys.stderr
    )
    lock = runtime.keep_lock()
    os.set_inheritable(lock, True)
    argv = root_argv(runtime.dir.conf, lock_fd=lock, die_with_parent=False)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(argv[0], argv)  # noqa: S606 - the point is to become it
