"""Consecutors with `tracking=False`: the same graphs, at most once, with nothing in the acker's hands."""

import contextlib
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from consecutiond import Consecutor
from consecutiond.acker.stores import read_only
from consecutiond.cli import exits
from consecutiond_broker.errors import ConsecutiondError
from tests.graphs import line, untracked
from tests.system.shell import Shell, wait_for

GRAPHS = Path(untracked.__file__)


@pytest.fixture(params=["process", "thread"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def make(name: str, *, tracking: bool = False, **options: Any) -> tuple[Consecutor, list[Any]]:
        out: list[Any] = []
        consecutor = Consecutor(
            getattr(untracked, name), request.param, target=f"{GRAPHS}:{name}", id=name, dir=tmp_path,
            tracking=tracking, **options,
        )  # fmt: skip
        return consecutor.register_output("out", out), out

    return make


@pytest.mark.parametrize("name", ["shapes", "edges", "later", "groups"])
def test_what_comes_out_is_what_comes_out_of_a_tracked_graph(make: Any, name: str) -> None:
    consecutor, out = make(name)
    summary = consecutor.produce_from_iterable(range(5000))
    tracked, expected = make(name, tracking=True)
    tracked.produce_from_iterable(range(5000))
    assert Counter(map(str, out)) == Counter(map(str, expected))
    assert (summary.accepted, summary.completed, summary.failed, summary.lost, summary.open) == (5000, None, 0, 0, 0)


@pytest.mark.parametrize(("name", "kind"), [("picky", "raised"), ("coroutine", "raised"), ("fails", "failed")])
def test_an_item_that_fails_is_counted_told_and_never_tried_again(make: Any, name: str, kind: str) -> None:
    consecutor, out = make(name)
    summary = consecutor.produce_from_iterable(range(1000))
    good = [value for value in range(1000) if (value % 2 == 0 if name == "fails" else value % 10 != 3)]
    assert sorted(out) == good
    assert (summary.failed, summary.lost) == (1000 - len(good), 0)
    [failure] = summary.stats["failures"]
    assert (failure["kind"], failure["count"]) == (kind, summary.failed)
    assert kind == "failed" or "a three" in failure["traceback"]


def test_an_item_has_no_key_when_nothing_is_tracked(make: Any) -> None:
    consecutor, out = make("keys")
    summary = consecutor.produce_from_iterable(range(3))
    assert (out, summary.failed) == ([], 3)
    assert "tracking=False" in summary.stats["failures"][0]["error"]


def test_stop_finishes_what_was_accepted_and_refuses_the_rest(make: Any) -> None:
    consecutor, out = make("slow", batch_items=16)
    pushed: list[int] = []

    def push() -> None:
        with contextlib.suppress(ConsecutiondError):
            while True:
                consecutor.push(len(pushed))
                pushed.append(len(pushed))

    consecutor.up()
    pushing = threading.Thread(target=push)
    pushing.start()
    wait_for(lambda: len(out) > 20, "some items")
    summary = consecutor.stop()
    pushing.join()
    # the last push may have been accepted without a receipt
    assert sorted(out) == list(range(len(out)))
    assert len(pushed) <= len(out) <= len(pushed) + 1
    assert summary.accepted == len(out)


def test_push_waits_for_a_slow_graph(make: Any) -> None:
    consecutor, out = make("slow", batch_items=4, edge_window=1, worker_window=1)
    consecutor.up()
    consecutor.push_many(range(400))
    # recorded means: in the hands of the first broker; what may be there, and further down, is bounded
    assert len(out) > 400 - 4 * 20
    consecutor.down()
    assert out == list(range(400))


def test_the_log_of_a_tracked_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out: list[int] = []

    def make(**options: Any) -> Consecutor:
        consecutor = Consecutor(untracked.picky, "thread", id="log", dir=tmp_path, **options)
        return consecutor.register_output("out", out)

    first = make(retry_backoff_s=30.0).up()
    first.push_many([1, 3])
    wait_for(lambda: out == [1], "the good item")
    assert first.stop().open == 1
    assert make(tracking=False).produce_from_iterable([5]).accepted == 1
    assert "1 open item(s) of an earlier run stay in its log" in capsys.readouterr().err
    log = read_only(tmp_path / "log" / "acker_db.sqlite")
    assert (log.totals().accepted, log.totals().open) == (2, 1)
    log.close()


# --- processes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def consecutor(tmp_path: Path) -> Any:
    out: list[int] = []
    made = Consecutor(
        line.graph, target=f"{line.__file__}:graph", id="line", dir=tmp_path, tracking=False, batch_items=64
    ).register_output("ids", out)
    made.up()
    yield made, out
    if made._session is not None:
        made.stop()


def pid(consecutor: Consecutor, part: str) -> int:
    return int(consecutor.status()["parts"][part]["pid"])


def test_items_flow_while_the_acker_stands_still(consecutor: Any) -> None:
    made, out = consecutor
    acker = pid(made, "acker")
    made.push(line.item(0))
    os.kill(acker, signal.SIGSTOP)
    try:
        made.push_many([line.item(number) for number in range(1, 5000)])
        wait_for(lambda: len(out) == 5000, "all items")
    finally:
        os.kill(acker, signal.SIGCONT)
    assert made.down().accepted == 5000
    assert sorted(out) == list(range(5000))


@pytest.mark.chaos
@pytest.mark.parametrize("victim", ["node-parse.0", "node-enrich.1", "node-load.0", "broker-parse-enrich", "acker"])
def test_after_a_kill_nothing_comes_twice_and_the_graph_ends(consecutor: Any, victim: str) -> None:
    made, out = consecutor
    killed = pid(made, victim)
    pushed = 0
    while pushed < 20_000 or not back(made, victim, killed):
        made.push_many([line.item(number) for number in range(pushed, pushed + 500)])
        pushed += 500
        if pushed == 5000:
            os.kill(killed, signal.SIGKILL)
    summary = made.down()
    assert max(Counter(out).values()) == 1
    assert set(out) <= set(range(pushed))
    missing = pushed - len(out)
    # what a worker or a sender loses is counted; what a broker had in its queue nobody knows any more
    assert missing <= summary.failed + summary.lost + (64 * 4 * 2 if victim.startswith("broker") else 0)
    # few batches are under way at any time: the window of a worker, the queue of an edge
    assert missing <= 64 * 20


def back(consecutor: Consecutor, part: str, killed: int) -> bool:
    known = consecutor.status()["parts"][part]
    return known["pid"] != killed and known["state"] == "ready"


# --- the command line ---------------------------------------------------------------------------------------------

GRAPH = """
    from consecutiond import Node

    class Up(Node):
        def process(self, text):
            if text == "bad":
                raise ValueError("this is bad")
            self.write("capitals", text.upper())

    graph = Up("up")
"""


def test_run_says_that_nothing_is_tracked_and_has_the_exit_code_of_failures(shell: Shell) -> None:
    shell.write("up.py", GRAPH)
    done = shell.run("run", "up.py", "--no-tracking", stdin="a\nbad\nb\n")
    assert sorted(done.stdout.splitlines()) == ['capitals\t"A"', 'capitals\t"B"']
    assert "3 accepted, 1 failed, 0 lost (not tracked)" in done.stderr
    assert "this is bad" in done.stderr
    assert done.returncode == exits.SOME_FAILED


def test_a_daemon_takes_pushes_and_its_status_says_what_is_not_promised(shell: Shell) -> None:
    shell.write("up.py", GRAPH)
    assert shell.run("start", "up.py", "--detach", "--no-tracking").returncode == 0
    assert shell.run("push", "up", stdin="a\nb\n").returncode == 0
    wait_for(lambda: sorted(shell.written("up", "capitals")) == ["A", "B"], "the outputs")
    wait_for(lambda: shell.status("up")["accepted"] == 2, "the count")
    text = shell.run("status", "up").stdout
    assert "2 accepted, 0 failed, 0 lost (nothing is tracked)" in text
    assert "at most once" in text
    assert shell.run("stop", "up").returncode == 0
    assert not shell.living()
