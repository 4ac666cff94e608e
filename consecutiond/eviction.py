"""Killing a consecutor: every process that can be proven to be its own, and no other."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from consecutiond import processes
from consecutiond.processes import Process
from consecutiond.rundir import RunDir, RunDirError, Signature
from consecutiond.supervision.states import ROOT
from consecutiond_broker.deaths import DeathWatch, kill_if_ours

#: seconds for which a start that has only just taken the lock may come to its root
_SETTLE_S: Final = 5.0
#: seconds for which the killed may finish what they have asked of the disk
_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 0.01
#: seconds for which the lock may outlive its holder before it is looked at again
_TURN_S: Final = 1.0


class Found(NamedTuple):
    """A process of a consecutor."""

    pid: int
    started: int
    #: the name of its part, or the command of a process that a part has started
    name: str
    #: the part that has started it; empty for a part
    part: str
    #: whether its whole group goes with it
    group: bool

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}" + (f", started by {self.part})" if self.part else ")")


class Eviction:
    """The processes of one consecutor, to look at or to kill.

    Proven are: the holder of the lock, by the pid and the start time in it; whoever descends from it; whoever has the
    pid *and* the start time of a pid file; and whoever has the address of our root in its environment and is left
    of a process group whose leader is gone. A process that is none of these is not touched, whatever its pid.

    Args:
        directory: the consecutor's.
        threads: it runs as threads of a script, of which only the process itself is ours.
    """

    def __init__(self, directory: RunDir, *, threads: bool) -> None:
        self._directory, self._threads = directory, threads
        #: those who may not be killed by this user, in words
        self.spared: list[str] = []

    def look(self) -> list[Found]:
        """Return who would be killed."""
        holder = self._holder() if self._directory.is_live() else None
        table = processes.table()
        found = self._below(table, holder) if holder is not None else []
        known = {each.pid for each in found}
        return found + [each for each in (*self._recorded(table), *self._orphans(table)) if each.pid not in known]

    def kill_living(self) -> list[Found]:
        """Kill the holder of the lock and all below it, and wait until the lock is free.

        Returns:
            Who was killed.

        Raises:
            RunDirError: one does not die, since the kernel holds it; or nobody can be proven to hold the lock.
        """
        killed: list[Found] = []
        deadline = time.monotonic() + _PATIENCE_S
        with _Watch() as watch:
            # More than once where a start hands the lock from process to process.
            while self._directory.is_live():
                holder = self._holder()
                if holder is not None:
                    killed += self._kill_below(holder, watch)
                _wait(lambda: watch.all_dead() and not self._directory.is_live(), _TURN_S)
                if time.monotonic() > deadline:
                    raise RunDirError(
                        f"{self._directory.lock} is held by a process that does not die, or that its content does not "
                        f"tell; nothing was removed. `fuser {self._directory.lock}` names it"
                    )
            self._await(watch)
        return killed

    def kill_left(self) -> list[Found]:
        """Kill what an earlier run has left, and wait for the ends; only the holder of the lock may do it.

        Returns:
            Who was killed.

        Raises:
            RunDirError: one does not die, since the kernel holds it.
        """
        with _Watch() as watch:
            table = processes.table()
            killed = self._kill_each((*self._recorded(table), *self._orphans(table)), watch)
            self._await(watch)
        return killed

    def _await(self, watch: "_Watch") -> None:
        if not _wait(watch.all_dead, _PATIENCE_S):
            left = ", ".join(map(str, watch.living()))
            raise RunDirError(
                f"{left} of {self._directory.id} was killed and does not die, probably because its disk does not "
                "answer; nothing was removed"
            )

    # --- the living ------------------------------------------------------------------------------------------

    def _holder(self) -> Signature | None:
        """Return who holds the lock: the root, once there is one; before, the command that starts it."""
        directory = self._directory

        def settled() -> bool:
            return (signature := directory.signature()) is not None and (
                directory.read_pids().get(ROOT) == signature[:2] or not directory.is_live()
            )

        _wait(settled, _SETTLE_S)
        return directory.signature()

    def _below(self, table: dict[int, Process], holder: Signature) -> list[Found]:
        root = table.get(holder.pid)
        if root is None or root.started != holder.started or root.zombie:
            return []
        # Its group may be that of a shell's pipe, and hers are the others in it.
        found = [Found(root.pid, root.started, "the script" if self._threads else ROOT, "", group=False)]
        if self._threads:
            return found
        parts = {pid: name for name, (pid, _) in self._directory.read_pids().items()}
        ours: dict[int, str] = {}
        for process in processes.descendants(table, root.pid):
            name = parts.get(process.pid, "")
            ours[process.pid] = name or ours.get(process.parent, ROOT)
            if process.pid != os.getpid():
                part = "" if name else ours[process.pid]
                group = process.leads and process.group != os.getpgid(0)
                found.append(Found(process.pid, process.started, name or process.name, part, group))
        return found

    def _kill_below(self, holder: Signature, watch: "_Watch") -> list[Found]:
        """Stop the root first, so that it starts nobody and keeps the pids of the dead; then all others; then kill."""
        stopped: dict[int, Found] = {}
        try:
            while new := [each for each in self._below(processes.table(), holder) if each.pid not in stopped]:
                for each in new:
                    stopped[each.pid] = each
                    if not self._threads:
                        self._signal(each._replace(group=False), signal.SIGSTOP)
            # The root last: whoever is still there then dies with it.
            return self._kill_each(reversed(stopped.values()), watch)
        except BaseException:
            # Ctrl-C, say: nobody may stay as he is now.
            for each in stopped.values():
                self._signal(each._replace(group=False), signal.SIGCONT)
            raise

    # --- what the dead have left -----------------------------------------------------------------------------

    def _recorded(self, table: dict[int, Process]) -> list[Found]:
        """Return the parts of the pid files that live; the root is judged by its lock."""
        found = []
        for name, (pid, started) in self._directory.read_pids().items():
            process = table.get(pid)
            if process is None or process.started != started or process.zombie:
                continue
            if name != ROOT and pid != os.getpid():
                found.append(Found(pid, started, name, "", group=process.leads))
        return found

    def _orphans(self, table: dict[int, Process]) -> list[Found]:
        """Return what a part had started and has left in its group."""
        # Nobody else can have the number of a group that has a member.
        leaderless = [each for each in table.values() if not each.zombie and _is_gone(table.get(each.group))]
        address = f"SUPERVISOR_SERVER_URL=unix://{self._directory.supervisor_address}"
        return [
            Found(process.pid, process.started, process.name, "a part that is gone", group=False)
            for process in processes.with_variable(leaderless, address)
            if process.pid != os.getpid()
        ]

    # --- killing ---------------------------------------------------------------------------------------------

    def _kill_each(self, found: Iterable[Found], watch: "_Watch") -> list[Found]:
        killed = []
        for each in found:
            if watch.add(each):
                if self._signal(each, signal.SIGKILL):
                    killed.append(each)
                else:
                    watch.drop(each)
        return killed

    def _signal(self, each: Found, number: signal.Signals) -> bool:
        try:
            return kill_if_ours(each.pid, each.started, number, group=each.group)
        except PermissionError:
            if str(each) not in self.spared:
                self.spared.append(str(each))
            return False


class _Watch:
    """The deaths of those who are killed."""

    def __init__(self) -> None:
        self._deaths = DeathWatch()
        self._found: list[Found] = []

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._deaths.close()

    def add(self, found: Found) -> bool:
        """Watch a process; return whether it lives."""
        if self._deaths.watch(found.pid, found.pid, found.started):
            self._found.append(found)
            return True
        return False

    def drop(self, found: Found) -> None:
        """Watch it no more."""
        self._deaths.forget(found.pid)
        self._found.remove(found)

    def living(self) -> list[Found]:
        """Return those who are not dead yet."""
        return [each for each in self._found if not self._deaths.is_dead(each.pid)]

    def all_dead(self) -> bool:
        """Return whether all are dead."""
        return not self.living()


def _is_gone(leader: Process | None) -> bool:
    return leader is None or leader.zombie


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return met
