"""What every worker is at, seen from outside: in its cell, which it fills even while C code holds its interpreter.

A worker that cannot beat is not dead: its beats come from a thread that needs the interpreter. So nobody is judged by
missing beats. Death is proven by a pid descriptor; life is judged here: by the item in execution, since when, and
how long its node may take.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from consecutiond.logs import get_logger
from consecutiond_broker import stacks
from consecutiond_broker.cell import Glance, glance
from consecutiond_broker.deaths import kill_if_ours

log = get_logger("heart")

#: seconds between looks
LOOK_S: Final = 1.0
#: seconds that a worker has to end an item by itself that takes longer than it may
_GRACE_S: Final = 1.0


class Worker:
    """One incarnation of a worker as the looks have shown it."""

    __slots__ = ("asked", "at", "epoch", "pid", "since", "started", "told")

    def __init__(self, pid: int, started: int, epoch: int) -> None:
        self.pid, self.started, self.epoch = pid, started, epoch
        #: what it was at, and since which look, monotonic seconds
        self.at: Glance | None = None
        self.since = 0.0
        #: it was asked for its stacks, for the item it is at; they were written to the log
        self.asked = self.told = False

    def see(self, at: Glance | None, now: float) -> bool:
        """Take a look in; return whether it moved."""
        if self.at is not None and at is not None and self.at[:3] == at[:3]:
            self.at = at
            return False
        self.at, self.since = at, now
        self.asked = self.told = False
        return at is not None

    @property
    def is_busy(self) -> bool:
        """Whether an item was in execution at the last look."""
        return self.at is not None and self.at.item != 0


class AtWork:
    """Looks at the workers of this machine, once a second.

    Who is at one item for much longer than its node may take is asked for its stacks, and killed at the next look.
    Who is at one item for `stall_s` is asked for them as well, for people: where no time-out is set, nobody but they
    can know whether that is wrong.

    Args:
        pid_dir: where the cells are.
        stall_s: seconds at one item after which it is worth a word.
        kill: sends a signal to a process, if it is the one that is meant: ``kill(pid, start time, signal)``.
    """

    def __init__(
        self, pid_dir: Path, stall_s: float, kill: Callable[[int, int, signal.Signals], object] = kill_if_ours
    ) -> None:
        self._pid_dir, self._stall_s, self._kill = pid_dir, stall_s, kill
        self._workers: dict[str, Worker] = {}
        self._next = 0.0
        #: how often a worker was seen to have moved on
        self.moves = 0

    def meet(self, name: str, pid: int, started: int, epoch: int) -> None:
        """A worker has said its first word; what is older than its last life is of no use any more."""
        self._workers[name] = Worker(pid, started, epoch)
        for path in self._pid_dir.glob(f"{name}-*"):
            life = path.stem.rpartition("-")[2]
            # That of its last life may still be read by the broker that buries it.
            if path.suffix in (".cell", ".stacks") and life.isdigit() and int(life) < epoch - 1:
                path.unlink(missing_ok=True)

    def was_at_item(self, name: str) -> bool:
        """Return whether a worker, which is dead, had an item in execution."""
        worker = self._workers.get(name)
        if worker is None:
            return False
        at = glance(self._pid_dir / f"{name}-{worker.epoch}.cell", worker.epoch)
        return at is not None and at.item != 0

    def forget(self, name: str) -> None:
        """A worker is dead."""
        self._workers.pop(name, None)

    def look(self, now: float) -> None:
        """Look at everybody, if it is time."""
        if now < self._next:
            return
        self._next = now + LOOK_S
        for name, worker in self._workers.items():
            self.moves += worker.see(glance(self._pid_dir / f"{name}-{worker.epoch}.cell", worker.epoch), now)
            self._judge(name, worker, now)

    def _judge(self, name: str, worker: Worker, now: float) -> None:
        at = worker.at
        if at is None or not worker.is_busy:
            return
        overdue = at.is_overdue(_GRACE_S)
        if not overdue and now - worker.since < self._stall_s:
            return
        if not worker.asked:
            self._ask(name, worker)
        elif overdue:
            log.error("worker.stuck", part=name, pid=worker.pid, action="killed: its item took too long")
            self._kill(worker.pid, worker.started, signal.SIGKILL)
        elif not worker.told:
            worker.told = True
            text = stacks.read(stacks.path_of(self._pid_dir, name, worker.epoch))
            log.warning(
                "worker.busy_long", part=name, pid=worker.pid, item=at.item, seconds=round(now - worker.since),
                stacks=text, probable_cause="a call that waits for ever, or a long one: set timeout_s of the node",
            )  # fmt: skip

    def ask_all(self) -> None:
        """Ask every worker for its stacks."""
        for name, worker in self._workers.items():
            self._ask(name, worker)

    def _ask(self, name: str, worker: Worker) -> None:
        worker.asked = True
        # Without the file it does not listen to the signal, which then would end it.
        if stacks.path_of(self._pid_dir, name, worker.epoch).exists():
            self._kill(worker.pid, worker.started, stacks.DUMP)

    def stacks(self) -> dict[str, str]:
        """Return what each worker has dumped in this life."""
        found = {name: stacks.read(stacks.path_of(self._pid_dir, name, w.epoch)) for name, w in self._workers.items()}
        return {name: text for name, text in found.items() if text}

    def busy(self) -> list[str]:
        """Return who has an item in execution."""
        return [name for name, worker in self._workers.items() if worker.is_busy]

    def show(self, name: str, now: float) -> dict[str, Any]:
        """Return it for `status`: since how many seconds it is at which item of its batch."""
        worker = self._workers.get(name)
        if worker is None or worker.at is None or not worker.is_busy:
            return {}
        return {"busy_s": round(now - worker.since, 1), "item": worker.at.item}
