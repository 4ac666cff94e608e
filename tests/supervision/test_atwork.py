"""What workers are at, judged from outside: a real process that holds its interpreter and never comes back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consecutiond.logs import logged_to
from consecutiond.supervision.atwork import AtWork
from consecutiond_broker import child, stacks

#: holds the interpreter in C code, as a library that does not release it
HOG = """
import sys, time
from pathlib import Path
from consecutiond_broker.cell import INDEX, SINCE, TIMEOUT, Cell
from consecutiond_broker.stacks import Stacks, path_of
directory = Path(sys.argv[1])
cell = Cell(directory / "node-a.0-3.cell", 3, 1)
stacks = Stacks(path_of(directory, "node-a.0", 3))
def user_code():
    print("at it", flush=True)
    sum(range(10**13))
cell.start(0, 7)
cell.words[SINCE], cell.words[TIMEOUT] = time.monotonic_ns(), int(float(sys.argv[2]) * 1e9)
cell.words[INDEX] = 5
user_code()
"""


class Hog:
    def __init__(self, directory: Path, timeout_s: float) -> None:
        argv = [sys.executable, "-c", HOG, str(directory), str(timeout_s)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"at it\n"
        self.pid = self.process.pid
        self.started = child.start_time(self.pid) or 0

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def hog(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hog]:
    hog = Hog(tmp_path, getattr(request, "param", 0.0))
    yield hog
    hog.end()


def wait_for_dump(path: Path) -> None:
    deadline = time.monotonic() + 20
    while "user_code" not in stacks.read(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_who_is_at_one_item_for_long_dumps_its_stacks_for_people_and_lives(tmp_path: Path, hog: Hog) -> None:
    work = AtWork(tmp_path, 60.0)
    work.meet("node-a.0", hog.pid, hog.started, 3)
    work.look(100.0)
    assert (work.busy(), work.moves) == (["node-a.0"], 1)
    work.look(159.0)
    assert work.show("node-a.0", 159.0) == {"busy_s": 59.0, "item": 5}
    work.look(160.0)
    wait_for_dump(stacks.path_of(tmp_path, "node-a.0", 3))
    with logged_to(tmp_path / "log"):
        for now in (161.0, 162.0, 163.0):
            work.look(now)
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(entry["event"], entry["item"]) for entry in logged] == [("worker.busy_long", 5)]
    assert "in user_code" in logged[0]["stacks"]
    assert hog.process.poll() is None
    assert work.moves == 1


@pytest.mark.parametrize("hog", [0.001], indirect=True)
def test_who_takes_longer_than_its_node_may_dumps_its_stacks_and_is_killed(tmp_path: Path, hog: Hog) -> None:
    work = AtWork(tmp_path, 1e9)
    work.meet("node-a.0", hog.pid, hog.started, 3)
    deadline, now = time.monotonic() + 20, 100.0
    while not stacks.read(stacks.path_of(tmp_path, "node-a.0", 3)):
        assert time.monotonic() < deadline
        work.look(now)
        # Real time has to pass as well: how long it may take is measured by its own clock.
        time.sleep(0.02)
        if not work._workers["node-a.0"].asked:
            now += 1.0
    wait_for_dump(stacks.path_of(tmp_path, "node-a.0", 3))
    assert hog.process.poll() is None
    work.look(now + 1.0)
    assert hog.process.wait(20) == -signal.SIGKILL


def test_all_are_asked_at_once(tmp_path: Path, hog: Hog) -> None:
    work = AtWork(tmp_path, 60.0)
    work.meet("node-a.0", hog.pid, hog.started, 3)
    work.ask_all()
    wait_for_dump(stacks.path_of(tmp_path, "node-a.0", 3))
    assert list(work.stacks()) == ["node-a.0"]


def test_nobody_is_signalled_who_does_not_listen(tmp_path: Path) -> None:
    """The signal's default would end the process."""
    sent: list[int] = []
    work = AtWork(tmp_path, 60.0, lambda pid, started, sig: sent.append(sig))
    work.meet("output", os.getpid(), 1, 3)
    work.ask_all()
    assert sent == []


def test_what_older_lives_left_is_removed_but_for_the_last_one(tmp_path: Path) -> None:
    for name in ("node-a.0-1.cell", "node-a.0-1.stacks", "node-a.0-2.cell", "node-a.0-3.cell", "node-a.1-1.cell"):
        (tmp_path / name).touch()
    (tmp_path / "node-a.0.pid").touch()
    AtWork(tmp_path, 60.0).meet("node-a.0", 1, 1, 3)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"node-a.0-2.cell", "node-a.0-3.cell", "node-a.1-1.cell", "node-a.0.pid"}


def test_a_dead_worker_is_at_nothing(tmp_path: Path, hog: Hog) -> None:
    work = AtWork(tmp_path, 60.0)
    work.meet("node-a.0", hog.pid, hog.started, 3)
    work.look(100.0)
    work.forget("node-a.0")
    work.look(200.0)
    assert (work.busy(), work.show("node-a.0", 200.0)) == ([], {})
