"""A consecutor as a real daemon in the foreground of a subprocess, and what a test asks of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import zmq

from consecutiond.acker.stores import read_only
from consecutiond.control import ControlError, ask
from consecutiond.feeder import Feeder
from consecutiond.rundir import RunDir
from consecutiond_broker.errors import ConsecutiondError
from tests.graphs import line

#: seconds after which a condition that should come true is given up
PATIENCE_S = 60.0
_COMMAND = (sys.executable, "-c", "from consecutiond.cli import main; main()", "start")


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
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
    """One consecutor directory, and the daemon over it that a test starts, kills, and starts again."""

    def __init__(self, base: Path, target: str = f"{Path(line.__file__)}:graph") -> None:
        self.target = target
        self.dir = RunDir(base, "daemon")
        self.errors = base / "stderr"
        self.process: subprocess.Popen[bytes]
        #: ids that `push_many` has returned for, and those that it was called with
        self.receipted: set[int] = set()
        self.pushed: set[int] = set()

    def launch(self, **environment: str) -> None:
        """Start it, and do not wait."""
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*_COMMAND, self.target, "--id", self.dir.id, "--dir", str(self.dir.base)],
                env=os.environ | environment, stdout=errors, stderr=errors,
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

    def feed(self, until: Callable[[], object], least: int = 2000) -> None:
        """Push batches until a condition holds; whatever ends it sooner is raised."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        feeder = Feeder(
            context, self.dir.socket_uri("acker"), batch_items=500, batch_bytes=1 << 20, max_message=1 << 20,
            alive=self.dir.is_live,
        )  # fmt: skip
        try:
            count = 0
            while count < least or not until():
                ids = range(len(self.pushed), len(self.pushed) + 500)
                self.pushed.update(ids)
                feeder.push_many([line.item(number) for number in ids])
                self.receipted.update(ids)
                count += len(ids)
            feeder.leave()
        finally:
            feeder.close()
            context.destroy(linger=0)

    def sink(self) -> list[int]:
        path = self.dir.path / "output_files" / "ids.jsonl"
        # A line that a kill has cut off was never settled.
        return [int(text) for text in path.read_text().split("\n")[:-1]] if path.exists() else []

    def check_conserved(self) -> None:
        """The oracle, once the daemon is gone: nothing open, and every receipt is in the sink or kept as failed."""
        store = read_only(self.dir.store)
        try:
            totals, dead, open_chunks = store.totals(), store.dead_letters(limit=1_000_000), store.open_chunks()
            waiting = store.waiting()
        finally:
            store.close()
        assert not open_chunks
        assert not waiting
        assert (totals.open, totals.accepted) == (0, totals.completed + totals.failed)
        ended = set(self.sink()) | {msgspec.msgpack.decode(letter.body)[0]["id"] for letter in dead}
        assert self.receipted <= ended <= self.pushed
        assert len(self.receipted) <= totals.accepted <= len(self.pushed)

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
