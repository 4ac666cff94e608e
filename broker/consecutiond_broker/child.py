"""What every child process does first: it binds its life to its root's, and can say who it is."""

import ctypes
import os
import signal
import sys
from typing import Final

#: environment: the pid of the root that spawns the process; absent when a part is run by hand
ROOT_PID: Final = "CONSECUTIOND_ROOT_PID"
#: exit code of a child whose root was gone before the child could bind its life to it
EXIT_ORPHAN: Final = 5
#: the option of prctl(2), see linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
#: place of field 22 (start time) of /proc/PID/stat among those after the command, which begin with 3
_START_TIME: Final = 22 - 3


def adopt() -> None:
    """Bind this process to its root: the first statement of every child.

    From now on the kernel kills it when the root ends, however that happens. A root that ended before is
    noticed by the parent's pid, which is then somebody else's; the process exits with `EXIT_ORPHAN`. It
    becomes a process group of its own, so that what it starts in turn can be found and killed with it.
    Without `ROOT_PID` in the environment (a part run by hand) it is bound to whoever started it.
    """
    die_with_parent(os.environ.get(ROOT_PID))
    try:
        os.setpgid(0, 0)
    except PermissionError:
        # The leader of a session is the leader of its own group already.
        pass


def die_with_parent(expected_pid: str | None) -> None:
    """Have the kernel kill this process when the thread that spawned it ends.

    Args:
        expected_pid: the parent's pid in decimal digits; the process exits with `EXIT_ORPHAN` when it has
            another one. None trusts whoever is the parent now.

    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Only after the call above: a parent that ended before it sends no signal any more.
    if expected_pid is not None and expected_pid != str(os.getppid()):
        sys.exit(EXIT_ORPHAN)


def identity() -> tuple[int, int]:
    """Return pid and start time of this process: together they are unique until the machine restarts."""
    pid = os.getpid()
    started = start_time(pid)
    if started is None:
        # Unreachable while /proc is mounted; a zero matches no process, so nobody is ever taken for this one.
        started = 0
    return pid, started


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the machine did.

    Returns:
        None when there is no such process. A zombie still has its start time.

    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in parentheses, may itself contain spaces and parentheses.
    return int(stat[stat.rindex(b")") + 2 :].split()[_START_TIME])
