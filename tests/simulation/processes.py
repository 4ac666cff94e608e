"""Processes that can be killed between any two messages, as the real objects of all floors see them."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from consecutiond.acker.stores.base import Changes
from consecutiond.acker.stores.memory import MemoryStore
from tests.acker.stepping import SteppedCommitter
from tests.simulation.network import Owner

#: above every real pid, so that none of ours is taken for this very process
_FIRST_PID = 1 << 32
#: above every real descriptor
_FIRST_FD = 1 << 32


class Process(Owner):
    """One incarnation of a part; ``part`` is the real object that runs in it."""

    def __init__(self, name: str, epoch: int, number: int, cell: Path | None = None) -> None:
        super().__init__()
        self.name, self.epoch = name, epoch
        self.pid, self.started = _FIRST_PID + number, number
        self.cell = cell
        self.part: Any = None
        #: it is in the middle of a turn, and waits
        self.busy = False
        #: it dies in the middle of the next item
        self.doomed = False


class Kernel:
    """The process table, and the descriptors that prove deaths."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self._fds: dict[int, Callable[[], bool]] = {}
        self._next_fd = _FIRST_FD

    def spawn(self, name: str, epoch: int, cell: Path | None = None) -> Process:
        process = Process(name, epoch, len(self.processes) + 1, cell)
        self.processes[process.pid] = process
        return process

    def start_time(self, pid: int) -> int | None:
        process = self.processes.get(pid)
        return process.started if process is not None and process.alive else None

    def open(self, readable: Callable[[], bool]) -> int:
        self._next_fd += 1
        self._fds[self._next_fd] = readable
        return self._next_fd

    def readable(self, fd: int) -> bool:
        return self._fds[fd]()


def freeze(cell: Path) -> None:
    """Keep what a cell says at a death, whatever the rest of the dead worker's turn does to its memory."""
    if cell.exists():
        copy = cell.with_suffix(".copy")
        copy.write_bytes(cell.read_bytes())
        copy.replace(cell)


class SimulatedDeaths:
    """Has the face of `DeathWatch`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._by_key: dict[Hashable, int] = {}
        self._by_fd: dict[int, Hashable] = {}

    def watch(self, key: Hashable, pid: int, start_time: int) -> bool:
        self.forget(key)
        if self._kernel.start_time(pid) != start_time:
            return False
        fd = self._kernel.open(lambda: self._kernel.start_time(pid) is None)
        self._by_key[key], self._by_fd[fd] = fd, key
        return True

    def fd(self, key: Hashable) -> int | None:
        return self._by_key.get(key)

    def fds(self) -> dict[int, Hashable]:
        return self._by_fd

    def is_dead(self, key: Hashable) -> bool:
        fd = self._by_key.get(key)
        return fd is not None and self._kernel.readable(fd)

    def forget(self, key: Hashable) -> None:
        fd = self._by_key.pop(key, None)
        if fd is not None:
            del self._by_fd[fd]

    def close(self) -> None:
        self._by_key.clear()
        self._by_fd.clear()


class SimulatedStore(MemoryStore):
    """A store that outlives the ackers, and says what was committed."""

    def __init__(self, salt: int) -> None:
        super().__init__()
        self.salt = salt
        self.committed: Callable[[Changes], None] = lambda _changes: None
        self.open()

    def commit(self, changes: Changes) -> None:
        super().commit(changes)
        self.committed(changes)


class SimulatedCommitter(SteppedCommitter):
    """Has the face of `Committer`; its thread dies with the process."""

    def __init__(self, store: MemoryStore, process: Process, kernel: Kernel) -> None:
        super().__init__(store)
        self._process = process
        self.fd = kernel.open(lambda: bool(self.done))

    def finish(self) -> None:
        if self._process.alive:
            self.deliver()

    def work(self) -> bool:
        return self._process.alive and super().work()
