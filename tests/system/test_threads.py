"""Consecutors whose parts are threads of the test's own process."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from consecutiond import Consecutor, Node
from consecutiond.acker.stores import read_only
from consecutiond.rundir import LiveError, RunDir
from consecutiond.runtime import StartError
from tests.graphs import line


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parts() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("node-", "broker-", "acker"))]


class Double(Node):
    def process(self, value: int) -> None:
        self.push(2 * value)


class Out(Node):
    def process(self, value: Any) -> None:
        self.write("out", value)


def consecutor(directory: Path, graph: Any, out: list[Any], **options: Any) -> Consecutor:
    made = Consecutor(graph, "thread", id="t", dir=directory, retry_backoff_s=0.01, **options)
    return made.register_output("out", out)


def test_a_graph_made_in_a_function_runs_as_it_is_and_leaves_no_thread(tmp_path: Path) -> None:
    class Keep(Node):
        def begin(self) -> None:
            self.seen: list[int] = []

        def process(self, value: int) -> None:
            self.seen.append(value)

    keep = Keep("keep")
    out: list[int] = []
    summary = consecutor(tmp_path, Double("double") | [keep, Out("out")], out).produce_from_iterable(range(1000))
    assert (summary.accepted, summary.completed) == (1000, 1000)
    # the user's own object has run, and can be looked at
    assert sorted(keep.seen) == sorted(out) == list(range(0, 2000, 2))
    assert parts() == []


def test_one_process_can_run_it_again_and_what_was_open_is_taken_over(tmp_path: Path) -> None:
    class Moody(Node):
        def process(self, value: int) -> None:
            if value == 3 and moody:
                raise ValueError("not today")
            self.push(value)

    moody, out = True, list[int]()
    first = consecutor(tmp_path, Moody("m") | Out("o"), out, retry_backoff_max_s=60)
    first.options["retry_backoff_s"] = 3.0
    first.up()
    first.push_many(range(5))
    eventually(lambda: (first.status()["waiting"] or 0) == 1)
    assert first.stop().open == 1
    moody = False
    second = consecutor(tmp_path, Moody("m") | Out("o"), out).produce_from_iterable([5])
    assert (second.taken_over, second.accepted, second.completed, second.open) == (1, 1, 2, 0)
    assert sorted(out) == [0, 1, 2, 3, 4, 5]


def test_what_begin_raises_ends_the_start_with_the_users_traceback(tmp_path: Path) -> None:
    class Bad(Node):
        def begin(self) -> None:
            raise ZeroDivisionError("begin went wrong")

    with pytest.raises(StartError, match="begin went wrong") as caught:
        consecutor(tmp_path, Double("d") | Bad("bad"), []).up()
    assert "in begin" in str(caught.value)
    assert parts() == []
    assert not RunDir(tmp_path, "t").is_live()


def test_what_process_raises_is_kept_with_its_traceback(tmp_path: Path) -> None:
    class Odd(Node):
        def process(self, value: int) -> None:
            if value % 2:
                raise LookupError(value)
            self.push(value)

    out: list[int] = []
    summary = consecutor(tmp_path, Odd("odd") | Out("o"), out).produce_from_iterable(range(10))
    assert (summary.completed, summary.failed) == (5, 5)
    log = read_only(tmp_path / "t" / "acker_db.sqlite")
    letters = log.dead_letters()
    log.close()
    assert len(letters) == 5
    assert all("in process" in letter.traceback and "LookupError" in letter.error for letter in letters)


def test_a_live_one_refuses_another_of_its_id_and_is_not_harmed(tmp_path: Path) -> None:
    out: list[int] = []
    first = consecutor(tmp_path, Double("d") | Out("o"), out).up()
    with pytest.raises(LiveError, match="there is a live consecutor"):
        consecutor(tmp_path, Double("d") | Out("o"), []).up()
    first.push(1)
    assert first.down().completed == 1
    assert out == [2]


@pytest.mark.parametrize("verb", ["status", "stop"])
def test_the_command_line_reaches_it(tmp_path: Path, verb: str) -> None:
    out: list[int] = []
    running = consecutor(tmp_path, Double("d") | Out("o"), out).up()
    running.push(4)
    call = [sys.executable, "-m", "consecutiond", verb, "t", "--dir", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    if verb == "status":
        assert "1 accepted" in done.stdout
        assert running.down().completed == 1
    else:
        assert out == [8]
        assert parts() == []
        assert running.stop().completed == 1


def test_workers_of_one_node_are_copies(tmp_path: Path) -> None:
    summary = Consecutor(line.graph, "thread", id="line", dir=tmp_path).register_output("ids", out := [])
    ran = summary.produce_from_iterable(map(line.item, range(3000)))
    assert ran.completed == 3000
    assert sorted(out) == list(range(3000))


def test_a_node_that_cannot_be_copied_for_its_workers_is_named(tmp_path: Path) -> None:
    node = Double("locked")
    node.set_num_workers(2)
    node.lock = threading.Lock()
    with pytest.raises(StartError, match=r"node locked has 2 workers and cannot be copied"):
        consecutor(tmp_path, node | Out("o"), []).up()
