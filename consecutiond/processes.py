"""The processes of this machine, as /proc shows them at one moment."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class Process(NamedTuple):
    """One process; pid and start time together are unique until the machine restarts."""

    pid: int
    #: in clock ticks since the machine started, as `child.start_time` tells it
    started: int
    parent: int
    group: int
    #: its command, at most 15 characters
    name: str
    #: it has ended, and its parent has not yet asked how
    zombie: bool

    @property
    def leads(self) -> bool:
        """Whether it is the leader of a process group."""
        return self.group == self.pid


def table() -> dict[int, Process]:
    """Return every process by its pid."""
    found = (_read(entry) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return {process.pid: process for process in found if process is not None}


def descendants(processes: Mapping[int, Process], ancestor: int) -> list[Process]:
    """Return the children of a process, their children, and so on; parents come before their children.

    Args:
        processes: as `table` returns them.
        ancestor: the pid.
    """
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    parents = [ancestor]
    while parents:
        found += (born := children.pop(parents.pop(), []))
        parents += [process.pid for process in born]
    return found


def with_variable(processes: Iterable[Process], setting: str) -> list[Process]:
    """Return those that were started with a variable in their environment.

    Args:
        processes: any; those of other users do not show theirs.
        setting: ``NAME=value``.
    """
    wanted = setting.encode()
    return [process for process in processes if wanted in _environment(process.pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        # It is gone, or somebody else's.
        return []


def _read(entry: Path) -> Process | None:
    try:
        stat = (entry / "stat").read_bytes()
    except OSError:
        # It is gone.
        return None
    # The command, in parentheses, may itself contain spaces and parentheses.
    begin, end = stat.index(b"("), stat.rindex(b")")
    state, parent, group, *rest = stat[end + 2 :].split()
    name = stat[begin + 1 : end].decode(errors="replace")
    # The start time is field 22, the group field 5.
    return Process(int(entry.name), int(rest[22 - 6]), int(parent), int(group), name, state in (b"Z", b"X"))
