"""A consecutor as an output container of another: items flow on, back-pressure and failures flow back."""

import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest

from consecutiond import Consecutor
from consecutiond.chaining import Link
from consecutiond.cli import exits
from consecutiond.consecutor import StateError
from consecutiond_nodes import importer
from consecutiond_nodes.worker import Interrupted
from tests.system.shell import Shell, logged, wait_for, wait_gone

SOURCE = """
    import os, time
    from consecutiond import Node

    class Send(Node):
        def process(self, value):
            self.write("next", value)

    class Take(Node):
        def process(self, value):
            while os.path.exists(os.environ.get("CHAIN_HELD", "")):
                time.sleep(0.005)
            self.write("out", value)

    sending = Send("send") | Node("between")
    taking = Take("take")
"""
ARCHITECTURES = ["process", "thread"]


class Pair:
    """Two consecutors, the second of which is an output of the first."""

    def __init__(self, directory: Path, first: str, second: str) -> None:
        path = directory / "chain.py"
        path.write_text(textwrap.dedent(SOURCE))
        self.directory, self.out = directory, list[Any]()
        self.options: dict[str, Any] = {"dir": directory / "base"}
        self._path, self._architectures = path, (first, second)

    def make(self, first: dict[str, Any] | None = None, second: dict[str, Any] | None = None) -> "Pair":
        def one(name: str, architecture: str, options: dict[str, Any]) -> Consecutor:
            target = f"{self._path}:{name}"
            return Consecutor(importer.load(target), architecture, target=target, **self.options | options)

        self.second = one("taking", self._architectures[1], second or {}).register_output("out", self.out)
        self.first = one("sending", self._architectures[0], {"id": "first"} | (first or {}))
        self.first.register_output("next", self.second)
        return self

    def homes(self) -> list[Path]:
        """Return the directories of the first and the second."""
        base = self.directory / "base"
        return [base / "first", *(home for home in base.iterdir() if home.name.startswith("first-"))]

    def acker(self) -> int:
        """Return the pid of the second one's acker."""
        return int(wait_for(lambda: self.second.status()["parts"]["acker"]["pid"], "the acker's pid"))

    def handed(self) -> int:
        """Return how many values the second one was given."""
        session = self.second._session
        return session.feeder.handed if session is not None else 0


@pytest.fixture(params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    pair = Pair(tmp_path, request.param, request.param)
    yield pair
    for consecutor in (getattr(pair, "first", None), getattr(pair, "second", None)):
        if consecutor is not None and consecutor._session is not None:
            consecutor.stop(5)


@pytest.fixture(params=ARCHITECTURES)
def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The second one has an acker that can be stopped and killed."""
    pair = Pair(tmp_path, request.param, "process")
    yield pair
    for consecutor in (pair.first, pair.second):
        if consecutor._session is not None:
            consecutor.stop(5)


def test_items_flow_on_and_the_second_comes_up_and_ends_with_the_first(pair: Pair) -> None:
    pair.make()
    summary = pair.first.produce_from_iterable(range(3000), progress=False)
    assert (summary.completed, summary.failed, summary.open) == (3000, 0, 0)
    assert pair.second.last is not None
    assert (pair.second.last.accepted, pair.second.last.completed) == (3000, 3000)
    assert sorted(pair.out) == list(range(3000))
    assert pair.second._session is None
    assert sorted(path.name for path in (pair.directory / "base").iterdir()) == ["first", "first-next"]


def test_a_second_that_was_up_before_is_left_up(pair: Pair) -> None:
    pair.make(second={"id": "second"})
    pair.second.up()
    pair.second.push("before")
    assert pair.first.produce_from_iterable(["through"], progress=False).completed == 1
    pair.second.push("after")
    assert pair.second.down().completed == 3
    assert sorted(pair.out) == ["after", "before", "through"]


def test_what_was_raised_in_the_first_ends_the_second_too_and_both_keep_what_they_have(pair: Pair) -> None:
    def values() -> Any:
        yield from range(100)
        raise LookupError("no more")

    pair.make()
    with pytest.raises(LookupError):
        pair.first.produce_from_iterable(values(), progress=False)
    assert pair.first.last is not None
    assert pair.second.last is not None
    assert pair.first.last.completed == pair.second.last.completed == 100
    assert pair.second._session is None


def test_a_root_stays_open_while_the_second_cannot_record_it(mixed: Pair) -> None:
    mixed.make()
    mixed.first.up()
    pid = mixed.acker()
    os.kill(pid, signal.SIGSTOP)
    try:
        mixed.first.push_many(list(range(5)))
        wait_for(lambda: mixed.handed() > 0, "the second is given something")
        state = mixed.first.status()
        assert (state["accepted"], state["completed"], state["open"]) == (5, 0, 5)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: mixed.first.status()["completed"] == 5, "the roots are completed")
    assert mixed.second.status()["accepted"] == 5
    mixed.first.down()
    assert sorted(mixed.out) == list(range(5))


def test_kills_of_the_seconds_acker_lose_nothing_on_either_side(mixed: Pair) -> None:
    mixed.make()
    mixed.first.up()
    for turn in range(3):
        mixed.first.push_many(list(range(1000 * turn, 1000 * turn + 1000)))
        os.kill(mixed.acker(), signal.SIGKILL)
        wait_for(lambda turn=turn: mixed.second.status()["parts"]["acker"]["restarts"] == turn + 1, "it is back")
        wait_for(lambda: mixed.second.status()["parts"]["acker"]["state"] == "ready", "it is up")
    summary = mixed.first.down()
    assert (summary.accepted, summary.completed, summary.failed, summary.open) == (3000, 3000, 0, 0)
    counts = logged(mixed.directory / "base" / "first-next")
    assert counts["accepted"] == counts["completed"] >= 3000
    assert counts["failed"] == counts["open"] == 0
    assert set(mixed.out) == set(range(3000))


def test_back_pressure_of_the_second_holds_the_roots_of_the_first(mixed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    held = mixed.directory / "held"
    held.touch()
    monkeypatch.setenv("CHAIN_HELD", str(held))
    mixed.make(second={"max_pending": 1, "max_backlog": 1024})
    mixed.first.up()
    mixed.first.push_many(["x" * 500] * 200)
    session = mixed.second._session
    assert session is not None
    wait_for(lambda: session.feeder.full, "the second withholds receipts")
    state = mixed.first.status()
    assert state["open"] > 0
    assert state["completed"] + state["open"] == 200
    assert mixed.second.status()["accepted"] < 200 or state["completed"] < 200
    held.unlink()
    summary = mixed.first.down()
    assert (summary.completed, summary.open) == (200, 0)
    assert len(mixed.out) >= 200


def test_a_second_that_takes_nothing_fails_the_roots_which_are_retried_until_it_is_back(pair: Pair) -> None:
    pair.make(first={"max_attempts": 10_000, "retry_backoff_s": 0.02, "retry_backoff_max_s": 0.05})
    pair.first.up()
    pair.first.push(1)
    wait_for(lambda: pair.first.status()["completed"] == 1, "the first item is through")
    pair.second.down()
    pair.first.push_many([2, 3])
    wait_for(lambda: pair.first.status()["retried"] > 3, "they are tried again")
    assert pair.first.status()["open"] == 2
    pair.second.up()
    summary = pair.first.down()
    assert (summary.accepted, summary.completed, summary.failed) == (3, 3, 0)
    pair.second.down()
    assert set(pair.out) == {1, 2, 3}


def test_and_are_kept_as_failed_when_their_attempts_are_spent(pair: Pair) -> None:
    pair.make(first={"max_attempts": 2, "retry_backoff_s": 0.01})
    pair.first.up()
    pair.second.down()
    pair.first.push_many([1, 2, 3])
    summary = pair.first.down()
    assert (summary.accepted, summary.completed, summary.failed, summary.open) == (3, 0, 3, 0)
    [failure] = summary.stats["failures"]
    assert failure["count"] == 3
    assert "needs a running consecutor" in failure["error"]


def test_a_chain_that_comes_back_to_itself_is_refused(pair: Pair) -> None:
    pair.make()
    for container in (pair.first, pair.second):
        with pytest.raises(StateError, match="come back"):
            container.register_output("round", pair.first)


def test_a_second_that_is_fed_otherwise_is_refused_and_nothing_is_left_running(pair: Pair) -> None:
    pair.make()
    pair.first.up()
    with pytest.raises(StateError, match="second input: this consecutor is an output of first"):
        pair.second.produce_from_iterable([1])
    assert pair.second.status()["state"] == "running"
    pair.first.down()


def test_a_second_that_does_not_come_up_is_the_error_of_the_first(pair: Pair) -> None:
    pair.make()
    (pair.directory / "base").mkdir()
    (pair.directory / "base" / "first-next").write_text("in the way")
    with pytest.raises(Exception, match="first-next"):
        pair.first.up()
    assert pair.first._session is None
    assert pair.second._session is None


def test_a_stop_of_the_first_is_not_held_up_by_a_second_that_stands_still(mixed: Pair) -> None:
    mixed.make()
    mixed.first.up()
    pid = mixed.acker()
    os.kill(pid, signal.SIGSTOP)
    mixed.first.push_many([1, 2])
    wait_for(lambda: mixed.handed() > 0, "the second is given something")
    summary = mixed.first.stop(1)
    assert mixed.second._session is None
    assert summary.accepted == summary.completed + summary.failed + summary.open
    # Nothing counts as done that the second has not recorded.
    counts, recorded = (logged(home) for home in mixed.homes())
    assert (counts["accepted"], counts["completed"], counts["open"]) == (
        2,
        recorded["accepted"],
        2 - recorded["accepted"],
    )
    assert counts["open"] > 0


def test_a_daemon_brings_the_second_up_in_its_output_process_and_survives_the_kill_of_that(shell: Shell) -> None:
    shell.write("flow.py", f"""{SOURCE}
    from consecutiond import Consecutor

    class Lines:
        def append(self, value):
            with open("lines", "a") as file:
                print(value, file=file)

    second = Consecutor(taking, id="second").register_output("out", Lines())
    first = Consecutor(sending, id="first").register_output("next", second)
    """)  # fmt: skip
    done = shell.run("start", "flow.py:first", "--detach", "--input", "http://127.0.0.1:0")
    assert done.returncode == exits.OK, done.stderr
    url = done.stdout.partition("input at ")[2].partition(";")[0]
    ids = list(range(500))
    for start in (0, 250):
        body = "\n".join(map(str, ids[start : start + 250]))
        answer = httpx.post(f"{url}/items", content=body, headers={"content-type": "application/x-ndjson"})
        assert answer.status_code == 202
        os.kill(shell.status("first")["parts"]["output"]["pid"], signal.SIGKILL)
        wait_for(lambda: shell.status("first")["parts"]["output"]["state"] == "ready", "the output is back")
    wait_for(lambda: shell.status("first")["completed"] == 500, "everything is through the first")
    assert shell.run("stop", "first").returncode == exits.OK
    wait_gone(shell.directory)
    assert logged(shell.home("first")) == {"accepted": 500, "completed": 500, "failed": 0, "open": 0}
    counts = logged(shell.home("second"))
    assert counts["accepted"] == counts["completed"] + counts["open"] >= 500
    left = counts["open"]
    assert len(set((shell.directory / "lines").read_text().split())) + left >= 500


def test_what_was_given_up_is_not_taken_for_recorded(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "thread", "thread").make(second={"id": "second"})
    pair.second.up()
    link = Link("next", pair.second, "first", tmp_path / "base")
    link.open()
    link.push_many([1, 2])
    wait_for(lambda: sorted(pair.out) == [1, 2], "what was recorded")
    link.give_up()
    with pytest.raises(Interrupted):
        link.push_many([3])
    assert pair.second.stop().accepted == 2
