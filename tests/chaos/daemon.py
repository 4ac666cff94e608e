"""A consecutor as a real daemon in the foreground of a subprocess, and what a test asks of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from consecutiond.acker.stores import read_only
from consecutiond.control import ControlError, ask
from consecutiond.feeder import Feeder
from consecutiond.rundir import RunDir
from consecutiond_broker.errors import ConsecutiondError
from tests.chaos.load import BATCH, Load, Push
from tests.chaos.oracle import Oracle, Verdict, lines
from tests.chaos.watch import Watch
from tests.graphs import dag, line

#: seconds after which a condition that should come true is given up
PATIENCE_S = 60.0
_COMMAND = (sys.executable, "-c", "from consecutiond.cli import main; main()", "start")


def eventually(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Daemon:
    """One consecutor directory, and the daemon over it that a test starts, kills, and starts again.

    Args:
        base: where its directory is.
        target: the graph, as the command line takes it; its items have an id, and its sink is called ids.
        oracle: keeps what has a receipt; by default for a sink that has the ids alone.
        item: makes the value of an id.
        environment: variables for the daemon, such as CONSECUTIOND_STORE.
    """

    def __init__(
        self, base: Path, target: str = f"{Path(line.__file__)}:graph", oracle: Oracle | None = None,
        item: Callable[[int], Any] = line.item, **environment: str,
    ) -> None:  # fmt: skip
        self.target, self.item, self.environment = target, item, environment
        self.dir = RunDir(base, "daemon")
        self.errors = base / "stderr"
        self.process: subprocess.Popen[bytes]
        self.oracle = oracle or Oracle()
        #: where its log is; a path is one of an SQLite file
        self.store: str | Path = self.dir.store
        self.sink = self.dir.path / "output_files" / "ids.jsonl"

    @classmethod
    def of_dag(cls, base: Path, **environment: str) -> "Daemon":
        """Make one of the graph of the rows: five nodes, a fan-out of three, one router."""
        return cls(base, f"{Path(dag.__file__)}:graph", Oracle(dag.outputs), dag.item, **environment)

    def launch(self) -> None:
        """Start it, and do not wait."""
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*_COMMAND, self.target, "--id", self.dir.id, "--dir", str(self.dir.base)],
                env=os.environ | self.environment, stdout=errors, stderr=errors,
            )  # fmt: skip

    def start(self) -> None:
        """Start it, and return when it is up."""
        self.launch()
        eventually(self.dir.log_dir.exists, "the directory is made")
        self.ask("wait")

    def ask(self, verb: str) -> dict[str, Any]:
        return ask(self.dir.socket_uri("control"), verb, PATIENCE_S, lambda: self.process.poll() is None)

    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = self.ask("status")["parts"]
        return parts

    def is_up(self) -> bool:
        """Whether every part beats from a process that lives."""
        return all(part["state"] == "ready" and alive(part["pid"]) for part in self.parts().values())

    def pids(self) -> dict[str, int]:
        """Return the pid of every process: the parts, the heart, the root."""
        eventually(self.is_up, "all parts are up")
        return {name: part["pid"] for name, part in self.parts().items()} | {
            "heart": self.heart(), "root": self.process.pid,
        }  # fmt: skip

    def heart(self) -> int:
        return self.dir.read_pids()["heart"][0]

    def kill(self, *names: str) -> None:
        """Kill parts, all of them before anything is done about the first."""
        pids = self.pids()
        self.process.send_signal(signal.SIGSTOP)
        for name in names:
            os.kill(pids[name], signal.SIGKILL)
        self.process.send_signal(signal.SIGCONT)
        for name in names:
            eventually(lambda name=name: not alive(pids[name]), f"{name} is dead")

    def mentions(self) -> list[int]:
        """Return the living processes that have the directory in their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(self.dir.base) in command and alive(int(path.parent.name)):
                found.append(int(path.parent.name))
        return found

    # --- input and output --------------------------------------------------------------------------------------

    @contextmanager
    def pushing(self, max_message: int = 1 << 20) -> Iterator[Push]:
        """Connect a producer; what it gives pushes values and returns with their receipts.

        Args:
            max_message: bytes of the largest value that it takes.
        """
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        feeder = Feeder(
            context, self.dir.socket_uri("acker"), batch_items=BATCH, batch_bytes=1 << 20, max_message=max_message,
            alive=self.dir.is_live,
        )  # fmt: skip
        try:
            yield feeder.push_many
            feeder.leave()
        finally:
            feeder.close()
            context.destroy(linger=0)

    def feed(self, until: Callable[[], object], least: int = 2000) -> None:
        """Push as much as is taken until a condition holds; whatever ends it sooner is raised."""
        with self.pushing() as push:
            count = 0
            while count < least or not until():
                ids = self.oracle.draw(BATCH)
                push([self.item(number) for number in ids])
                self.oracle.receipt(ids)
                count += len(ids)

    def load(self, **options: Any) -> Load:
        """Begin to push at a rate; the options are those of `Load`."""
        return Load(self.oracle, self.pushing(), self.item, **options)

    def watch(self, *, sink: bool = True) -> Watch:
        """Begin to watch memory, and the sink unless it is not wanted."""
        return Watch(self.sink if sink else None, self.oracle.outputs, self.known_pids)

    def known_pids(self) -> dict[str, int]:
        """Return the pids that the files name, without a question to anybody; some may be dead."""
        return {name: pid for name, (pid, _) in self.dir.read_pids().items()}

    def starts(self, name: str) -> int:
        """Return how many times a part has been started, by the counter of its epochs."""
        return int((self.dir.pid_dir / f"{name}.epoch").read_text())

    def count_open(self) -> int:
        """Return how many roots the log has open; it may be written to meanwhile."""
        store = read_only(self.store)
        try:
            return store.totals().open
        finally:
            store.close()

    def drain(self) -> Verdict:
        """Wait until nothing is open, stop, and have the oracle judge."""
        left = self.count_open()
        while left:
            before = left
            eventually(lambda before=before: self.count_open() < before, f"something of {before} open roots is done")
            left = self.count_open()
        assert self.stop() == 0
        return self.judge_drained()

    def judge(self) -> Verdict:
        """Have the oracle judge; nobody may be writing to the log."""
        return self.oracle.judge(self.store, lines(self.sink))

    def judge_drained(self) -> Verdict:
        """The same, when nothing may be open any more, and nothing may have needed the acker's last resort."""
        verdict = self.judge()
        assert not verdict.open
        assert "bug.roots_lost" not in (self.dir.log_dir / "acker.log").read_text(), "a root was lost on the way"
        return verdict

    def stop(self) -> int:
        """Have it drain; return the exit code of the root."""
        self.ask("stop")
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        eventually(lambda: not self.mentions(), "everything is gone")
        self.dir.release_links()


def running(daemon: Daemon) -> Iterator[Daemon]:
    """Body of a fixture: the daemon, up, and gone in the end."""
    try:
        daemon.start()
        yield daemon
    except (ControlError, ConsecutiondError):
        print(daemon.errors.read_text())
        raise
    finally:
        daemon.close()
