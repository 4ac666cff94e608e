"""``consecutiond start``: the daemon."""

import os
import sys

from consecutiond.cli import exits
from consecutiond.cli.feed import daemon_uri
from consecutiond.cli.target import consecutor_of
from consecutiond.config import ConfigError
from consecutiond.effective import Given
from consecutiond.plan import INPUT
from consecutiond.runtime import Runtime
from consecutiond.supervision.root import root_argv


def start_target(target: str, given: Given, *, detach: bool) -> int:
    """Start a target's graph; detached, return when it is up, else become its root process.

    Raises:
        InputUriError: the uri of the input is wrong, or not safe.
        ConfigError: an option is not for a daemon.
    """
    consecutor = consecutor_of(target, given)
    if consecutor.settings.architecture == "thread":
        raise ConfigError("architecture: the parts of a daemon are processes; thread is for scripts and for `run`")
    uri = daemon_uri(consecutor.settings)
    names = tuple(consecutor.outputs) or None
    runtime = Runtime(consecutor.graph, consecutor.settings, target, names, local_output=False, input_uri=uri)
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
    id = runtime.settings.id
    at = f", takes input at {_endpoint(runtime)}" if uri else ""
    print(f"{id} is up (pid {pid}){at}; stop it with: consecutiond stop {id}")
    return exits.OK


def _endpoint(runtime: Runtime) -> str:
    """Return where clients come, with the port that the system has chosen if it was asked to."""
    return str(runtime.status()["parts"][INPUT]["stats"].get("endpoint", ""))


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
