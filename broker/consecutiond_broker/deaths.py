"""Deaths of local processes, proven by the kernel: pid file descriptors that become readable."""

import os
import select
import signal
from collections.abc import Hashable

from consecutiond_broker.child import start_time


class DeathWatch:
    """Watched processes by key, each with a descriptor that is readable from its death on.

    Level-triggered: a descriptor stays readable, so whoever polls it must unregister it and call `forget`.
    The process watched need not be a child. Not thread-safe.
    """

    def __init__(self) -> None:
        self._by_key: dict[Hashable, int] = {}
        self._by_fd: dict[int, Hashable] = {}

    def watch(self, key: Hashable, pid: int, start_time: int) -> bool:
        """Begin to watch a process; a process watched under the same key before is forgotten.

        Args:
            key: the caller's name for it.
            pid: its pid.
            start_time: its start time, as `child.start_time` tells it.

        Returns:
            False when that process is dead already, be its pid free, a zombie's, or somebody else's by now;
            then nothing is watched under the key.

        """
        self.forget(key)
        fd = _open(pid, start_time)
        if fd is None:
            return False
        if _readable(fd):
            os.close(fd)
            return False
        self._by_key[key] = fd
        self._by_fd[fd] = key
        return True

    def fd(self, key: Hashable) -> int | None:
        """Return the descriptor to poll for reading, or None when nothing is watched under the key."""
        return self._by_key.get(key)

    def fds(self) -> dict[int, Hashable]:
        """Return the keys by descriptor: the watch's own dictionary, to be read only."""
        return self._by_fd

    def is_dead(self, key: Hashable) -> bool:
        """Return whether a watched process is proven dead; False for a key that is not watched."""
        fd = self._by_key.get(key)
        return fd is not None and _readable(fd)

    def forget(self, key: Hashable) -> None:
        """Stop watching and close the descriptor, which must not be registered with a poller any more."""
        fd = self._by_key.pop(key, None)
        if fd is not None:
            del self._by_fd[fd]
            os.close(fd)

    def close(self) -> None:
        """Forget everybody."""
        for key in list(self._by_key):
            self.forget(key)


def kill_if_ours(pid: int, start_time: int, sig: signal.Signals, *, group: bool = False) -> bool:
    """Send a signal to a process, if it is still the one that is meant.

    Args:
        pid: its pid.
        start_time: its start time, as `child.start_time` tells it.
        sig: the signal.
        group: send it to the whole process group that the process leads. One that leads none gets it alone.
            When the leader is gone altogether, nobody can prove whose group it is, and nothing is sent.

    Returns:
        Whether the signal was sent; False when that process is gone (a zombie is, unless `group` is set).

    Raises:
        PermissionError: the process belongs to another user.

    """
    fd = _open(pid, start_time)
    if fd is None:
        return False
    try:
        if group and os.getpgid(pid) == pid:
            # A zombie or a living process has the pid, so nobody else can get it between the check and this;
            # should the zombie be reaped right now, the number stays taken while its group has a member.
            os.killpg(pid, sig)
        elif _readable(fd):
            return False
        else:
            signal.pidfd_send_signal(fd, sig)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def _open(pid: int, started: int) -> int | None:
    """Return a descriptor that stands for this very process, or None when it is gone."""
    if pid <= 0:
        return None
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Only after opening: checked before, the pid could have changed hands in between.
    if start_time(pid) != started:
        os.close(fd)
        return None
    return fd


def _readable(fd: int) -> bool:
    """Return whether the process behind a descriptor has ended."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
