"""Processes of a consecutor: when they begin to work, that none is left, and what kill -9 of each leads to."""

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consecutiond.acker.stores import read_only
from consecutiond.cli import exits
from tests.system.shell import Shell, both_architectures, living, logged, make, wait_for, wait_gone

HEAD = """
    import os, time
    from pathlib import Path
    from consecutiond import Consecutor, Node

    HERE = Path(__file__).parent
"""

#: a fast node, and one whose begin takes five seconds
SLOW_START = (
    HEAD
    + """
    class First(Node):
        def process(self, value):
            self.push([value, (HERE / "up").exists()])

    class Slow(Node):
        def begin(self):
            while not (HERE / "go").exists():
                time.sleep(0.02)
            (HERE / "up").touch()

        def process(self, value):
            self.write("out", value)

    graph = First("first") | Slow("slow")
"""
)

#: a node that takes its time
WORK = (
    HEAD
    + """
    class Work(Node):
        def process(self, value):
            time.sleep(0.01)
            self.write("out", value)

    graph = Work("work")
"""
)

#: a script that feeds numbers for ever, and keeps each in a file as soon as it comes out
SCRIPT = (
    WORK
    + """
    class File:
        def __init__(self):
            self.file = (HERE / "sink").open("a")

        def append(self, value):
            print(value, file=self.file, flush=True)

    def numbers():
        number = 0
        while True:
            yield number
            number += 1

    if __name__ == "__main__":
        consecutor = Consecutor(graph, id="it", dir=HERE / "base", max_backlog=1024, max_pending=50, batch_items=20)
        consecutor.register_output("out", File())
        consecutor.produce_from_iterable(numbers())
"""
)


# --- the ready barrier ---------------------------------------------------------------------------------------


@both_architectures
def test_no_input_is_read_before_every_part_is_up(tmp_path: Path) -> None:
    """One node's `begin` takes its time; the iterable is not asked for anything before it has returned."""
    asked: list[bool] = []

    def values() -> Any:
        asked.append((tmp_path / "up").exists())
        yield "value"

    consecutor, out = make(tmp_path, SLOW_START)
    threading.Timer(2.0, (tmp_path / "go").touch).start()
    consecutor.produce_from_iterable(values())
    assert asked == [True]
    assert out == [["value", True]]


def test_what_is_pushed_to_a_daemon_that_is_not_up_yet_waits_in_the_log(shell: Shell) -> None:
    """It is recorded at once, and even the fast first node sees it only when the slow one is up."""
    shell.write("flow.py", SLOW_START)
    process = shell.spawn("start", "flow.py")
    wait_for(lambda: (shell.home("flow") / "socket_files" / "acker.sock").exists(), "the acker")
    assert shell.run("push", "flow", stdin="early\n").returncode == exits.OK
    assert not (shell.directory / "up").exists()
    assert shell.status("flow")["state"] == "starting"
    assert shell.status("flow")["accepted"] == 1
    (shell.directory / "go").touch()
    wait_for(lambda: shell.status("flow")["completed"] == 1, "the item")
    assert shell.run("stop", "flow").returncode == exits.OK
    assert process.wait(60) == exits.OK
    assert shell.written("flow", "out") == [["early", True]]


# --- no process is left --------------------------------------------------------------------------------------


def test_every_part_is_a_process_while_it_runs_and_none_is_left_after_stop(shell: Shell) -> None:
    shell.write("flow.py", WORK)
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    found = "\n".join(shell.living().values())
    for name in ("supervision.root", "heart", "acker", "broker-input-work", "broker-any-output", "node-work.0"):
        assert name in found
    assert found.count("plan.json output") == 1
    assert shell.run("stop", "flow").returncode == exits.OK
    assert shell.living() == {}


def test_kill_9_of_the_root_leaves_no_process_and_the_next_start_completes_all_that_was_accepted(shell: Shell) -> None:
    shell.write("flow.py", WORK)
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    values = [str(number) for number in range(300)]
    assert shell.run("push", "flow", stdin="\n".join(values)).returncode == exits.OK
    wait_for(lambda: shell.written("flow", "out"), "the first output")
    root = int((shell.home("flow") / "pid_files" / "root.pid").read_text().split()[0])
    os.kill(root, signal.SIGKILL)
    wait_gone(shell.directory)
    assert len(set(shell.written("flow", "out"))) < 300
    left = logged(shell.home("flow"))
    assert left["accepted"] == 300

    again = shell.run("start", "flow.py", "--detach")
    assert again.returncode == exits.OK
    assert re.search(r"warning: an earlier run left \d+ pid files, .*; nothing of it is alive", again.stderr)
    assert f"{left['open']} open item(s) of an earlier run are taken over" in again.stderr
    wait_for(lambda: shell.status("flow")["completed"] == 300, "all that was accepted")
    assert shell.run("stop", "flow").returncode == exits.OK
    assert set(shell.written("flow", "out")) == set(values)
    assert logged(shell.home("flow")) == {"accepted": 300, "completed": 300, "failed": 0, "open": 0}


def test_kill_9_of_the_script_leaves_no_process_and_the_next_run_completes_all_that_was_accepted(shell: Shell) -> None:
    """What was accepted is read from the store itself: the numbers from 0 on."""
    shell.write("it.py", SCRIPT)
    script = shell.python("it.py")
    sink = shell.directory / "sink"
    wait_for(lambda: sink.exists() and len(sink.read_text().split()) > 20, "some outputs")
    script.send_signal(signal.SIGKILL)
    wait_gone(shell.directory)
    accepted = logged(shell.directory / "base" / "it")["accepted"]
    kept = {int(number) for number in sink.read_text().split()}
    assert 0 < len(kept) < accepted

    consecutor, out = make(shell.directory, WORK)
    summary = consecutor.produce_from_iterable([])
    assert kept | set(out) == set(range(accepted))
    assert (summary.accepted, summary.open, summary.failed) == (0, 0, 0)
    assert summary.taken_over == summary.completed >= accepted - len(kept)


def test_kill_9_of_the_root_of_a_script_is_an_error_in_the_script_and_leaves_no_process(tmp_path: Path) -> None:
    consecutor, out = make(tmp_path, WORK)

    def values() -> Any:
        for number in range(100_000):
            if number == 200:
                root = int((tmp_path / "base" / "it" / "pid_files" / "root.pid").read_text().split()[0])
                os.kill(root, signal.SIGKILL)
            yield number

    with pytest.raises(Exception, match="ended before it had answered; what has a receipt is in its log"):
        consecutor.produce_from_iterable(values())
    wait_gone(tmp_path)
    accepted = logged(tmp_path / "base" / "it")["accepted"]
    before = set(out)
    out.clear()
    consecutor.produce_from_iterable([])
    assert before | set(out) == set(range(accepted))


# --- items that fail, items that kill ------------------------------------------------------------------------


def dead_letters(home: Path) -> list[Any]:
    """Return what is kept as failed, read from the store itself."""
    store = read_only(home / "acker_db.sqlite")
    try:
        return store.dead_letters(limit=1000)
    finally:
        store.close()


@both_architectures
def test_an_item_that_raises_is_tried_three_times_and_kept_with_its_traceback(tmp_path: Path) -> None:
    source = (
        HEAD
        + """
    class Picky(Node):
        def process(self, value):
            if value % 10 == 7:
                with (HERE / "attempts").open("a") as file:
                    print(value, file=file)
                raise ValueError(f"no sevens: {value}")
            self.write("out", value)

    graph = Picky("picky")
"""
    )
    consecutor, out = make(tmp_path, source)
    summary = consecutor.produce_from_iterable(range(50))
    bad = [7, 17, 27, 37, 47]
    assert sorted(out) == [value for value in range(50) if value not in bad]
    assert sorted(map(int, (tmp_path / "attempts").read_text().split())) == sorted(3 * bad)
    assert (summary.completed, summary.failed, summary.open) == (45, 5, 0)
    kept = dead_letters(tmp_path / "base" / "it")
    assert sorted(msgspec.msgpack.decode(letter.body)[0] for letter in kept) == bad
    for letter in kept:
        assert "no sevens" in letter.traceback
        assert 'it.py", line' in letter.traceback
        assert "consecutiond_nodes" not in letter.traceback


def test_an_item_that_kills_its_worker_fails_alone_after_three_attempts(tmp_path: Path) -> None:
    source = (
        HEAD
        + """
    class Fragile(Node):
        def process(self, value):
            if value == 123:
                with (HERE / "attempts").open("a") as file:
                    print(value, file=file)
                os._exit(1)
            self.write("out", value)

    graph = Fragile("fragile")
"""
    )
    consecutor, out = make(tmp_path, source)
    summary = consecutor.produce_from_iterable(range(500))
    assert set(out) == set(range(500)) - {123}
    assert len((tmp_path / "attempts").read_text().split()) == 3
    assert (summary.completed, summary.failed, summary.open) == (499, 1, 0)
    [letter] = dead_letters(tmp_path / "base" / "it")
    assert msgspec.msgpack.decode(letter.body) == [123]
    assert "died" in f"{letter.kind} {letter.error}"
    assert not living(tmp_path)


# --- chaos for the daemon ------------------------------------------------------------------------------------


def test_kill_9_of_the_output_process_loses_no_line_of_a_daemon(shell: Shell) -> None:
    """Every id that has a receipt stands in the output file, whatever was in the hands of the killed."""
    shell.write("flow.py", WORK.replace("time.sleep(0.01)", "time.sleep(0.001)"))
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    receipted: list[str] = []
    killed: list[int] = []
    for _ in range(4):
        batch = [str(number) for number in range(len(receipted), len(receipted) + 700)]
        assert shell.run("push", "flow", stdin="\n".join(batch)).returncode == exits.OK
        receipted += batch
        output = wait_for(lambda: _ready(shell, killed), "the output process")
        os.kill(output, signal.SIGKILL)
        killed.append(output)
    assert shell.run("stop", "flow").returncode == exits.OK
    assert len(set(killed)) == 4
    lines = shell.written("flow", "out")
    assert set(lines) == set(receipted)
    assert logged(shell.home("flow")) == {"accepted": 2800, "completed": 2800, "failed": 0, "open": 0}
    assert not shell.living()


def _ready(shell: Shell, killed: list[int]) -> int | None:
    part = shell.status("flow")["parts"]["output"]
    return part["pid"] if part["state"] == "ready" and part["pid"] not in killed else None
